//! Asking the control plane for a certificate, with a proof of who asks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outrigger_api::v1;
use outrigger_api::v1::identity_client::IdentityClient;
use outrigger_certs::files::{self, FileError};
use outrigger_certs::{
    BundleError, Clock, JoinToken, JoinTokenError, KeyRequest, KeyRequestError, SpiffeId, SpiffeIdError,
    Svid, SvidError, TrustBundle, TrustDomain, TrustDomainError, tls,
};
use tokio::time::timeout;

use super::TlsMaterial;
use crate::alpn;
use crate::control::dial::{Connection, DialError, Dialer};

/// For the control plane to sign, once it is connected.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);
/// A chain and a bundle are a few KiB.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// What proves who asks.
#[derive(Debug)]
pub(crate) enum Proof {
    /// Given out by an operator for the first time.
    Token(JoinToken),
    /// The certificate that is to be replaced.
    Svid(Arc<TlsMaterial>),
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    /// There is neither a valid certificate nor a token.
    #[error(
        "there is no valid certificate and no join token: make one with `outrigger token create` \
         and pass it with --join-token-file"
    )]
    NoProof,
    /// The token's file cannot be read.
    #[error("--join-token-file cannot be used")]
    TokenFile(#[source] FileError),
    /// The token's file holds something else.
    #[error("--join-token-file {path} holds no join token", path = .path.display())]
    Token { path: PathBuf, source: JoinTokenError },
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The configured namespace or account makes no identity.
    #[error(transparent)]
    Name(#[from] SpiffeIdError),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyRequestError),
    /// The control plane said no. Its message says why.
    #[error("the control plane refused a certificate for {id}: {message} ({code:?})")]
    Refused { id: SpiffeId, message: String, code: tonic::Code },
    /// It said nothing.
    #[error("the control plane did not answer within {ISSUE_TIMEOUT:?}")]
    Silent,
    /// The answer's certificate is not the one asked for.
    #[error("the control plane's answer cannot be used")]
    Svid(#[from] SvidError),
    /// The answer's bundle cannot be used.
    #[error("the control plane's answer cannot be used")]
    Bundle(#[from] BundleUnusable),
    /// The answer's certificate and bundle do not belong together.
    #[error("the control plane's answer cannot be used")]
    Foreign(#[from] super::ForeignBundle),
}

/// Why a bundle message is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleUnusable {
    /// There is none.
    #[error("bundle: is absent")]
    Absent,
    /// Its name is not one.
    #[error("bundle.trustDomain")]
    TrustDomain(#[from] TrustDomainError),
    /// It is that of another mesh.
    #[error("bundle.trustDomain: is {bundle:?}, the control plane's own is {own:?}")]
    Foreign { bundle: String, own: String },
    /// A root cannot be read.
    #[error("bundle.roots")]
    Roots(#[from] BundleError),
}

/// Reads a bundle message, which must be that of `own`.
pub(crate) fn read_bundle(raw: v1::TrustBundle, own: &TrustDomain) -> Result<TrustBundle, BundleUnusable> {
    let trust_domain = TrustDomain::new(&raw.trust_domain)?;
    if trust_domain != *own {
        return Err(BundleUnusable::Foreign { bundle: trust_domain.to_string(), own: own.to_string() });
    }
    Ok(TrustBundle::from_der(trust_domain, raw.roots)?)
}

/// Reads the token's file anew, so that an operator can replace a token that has expired.
pub(crate) fn read_token(path: &Path) -> Result<JoinToken, IssueError> {
    let bytes = files::read_public(path).map_err(IssueError::TokenFile)?;
    let text = String::from_utf8_lossy(&bytes);
    text.trim().parse().map_err(|source| IssueError::Token { path: path.to_owned(), source })
}

/// Whose certificate is wanted. The trust domain is the control plane's to say.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
}

impl Account {
    /// Whether `id` is this account's, in whichever trust domain.
    pub(crate) fn is(&self, id: &SpiffeId) -> bool {
        id.namespace() == self.namespace && id.service_account() == self.service_account
    }
}

/// Gets a certificate for a new key.
pub(crate) async fn issue(
    dialer: &Dialer,
    account: &Account,
    proof: &Proof,
    clock: &Arc<dyn Clock>,
) -> Result<(Svid, TrustBundle), IssueError> {
    let (tls, token) = match proof {
        Proof::Token(token) => (
            tls::pinned_client_config(token.root_fingerprint(), &[alpn::H2], clock.clone()),
            token.to_string(),
        ),
        Proof::Svid(material) => (material.control_plane.clone(), String::new()),
    };
    let Connection { channel, identity: control_plane, driver, .. } = dialer.connect(&tls).await?;
    let id = SpiffeId::new(control_plane.trust_domain(), &account.namespace, &account.service_account)?;
    let request = KeyRequest::generate(&id)?;
    let message = v1::IssueRequest { csr_der: request.csr_der().to_vec(), join_token: token };
    let mut client =
        IdentityClient::with_origin(channel, Dialer::origin()).max_decoding_message_size(MAX_ANSWER_BYTES);
    let answer =
        timeout(ISSUE_TIMEOUT, Box::pin(client.issue(message))).await.map_err(|_| IssueError::Silent)?;
    let answer = answer
        .map_err(|status| IssueError::Refused {
            id,
            message: status.message().to_owned(),
            code: status.code(),
        })?
        .into_inner();
    drop(driver);
    let bundle = read_bundle(answer.bundle.ok_or(BundleUnusable::Absent)?, control_plane.trust_domain())?;
    let svid = request.into_svid(answer.certificate_chain, &bundle, clock.now())?;
    Ok((svid, bundle))
}
