//! Outrigger's control plane: identities issued, policy compiled, changes pushed.
//!
//! ```text
//! store (documents) ─┐
//!                    ├─► model ─► compile ─► push ─► one stream per proxy
//! discovery ─────────┘
//! ```

pub mod mesh;
pub mod resources;
pub mod status;
