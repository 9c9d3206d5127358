//! What workloads may call outside the mesh: a part of `MeshConfig`.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{FieldPath, Problems};

/// Networks that may be listed.
const MOST_CIDRS: usize = 256;

/// What may be called outside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// Default: `AllowAll`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<EgressMode>,
    /// Networks that redirected connections may go to where the mode is `ListedOnly`, as `10.0.0.0/8`; an address
    /// alone is a network of one. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub cidrs: Vec<String>,
}

/// How much may be called outside the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EgressMode {
    /// Everything.
    AllowAll,
    /// Hosts that a Service of type `ExternalName` stands for, and the networks of `cidrs`.
    ListedOnly,
}

impl Egress {
    pub(super) fn check(&self, path: &FieldPath, problems: &mut Problems) {
        let path = path.field("cidrs");
        if self.cidrs.len() > MOST_CIDRS {
            problems.error(&path, format!("must not list more than {MOST_CIDRS} networks"));
        }
        for (index, text) in self.cidrs.iter().enumerate().take(MOST_CIDRS) {
            if network(text).is_none() {
                problems.error(&path.index(index), format!("{text:?} is no network, as in 10.0.0.0/8"));
            }
        }
        if !self.cidrs.is_empty() && self.mode != Some(EgressMode::ListedOnly) {
            problems.warning(&path, "has no effect: everything may be called unless mode is ListedOnly");
        }
    }
}

/// A network, or an address as a network of one.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()))
}
