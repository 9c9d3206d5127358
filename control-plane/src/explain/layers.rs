//! The documents that may say something about a service or a rule, the one that decides first.

use outrigger_api::ServiceName;
use outrigger_api::v1::{self, backend::Target};
use serde::Serialize;
use serde_json::Value;

use super::Source;
use crate::compile::{mode_policy, policy_of, traffic_policy_of};
use crate::model::Model;
use crate::resources::{Documents, Kind, ResourceKey};

/// One document, or a part of one.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    level: Level,
    /// `ServicePolicy shop/payments`.
    document: String,
    /// Where in the document the part is, `spec`.
    at: String,
    content: Value,
}

/// What kind of document a layer is; a setting has a place of its own in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// One rule of a route.
    Rule,
    /// The ServicePolicy that a rule refers to.
    Extension,
    /// A ServicePolicy.
    Policy,
    /// An XBackendTrafficPolicy.
    Traffic,
    /// The AccessPolicy that sets the mode of the service's namespace.
    Access,
    /// The MeshConfig.
    Mesh,
}

/// Where a setting is written in a layer, below the part that the layer is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) level: Level,
    /// `retry.attempts`.
    pub(super) path: &'static str,
    /// A part that is taken whole: where it is written, what it leaves out is the default and not what a later
    /// layer says.
    pub(super) whole: Option<&'static str>,
}

/// Layers in the order in which they are asked.
#[derive(Debug, Clone)]
pub(super) struct Layers(Vec<Layer>);

impl Layers {
    /// What holds for a service: its policy, the Gateway API's, its namespace's mode, then the mesh's settings.
    pub(super) fn of(model: &Model, service: &ServiceName) -> Self {
        let mut layers = Vec::new();
        if let Some(((namespace, name), policy)) = policy_of(model, service) {
            let key = key(Kind::ServicePolicy, namespace, name);
            layers.extend(Layer::new(Level::Policy, &key, "spec", &policy.spec));
        }
        layers.extend(traffic_policy(model, service));
        if let Some(policy) = mode_policy(model, service.namespace()) {
            let name = policy.metadata.name.as_deref().unwrap_or_default();
            let key = key(Kind::AccessPolicy, service.namespace(), name);
            layers.extend(Layer::new(Level::Access, &key, "spec", &policy.spec));
        }
        if let Some(mesh) = &model.documents().mesh_config {
            let key = key(Kind::MeshConfig, "", mesh.metadata.name.as_deref().unwrap_or_default());
            layers.extend(Layer::new(Level::Mesh, &key, "spec", &mesh.spec));
        }
        Self(layers)
    }

    /// What holds for a rule of a route with this index there: what the rule says itself and by the policy that it
    /// refers to, then what holds for the service, then the policies of its backends.
    pub(super) fn of_rule(&self, model: &Model, rule: &v1::Rule, index: usize) -> Self {
        let first = rule_layers(model.documents(), &rule.route, index);
        let backends = rule.backends.iter().filter_map(|backend| match &backend.target {
            Some(Target::Service(to)) => ServiceName::try_from(to.name.clone()?).ok(),
            Some(Target::Invalid(_)) | None => None,
        });
        let last = backends.filter_map(|service| traffic_policy(model, &service));
        Self(first.into_iter().chain(self.0.iter().cloned()).chain(last).collect())
    }

    /// Who says what is written at one of `places`. `None`: nobody.
    pub(super) fn source(&self, places: &[Place]) -> Option<Source> {
        for layer in &self.0 {
            for place in places.iter().filter(|place| place.level == layer.level) {
                if layer.has(place.path) {
                    let field = format!("{}.{}", layer.at, place.path);
                    return Some(Source { document: layer.document.clone(), field });
                }
                if place.whole.is_some_and(|whole| layer.has(whole)) {
                    return None;
                }
            }
        }
        None
    }
}

impl Layer {
    fn new(level: Level, key: &ResourceKey, at: &str, content: &impl Serialize) -> Option<Self> {
        let content = serde_json::to_value(content).ok()?;
        Some(Self { level, document: key.to_string(), at: at.to_owned(), content })
    }

    fn has(&self, path: &str) -> bool {
        let found = path.split('.').try_fold(&self.content, |value, step| value.get(step));
        found.is_some_and(|value| !value.is_null())
    }
}

fn key(kind: Kind, namespace: &str, name: &str) -> ResourceKey {
    ResourceKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}

/// The route `NAMESPACE/NAME` that a compiled rule names.
pub(super) fn route_key(documents: &Documents, route: &str) -> ResourceKey {
    let (namespace, name) = route.split_once('/').unwrap_or_default();
    let kinds = [Kind::GrpcRoute, Kind::HttpRoute, Kind::TcpRoute];
    let is_there = |kind: &Kind| documents.resource(&key(*kind, namespace, name)).is_some();
    let kind = kinds.into_iter().find(is_there).unwrap_or(Kind::HttpRoute);
    key(kind, namespace, name)
}

/// What the rule with this index of the route says itself, and the policy that it refers to.
fn rule_layers(documents: &Documents, route: &str, index: usize) -> Vec<Layer> {
    let own = route_key(documents, route);
    let value = documents.resource(&own).map(|route| route.to_value()).unwrap_or_default();
    let rule = &value["spec"]["rules"][index];
    let layer = Layer::new(Level::Rule, &own, &format!("spec.rules[{index}]"), rule);
    let extension = rule["filters"].as_array().into_iter().flatten().find_map(|filter| {
        let to = &filter["extensionRef"];
        let kind = Kind::extending(to["group"].as_str()?, to["kind"].as_str()?)?;
        let key = key(kind, &own.namespace, to["name"].as_str()?);
        let policy = documents.resource(&key).filter(|_| kind == Kind::ServicePolicy)?;
        Layer::new(Level::Extension, &key, "spec", &policy.to_value()["spec"])
    });
    layer.into_iter().chain(extension).collect()
}

/// What the Gateway API's own policy says of a service.
fn traffic_policy(model: &Model, service: &ServiceName) -> Option<Layer> {
    let policy = traffic_policy_of(model, service)?;
    let name = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name) = (name(&policy.metadata.namespace), name(&policy.metadata.name));
    Layer::new(Level::Traffic, &key(Kind::BackendTrafficPolicy, &namespace, &name), "spec", &policy.spec)
}
