//! One service's policy as it came, and as workers use it.
//!
//! The message itself is kept beside the types made of it: it is what the state directory stores, and what tells
//! an update that changes something from one that a reconnect merely repeats.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use outrigger_api::v1::backend::Target;
use outrigger_api::{ServiceName, v1};

use crate::gateway::Gateway;
use crate::policy::{self, PolicyError};
use crate::snapshot::{BackendPolicy, External, ExternalPort, Protocol, ServicePort};

/// A `Service` message that can be used.
#[derive(Debug)]
pub(super) struct Compiled {
    /// As it came.
    pub(super) raw: v1::Service,
    pub(super) ports: Vec<Arc<ServicePort>>,
    pub(super) policy: Arc<BackendPolicy>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) external: Option<Arc<External>>,
    pub(super) gateway: Option<Arc<Gateway>>,
    /// The services that its rules lead to, each once.
    pub(super) backends: Vec<ServiceName>,
}

impl Compiled {
    /// Reads `raw`, sharing with `before` each port, policy and gateway that did not change.
    pub(super) fn read(raw: v1::Service, before: Option<&Self>) -> Result<Self, PolicyError> {
        let parts = policy::service(&raw)?;
        let mut ports = parts.ports;
        let mut policy = parts.policy;
        let mut gateway = parts.gateway;
        if let Some(before) = before {
            for (port, raw_port) in ports.iter_mut().zip(&raw.ports) {
                if let Some(known) = before.raw.ports.iter().position(|p| p == raw_port) {
                    *port = before.ports[known].clone();
                }
            }
            if before.raw.policy == raw.policy {
                policy = before.policy.clone();
            }
            if before.raw.gateway == raw.gateway {
                gateway = before.gateway.clone();
            }
        }
        let backends = backends(&raw);
        let (addresses, external) = (parts.addresses, parts.external);
        Ok(Self { raw, ports, policy, addresses, external, gateway, backends })
    }

    /// A service for a host that no document lists, with the defaults for everything. `None`: it is no host.
    pub(super) fn unlisted(host: Arc<str>, port: u16) -> Option<Self> {
        let ports = vec![ExternalPort::new(&host, port, port, None).ok()?];
        Some(Self {
            raw: v1::Service::default(),
            ports: vec![Arc::new(ServicePort {
                port,
                protocol: Protocol::Detect,
                routes: None,
                tcp_backends: Vec::new(),
            })],
            policy: Arc::default(),
            addresses: Vec::new(),
            external: Some(Arc::new(External { host, ports, listed: false })),
            gateway: None,
            backends: Vec::new(),
        })
    }
}

fn backends(raw: &v1::Service) -> Vec<ServiceName> {
    let rules = raw.ports.iter().flat_map(|port| &port.rules);
    let names = rules.flat_map(|rule| &rule.backends).filter_map(|backend| match &backend.target {
        Some(Target::Service(service)) => ServiceName::try_from(service.name.clone()?).ok(),
        _ => None,
    });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}
