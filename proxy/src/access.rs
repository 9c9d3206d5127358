//! Who may call what: the facts of one request or connection in, the verdict out.
//!
//! Denying policies are asked first and each of them can refuse. Then, if any policy allows, at least one must say yes;
//! if none does, the mode decides. Audited policies only report what they would refuse.
//!
//! What is not known fails closed: a condition on it never helps to allow, and never keeps from denying. So a rule
//! about paths does not open an opaque connection, whose bytes nobody reads, and a denying one closes it to whom it is
//! about. Pure: no clock, no I/O. The order of reading is the order of asking: [`source`] (who), [`operation`] (what),
//! [`text`] (values).

pub mod operation;
pub mod source;
pub mod text;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderMap, Method, request};
use outrigger_api::path::{Ambiguous, decoded};
use outrigger_certs::SpiffeId;
use smallvec::SmallVec;

use crate::jwt::Claims;
use operation::Operation;
use source::Source;
use text::Text;

/// What is known of a request or a connection.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Verified; `None` for a caller without a certificate.
    pub identity: Option<&'a SpiffeId>,
    /// Where the connection comes from.
    pub address: IpAddr,
    /// `None`: bytes that the proxy does not read.
    pub request: Option<RequestFacts<'a>>,
}

/// What a request says.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The host it names: lower case, no port, no final dot.
    pub host: &'a str,
    /// Its path as [`outrigger_api::path::decoded`] gives it.
    pub path: &'a str,
    /// `None`: no longer known.
    pub fields: Option<Fields<'a>>,
}

/// Its fields.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// As they came.
    pub headers: &'a HeaderMap,
    /// What those proved that are taken away.
    pub shown: Shown<'a>,
}

/// What a request has shown of whoever sends it, beside the certificate of its connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'a> {
    /// What its verified token says; `None`: it has none.
    pub claims: Option<&'a Claims>,
    /// What the API key is called that it brought; `None`: it brought none.
    pub api_key: Option<&'a str>,
}

/// The rules of one port.
#[derive(Debug)]
pub struct Access {
    deny: Vec<Policy>,
    allow: Vec<Policy>,
    audit: Vec<(Effect, Policy)>,
    mode: Mode,
    namespace: Box<str>,
    looks: Looks,
    by_mode: Arc<str>,
    unmatched: Arc<str>,
}

/// What the rules look at, so that nothing is prepared for nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looks {
    /// At the path: one that can be read in two ways is to be refused.
    pub path: bool,
    /// At the host.
    pub host: bool,
    /// At fields, at a token or at an API key.
    pub fields: bool,
}

/// Who may call where no policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Whoever mutual TLS lets in.
    Open,
    /// Whoever has an identity of the mesh.
    Authenticated,
    /// Whoever has one of the service's own namespace.
    SameNamespace,
    /// Nobody.
    Deny,
}

/// What a policy does to whom it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Lets them in.
    Allow,
    /// Keeps them out.
    Deny,
}

/// One policy.
#[derive(Debug)]
pub struct Policy {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// It is about what any of them is about.
    pub rules: Vec<Rule>,
}

/// What a policy is about: any source, any operation, all conditions; an empty list is about everything.
#[derive(Debug, Default)]
pub struct Rule {
    /// Who.
    pub from: Vec<Source>,
    /// What.
    pub to: Vec<Operation>,
    /// With which token.
    pub when: Vec<ClaimCondition>,
}

/// A condition on a verified token.
#[derive(Debug)]
pub struct ClaimCondition {
    /// The names that lead to the claim, from the outside in.
    pub path: Vec<Box<str>>,
    /// Any of them.
    pub values: Vec<Text>,
}

/// What is to happen, and who says so.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// It may pass.
    pub allowed: bool,
    /// The policy that decided, `(no match)` where none of those that allow did, or the mode, as `(SameNamespace)`.
    pub by: &'a Arc<str>,
    /// The audited policies that would have refused.
    pub audited: SmallVec<[&'a Arc<str>; 1]>,
}

impl Access {
    /// The rules of a port of a service in `namespace`. Each policy comes with its effect, and whether it is audited.
    pub fn new(
        policies: impl IntoIterator<Item = (Effect, bool, Policy)>,
        mode: Mode,
        namespace: &str,
    ) -> Self {
        let mut access = Self {
            deny: Vec::new(),
            allow: Vec::new(),
            audit: Vec::new(),
            mode,
            namespace: namespace.into(),
            looks: Looks::default(),
            by_mode: format!("({mode:?})").into(),
            unmatched: "(no match)".into(),
        };
        for (effect, audit, policy) in policies {
            for rule in &policy.rules {
                rule.note(&mut access.looks);
            }
            match (audit, effect) {
                (true, effect) => access.audit.push((effect, policy)),
                (false, Effect::Deny) => access.deny.push(policy),
                (false, Effect::Allow) => access.allow.push(policy),
            }
        }
        access
    }

    /// What the rules look at.
    pub fn looks(&self) -> Looks {
        self.looks
    }

