//! A service outside the mesh: the host that answers for it, and the TLS that its callers' proxies begin.

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use outrigger_api::ServiceName;
use outrigger_api::v1::{self, Protocol};

use super::port::Port;
use crate::model::{self, Model};
use crate::resources::{BackendTlsPolicy, Service};

/// What callers are told of the host; `None` for a service of the mesh.
pub(super) fn of(model: &Model, service: &ServiceName, ports: &[Port]) -> Option<v1::External> {
    let document = model.service(service)?;
    let host = model::host(document)?;
    let ports = ports.iter().map(|port| v1::ExternalPort {
        port: port.number.into(),
        target_port: target(document, port).into(),
        tls: tls(model, service, port),
    });
    Some(v1::External { host, ports: ports.collect() })
}

/// A port that is declared `https` carries whatever its callers encrypt themselves. Where the proxy encrypts, its
/// callers may as well speak plain HTTP: the first bytes tell.
pub(super) fn look_at_https(model: &Model, service: &ServiceName, document: &Service, ports: &mut [Port]) {
    if model::host(document).is_none() {
        return;
    }
    for port in ports.iter_mut().filter(|port| port.protocol == Protocol::Tcp) {
        let is_https = declared(document, port).is_some_and(is_https);
        if is_https && tls(model, service, port).is_some() {
            port.protocol = Protocol::Unspecified;
        }
    }
}

fn is_https(port: &ServicePort) -> bool {
    let named = port.name.as_deref().and_then(|name| name.split('-').next());
    port.app_protocol.as_deref().or(named).is_some_and(|text| text.eq_ignore_ascii_case("https"))
}

fn declared<'a>(document: &'a Service, port: &Port) -> Option<&'a ServicePort> {
    let ports = document.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.into_iter().find(|declared| declared.port == i32::from(port.number))
}

fn target(document: &Service, port: &Port) -> u16 {
    match declared(document, port).and_then(|declared| declared.target_port.as_ref()) {
        Some(IntOrString::Int(number)) => u16::try_from(*number).unwrap_or(port.number),
        _ => port.number,
    }
}

fn tls(model: &Model, service: &ServiceName, port: &Port) -> Option<v1::OriginatedTls> {
    let validation = &tls_policy(model, service, &port.name)?.spec.validation;
    let names = validation.subject_alt_names.iter().flatten().filter_map(|name| name.hostname.clone());
    Some(v1::OriginatedTls { hostname: validation.hostname.clone(), subject_alt_names: names.collect() })
}

/// The policy for TLS towards a port of this name. Of several one that names the port holds, then the oldest, then the
/// first by name (GEP-1897).
pub(crate) fn tls_policy<'a>(
    model: &'a Model,
    service: &ServiceName,
    port: &str,
) -> Option<&'a BackendTlsPolicy> {
    let concerned = model.tls_policies(service).filter_map(|(key, policy)| {
        let named = names(policy, service, port)?;
        let created = policy.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Some(((!named, created.is_none(), created, key), policy))
    });
    concerned.min_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, policy)| policy)
}

/// Whether the policy is for the port, and if so, whether it names it.
fn names(policy: &BackendTlsPolicy, service: &ServiceName, port: &str) -> Option<bool> {
    let targets = policy.spec.target_refs.iter().filter(|target| target.name == service.name());
    let sections = targets.map(|target| target.section_name.as_deref());
    sections.filter(|section| section.is_none_or(|name| name == port)).map(|section| section.is_some()).max()
}
