//! TLS in front of an application, as a server outside the mesh has it: a certificate of an authority that only those
//! trust who are told to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// A running front. Dropping it ends it.
#[derive(Debug)]
pub struct TlsFront {
    /// Where it listens.
    pub address: SocketAddr,
    greeted: Arc<Mutex<Vec<Greeted>>>,
    directory: TempDir,
    serving: AbortHandle,
}

/// What a client said of whom and what it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeted {
    /// The server name.
    pub name: Option<String>,
    /// The protocol agreed on.
    pub protocol: Option<String>,
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl TlsFront {
    /// Listens on a free port of loopback, with a certificate for these names, in front of `application`.
    pub async fn start(application: SocketAddr, names: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let (root, leaf, key) = certificates(names);
        std::fs::write(directory.path().join("root.pem"), root).expect("a file can be written");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites")
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key)
            .expect("key and certificate agree");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let greeted = Arc::default();
        let serving = tokio::spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            application,
            Arc::clone(&greeted),
        ));
        Self { address, greeted, directory, serving: serving.abort_handle() }
    }

    /// A PEM file with its authority's root.
    pub fn root(&self) -> PathBuf {
        Path::join(self.directory.path(), "root.pem")
    }

    /// What every client said whose handshake succeeded.
    pub fn greeted(&self) -> Vec<Greeted> {
        self.greeted.lock().expect("no holder panics").clone()
    }
}

fn certificates(names: &[&str]) -> (String, CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = || KeyPair::generate().expect("a key can be made");
    let root_key = key();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = root.self_signed(&root_key).expect("a root signs itself");
    let issuer = Issuer::new(root, root_key);
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let own = key();
    let leaf = CertificateParams::new(names).expect("a test gives valid names");
    let leaf = leaf.signed_by(&own, &issuer).expect("a root signs");
    let key = PrivateKeyDer::try_from(own.serialize_der()).expect("a key made here can be read");
    (certificate.pem(), leaf.der().clone(), key)
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    application: SocketAddr,
    greeted: Arc<Mutex<Vec<Greeted>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, greeted) = (acceptor.clone(), Arc::clone(&greeted));
        tokio::spawn(async move {
            let Ok(mut near) = acceptor.accept(stream).await else { return };
            let connection = near.get_ref().1;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let said = Greeted {
                name: connection.server_name().map(str::to_owned),
                protocol: connection.alpn_protocol().map(text),
            };
            greeted.lock().expect("no holder panics").push(said);
            let Ok(mut far) = TcpStream::connect(application).await else { return };
            let _ = copy_bidirectional(&mut near, &mut far).await; // whoever breaks off, the test sees it
        });
    }
}
