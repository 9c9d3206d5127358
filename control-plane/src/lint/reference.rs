//! References that lead nowhere: parents, backends, targets and extensions that are not there, and weights that send
//! nothing anywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use outrigger_api::ServiceName;
use serde_json::Value;

use super::{Findings, Sight, Subject, rule_path, spec};
use crate::model::{self, is_service};
use crate::resources::{Documents, FieldPath, Kind, Resource, ResourceKey};

const ROUTES: [Kind; 3] = [Kind::HttpRoute, Kind::GrpcRoute, Kind::TcpRoute];
const POLICIES: [Kind; 5] = [
    Kind::ServicePolicy,
    Kind::RateLimitPolicy,
    Kind::AccessPolicy,
    Kind::BackendTrafficPolicy,
    Kind::BackendTlsPolicy,
];

pub(super) fn look(subject: &Subject, findings: &mut Findings) {
    for route in routes(&subject.documents) {
        let looked = Looked { subject, key: route.key() };
        let value = route.to_value();
        looked.at_parents(&value, findings);
        for (index, rule) in value["spec"]["rules"].as_array().into_iter().flatten().enumerate() {
            looked.at_rule(rule, &rule_path(index), findings);
        }
    }
    for policy in POLICIES.into_iter().flat_map(|kind| subject.of_kind(kind)) {
        let looked = Looked { subject, key: policy.key() };
        let value = policy.to_value();
        for (index, target) in value["spec"]["targetRefs"].as_array().into_iter().flatten().enumerate() {
            if target["kind"].as_str() == Some("Service") {
                let path = spec().field("targetRefs").index(index);
                looked.at_service(target, &path, "the policy holds for", findings);
                looked.at_side(policy.key().kind, target, &path, findings);
            }
        }
    }
}

/// One document that refers to others.
struct Looked<'a> {
    subject: &'a Subject,
    key: ResourceKey,
}

impl Looked<'_> {
    fn at_parents(&self, route: &Value, findings: &mut Findings) {
        for (index, parent) in route["spec"]["parentRefs"].as_array().into_iter().flatten().enumerate() {
            if is_service(parent["group"].as_str(), parent["kind"].as_str()) {
                let path = spec().field("parentRefs").index(index);
                self.at_service(parent, &path, "the route is attached to", findings);
                if self.service(parent).is_some_and(|(_, service)| !takes_routes(service)) {
                    findings.add(&self.key, path, "is headless or outside the mesh, and takes no routes");
                }
            }
        }
    }

    /// The service that a reference names, where it is among the documents.
    fn service(&self, reference: &Value) -> Option<(ServiceName, &Service)> {
        let namespace = reference["namespace"].as_str().unwrap_or(&self.key.namespace);
        let name = ServiceName::new(namespace, reference["name"].as_str()?).ok()?;
        let service = self.subject.documents.services.get(&name)?;
        Some((name, service))
    }

    /// A policy for the wrong side of the mesh's edge: no proxy stands beside a host outside, and TLS is only begun
    /// towards one.
    fn at_side(&self, kind: Kind, target: &Value, path: &FieldPath, findings: &mut Findings) {
        let Some((name, service)) = self.service(target) else { return };
        let is_outside = model::host(service).is_some();
        match kind {
            Kind::AccessPolicy | Kind::RateLimitPolicy if is_outside => {
                let message =
                    format!("has no effect: no proxy stands beside {name}, which is outside the mesh");
                findings.add(&self.key, path.clone(), message);
            }
            Kind::BackendTlsPolicy if !is_outside => {
                let message =
                    format!("has no effect: {name} is in the mesh, whose own TLS holds between proxies");
                findings.add(&self.key, path.clone(), message);
            }
            _ => {}
        }
    }

    /// The service that a reference names, and its port where one is named.
    fn at_service(&self, reference: &Value, path: &FieldPath, what: &str, findings: &mut Findings) {
        let namespace = reference["namespace"].as_str().unwrap_or(&self.key.namespace);
        let Some(name) = reference["name"].as_str() else { return };
        let Ok(service) = ServiceName::new(namespace, name) else { return };
        let Some(document) = self.subject.documents.services.get(&service) else {
            if self.subject.sight == Sight::Set {
                let message = format!("{what} service {service}, which is not among these documents");
                findings.add(&self.key, path.field("name"), message);
            }
            return;
        };
        let ports = document.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let Some(wanted) = reference["port"].as_i64().filter(|_| self.subject.sight == Sight::Set) else {
            return;
        };
        let known: Vec<i64> = ports.map(|port| i64::from(port.port)).collect();
        if !known.contains(&wanted) {
            findings.add(
                &self.key,
                path.field("port"),
                format!("service {service} declares no port {wanted}"),
            );
        }
    }

    fn at_rule(&self, rule: &Value, path: &FieldPath, findings: &mut Findings) {
        let empty = Vec::new();
        let backends = rule["backendRefs"].as_array().unwrap_or(&empty);
        let filters = rule["filters"].as_array().unwrap_or(&empty);
        let weights: i64 = backends.iter().map(|backend| backend["weight"].as_i64().unwrap_or(1)).sum();
        let answers = filters.iter().any(|filter| filter["type"] == "RequestRedirect");
        match (backends.is_empty(), weights) {
            (true, _) if answers => {}
            (true, _) => {
                findings.add(&self.key, path.clone(), "has no backend: its requests are answered with 500")
            }
            (false, 0) => {
                let message = "every weight is 0: the requests of this rule are answered with 500";
                findings.add(&self.key, path.field("backendRefs"), message);
            }
            (false, _) => {}
        }
        for (index, backend) in backends.iter().enumerate() {
            let path = path.field("backendRefs").index(index);
            if is_service(
                backend["group"].as_str().or(Some("")),
                backend["kind"].as_str().or(Some("Service")),
            ) {
                self.at_service(backend, &path, "a share of the requests goes to", findings);
            }
            for (index, filter) in backend["filters"].as_array().into_iter().flatten().enumerate() {
                self.at_filter(filter, &path.field("filters").index(index), findings);
            }
        }
        for (index, filter) in filters.iter().enumerate() {
            self.at_filter(filter, &path.field("filters").index(index), findings);
        }
    }

    fn at_filter(&self, filter: &Value, path: &FieldPath, findings: &mut Findings) {
        let mirror = &filter["requestMirror"]["backendRef"];
        if mirror.is_object() {
            let path = path.field("requestMirror").field("backendRef");
            self.at_service(mirror, &path, "copies of requests go to", findings);
            if self.service(mirror).is_some_and(|(_, service)| model::host(service).is_some()) {
                findings.add(&self.key, path, "has no effect: hosts outside the mesh get no copies");
            }
        }
        let reference = &filter["extensionRef"];
        let (Some(kind), Some(name)) = (reference["kind"].as_str(), reference["name"].as_str()) else {
            return;
        };
        let Some(kind) = Kind::ALL.into_iter().find(|known| known.name() == kind) else { return };
        let key = ResourceKey { kind, namespace: self.key.namespace.clone(), name: name.to_owned() };
        if self.subject.documents.resource(&key).is_none() {
            let message = format!("there is no {key}, so the requests of this rule are answered with 500");
            findings.add(&self.key, path.field("extensionRef"), message);
        }
    }
}

