//! Certificates as an attacker or a stranger would have them, and those of the mesh as a workload gets them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use outrigger_api::v1::identity_client::IdentityClient;
use outrigger_api::v1::{IssueRequest, IssueResponse};
use outrigger_certs::{Authority, AuthoritySettings, JoinToken, SpiffeId, SystemClock, TrustDomain, tls};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use crate::mesh::{Mesh, TRUST_DOMAIN};
use crate::raw::Credentials;

/// A certificate authority that no mesh knows.
#[derive(Debug)]
pub struct Stranger {
    authority: Authority,
    trust_domain: TrustDomain,
    _directory: TempDir,
}

impl Stranger {
    /// One that claims this trust domain.
    pub fn of(trust_domain: &str) -> Self {
        let trust_domain: TrustDomain = trust_domain.parse().expect("a test names a valid trust domain");
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let settings = AuthoritySettings::new(trust_domain.clone());
        let authority = Authority::open(directory.path(), settings, Arc::new(SystemClock))
            .expect("an authority can be made");
        Self { authority, trust_domain, _directory: directory }
    }

    /// A certificate of this authority for this identity.
    pub fn credentials(&self, namespace: &str, service_account: &str) -> Credentials {
        let id = SpiffeId::new(&self.trust_domain, namespace, service_account)
            .expect("a test names valid identities");
        let (request, key) = signing_request(&id);
        let issued = self.authority.sign(&request, &id).expect("the authority signs its own identities");
        (issued.chain, key)
    }

    /// Until when a certificate is valid.
    pub fn not_after(certificate: &CertificateDer<'_>) -> SystemTime {
        let (_, certificate) = X509Certificate::from_der(certificate).expect("a certificate parses");
        SystemTime::UNIX_EPOCH + Duration::from_secs(certificate.validity().not_after.timestamp() as u64)
    }
}

/// The URI names in a certificate.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).expect("a certificate parses");
    let mut names = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() {
            names.extend(alternative.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            }));
        }
    }
    names
}

/// The serial number of a certificate.
pub fn serial_of(certificate: &CertificateDer<'_>) -> String {
    let (_, certificate) = X509Certificate::from_der(certificate).expect("a certificate parses");
    certificate.raw_serial_as_string()
}

/// A certificate signing request in DER and its key, by rcgen alone.
fn signing_request(id: &SpiffeId) -> (Vec<u8>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().expect("a key can be made");
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    let uri = id.as_str().try_into().expect("an identity is ASCII");
    parameters.subject_alt_names = vec![SanType::URI(uri)];
    let request = parameters.serialize_request(&key).expect("a request can be made");
    (request.der().to_vec(), PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

impl Mesh {
    /// A certificate of this mesh for this identity, got with a join token as a proxy gets it.
    pub async fn credentials(&self, namespace: &str, service_account: &str) -> Credentials {
        let token = self.token(namespace, service_account).await;
        let (response, key) =
            self.issued(namespace, service_account, &token).await.expect("the token is good");
        let chain = response.certificate_chain.into_iter().map(CertificateDer::from).collect();
        (chain, key)
    }

    /// Asks for a certificate with this join token.
    ///
    /// # Errors
    /// What the control plane says against it, or why it was not trusted.
    pub async fn issue(&self, namespace: &str, service_account: &str, token: &str) -> Result<(), Status> {
        self.issued(namespace, service_account, token).await.map(drop)
    }

    async fn issued(
        &self,
        namespace: &str,
        service_account: &str,
        token: &str,
    ) -> Result<(IssueResponse, PrivateKeyDer<'static>), Status> {
        let trust_domain: TrustDomain = TRUST_DOMAIN.parse().expect("the constant is valid");
        let id =
            SpiffeId::new(&trust_domain, namespace, service_account).expect("a test names valid identities");
        let (csr_der, key) = signing_request(&id);
        let parsed: JoinToken = token.parse().map_err(|e| Status::unauthenticated(format!("{e}")))?;
        let config = tls::pinned_client_config(parsed.root_fingerprint(), &[b"h2"], Arc::new(SystemClock));
        let address = self.control_address();
        let connector = tower::service_fn(move |_| {
            let config = Arc::clone(&config);
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from("control-plane.outrigger").expect("the constant is valid");
                TlsConnector::from(config).connect(name, stream).await.map(TokioIo::new)
            }
        });
        let channel = Endpoint::from_static("http://control-plane.outrigger")
            .connect_with_connector(connector)
            .await
            .map_err(|error| Status::new(Code::Unavailable, format!("{error:?}")))?;
        let issue = IssueRequest { csr_der, join_token: token.to_owned() };
        let response = IdentityClient::new(channel).issue(issue).await?.into_inner();
        Ok((response, key))
    }
}
