//! Proof in, certificate out.
//!
//! A workload proves who it is by a join token, which is good for one identity, or by the certificate that it
//! already has and connects with, which is good for a new one of the same identity. The private key stays where it was
//! made: what comes is a signing request, of which only the key and the identity asked for are used.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_api::v1;
use outrigger_certs::{Clock, JoinToken, Purpose, SignError, SigningRequest, SpiffeId};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::certificates::{Certificates, message};
use crate::server::Peer;
use crate::store::Store;
use crate::token::TokenError;

/// Bytes of a signing request; one for P-256 has a few hundred.
const MAX_CSR_BYTES: usize = 16 << 10;
/// Bytes of a join token.
const MAX_TOKEN_BYTES: usize = 256;

/// The `Identity` service.
#[derive(Debug, Clone)]
pub(crate) struct Issuer {
    certificates: Arc<Certificates>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    throttle: Arc<Mutex<Throttle>>,
}

impl Issuer {
    pub(crate) fn new(certificates: Arc<Certificates>, store: Arc<Store>, clock: Arc<dyn Clock>) -> Self {
        Self { certificates, store, clock, throttle: Arc::default() }
    }

    async fn answer(&self, request: Request<v1::IssueRequest>) -> Result<v1::IssueResponse, Status> {
        let peer = Peer::of(&request).cloned();
        let v1::IssueRequest { csr_der, join_token } = request.into_inner();
        if csr_der.len() > MAX_CSR_BYTES {
            return Err(Status::invalid_argument("csrDer: the signing request is longer than 16 KiB"));
        }
        let proved = if join_token.is_empty() {
            self.by_certificate(peer.as_ref())?
        } else {
            // The request is read before the token is looked up, for that is the cheaper of the two.
            SigningRequest::read(&csr_der).map_err(|error| refused_csr(&error))?;
            self.by_token(&join_token).await?
        };
        let issued =
            self.certificates.authority().sign(&csr_der, &proved).map_err(|error| refused(&error))?;
        let remote = peer.map(|peer| peer.remote.to_string());
        let by = if join_token.is_empty() { "certificate" } else { "join token" };
        tracing::info!(identity = %proved, remote, by, "issued a certificate");
        let bundle = message(&self.certificates.authority().bundle());
        Ok(v1::IssueResponse { certificate_chain: issued.to_der(), bundle: Some(bundle) })
    }

    /// Renewal. The connection may be older than its certificate lasts, so that is looked at again.
    fn by_certificate(&self, peer: Option<&Peer>) -> Result<SpiffeId, Status> {
        let chain = peer.map(|peer| peer.chain.as_ref()).unwrap_or_default();
        if chain.is_empty() {
            return Err(Status::unauthenticated(
                "no proof: send a join token, or connect with a certificate that is still valid",
            ));
        }
        let bundle = self.certificates.authority().bundle();
        let proved = bundle.verify(chain, self.clock.now(), Purpose::Client).map_err(|error| {
            Status::unauthenticated(format!("the connection's certificate proves nothing: {error}"))
        })?;
        self.throttle(Some(&proved))?;
        Ok(proved)
    }

    async fn by_token(&self, text: &str) -> Result<SpiffeId, Status> {
        self.throttle(None)?;
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Status::unauthenticated("joinToken: is longer than any join token"));
        }
        let token: JoinToken =
            text.parse().map_err(|error| Status::unauthenticated(format!("joinToken: {error}")))?;
        let scope = self.store.redeem(token.secret_hash()).await.map_err(|error| match error {
            TokenError::Unknown | TokenError::Expired(_) => Status::unauthenticated(error.to_string()),
            error => {
                tracing::error!(%error, cause = cause(&error), "a join token could not be looked up");
                Status::unavailable("join tokens cannot be looked up now; try again")
            }
        })?;
        let trust_domain = self.certificates.authority().trust_domain();
        SpiffeId::new(trust_domain, &scope.namespace, &scope.service_account)
            .map_err(|error| Status::unauthenticated(format!("the token's identity cannot be used: {error}")))
    }

    fn throttle(&self, identity: Option<&SpiffeId>) -> Result<(), Status> {
        let mut throttle = self.throttle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if throttle.admit(identity, Instant::now()) {
            return Ok(());
        }
        Err(Status::unavailable("too many certificates are asked for at once; try again with backoff"))
    }
}

