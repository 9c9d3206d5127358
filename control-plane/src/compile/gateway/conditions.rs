//! What to tell people of a Gateway: the conditions that the Gateway API defines for it and for each of its listeners.

use std::collections::BTreeSet;

use gateway_api::experimental::gateways::{Gateway, GatewayListeners};
use outrigger_api::ServiceName;
use serde_json::{Value, json};

use super::{supported_kinds, takes};
use crate::compile::World;
use crate::status::Condition;

/// Who serves a gateway now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Served {
    /// A proxy of it is there.
    pub(crate) connected: bool,
    /// A proxy of it has the document as it is, and listens for these ports.
    pub(crate) ports: Option<BTreeSet<u16>>,
}

/// The `status` of the gateway that `service` stands for.
pub(crate) fn gateway_status(
    world: World<'_>,
    service: &ServiceName,
    gateway: &Gateway,
    served: &Served,
) -> Value {
    let listeners = &gateway.spec.listeners;
    let statuses: Vec<Value> = listeners
        .iter()
        .map(|listener| {
            let routes = world.model.routes(service);
            let attached = routes.filter(|form| takes(listener, gateway, service.namespace(), form)).count();
            let kinds = supported_kinds(listener);
            let kinds =
                kinds.iter().map(|kind| json!({ "group": "gateway.networking.k8s.io", "kind": kind }));
            let conditions = of_listener(listener, gateway, served);
            json!({
                "name": listener.name,
                "attachedRoutes": attached,
                "supportedKinds": kinds.collect::<Vec<_>>(),
                "conditions": conditions.iter().map(Condition::to_value).collect::<Vec<_>>(),
            })
        })
        .collect();
    let conditions = of_gateway(gateway, served);
    json!({
        "conditions": conditions.iter().map(Condition::to_value).collect::<Vec<_>>(),
        "listeners": statuses,
    })
}

fn condition(gateway: &Gateway, kind: &str, status: bool, reason: &str, message: &str) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: gateway.metadata.generation.unwrap_or_default(),
    }
}

fn of_gateway(gateway: &Gateway, served: &Served) -> [Condition; 2] {
    let listeners = &gateway.spec.listeners;
    let good = listeners.iter().filter(|listener| problem(listener, gateway).is_none()).count();
    let accepted = match good {
        0 => {
            condition(gateway, "Accepted", false, "ListenersNotValid", "none of its listeners can be served")
        }
        good if good < listeners.len() => condition(
            gateway,
            "Accepted",
            true,
            "ListenersNotValid",
            "some of its listeners cannot be served",
        ),
        _ => condition(gateway, "Accepted", true, "Accepted", ""),
    };
    let programmed = match served {
        _ if good == 0 => {
            condition(gateway, "Programmed", false, "Invalid", "none of its listeners can be served")
        }
        Served { ports: Some(_), .. } => condition(gateway, "Programmed", true, "Programmed", ""),
        _ => condition(gateway, "Programmed", false, "Pending", waiting(served)),
    };
    [accepted, programmed]
}

fn waiting(served: &Served) -> &'static str {
    if served.connected {
        "no proxy of the gateway has taken the document as it is now"
    } else {
        "no proxy serves the gateway: start one with `outrigger proxy --gateway`"
    }
}

fn of_listener(listener: &GatewayListeners, gateway: &Gateway, served: &Served) -> [Condition; 4] {
    let problem = problem(listener, gateway);
    let accepted = match &problem {
        Some(problem) => condition(gateway, "Accepted", false, problem.reason(), problem.message()),
        None => condition(gateway, "Accepted", true, "Accepted", ""),
    };
    let port = u16::try_from(listener.port).unwrap_or_default();
    let programmed = match &served.ports {
        _ if problem.is_some() => condition(gateway, "Programmed", false, "Invalid", "it cannot be served"),
        None => condition(gateway, "Programmed", false, "Pending", waiting(served)),
        Some(ports) if !ports.contains(&port) => {
            let message = format!("no proxy of the gateway has a --gateway-listen for port {port}");
            condition(gateway, "Programmed", false, "Pending", &message)
        }
        Some(_) => condition(gateway, "Programmed", true, "Programmed", ""),
    };
    let secrets = listener.tls.iter().flat_map(|tls| tls.certificate_refs.iter().flatten());
    let mut strange = secrets.filter(|it| !matches!(it.kind.as_deref(), None | Some("Secret")));
    let resolved = if supported_kinds(listener).is_empty() {
        condition(
            gateway,
            "ResolvedRefs",
            false,
            "InvalidRouteKinds",
            "it allows no kind of route but others than HTTPRoute",
        )
    } else if strange.next().is_some() {
        condition(gateway, "ResolvedRefs", false, "InvalidCertificateRef", "a certificate is a Secret")
    } else {
        condition(gateway, "ResolvedRefs", true, "ResolvedRefs", "")
    };
    let conflicted = match &problem {
        Some(problem @ (Problem::Protocols | Problem::Hostnames)) => {
            condition(gateway, "Conflicted", true, problem.reason(), problem.message())
        }
        Some(Problem::Protocol) | None => condition(gateway, "Conflicted", false, "NoConflicts", ""),
    };
    [accepted, programmed, resolved, conflicted]
}

/// Why a listener cannot be served. Documents with such listeners are refused when they are written.
enum Problem {
    /// Its protocol is none of those that are served.
    Protocol,
    /// Another one on its port has another protocol.
    Protocols,
    /// Another one on its port has the same hostname.
    Hostnames,
}

impl Problem {
    fn reason(&self) -> &'static str {
        match self {
            Self::Protocol => "UnsupportedProtocol",
            Self::Protocols => "ProtocolConflict",
            Self::Hostnames => "HostnameConflict",
        }
    }

    fn message(&self) -> &'static str {
        match self {
            Self::Protocol => "its protocol is neither HTTP nor HTTPS",
            Self::Protocols => "another listener of its port has another protocol",
            Self::Hostnames => "another listener of its port has the same hostname",
        }
    }
}

fn problem(listener: &GatewayListeners, gateway: &Gateway) -> Option<Problem> {
    let others = || {
        let others = gateway.spec.listeners.iter();
        others.filter(|other| other.port == listener.port && !std::ptr::eq(*other, listener))
    };
    if !matches!(listener.protocol.as_str(), "HTTP" | "HTTPS") {
        return Some(Problem::Protocol);
    }
    if others().any(|other| other.protocol != listener.protocol) {
        return Some(Problem::Protocols);
    }
    others().any(|other| other.hostname == listener.hostname).then_some(Problem::Hostnames)
}