    /// Who may call where no policy allows.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Every policy, with its effect and whether it is audited, for showing them.
    pub fn policies(&self) -> impl Iterator<Item = (Effect, bool, &Policy)> {
        let deny = self.deny.iter().map(|policy| (Effect::Deny, false, policy));
        let allow = self.allow.iter().map(|policy| (Effect::Allow, false, policy));
        let audit = self.audit.iter().map(|(effect, policy)| (*effect, true, policy));
        deny.chain(allow).chain(audit)
    }

    /// Decides about a request as its head says, the path in its normal form.
    ///
    /// # Errors
    /// Rules look at the path, and it could be read in two ways: the request is to be refused.
    pub fn decide_request(
        &self,
        identity: Option<&SpiffeId>,
        address: IpAddr,
        head: &request::Parts,
        authority: &Authority,
        shown: Shown<'_>,
    ) -> Result<Decision<'_>, Ambiguous> {
        let path = if self.looks.path { decoded(head.uri.path())? } else { Cow::Borrowed("") };
        let host = if self.looks.host { host_of(authority) } else { Cow::Borrowed("") };
        let fields = Fields { headers: &head.headers, shown };
        let request = RequestFacts { method: &head.method, host: &host, path: &path, fields: Some(fields) };
        Ok(self.decide(&Facts { identity, address, request: Some(request) }))
    }

    /// Decides.
    pub fn decide(&self, facts: &Facts<'_>) -> Decision<'_> {
        let (allowed, by) = self.verdict(facts);
        Decision { allowed, by, audited: self.audited(facts) }
    }

    /// Decides without asking audited policies. Returns who said no.
    pub fn refusal(&self, facts: &Facts<'_>) -> Option<&Arc<str>> {
        let (allowed, by) = self.verdict(facts);
        (!allowed).then_some(by)
    }

    fn verdict(&self, facts: &Facts<'_>) -> (bool, &Arc<str>) {
        if let Some(policy) = self.deny.iter().find(|policy| policy.is_about(facts, Effect::Deny)) {
            return (false, &policy.name);
        }
        if self.allow.is_empty() {
            return (self.mode.allows(facts, &self.namespace), &self.by_mode);
        }
        match self.allow.iter().find(|policy| policy.is_about(facts, Effect::Allow)) {
            Some(policy) => (true, &policy.name),
            None => (false, &self.unmatched),
        }
    }

    /// A denying policy reports what it is about, an allowing one what neither it nor any other is about.
    fn audited(&self, facts: &Facts<'_>) -> SmallVec<[&Arc<str>; 1]> {
        let mut reports = SmallVec::new();
        let allows = |policy: &Policy| policy.is_about(facts, Effect::Allow);
        for (effect, policy) in &self.audit {
            let reported = match effect {
                Effect::Deny => policy.is_about(facts, Effect::Deny),
                Effect::Allow => !allows(policy) && !self.is_allowed_by_any(&allows),
            };
            if reported {
                reports.push(&policy.name);
            }
        }
        reports
    }

    fn is_allowed_by_any(&self, allows: &impl Fn(&Policy) -> bool) -> bool {
        let audited = self.audit.iter().filter(|(effect, _)| *effect == Effect::Allow);
        self.allow.iter().any(allows) || audited.map(|(_, policy)| policy).any(allows)
    }
}

impl Mode {
    fn allows(self, facts: &Facts<'_>, namespace: &str) -> bool {
        match self {
            Self::Open => true,
            Self::Authenticated => facts.identity.is_some(),
            Self::SameNamespace => facts.identity.is_some_and(|caller| caller.namespace() == namespace),
            Self::Deny => false,
        }
    }
}

impl Effect {
    /// How a condition on what is not known counts.
    pub(crate) fn of_unknown(self) -> bool {
        self == Self::Deny
    }
}

impl Policy {
    fn is_about(&self, facts: &Facts<'_>, effect: Effect) -> bool {
        self.rules.iter().any(|rule| rule.holds(facts, effect))
    }
}

impl Rule {
    fn holds(&self, facts: &Facts<'_>, effect: Effect) -> bool {
        (self.from.is_empty() || self.from.iter().any(|source| source.holds(facts, effect)))
            && (self.to.is_empty() || self.to.iter().any(|operation| operation.holds(facts.request, effect)))
            && self.when.iter().all(|condition| condition.holds(facts.request, effect))
    }

    fn note(&self, looks: &mut Looks) {
        looks.fields |= !self.when.is_empty() || self.from.iter().any(Source::looks_at_keys);
        for operation in &self.to {
            looks.path |= !operation.paths.is_empty() || !operation.not_paths.is_empty();
            looks.host |= !operation.hosts.is_empty();
            looks.fields |= !operation.headers.is_empty();
        }
    }
}

impl ClaimCondition {
    fn holds(&self, request: Option<RequestFacts<'_>>, effect: Effect) -> bool {
        let Some(fields) = request.and_then(|request| request.fields) else { return effect.of_unknown() };
        let Some(claims) = fields.shown.claims else { return false };
        claims
            .values(&self.path)
            .any(|value| self.values.iter().any(|text| text.is(value.as_bytes(), effect)))
    }
}

/// The host that an authority names: in lower case, without port and final dot.
pub(crate) fn host_of(authority: &Authority) -> Cow<'_, str> {
    let host = authority.host();
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests;