fn cause(error: &dyn Error) -> Option<String> {
    error.source().map(ToString::to_string)
}

fn refused_csr(error: &dyn Error) -> Status {
    Status::invalid_argument(format!("csrDer: {error}"))
}

fn refused(error: &SignError) -> Status {
    match error {
        SignError::Csr(error) => refused_csr(error),
        SignError::Identity { .. } | SignError::TrustDomain(_) => Status::unauthenticated(error.to_string()),
        error => {
            tracing::error!(%error, cause = cause(error), "a certificate could not be issued");
            Status::unavailable("the CA cannot sign now; try again with backoff")
        }
    }
}

#[tonic::async_trait]
impl v1::identity_server::Identity for Issuer {
    async fn issue(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueResponse>, Status> {
        let peer = Peer::of(&request).map(|peer| peer.remote.to_string());
        let answer = self.answer(request).await;
        if let Err(status) = &answer {
            tracing::warn!(remote = peer, reason = status.message(), "issued no certificate");
        }
        answer.map(Response::new)
    }
}

/// How many certificates may be asked for: tokens by everybody together, renewals by each identity. Renewals never
/// wait behind strangers with wrong tokens.
#[derive(Debug, Default)]
struct Throttle {
    tokens: Bucket,
    renewals: HashMap<SpiffeId, Bucket>,
}

/// Identities whose renewals are counted. Above it those that asked least recently are forgotten.
const MAX_COUNTED: usize = 16_384;

/// So many at once, and so many a second from then on.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    burst: f64,
    per_second: f64,
}

/// A whole mesh may start at once.
const TOKENS: Allowance = Allowance { burst: 5_000.0, per_second: 200.0 };
/// All instances of one workload, with certificates that last seconds.
const RENEWALS: Allowance = Allowance { burst: 1_000.0, per_second: 50.0 };

#[derive(Debug, Default)]
struct Bucket {
    spent: f64,
    at: Option<Instant>,
}

impl Bucket {
    fn take(&mut self, allowance: Allowance, now: Instant) -> bool {
        let passed = self.at.map_or(Duration::ZERO, |at| now.duration_since(at));
        self.at = Some(now);
        self.spent = (self.spent - passed.as_secs_f64() * allowance.per_second).max(0.0);
        let admitted = self.spent + 1.0 <= allowance.burst;
        if admitted {
            self.spent += 1.0;
        }
        admitted
    }
}

impl Throttle {
    fn admit(&mut self, identity: Option<&SpiffeId>, now: Instant) -> bool {
        let Some(identity) = identity else { return self.tokens.take(TOKENS, now) };
        if self.renewals.len() >= MAX_COUNTED && !self.renewals.contains_key(identity) {
            // A bucket that had time to empty counts nothing.
            let empties = Duration::from_secs_f64(RENEWALS.burst / RENEWALS.per_second);
            self.renewals.retain(|_, bucket| bucket.at.is_some_and(|at| now.duration_since(at) < empties));
            if self.renewals.len() >= MAX_COUNTED {
                return false;
            }
        }
        self.renewals.entry(identity.clone()).or_default().take(RENEWALS, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_with_tokens_are_slowed_and_renewals_are_not() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        let admitted = (0..6_000).filter(|_| throttle.admit(None, now)).count();
        assert_eq!(admitted, TOKENS.burst as usize);
        let identity: SpiffeId = "spiffe://outrigger.local/ns/shop/sa/pay".parse().unwrap();
        assert!(throttle.admit(Some(&identity), now));
        let later = now + Duration::from_secs(1);
        let admitted = (0..6_000).filter(|_| throttle.admit(None, later)).count();
        assert_eq!(admitted, TOKENS.per_second as usize);
    }

    #[test]
    fn one_identity_cannot_take_the_renewals_of_others() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        let [a, b]: [SpiffeId; 2] = ["a", "b"]
            .map(|account| format!("spiffe://outrigger.local/ns/shop/sa/{account}").parse().unwrap());
        while throttle.admit(Some(&a), now) {}
        assert!(throttle.admit(Some(&b), now));
        assert!(!throttle.admit(Some(&a), now));
        assert!(throttle.admit(Some(&a), now + Duration::from_secs(1)));
    }
}
