//! For whom an authority signs, and how long what it signs holds.

use std::time::{Duration, SystemTime};

use super::AuthorityError;
use crate::trust_domain::TrustDomain;
use crate::validity::Validity;

/// What an authority signs for, and for how long.
#[derive(Debug, Clone)]
pub struct AuthoritySettings {
    /// The trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// The life of a root. Default 10 years.
    pub root_ttl: Duration,
    /// The life of an issuer, at most the root's. Default 1 year.
    pub issuer_ttl: Duration,
    /// The life of a workload's certificate, at most the issuer's and at least 1 s. Default 24 h.
    pub svid_ttl: Duration,
    /// How far in the past certificates begin, for peers whose clock is behind. Default 60 s; never more than a
    /// quarter of a certificate's life.
    pub backdate: Duration,
}

impl AuthoritySettings {
    /// The defaults: 10 years, 1 year, 24 hours, 60 seconds.
    pub fn new(trust_domain: TrustDomain) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            trust_domain,
            root_ttl: 3650 * DAY,
            issuer_ttl: 365 * DAY,
            svid_ttl: DAY,
            backdate: Duration::from_secs(60),
        }
    }

    pub(super) fn check(&self) -> Result<(), AuthorityError> {
        const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        let ordered = Duration::from_secs(1) <= self.svid_ttl
            && self.svid_ttl <= self.issuer_ttl
            && self.issuer_ttl <= self.root_ttl
            && self.root_ttl <= LONGEST;
        if ordered { Ok(()) } else { Err(AuthorityError::Lifetimes) }
    }

    pub(super) fn root_validity(&self, now: SystemTime) -> Validity {
        Validity::starting(now, self.root_ttl, self.backdate, None)
    }

    pub(super) fn issuer_validity(&self, now: SystemTime, root: Validity) -> Validity {
        Validity::starting(now, self.issuer_ttl, self.backdate, Some(root.not_after))
    }

    /// `None` where the issuer has expired.
    pub(super) fn leaf_validity(&self, now: SystemTime, issuer: Validity) -> Option<Validity> {
        issuer
            .contains(now)
            .then(|| Validity::starting(now, self.svid_ttl, self.backdate, Some(issuer.not_after)))
    }
}
