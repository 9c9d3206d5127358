//! What a proxy says of itself and its workload, checked against its certificate.
//!
//! A workload registers in the namespace of its certificate and in no other; there it may serve any service, as a
//! pod may in the namespace where it runs. Its endpoint carries its own identity, so that callers know whom they reach.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_api::{ServiceName, v1};
use outrigger_certs::SpiffeId;
use serde::{Deserialize, Serialize};

/// Ports of one workload at most.
const MAX_PORTS: usize = 64;
/// Bytes of an instance or zone name at most.
const MAX_NAME_BYTES: usize = 128;

/// One proxy of one identity. Two proxies of different identities never share one, whatever they call
/// themselves. Prints as `NAMESPACE/SERVICE-ACCOUNT/INSTANCE`, which is also its endpoint's id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ProxyId(Arc<str>);

impl ProxyId {
    /// # Errors
    /// An instance that is empty, too long, or not visible ASCII without `/`.
    pub(crate) fn new(identity: &SpiffeId, instance: &str) -> Result<Self, RegistrationError> {
        if instance.is_empty() || !is_name(instance) {
            return Err(RegistrationError::Instance);
        }
        let text = format!("{}/{}/{instance}", identity.namespace(), identity.service_account());
        Ok(Self(text.into()))
    }

    /// An id as it was printed.
    pub(super) fn from_printed(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The part that the proxy chose.
    pub(crate) fn instance(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a workload is not registered. The texts go to its proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegistrationError {
    #[error("hello.instance must be 1 to 128 visible ASCII characters without '/'")]
    Instance,
    #[error("hello.workload.service is not the name of a service: {0}")]
    Service(String),
    #[error(
        "namespace {namespace} of the workload is not the certificate's ({identity}): a workload registers in its own namespace only"
    )]
    Namespace { namespace: String, identity: SpiffeId },
    #[error(
        "hello.workload.address {0:?} is not IP:PORT that others can reach: advertise a real address (--advertise)"
    )]
    Address(String),
    #[error("hello.workload.zone must be at most 128 visible ASCII characters without '/'")]
    Zone,
    #[error("hello.workload.ports[{0}].port must be 1 to 65535 and named once")]
    Port(usize),
    #[error("hello.workload.ports must have 1 to 64 entries")]
    Ports,
    #[error("{0} registrations are as many as one identity may have")]
    IdentityFull(usize),
    #[error("{0} registrations are as many as the mesh may have")]
    Full(usize),
}

/// A workload as it registered, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    #[serde(with = "text")]
    pub(crate) service: ServiceName,
    pub(crate) address: SocketAddr,
    #[serde(with = "text")]
    pub(crate) identity: SpiffeId,
    pub(crate) zone: String,
    pub(crate) healthy: bool,
    /// Service port to [`v1::Protocol`] number.
    pub(crate) ports: BTreeMap<u16, i32>,
}

impl Registration {
    /// Checks what a proxy says against its certificate.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub(crate) fn new(workload: &v1::Workload, identity: &SpiffeId) -> Result<Self, RegistrationError> {
        let name =
            workload.service.as_ref().ok_or_else(|| RegistrationError::Service("absent".to_owned()))?;
        let service = ServiceName::new(&name.namespace, &name.name)
            .map_err(|error| RegistrationError::Service(error.to_string()))?;
        if service.namespace() != identity.namespace() {
            let namespace = service.namespace().to_owned();
            return Err(RegistrationError::Namespace { namespace, identity: identity.clone() });
        }
        let address = reachable(&workload.address)?;
        if !is_name(&workload.zone) {
            return Err(RegistrationError::Zone);
        }
        let ports = checked_ports(&workload.ports)?;
        let zone = workload.zone.clone();
        Ok(Self { service, address, identity: identity.clone(), zone, healthy: workload.healthy, ports })
    }

    pub(super) fn endpoint(&self, id: &ProxyId) -> v1::Endpoint {
        v1::Endpoint {
            id: id.as_str().to_owned(),
            address: self.address.to_string(),
            identity: self.identity.to_string(),
            zone: self.zone.clone(),
            healthy: self.healthy,
            ports: self.ports.keys().map(|port| u32::from(*port)).collect(),
        }
    }
}

fn reachable(text: &str) -> Result<SocketAddr, RegistrationError> {
    let wrong = || RegistrationError::Address(text.chars().take(64).collect());
    let address: SocketAddr = text.parse().map_err(|_| wrong())?;
    if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(wrong());
    }
    Ok(address)
}

fn checked_ports(ports: &[v1::WorkloadPort]) -> Result<BTreeMap<u16, i32>, RegistrationError> {
    if ports.is_empty() || ports.len() > MAX_PORTS {
        return Err(RegistrationError::Ports);
    }
    let mut checked = BTreeMap::new();
    for (index, port) in ports.iter().enumerate() {
        let number = u16::try_from(port.port).ok().filter(|number| *number > 0);
        let number = number.ok_or(RegistrationError::Port(index))?;
        // A protocol from a newer proxy is one that this control plane cannot vouch for: detect.
        let protocol = v1::Protocol::try_from(port.protocol).unwrap_or_default();
        if checked.insert(number, protocol as i32).is_some() {
            return Err(RegistrationError::Port(index));
        }
    }
    Ok(checked)
}

/// Also true of the empty text.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

/// Serialises a value as the text that it prints and parses as.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
