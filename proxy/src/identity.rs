//! Who this proxy is, and the TLS configurations that prove it.
//!
//! The life of a key: it is made here, its certificate is asked for with a join token, it serves for half of the
//! certificate's life and is then replaced by a new one, asked for with the old as proof. It never leaves the
//! process unless `--persist-identity` keeps it on the proxy's own disk. The change is one pointer swap:
//! connections that stand keep what they were made with, new ones get the new. There is one TLS configuration
//! per identity and trust bundle and kind of connection, never one per connection.

pub(crate) mod issue;
pub(crate) mod keeper;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use outrigger_certs::tls::{self, ClientAuth};
use outrigger_certs::{Clock, SpiffeId, Svid, TrustBundle, TrustDomain};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::alpn;

/// Everything that a connection needs of one identity and one trust bundle.
#[derive(Debug)]
pub struct TlsMaterial {
    /// Who the proxy is.
    pub id: SpiffeId,
    /// For peers that connect to this workload; takes every protocol of [`alpn`].
    pub server: Arc<ServerConfig>,
    /// To peers, many requests on a connection.
    pub client_h2: Arc<ClientConfig>,
    /// To peers, one request at a time.
    pub client_http1: Arc<ClientConfig>,
    /// To peers, opaque bytes.
    pub client_tcp: Arc<ClientConfig>,
    /// To the control plane, and to nobody else.
    pub control_plane: Arc<ClientConfig>,
    /// The certificate proves nothing from then on.
    pub not_after: SystemTime,
    /// When the next certificate is asked for.
    pub renew_at: SystemTime,
    /// The certificates that prove others.
    pub bundle: Arc<TrustBundle>,
    svid: Arc<Svid>,
}

/// A certificate and a bundle that belong to different meshes.
#[derive(Debug, thiserror::Error)]
#[error("the trust bundle is that of {bundle}, the identity is {id}")]
pub(crate) struct ForeignBundle {
    id: SpiffeId,
    bundle: TrustDomain,
}

impl TlsMaterial {
    fn new(
        svid: Arc<Svid>,
        bundle: Arc<TrustBundle>,
        renew_at: SystemTime,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, ForeignBundle> {
        let id = svid.id().clone();
        if bundle.trust_domain() != id.trust_domain() {
            return Err(ForeignBundle { id, bundle: bundle.trust_domain().clone() });
        }
        let client = |protocol: &[u8]| tls::client_config(&svid, &bundle, &[protocol], clock.clone());
        let control_plane = SpiffeId::control_plane(id.trust_domain());
        let protocols = [alpn::H2, alpn::HTTP1, alpn::TCP];
        Ok(Self {
            server: tls::server_config(&svid, &bundle, &protocols, ClientAuth::Required, clock.clone()),
            client_h2: client(alpn::H2),
            client_http1: client(alpn::HTTP1),
            client_tcp: client(alpn::TCP),
            control_plane: tls::client_config_expecting(
                &svid,
                &bundle,
                &control_plane,
                &[alpn::H2],
                clock.clone(),
            ),
            not_after: svid.not_after(),
            renew_at,
            id,
            bundle,
            svid,
        })
    }

    #[cfg(test)]
    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.svid.certified_key().key.public_key().expect("an ECDSA key has one").to_vec()
    }

    /// Whether the certificate still proves the identity at `now`.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        now < self.not_after
    }
}

/// Where the newest [`TlsMaterial`] is found. Cloned into every worker.
#[derive(Debug, Clone)]
pub struct Identities(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: ArcSwapOption<TlsMaterial>,
    /// Counts the changes, for those who wait for one.
    changes: watch::Sender<u64>,
    /// Held while one material is made from the one before. Never on a request's path.
    making: Mutex<()>,
    clock: Arc<dyn Clock>,
}

impl Identities {
    /// Nobody yet.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let (changes, _) = watch::channel(0);
        Self(Arc::new(Shared { current: ArcSwapOption::empty(), changes, making: Mutex::new(()), clock }))
    }

    /// The newest, `None` until the first certificate has been issued. One call per connection.
    pub fn current(&self) -> Option<Arc<TlsMaterial>> {
        self.0.current.load_full()
    }

    /// Changes with every new certificate and every new bundle.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The first there is, waited for.
    pub async fn obtained(&self) -> Arc<TlsMaterial> {
        let mut changes = self.changes();
        loop {
            if let Some(material) = self.current() {
                return material;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Replaces identity and bundle.
    pub(crate) fn install(
        &self,
        svid: Svid,
        bundle: TrustBundle,
        renew_at: SystemTime,
    ) -> Result<(), ForeignBundle> {
        let _making = self.0.making.lock().unwrap_or_else(PoisonError::into_inner);
        self.swap(TlsMaterial::new(Arc::new(svid), Arc::new(bundle), renew_at, &self.0.clock)?);
        Ok(())
    }

    /// Replaces the bundle under the identity that there is. The same bundle again changes nothing, so that
    /// sessions to resume and standing configurations survive a reconnect of the control stream.
    pub(crate) fn install_bundle(&self, bundle: TrustBundle) -> Result<(), ForeignBundle> {
        let _making = self.0.making.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(current) = self.current() else { return Ok(()) };
        if current.bundle.fingerprints().eq(bundle.fingerprints())
            && current.bundle.trust_domain() == bundle.trust_domain()
        {
            return Ok(());
        }
        self.swap(TlsMaterial::new(current.svid.clone(), Arc::new(bundle), current.renew_at, &self.0.clock)?);
        Ok(())
    }

    fn swap(&self, material: TlsMaterial) {
        self.0.current.store(Some(Arc::new(material)));
        self.0.changes.send_modify(|count| *count += 1);
    }
}
