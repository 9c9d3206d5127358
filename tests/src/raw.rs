//! Bytes that no well-behaved client would send: raw HTTP/1, raw HTTP/2 frames, TLS without manners.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::wait::PATIENCE;

/// Writes the bytes on a new connection, and returns all that comes back until the proxy closes it.
///
/// What the proxy has read before it closes may be less than what was written: a reset then is an end, too.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the proxy listens");
    // A proxy that refuses early may close under the write.
    let _ = stream.write_all(bytes).await;
    String::from_utf8_lossy(&read_to_end(&mut stream).await).into_owned()
}

/// Reads until the other side ends or resets the connection; panics if it does neither in 20 s.
pub async fn read_to_end<S: AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match timeout(PATIENCE, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return all,
            Ok(Ok(n)) => all.extend_from_slice(&buffer[..n]),
            Err(_) => panic!("not closed within {PATIENCE:?}, after {:?}", String::from_utf8_lossy(&all)),
        }
    }
}

/// Reads one HTTP/1 head, up to and with its empty line.
///
/// # Errors
/// When the connection ends before that; panics if nothing comes for 20 s.
pub async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = match timeout(PATIENCE, stream.read_u8()).await {
            Ok(byte) => byte?,
            Err(_) => panic!("no whole head within {PATIENCE:?}, only {:?}", String::from_utf8_lossy(&head)),
        };
        head.push(byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// A certificate chain and its key, as a client presents them.
pub type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A TLS 1.3 connection that trusts whatever the server presents and itself presents what it is told to.
///
/// # Errors
/// When the handshake fails. A server that refuses the client's certificate says so only afterwards: read.
pub async fn tls(
    address: SocketAddr,
    server_name: &str,
    credentials: Option<Credentials>,
    alpn: &[&[u8]],
) -> io::Result<TlsStream<TcpStream>> {
    // The post-quantum group first, as the mesh's own proxies offer it.
    let groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    let provider = Arc::new(CryptoProvider { kx_groups: groups, ..aws_lc_rs::default_provider() });
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone(provider)));
    let mut config = match credentials {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).expect("key and certificate are a pair")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let name = ServerName::try_from(server_name.to_owned()).expect("a test names a valid server name");
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Tests that look at what a server presents do the verifying themselves.
#[derive(Debug)]
struct TrustAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 was never offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// HTTP/2 frame types (RFC 9113 §6).
pub mod frame {
    #![expect(missing_docs, reason = "the RFC's own names")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;

    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

/// One HTTP/2 frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// One of [`frame`].
    pub kind: u8,
    /// As the type defines them.
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
    /// The rest.
    pub payload: Vec<u8>,
}

/// An HTTP/2 connection on which every frame is written by hand.
#[derive(Debug)]
pub struct Frames<S> {
    stream: S,
}

impl Frames<TcpStream> {
    /// Connects and sends the preface and empty settings.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the proxy listens");
        Self::over(stream).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Sends the preface and empty settings over this connection.
    pub async fn over(stream: S) -> Self {
        let mut frames = Self { stream };
        frames.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("the preface can be sent");
        frames.send(frame::SETTINGS, 0, 0, &[]).await.expect("settings can be sent");
        frames
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the proxy has closed the connection.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(9 + payload.len());
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        bytes.extend_from_slice(&[kind, flags]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes).await
    }

    /// The next frame.
    ///
    /// # Errors
    /// When the connection has ended; panics if nothing comes for 20 s.
    pub async fn receive(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        match timeout(PATIENCE, self.stream.read_exact(&mut head)).await {
            Ok(read) => read?,
            Err(_) => panic!("no frame within {PATIENCE:?}"),
        };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until the proxy closes the connection, and returns the error code of its GOAWAY, if it sent one.
    pub async fn goaway_and_close(&mut self) -> Option<u32> {
        let mut code = None;
        while let Ok(frame) = self.receive().await {
            if frame.kind == frame::GOAWAY && frame.payload.len() >= 8 {
                code = Some(u32::from_be_bytes([
                    frame.payload[4],
                    frame.payload[5],
                    frame.payload[6],
                    frame.payload[7],
                ]));
            }
        }
        code
    }
}

/// A header block without Huffman coding or table (RFC 7541 §6.2.2).
pub fn header_block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            write_length(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A GET's header block.
pub fn get_block(authority: &str, path: &str) -> Vec<u8> {
    header_block(&[(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", path)])
}

/// An integer with a 7-bit prefix (RFC 7541 §5.1).
fn write_length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(length as u8);
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// Whether the connection is closed by the other side within this time.
pub async fn closes_within<S: AsyncRead + Unpin>(stream: &mut S, time: Duration) -> bool {
    let mut buffer = [0; 4096];
    let closed = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    timeout(time, closed).await.is_ok()
}

/// Serves TLS with these credentials on the listener, asks no client for a certificate, and answers whatever is
/// sent with `stolen`: what an impostor would do.
pub fn tls_server(listener: TcpListener, credentials: Credentials) -> AbortOnDrop {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(credentials.0, credentials.1)
        .expect("key and certificate are a pair");
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    AbortOnDrop(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 4096];
                if matches!(stream.read(&mut buffer).await, Ok(n) if n > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen").await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    }))
}

/// A task that ends with the value.
#[derive(Debug)]
pub struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
