//! Who calls.

use ipnet::IpNet;
use outrigger_certs::SpiffeId;

use super::{Effect, Facts, RequestFacts};

/// Callers: every list that is not empty must hold.
#[derive(Debug, Default)]
pub struct Source {
    /// Any of these identities.
    pub identities: Vec<Name>,
    /// Any of these namespaces.
    pub namespaces: Vec<Box<str>>,
    /// Any of these service accounts, each with its namespace.
    pub service_accounts: Vec<(Box<str>, Box<str>)>,
    /// Any of these trust domains.
    pub trust_domains: Vec<Box<str>>,
    /// From any of these networks.
    pub cidrs: Vec<IpNet>,
    /// None of these identities.
    pub not_identities: Vec<Name>,
    /// None of these namespaces.
    pub not_namespaces: Vec<Box<str>>,
    /// From none of these networks.
    pub not_cidrs: Vec<IpNet>,
    /// With any of these API keys.
    pub api_keys: Vec<Box<str>>,
}

/// A text, or what it begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// The whole text.
    Exact(Box<str>),
    /// Its beginning.
    Prefix(Box<str>),
}

impl Name {
    /// `TEXT`, or `BEGINNING*`.
    pub fn new(pattern: &str) -> Self {
        match pattern.strip_suffix('*') {
            Some(beginning) => Self::Prefix(beginning.into()),
            None => Self::Exact(pattern.into()),
        }
    }

    fn is(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => &**exact == text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
        }
    }
}

impl Source {
    pub(super) fn holds(&self, facts: &Facts<'_>, effect: Effect) -> bool {
        // An address that came by IPv6 may be one of IPv4 all the same.
        let address = facts.address.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        (self.cidrs.is_empty() || within(&self.cidrs))
            && !within(&self.not_cidrs)
            && self.is_caller(facts.identity, effect)
            && (self.api_keys.is_empty() || self.has_key(facts.request, effect))
    }

    pub(super) fn looks_at_keys(&self) -> bool {
        !self.api_keys.is_empty()
    }

    fn has_key(&self, request: Option<RequestFacts<'_>>, effect: Effect) -> bool {
        let Some(fields) = request.and_then(|request| request.fields) else { return effect.of_unknown() };
        fields.shown.api_key.is_some_and(|key| self.api_keys.iter().any(|name| **name == *key))
    }

    fn is_caller(&self, caller: Option<&SpiffeId>, effect: Effect) -> bool {
        let Some(caller) = caller else {
            // Nobody is none of those who are listed; whoever is nobody is not let in for who he is not.
            let asked = [self.not_identities.is_empty(), self.not_namespaces.is_empty()].contains(&false);
            return self.names_nobody() && (!asked || effect.of_unknown());
        };
        let any = |names: &[Name]| names.iter().any(|name| name.is(caller.as_str()));
        let has = |list: &[Box<str>], text: &str| list.iter().any(|item| &**item == text);
        let (namespace, account) = (caller.namespace(), caller.service_account());
        (self.identities.is_empty() || any(&self.identities))
            && (self.namespaces.is_empty() || has(&self.namespaces, namespace))
            && (self.trust_domains.is_empty() || has(&self.trust_domains, caller.trust_domain().as_str()))
            && (self.service_accounts.is_empty()
                || self.service_accounts.iter().any(|(ns, name)| &**ns == namespace && &**name == account))
            && !any(&self.not_identities)
            && !has(&self.not_namespaces, namespace)
    }

    fn names_nobody(&self) -> bool {
        self.identities.is_empty()
            && self.namespaces.is_empty()
            && self.service_accounts.is_empty()
            && self.trust_domains.is_empty()
    }
}
