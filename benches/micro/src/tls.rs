//! Mutual TLS between two proxies, in memory: handshakes, and records there and back.

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use outrigger_certs::tls::{ClientAuth, client_config, peer_identity, server_config};
use outrigger_certs::{
    Authority, AuthoritySettings, Clock as _, KeyRequest, SpiffeId, Svid, SystemClock, TrustDomain,
};
use outrigger_proxy::alpn;
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;

use crate::step::Work;

/// Both sides of a connection.
struct Pair {
    client: ClientConnection,
    server: ServerConnection,
    /// Bytes on their way.
    wire: Vec<u8>,
}

impl Pair {
    /// A connection whose handshake is done, tickets included, and whose peers know each other.
    fn connected(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Self> {
        let name = ServerName::try_from("payments.shop")?;
        let mut pair = Self {
            client: ClientConnection::new(Arc::clone(client), name)?,
            server: ServerConnection::new(Arc::clone(server))?,
            wire: Vec::with_capacity(32 * 1024),
        };
        while pair.client.wants_write() || pair.server.wants_write() {
            pair.carry_to_server()?;
            pair.carry_to_client()?;
        }
        peer_identity(pair.client.peer_certificates()).context("the server has an identity")?;
        peer_identity(pair.server.peer_certificates()).context("the client has an identity")?;
        Ok(pair)
    }

    fn carry_to_server(&mut self) -> Result<()> {
        self.wire.clear();
        while self.client.wants_write() {
            self.client.write_tls(&mut self.wire)?;
        }
        let mut bytes = &*self.wire;
        while !bytes.is_empty() {
            self.server.read_tls(&mut bytes)?;
            self.server.process_new_packets()?;
        }
        Ok(())
    }

    fn carry_to_client(&mut self) -> Result<()> {
        self.wire.clear();
        while self.server.wants_write() {
            self.server.write_tls(&mut self.wire)?;
        }
        let mut bytes = &*self.wire;
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes)?;
            self.client.process_new_packets()?;
        }
        Ok(())
    }
}

/// Both sides of a new connection between proxies that have not met, with everything that is verified.
pub(crate) fn full_handshake() -> Result<Work> {
    let (client, server) = configurations()?;
    let mut client = ClientConfig::clone(&client);
    client.resumption = Resumption::disabled();
    handshake(Arc::new(client), server)
}

/// Both sides of a new connection between proxies that remember each other.
pub(crate) fn resumed_handshake() -> Result<Work> {
    let (client, server) = configurations()?;
    Pair::connected(&client, &server)?;
    handshake(client, server)
}

fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<Work> {
    Pair::connected(&client, &server)?;
    Ok(Box::new(move || {
        black_box(Pair::connected(&client, &server).expect("both sides are certified"));
    }))
}

/// So many bytes encrypted by one side and decrypted by the other.
pub(crate) fn records(bytes: usize) -> Result<Work> {
    let (client, server) = configurations()?;
    let mut pair = Pair::connected(&client, &server)?;
    let sent = vec![b'x'; bytes];
    let mut received = vec![0; bytes];
    Ok(Box::new(move || {
        pair.client.writer().write_all(black_box(&sent)).expect("the buffer takes a record");
        pair.carry_to_server().expect("what was encrypted can be decrypted");
        pair.server.reader().read_exact(black_box(&mut received)).expect("all of it arrived");
    }))
}

/// A caller's and a service's, certified by an authority that is forgotten at once.
fn configurations() -> Result<(Arc<ClientConfig>, Arc<ServerConfig>)> {
    let directory = tempfile::tempdir().context("a temporary directory")?;
    let domain = TrustDomain::new("outrigger.local")?;
    let clock = Arc::new(SystemClock);
    let settings = AuthoritySettings::new(domain.clone());
    let authority = Authority::open(directory.path(), settings, Arc::clone(&clock) as _)?;
    let bundle = authority.bundle();
    let svid = |account: &str| -> Result<Svid> {
        let id = SpiffeId::new(&domain, "shop", account)?;
        let request = KeyRequest::generate(&id)?;
        let chain = authority.sign(request.csr_der(), &id)?.to_der();
        Ok(request.into_svid(chain, &bundle, clock.now())?)
    };
    let client = client_config(&svid("caller")?, &bundle, &[alpn::H2], Arc::clone(&clock) as _);
    let service = svid("payments")?;
    let server = server_config(
        &service,
        &bundle,
        &[alpn::H2, alpn::HTTP1, alpn::TCP],
        ClientAuth::Required,
        Arc::clone(&clock) as _,
    );
    Ok((client, server))
}
