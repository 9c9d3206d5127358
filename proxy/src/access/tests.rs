//! Verdicts by tables.

use http::HeaderMap;
use serde_json::json;

use super::operation::{FieldCondition, Host};
use super::source::Name;
use super::*;
use crate::route::{PathMatch, Pattern, Prefix};

const WEB: &str = "spiffe://mesh/ns/shop/sa/web";
const BATCH: &str = "spiffe://mesh/ns/night/sa/batch";

/// A request as a table writes it.
struct Asked {
    identity: Option<SpiffeId>,
    address: IpAddr,
    method: Method,
    path: &'static str,
    headers: HeaderMap,
    claims: Option<Claims>,
    api_key: Option<&'static str>,
}

impl Asked {
    fn by(identity: &str) -> Self {
        Self {
            identity: (!identity.is_empty()).then(|| identity.parse().unwrap()),
            address: "10.1.2.3".parse().unwrap(),
            method: Method::GET,
            path: "/",
            headers: HeaderMap::new(),
            claims: None,
            api_key: None,
        }
    }

    fn path(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    fn method(self, method: &str) -> Self {
        Self { method: method.parse().unwrap(), ..self }
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    fn claims(self, claims: serde_json::Value) -> Self {
        Self { claims: Some(claims.as_object().unwrap().clone().into()), ..self }
    }

    fn api_key(self, name: &'static str) -> Self {
        Self { api_key: Some(name), ..self }
    }

    fn of(&self, access: &Access) -> bool {
        let shown = Shown { claims: self.claims.as_ref(), api_key: self.api_key };
        let fields = Fields { headers: &self.headers, shown };
        let request =
            RequestFacts { method: &self.method, host: "pay.shop", path: self.path, fields: Some(fields) };
        self.decide(access, Some(request))
    }

    fn opaque(&self, access: &Access) -> bool {
        self.decide(access, None)
    }

    fn decide(&self, access: &Access, request: Option<RequestFacts<'_>>) -> bool {
        let facts = Facts { identity: self.identity.as_ref(), address: self.address, request };
        let decision = access.decide(&facts);
        assert_eq!(decision.allowed, access.refusal(&facts).is_none());
        decision.allowed
    }
}

fn policy(effect: Effect, rules: Vec<Rule>) -> (Effect, bool, Policy) {
    let name = format!("shop/{}", format!("{effect:?}").to_lowercase());
    (effect, false, Policy { name: name.into(), rules })
}

fn from(source: Source) -> Rule {
    Rule { from: vec![source], ..Rule::default() }
}

fn to(operation: Operation) -> Rule {
    Rule { to: vec![operation], ..Rule::default() }
}

fn only(effect: Effect, rule: Rule) -> Access {
    Access::new([policy(effect, vec![rule])], Mode::Open, "shop")
}

#[test]
fn the_mode_decides_where_no_policy_does() {
    for (mode, web, batch, nobody) in [
        (Mode::Open, true, true, true),
        (Mode::Authenticated, true, true, false),
        (Mode::SameNamespace, true, false, false),
        (Mode::Deny, false, false, false),
    ] {
        let access = Access::new([], mode, "shop");
        let verdicts = [WEB, BATCH, ""].map(|caller| Asked::by(caller).of(&access));
        assert_eq!(verdicts, [web, batch, nobody], "{mode:?}");
    }
}

#[test]
fn denying_wins_then_one_that_allows_must_match_and_then_the_mode_is_not_asked() {
    let web = || from(Source { identities: vec![Name::new(WEB)], ..Source::default() });
    let get = || to(Operation { methods: vec![Method::GET], ..Operation::default() });
    let access = Access::new(
        [policy(Effect::Allow, vec![web()]), policy(Effect::Deny, vec![get()])],
        Mode::Open,
        "shop",
    );
    let facts = |asked: &Asked, expected: (bool, &str)| {
        let request = RequestFacts { method: &asked.method, host: "", path: "/", fields: None };
        let facts =
            Facts { identity: asked.identity.as_ref(), address: asked.address, request: Some(request) };
        let decision = access.decide(&facts);
        assert_eq!((decision.allowed, &**decision.by), expected);
    };
    facts(&Asked::by(WEB).method("PUT"), (true, "shop/allow"));
    facts(&Asked::by(WEB), (false, "shop/deny"));
    facts(&Asked::by(BATCH).method("PUT"), (false, "(no match)"));
    let empty = Access::new([policy(Effect::Allow, vec![])], Mode::Open, "shop");
    assert!(!Asked::by(WEB).of(&empty), "a policy that is all about other ports still selects this one");
}

#[test]
fn audited_policies_report_what_they_would_refuse_and_refuse_nothing() {
    let web = || from(Source { namespaces: vec!["shop".into()], ..Source::default() });
    let audited = |effect, name: &str, rule| (effect, true, Policy { name: name.into(), rules: vec![rule] });
    let access = Access::new(
        [audited(Effect::Deny, "shop/no-web", web()), audited(Effect::Allow, "shop/web-only", web())],
        Mode::Open,
        "shop",
    );
    for (caller, expected) in [(WEB, "shop/no-web"), (BATCH, "shop/web-only")] {
        let asked = Asked::by(caller);
        let facts = Facts { identity: asked.identity.as_ref(), address: asked.address, request: None };
        let decision = access.decide(&facts);
        assert!(decision.allowed);
        assert_eq!(decision.audited.iter().map(|name| &***name).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn callers_are_told_apart_by_all_that_is_known_of_them() {
    let list = |text: &str| vec![Box::from(text)];
    for (source, web, batch, nobody) in [
        (
            Source { identities: vec![Name::new("spiffe://mesh/ns/shop/*")], ..Source::default() },
            true,
            false,
            false,
        ),
        (Source { namespaces: list("night"), ..Source::default() }, false, true, false),
        (Source { trust_domains: list("mesh"), ..Source::default() }, true, true, false),
        (Source { trust_domains: list("other"), ..Source::default() }, false, false, false),
        (
            Source { service_accounts: vec![("shop".into(), "web".into())], ..Source::default() },
            true,
            false,
            false,
        ),
        (
            Source { service_accounts: vec![("night".into(), "web".into())], ..Source::default() },
            false,
            false,
            false,
        ),
        (Source { cidrs: vec!["10.0.0.0/8".parse().unwrap()], ..Source::default() }, true, true, true),
        (
            Source { not_cidrs: vec!["10.1.0.0/16".parse().unwrap()], ..Source::default() },
            false,
            false,
            false,
        ),
        (Source { not_identities: vec![Name::new(WEB)], ..Source::default() }, false, true, false),
        (Source { not_namespaces: list("shop"), ..Source::default() }, false, true, false),
    ] {
        let shown = format!("{source:?}");
        let allowing = only(Effect::Allow, from(source));
        let verdicts = [WEB, BATCH, ""].map(|caller| Asked::by(caller).of(&allowing));
        assert_eq!(verdicts, [web, batch, nobody], "{shown}");
    }
    let but_web =
        only(Effect::Deny, from(Source { not_identities: vec![Name::new(WEB)], ..Source::default() }));
    let verdicts = [WEB, BATCH, ""].map(|caller| Asked::by(caller).of(&but_web));
    assert_eq!(verdicts, [true, false, false], "nobody is not web");
    let mapped = Asked { address: "::ffff:10.1.2.3".parse().unwrap(), ..Asked::by(WEB) };
    let network = Source { cidrs: vec!["10.0.0.0/8".parse().unwrap()], ..Source::default() };
    assert!(mapped.of(&only(Effect::Allow, from(network))), "an IPv4 address by IPv6");
}

#[test]
fn rules_look_at_method_host_and_path() {
    let exact = |text: &str| PathMatch::Exact(text.into());
    let prefix = |text: &str| PathMatch::Prefix(Prefix::new(text));
    let regex = |text: &str| PathMatch::Regex(Pattern::new(text).unwrap());
    for (operation, method, path, expected) in [
        (Operation { paths: vec![exact("/a")], ..Operation::default() }, "GET", "/a", true),
        (Operation { paths: vec![exact("/a")], ..Operation::default() }, "GET", "/a/", false),
        (Operation { paths: vec![prefix("/a")], ..Operation::default() }, "GET", "/a/b", true),
        (Operation { paths: vec![prefix("/a")], ..Operation::default() }, "GET", "/ab", false),
        (Operation { paths: vec![regex("/[a-z]+")], ..Operation::default() }, "GET", "/abc", true),
        (Operation { paths: vec![regex("/[a-z]+")], ..Operation::default() }, "GET", "/abc1", false),
        (Operation { not_paths: vec![prefix("/a")], ..Operation::default() }, "GET", "/a", false),
        (Operation { not_paths: vec![prefix("/a")], ..Operation::default() }, "GET", "/b", true),
        (Operation { methods: vec![Method::GET], ..Operation::default() }, "PUT", "/", false),
        (Operation { not_methods: vec![Method::PUT], ..Operation::default() }, "PUT", "/", false),
        (Operation { hosts: vec![Host::new("*.shop")], ..Operation::default() }, "GET", "/", true),
        (Operation { hosts: vec![Host::new("*.pay.shop")], ..Operation::default() }, "GET", "/", false),
        (Operation { hosts: vec![Host::new("pay.shop")], ..Operation::default() }, "GET", "/", true),
    ] {
        let shown = format!("{operation:?}");
        let access = only(Effect::Allow, to(operation));
        assert_eq!(Asked::by(WEB).method(method).path(path).of(&access), expected, "{shown} {method} {path}");
    }
    let admin = || Operation { paths: vec![prefix("/admin")], ..Operation::default() };
    for path in ["/admin;x=1/users", "/;x/admin", "/;a)../admin/", "/;/;/admin;"] {
        let parameters = Asked::by(WEB).path(path);
        assert!(!parameters.of(&only(Effect::Deny, to(admin()))), "{path}");
        assert!(!parameters.of(&only(Effect::Allow, to(admin()))), "{path}");
    }
    for path in ["/;x", "/a;x/", "/a/;admin"] {
        assert!(Asked::by(WEB).path(path).of(&only(Effect::Deny, to(admin()))), "{path}");
    }
    let access = only(Effect::Deny, to(Operation { methods: vec![Method::DELETE], ..Operation::default() }));
    assert!(!Asked::by(WEB).method("delete").of(&access), "to deny, the case of a method counts for nothing");
}

#[test]
fn a_host_has_one_spelling() {
    for (authority, expected) in [
        ("web.shop", "web.shop"),
        ("Web.SHOP:8080", "web.shop"),
        ("web.shop.:80", "web.shop"),
        ("[2001:DB8::1]:80", "[2001:db8::1]"),
    ] {
        assert_eq!(host_of(&authority.parse().unwrap()), expected);
    }
}

#[test]
fn each_value_of_a_repeated_field_counts() {
    let condition =
        || FieldCondition { name: "x-role".parse().unwrap(), values: vec![Text::Exact("admin".into())] };
    let rule = || to(Operation { headers: vec![condition()], ..Operation::default() });
    let (allowing, denying) = (only(Effect::Allow, rule()), only(Effect::Deny, rule()));
    let none = || Asked::by(WEB);
    for (asked, allowed, denied) in [
        (none(), false, false),
        (none().header("x-role", "admin"), true, true),
        (none().header("x-role", "guest"), false, false),
        (none().header("x-role", "admin").header("x-role", "guest"), false, true),
        (none().header("x-role", "guest").header("x-role", "admin"), false, true),
        (none().header("x-role", "guest, admin"), false, true),
        (none().header("x_role", "admin"), false, true),
    ] {
        assert_eq!(asked.of(&allowing), allowed, "{:?}", asked.headers);
        assert_eq!(!asked.of(&denying), denied, "{:?}", asked.headers);
    }
}

#[test]
fn what_is_about_requests_never_opens_a_connection_that_nobody_reads_and_may_close_it() {
    let admin = || to(Operation { paths: vec![PathMatch::Exact("/admin".into())], ..Operation::default() });
    assert!(!Asked::by(WEB).opaque(&only(Effect::Allow, admin())));
    assert!(!Asked::by(WEB).opaque(&only(Effect::Deny, admin())));
    let rule =
        || Rule { from: vec![Source { namespaces: vec!["night".into()], ..Source::default() }], ..admin() };
    assert!(Asked::by(WEB).opaque(&only(Effect::Deny, rule())), "it is about somebody else");
    assert!(Asked::by(BATCH).opaque(&only(Effect::Allow, from(Source::default()))));
}

#[test]
fn claims_count_by_value_by_element_and_by_word_of_a_scope() {
    let when = |path: &[&str], value: &str| Rule {
        when: vec![ClaimCondition {
            path: path.iter().map(|name| (*name).into()).collect(),
            values: vec![Text::Exact(value.into())],
        }],
        ..Rule::default()
    };
    let claims = || {
        Asked::by(WEB).claims(json!({
            "sub": "ann", "groups": ["staff", "ops"], "realm": { "roles": ["buyer"] },
            "scope": "read write", "level": 3, "admin": true,
        }))
    };
    for (path, value, expected) in [
        (&["sub"][..], "ann", true),
        (&["groups"], "ops", true),
        (&["groups"], "op", false),
        (&["realm", "roles"], "buyer", true),
        (&["realm"], "buyer", false),
        (&["scope"], "write", true),
        (&["sub", "x"], "ann", false),
        (&["level"], "3", true),
        (&["admin"], "true", true),
        (&["none"], "", false),
    ] {
        assert_eq!(claims().of(&only(Effect::Allow, when(path, value))), expected, "{path:?} {value}");
    }
    assert!(!Asked::by(WEB).of(&only(Effect::Allow, when(&["sub"], "ann"))), "there is no token");
}

#[test]
fn an_api_key_lets_in_by_its_name_and_says_nothing_of_bytes_that_nobody_reads() {
    let phone = || Rule {
        from: vec![Source { api_keys: vec!["phone".into()], ..Source::default() }],
        ..Rule::default()
    };
    let access = |effect| {
        let policy = Policy { name: "shop/keys".into(), rules: vec![phone()] };
        Access::new([(effect, false, policy)], Mode::Open, "shop")
    };
    for (asked, allowed, denied) in [
        (Asked::by("").api_key("phone"), true, true),
        (Asked::by("").api_key("partner"), false, false),
        (Asked::by(WEB), false, false),
    ] {
        assert_eq!(asked.of(&access(Effect::Allow)), allowed, "{:?}", asked.api_key);
        assert_eq!(!asked.of(&access(Effect::Deny)), denied, "{:?}", asked.api_key);
    }
    let opaque = |effect| Asked::by("").api_key("phone").decide(&access(effect), None);
    assert!(!opaque(Effect::Allow) && !opaque(Effect::Deny));
    assert!(access(Effect::Allow).looks().fields);
}
