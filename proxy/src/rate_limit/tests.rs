use http::Request;
use serde_json::json;

use super::*;
use crate::jwt::Claims;
use crate::route::{PathMatch, Prefix};

fn limit(name: &str, requests: u32, by: Vec<Key>) -> RateLimit {
    let per = Duration::from_secs(60);
    let rate = Rate::new(requests, per, requests);
    RateLimit {
        id: name.into(),
        policy: "shop/limits".into(),
        name: name.into(),
        rate,
        state: Arc::new(State::new(rate, !by.is_empty(), false)),
        by,
        matches: Vec::new(),
        told: true,
        quota: quota(name, requests, per),
    }
}

fn head(path: &str, fields: &[(&'static str, &'static str)]) -> request::Parts {
    let mut request = Request::get(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn nobody(head: &request::Parts) -> Asker<'_> {
    Asker { head, identity: None, shown: Shown::default(), address: IpAddr::from([127, 0, 0, 1]) }
}

fn admitted(limits: &RateLimits, head: &request::Parts, identity: Option<&SpiffeId>) -> bool {
    let asker = Asker { identity, ..nobody(head) };
    limits.ask(&asker, Duration::from_secs(1)).refused_by.is_none()
}

#[test]
fn a_request_passes_every_limit_or_is_charged_to_none() {
    let limits = RateLimits(vec![limit("wide", 10, vec![]), limit("narrow", 2, vec![])]);
    let head = head("/", &[]);
    let outcomes: Vec<_> = (0..4).map(|_| admitted(&limits, &head, None)).collect();
    assert_eq!(outcomes, [true, true, false, false]);
    let wide = RateLimits(vec![RateLimit { state: limits.0[0].state.clone(), ..limit("wide", 10, vec![]) }]);
    let left = (0..20).filter(|_| admitted(&wide, &head, None)).count();
    assert_eq!(left, 8, "the two that were refused cost the wide limit nothing");
}

#[test]
fn keys_have_buckets_of_their_own() {
    let one: SpiffeId = "spiffe://outrigger.local/ns/shop/sa/web".parse().unwrap();
    let other: SpiffeId = "spiffe://outrigger.local/ns/shop/sa/cart".parse().unwrap();
    let by_identity = RateLimits(vec![limit("id", 1, vec![Key::Identity])]);
    let plain = head("/", &[]);
    let outcomes = [Some(&one), Some(&one), Some(&other), None, None];
    let outcomes = outcomes.map(|identity| admitted(&by_identity, &plain, identity));
    assert_eq!(outcomes, [true, false, true, true, false], "nobody is somebody, too");

    let tenant = HeaderName::from_static("x-tenant");
    let by_header = RateLimits(vec![limit("tenant", 1, vec![Key::Header(tenant)])]);
    let requests: [&[_]; 5] = [
        &[("x-tenant", "a")],
        &[("x-tenant", "a")],
        &[("x-tenant", "b")],
        &[("x-tenant", "a"), ("x-tenant", "b")],
        &[],
    ];
    let outcomes = requests.map(|fields| admitted(&by_header, &head("/", fields), None));
    assert_eq!(outcomes, [true, false, true, false, true]);

    let by_path = RateLimits(vec![limit("path", 1, vec![Key::Method, Key::Path])]);
    let outcomes = ["/a", "/a", "/a?q", "/b"].map(|path| admitted(&by_path, &head(path, &[]), None));
    assert_eq!(outcomes, [true, false, false, true]);
}

#[test]
fn a_field_that_is_repeated_counts_under_each_of_its_values() {
    let by = |names: &[&'static str]| {
        let keys = names.iter().map(|name| Key::Header(HeaderName::from_static(name)));
        RateLimits(vec![limit("key", 2, keys.collect())])
    };
    let by_tenant = by(&["x-tenant"]);
    let ask = |fields: &[_]| admitted(&by_tenant, &head("/", fields), None);
    assert!(ask(&[("x-tenant", "a"), ("x-tenant", "junk1")]));
    assert!(ask(&[("x-tenant", "junk2"), ("x-tenant", "a"), ("x-tenant", "a")]), "charged once");
    assert!(!ask(&[("x-tenant", "junk3"), ("x-tenant", "a")]), "wherever it stands");
    assert!(!ask(&[("x-tenant", "junk3"), ("x_tenant", "a")]), "however it is spelt");
    assert!(ask(&[("x-tenant", "junk3")]) && ask(&[("x-tenant", "junk3")]), "the refused were not charged");
    let many: Vec<_> =
        ["b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r"].into();
    let many: Vec<_> = many.into_iter().map(|value| ("x-tenant", value)).collect();
    assert_eq!(
        [(); 3].map(|()| ask(&many)),
        [true, true, false],
        "more values than are told apart share a budget"
    );

    let both = by(&["x-tenant", "x-user"]);
    let ask = |fields: &[_]| admitted(&both, &head("/", fields), None);
    let crossed = [("x-tenant", "a"), ("x-tenant", "b"), ("x-user", "c"), ("x-user", "d")];
    assert!(ask(&crossed) && ask(&crossed));
    for (tenant, user) in [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")] {
        assert!(!ask(&[("x-tenant", tenant), ("x-user", user)]), "{tenant} {user}");
    }
    assert!(ask(&[("x-tenant", "a"), ("x-user", "x")]));
}

#[test]
fn whoever_a_token_speaks_of_has_a_bucket_of_its_own() {
    let by_claim = RateLimits(vec![limit("sub", 1, vec![Key::Claim(["realm".into(), "sub".into()].into())])]);
    let plain = head("/", &[]);
    let ask = |claims: Option<serde_json::Value>| {
        let claims: Option<Claims> = claims.map(|claims| claims.as_object().unwrap().clone().into());
        let shown = Shown { claims: claims.as_ref(), ..Shown::default() };
        let asker = Asker { shown, ..nobody(&plain) };
        by_claim.ask(&asker, Duration::from_secs(1)).refused_by.is_none()
    };
    let of = |issuer: &str, sub: serde_json::Value| Some(json!({ "iss": issuer, "realm": { "sub": sub } }));
    for (claims, admitted, why) in [
        (of("a", json!("ann")), true, "the first"),
        (of("a", json!("ann")), false, "the same"),
        (of("a", json!("bob")), true, "somebody else"),
        (of("b", json!("ann")), true, "somebody else of the same name"),
        (of("a", json!(7)), true, "a number"),
        (of("a", json!("7")), false, "reads like a number"),
        (of("a", json!(["ann", "bob"])), true, "a list is what it lists"),
        (None, true, "without a token"),
        (Some(json!({ "iss": "a" })), false, "without the claim, which is the same"),
        (of("b", json!({ "deep": 1 })), false, "as is what has no text"),
    ] {
        assert_eq!(ask(claims), admitted, "{why}");
    }
}

#[test]
fn a_limit_holds_for_what_it_matches() {
    let api = RouteMatch {
        rule: 0,
        path: PathMatch::Prefix(Prefix::new("/api")),
        headers: Vec::new(),
        query: Vec::new(),
        method: None,
        hosts: Vec::new(),
    };
    let limits = RateLimits(vec![RateLimit { matches: vec![api], ..limit("api", 1, vec![]) }]);
    let outcomes = ["/api/a", "/api/b", "/other", "/other"];
    let outcomes = outcomes.map(|path| admitted(&limits, &head(path, &[]), None));
    assert_eq!(outcomes, [true, false, true, true]);
}

#[test]
fn an_answer_says_what_is_left_and_a_refusal_how_long_to_wait() {
    let limits = RateLimits(vec![limit("a", 2, vec![]), RateLimit { told: false, ..limit("b", 1, vec![]) }]);
    let head = head("/", &[]);
    let asker = nobody(&head);
    let mut fields = HeaderMap::new();
    limits.ask(&asker, Duration::from_secs(1)).standing.unwrap().write(&mut fields);
    assert_eq!(fields["ratelimit"], "\"a\";r=1;t=30");
    assert_eq!(fields["ratelimit-policy"], "\"a\";q=2;w=60");
    assert!(!fields.contains_key("retry-after"));

    let verdict = limits.ask(&asker, Duration::from_secs(11));
    assert_eq!(verdict.refused_by.map(|limit| &*limit.name), Some("b"));
    verdict.standing.unwrap().write(&mut fields);
    assert_eq!(fields["ratelimit"], "\"b\";r=0;t=50", "a refusal is always explained");
    assert_eq!(fields["retry-after"], "50");
}

#[test]
fn a_part_of_a_limit_of_the_mesh_admits_that_part() {
    let rate = Rate::new(100, Duration::from_secs(1), 100);
    let state = Arc::new(State::new(rate, false, true));
    let limits = RateLimits(vec![RateLimit { rate, state, ..limit("mesh", 100, vec![]) }]);
    let head = head("/", &[]);
    let asker = nobody(&head);
    let admitted_in = |from: u64, part: f64| {
        limits.0[0].state.set_part(part, Duration::from_millis(from));
        let times = (0..1000).map(|step| Duration::from_millis(from + step));
        times.filter(|now| limits.ask(&asker, *now).refused_by.is_none()).count()
    };
    let first = admitted_in(1000, 0.5);
    assert!((45..=60).contains(&first), "no token comes with a larger part: {first}");
    let second = admitted_in(2000, 0.1);
    assert!((9..=12).contains(&second), "{second}");
    assert_eq!(
        limits.0[0].state.share.as_ref().unwrap().total(),
        2000,
        "what was refused was asked for, too"
    );
}
