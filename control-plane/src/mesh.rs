//! The mesh as the control plane knows it: what the streams of the proxies keep up to date and what the REST
//! API shows.

use std::str::FromStr;
use std::time::Duration;

use crate::status::{CertificateStatus, EdgeStats, ProxyStatus, ServiceStatus};

/// What to replace in the certificate authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The certificate that signs workloads; the root stays.
    Issuer,
    /// The root: published at once, signing once every proxy had time to learn of it.
    Root,
}

impl FromStr for Rotation {
    type Err = RotationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "issuer" => Ok(Self::Issuer),
            "root" => Ok(Self::Root),
            other => Err(RotationError::Unknown(other.to_owned())),
        }
    }
}

/// Why nothing was replaced.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The caller's mistake.
    #[error("{0:?} cannot be rotated: say issuer or root")]
    Unknown(String),
    /// The authority could not do it now.
    #[error("the certificate authority could not rotate: {0}")]
    Authority(String),
}

/// The mesh as it is now. Shared by the stream to the proxies and the REST API.
#[derive(Debug, Default)]
pub struct Mesh {}

impl Mesh {
    /// Every proxy with an open stream, and those lost not long ago, sorted by identity and instance.
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        Vec::new()
    }

    /// Every service, sorted by namespace and name.
    pub fn services(&self) -> Vec<ServiceStatus> {
        Vec::new()
    }

    /// Traffic by edge: over the last `window` (up to a minute is kept), or since the proxies started.
    pub fn stats(&self, _window: Option<Duration>) -> Vec<EdgeStats> {
        Vec::new()
    }

    /// The certificate authority's state.
    pub fn certificates(&self) -> CertificateStatus {
        CertificateStatus {
            trust_domain: String::new(),
            roots: Vec::new(),
            issuer: Default::default(),
            server: Default::default(),
            svid_ttl_seconds: 0,
        }
    }

    /// Starts replacing the issuer or the root. Blocks on disk and key generation: call it off the runtime.
    ///
    /// # Errors
    /// The authority's reason; nothing has changed then.
    pub fn rotate(&self, _what: Rotation) -> Result<CertificateStatus, RotationError> {
        Ok(self.certificates())
    }
}
