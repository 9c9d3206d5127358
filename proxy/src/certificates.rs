//! A gateway's certificates and keys, from its own disk, where they were put and are replaced by somebody else.
//!
//! `DIR/NAMESPACE/NAME/tls.crt` and `tls.key`, or `DIR/NAME/…`, in PEM, as Kubernetes mounts a Secret. The directory is
//! looked at every few seconds: what changed is read again, and what cannot be read, or is not all there for the moment,
//! keeps its last good version. A certificate goes with its directory `NAME`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// More directories than these are not looked into.
const MOST: usize = 1024;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
enum CertificateError {
    #[error("{0} cannot be read as PEM")]
    Pem(PathBuf, #[source] rustls_pki_types::pem::Error),
    #[error("certificate and key of {0} do not go together")]
    Pair(PathBuf, #[source] rustls::Error),
}

/// The certificates by `NAME` or `NAMESPACE/NAME`. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Certificates(Arc<ArcSwap<HashMap<String, Loaded>>>);

#[derive(Debug, Clone)]
struct Loaded {
    key: Arc<CertifiedKey>,
    /// When the two files were last changed, and how long they are.
    stamp: [(SystemTime, u64); 2],
}

impl Certificates {
    /// The certificate of a gateway in `namespace`.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<CertifiedKey>> {
        let all = self.0.load();
        let found = all.get(&format!("{namespace}/{name}")).or_else(|| all.get(name))?;
        Some(found.key.clone())
    }

    /// Follows the directory until it is dropped.
    pub(crate) async fn follow(self, directory: PathBuf) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (certificates, directory) = (self.clone(), directory.clone());
            if spawn_blocking(move || certificates.look(&directory)).await.is_err() {
                tracing::error!("looking for certificates failed");
            }
        }
    }

    /// Reads what is new in the directory. Blocks on the disk.
    pub(crate) fn look(&self, directory: &Path) {
        let before = self.0.load_full();
        if let Err(error) = fs::read_dir(directory) {
            tracing::warn!(%error, "the certificates' directory cannot be read; what was read last stays");
            return;
        }
        let mut after = HashMap::new();
        let mut changed = false;
        for (name, place) in places(directory) {
            let known = before.get(&name);
            let stamp = match stamp(&place) {
                Ok(stamp) => stamp,
                Err(error) => {
                    if let Some(known) = known {
                        tracing::warn!(%error, certificate = name, "a certificate is gone; the last good one stays");
                        after.insert(name, known.clone());
                    }
                    continue;
                }
            };
            if let Some(known) = known.filter(|known| known.stamp == stamp) {
                after.insert(name, known.clone());
                continue;
            }
            match load(&place) {
                Ok(key) => {
                    tracing::info!(certificate = name, "a certificate is in use");
                    after.insert(name, Loaded { key: Arc::new(key), stamp });
                    changed = true;
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "a certificate cannot be used; the last good one stays");
                    after.extend(known.map(|known| (name, known.clone())));
                }
            }
        }
        if changed || after.len() != before.len() {
            self.0.store(Arc::new(after));
        }
    }
}

/// Directories that may hold a certificate, by the name they give it.
fn places(directory: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for (name, place) in subdirectories(directory) {
        found.extend(
            subdirectories(&place).into_iter().map(|(inner, place)| (format!("{name}/{inner}"), place)),
        );
        found.push((name, place));
    }
    found
}

fn subdirectories(directory: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).take(MOST);
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    // Kubernetes keeps versions of a Secret beside it, in directories whose names begin with dots.
    named.filter(|(name, path)| !name.starts_with('.') && path.is_dir()).collect()
}

fn stamp(place: &Path) -> io::Result<[(SystemTime, u64); 2]> {
    let of = |name: &str| {
        let metadata = fs::metadata(place.join(name))?;
        Ok::<_, io::Error>((metadata.modified()?, metadata.len()))
    };
    Ok([of("tls.crt")?, of("tls.key")?])
}

fn load(place: &Path) -> Result<CertifiedKey, CertificateError> {
    let (certificate, key) = (place.join("tls.crt"), place.join("tls.key"));
    let chain = CertificateDer::pem_file_iter(&certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| CertificateError::Pem(certificate, error))?;
    let key =
        PrivateKeyDer::from_pem_file(&key).map_err(|error| CertificateError::Pem(key.clone(), error))?;
    let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    pair.map_err(|error| CertificateError::Pair(place.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str) {
        let place = directory.join(name);
        fs::create_dir_all(&place).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["edge.example.com".to_owned()]).unwrap();
        fs::write(place.join("tls.crt"), made.cert.pem()).unwrap();
        fs::write(place.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn what_is_there_is_found_and_what_breaks_keeps_its_last_good_version() {
        let directory = tempfile::tempdir().unwrap();
        let certificates = Certificates::default();
        certificates.look(directory.path());
        assert!(certificates.get("shop", "edge").is_none());
        write(directory.path(), "edge");
        certificates.look(directory.path());
        let first = certificates.get("shop", "edge").expect("found by its name");
        write(directory.path(), "shop/edge");
        certificates.look(directory.path());
        let own = certificates.get("shop", "edge").unwrap();
        assert!(!Arc::ptr_eq(&first, &own), "the one of the namespace counts");
        assert!(Arc::ptr_eq(&first, &certificates.get("bank", "edge").unwrap()));
        fs::write(directory.path().join("shop/edge/tls.key"), "nonsense").unwrap();
        certificates.look(directory.path());
        assert!(Arc::ptr_eq(&own, &certificates.get("shop", "edge").unwrap()));
        for part in ["tls.crt", "tls.key"] {
            fs::remove_file(directory.path().join("shop/edge").join(part)).unwrap();
            certificates.look(directory.path());
            assert!(Arc::ptr_eq(&own, &certificates.get("shop", "edge").unwrap()), "without {part}");
        }
        certificates.look(&directory.path().join("unmounted"));
        assert!(Arc::ptr_eq(&own, &certificates.get("shop", "edge").unwrap()), "without anything");
        fs::remove_dir_all(directory.path().join("shop")).unwrap();
        certificates.look(directory.path());
        assert!(Arc::ptr_eq(&first, &certificates.get("shop", "edge").unwrap()), "taken away on purpose");
    }
}
