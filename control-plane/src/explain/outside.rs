//! Where a service outside the mesh is, and the TLS that is begun towards it.

use outrigger_api::{ServiceName, v1};

use super::{Setting, Source};
use crate::compile::tls_policy;
use crate::model::Model;
use crate::resources::{Kind, ResourceKey};

/// Nothing for a service of the mesh.
pub(super) fn settings(model: &Model, service: &ServiceName, message: &v1::Service) -> Vec<Setting> {
    let Some(external) = &message.external else { return Vec::new() };
    let own =
        |field: String| Some(Source { document: document(Kind::Service, service.name(), service), field });
    let mut settings = vec![Setting {
        name: "externalName".to_owned(),
        value: external.host.clone(),
        source: own("spec.externalName".to_owned()),
    }];
    let declared = model.service(service).and_then(|document| document.spec.as_ref()?.ports.as_deref());
    for port in &external.ports {
        let number = port.port;
        let mut places = declared.unwrap_or_default().iter().enumerate();
        let written = places.find(|(_, declared)| u32::try_from(declared.port) == Ok(number));
        let target = written.filter(|(_, declared)| declared.target_port.is_some());
        settings.push(Setting {
            name: format!("targetPort of {number}"),
            value: port.target_port.to_string(),
            source: target.and_then(|(index, _)| own(format!("spec.ports[{index}].targetPort"))),
        });
        let Some(tls) = &port.tls else { continue };
        let name = message.ports.iter().find(|one| one.port == number).map_or("", |one| one.name.as_str());
        let policy = tls_policy(model, service, name).and_then(|policy| policy.metadata.name.as_deref());
        settings.push(Setting {
            name: format!("tls of {number}"),
            value: format!("begun, for {}", tls.hostname),
            source: policy.map(|name| Source {
                document: document(Kind::BackendTlsPolicy, name, service),
                field: "spec.validation.hostname".to_owned(),
            }),
        });
    }
    settings
}

fn document(kind: Kind, name: &str, service: &ServiceName) -> String {
    ResourceKey { kind, namespace: service.namespace().to_owned(), name: name.to_owned() }.to_string()
}
