//! What outlives the proxy's process: the last good policy, the trust bundle and, only if asked, the identity.
//!
//! A proxy that starts while the control plane is away serves at once on what it finds here. Every file is
//! replaced whole, so that a crash leaves the old one or the new one. A file that cannot be read is reported
//! and then ignored: the control plane has better copies of everything in it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Buf;
use outrigger_api::v1;
use outrigger_certs::files::{self, FileError};
use outrigger_certs::{BundleError, Svid, SvidError, TrustBundle};
use prost::Message;

/// The policy's file in the state directory.
const POLICY_FILE: &str = "policy.bin";
/// First line of the policy file; the namespace follows, since routes depend on whose they are.
const HEADING: &str = "outrigger-policy 1 ";
/// Owner only: policy tells what the mesh looks like inside.
const MODE: u32 = 0o600;

/// What `--state-dir` and `--persist-identity` ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSettings {
    /// Where to keep it. Made if it is not there.
    pub directory: PathBuf,
    /// Keep the private key and certificate too.
    pub persist_identity: bool,
}

/// Why state was not kept or not found.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be made or read.
    #[error("--state-dir {path} cannot be used: name a directory that this user can make and write", path = .path.display())]
    Directory {
        /// As it was given.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: FileError,
    },
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The policy file is not one that this version wrote for this namespace.
    #[error("{path}: {problem}", path = .path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The stored identity cannot be used.
    #[error(transparent)]
    Identity(#[from] SvidError),
    /// The stored trust bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// The state directory of one proxy.
#[derive(Debug, Clone)]
pub(crate) struct State {
    settings: StateSettings,
    namespace: String,
}

impl State {
    /// Makes the directory if need be.
    pub(crate) fn open(settings: StateSettings, namespace: &str) -> Result<Self, StateError> {
        let made = files::create_private_directory(&settings.directory);
        made.map_err(|source| StateError::Directory { path: settings.directory.clone(), source })?;
        // A proxy that was killed while it wrote.
        files::remove_leftovers(&settings.directory.join(POLICY_FILE))?;
        Ok(Self { settings, namespace: namespace.to_owned() })
    }

    fn directory(&self) -> &Path {
        &self.settings.directory
    }

    /// The policy that an earlier life of the proxy kept; `None` if there was none.
    pub(crate) fn load_policy(&self) -> Result<Option<Vec<v1::ControlMessage>>, StateError> {
        let path = self.directory().join(POLICY_FILE);
        let bytes = match files::read_private(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        decode(&bytes, &self.namespace).map(Some).map_err(|problem| StateError::Policy { path, problem })
    }

    /// Replaces the kept policy. Blocks until it is on the disk.
    pub(crate) fn save_policy(&self, messages: &[v1::ControlMessage]) -> Result<(), StateError> {
        let path = self.directory().join(POLICY_FILE);
        Ok(files::write_atomic(&path, &encode(messages, &self.namespace), MODE)?)
    }

    /// The identity that an earlier life kept, if this one is to use it.
    pub(crate) fn load_identity(&self, now: SystemTime) -> Result<Option<(Svid, TrustBundle)>, StateError> {
        if !self.settings.persist_identity {
            return Ok(None);
        }
        let svid = match Svid::load(self.directory(), now) {
            Ok(svid) => svid,
            Err(SvidError::File(error)) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some((svid, TrustBundle::load(self.directory())?)))
    }

    /// Keeps the bundle, and the identity if asked. Blocks until they are on the disk.
    pub(crate) fn save_identity(&self, svid: &Svid, bundle: &TrustBundle) -> Result<(), StateError> {
        bundle.save(self.directory())?;
        if self.settings.persist_identity {
            svid.save(self.directory())?;
        }
        Ok(())
    }
}

fn encode(messages: &[v1::ControlMessage], namespace: &str) -> Vec<u8> {
    let mut bytes = format!("{HEADING}{namespace}\n").into_bytes();
    for message in messages {
        message.encode_length_delimited(&mut bytes).expect("a Vec takes every write");
    }
    bytes
}

fn decode(bytes: &[u8], namespace: &str) -> Result<Vec<v1::ControlMessage>, String> {
    let heading = format!("{HEADING}{namespace}\n");
    let mut rest = bytes.strip_prefix(heading.as_bytes()).ok_or_else(|| {
        format!("does not begin with {:?}; it is of another version or namespace", heading.trim_end())
    })?;
    let mut messages = Vec::new();
    while rest.has_remaining() {
        let message = v1::ControlMessage::decode_length_delimited(&mut rest)
            .map_err(|error| format!("message {} cannot be read: {error}", messages.len()))?;
        messages.push(message);
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use outrigger_api::v1::control_message::Update;

    use super::*;

    fn state(directory: &Path, namespace: &str) -> State {
        State::open(StateSettings { directory: directory.join("state"), persist_identity: false }, namespace)
            .unwrap()
    }

    fn messages() -> Vec<v1::ControlMessage> {
        let update = |version| Update::Mesh(v1::MeshSettings { version, ..Default::default() });
        (1..=3).map(|version| v1::ControlMessage { nonce: 0, update: Some(update(version)) }).collect()
    }

    #[test]
    fn policy_comes_back_as_it_was_kept() {
        let directory = tempfile::tempdir().unwrap();
        let kept = state(directory.path(), "shop");
        assert_eq!(kept.load_policy().unwrap(), None);
        kept.save_policy(&messages()).unwrap();
        assert_eq!(state(directory.path(), "shop").load_policy().unwrap(), Some(messages()));
        let file = directory.path().join("state").join(POLICY_FILE);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_of_another_namespace_or_half_a_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let kept = state(directory.path(), "shop");
        kept.save_policy(&messages()).unwrap();
        let error = state(directory.path(), "bank").load_policy().unwrap_err();
        assert!(error.to_string().contains("another version or namespace"), "{error}");
        let bytes = encode(&messages(), "shop");
        for end in 0..bytes.len() {
            match decode(&bytes[..end], "shop") {
                Err(_) => {}
                Ok(read) => assert_eq!(read, messages()[..read.len()], "cut at {end}"),
            }
        }
    }
}