fn takes_routes(service: &Service) -> bool {
    let is_headless = service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"));
    model::host(service).is_none() && !is_headless
}

/// The routes of every kind.
pub(super) fn routes(documents: &Documents) -> impl Iterator<Item = Resource> {
    ROUTES.into_iter().flat_map(|kind| documents.of_kind(kind, None))
}

/// The services that a route in `namespace` names as its parents, each with the reference.
pub(super) fn parents<'a>(
    route: &'a Value,
    namespace: &str,
) -> impl Iterator<Item = (ServiceName, &'a Value)> {
    let parents = route["spec"]["parentRefs"].as_array().into_iter().flatten();
    parents.filter_map(move |parent| {
        let namespace = parent["namespace"].as_str().unwrap_or(namespace);
        let name = ServiceName::new(namespace, parent["name"].as_str()?).ok()?;
        is_service(parent["group"].as_str(), parent["kind"].as_str()).then_some((name, parent))
    })
}

/// The documents, with a service for every one that a route names and that is not there, so that it can be compiled.
pub(super) fn with_stand_ins(documents: &Documents) -> Documents {
    let mut wanted: BTreeMap<ServiceName, Vec<(i32, Option<String>)>> = BTreeMap::new();
    for route in routes(documents) {
        let value = route.to_value();
        for (name, parent) in parents(&value, &route.key().namespace) {
            if documents.services.contains_key(&name) {
                continue;
            }
            let port = parent["port"].as_i64().and_then(|port| i32::try_from(port).ok()).unwrap_or(80);
            let section = parent["sectionName"].as_str().map(str::to_owned);
            let ports = wanted.entry(name).or_default();
            if !ports.iter().any(|(known, _)| *known == port) {
                ports.push((port, section));
            }
        }
    }
    let mut all = documents.clone();
    for (name, ports) in wanted {
        let port = |(port, name)| ServicePort { port, name, ..ServicePort::default() };
        let mut service = Service::default();
        service.metadata.namespace = Some(name.namespace().to_owned());
        service.metadata.name = Some(name.name().to_owned());
        let ports = ports.into_iter().map(port).collect();
        service.spec = Some(ServiceSpec { ports: Some(ports), ..ServiceSpec::default() });
        all.services.insert(name, Arc::new(service));
    }
    all
}
