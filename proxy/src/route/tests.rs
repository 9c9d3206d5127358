use std::sync::Arc;

use http::Request;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::rate_limit::RateLimits;
use crate::snapshot::Target;

pub(super) fn rule(name: &str) -> Rule {
    Rule {
        route: "shop/test".into(),
        name: name.into(),
        filters: Vec::new(),
        request_timeout: None,
        attempt_timeout: None,
        retry: None,
        session: None,
        hedging: None,
        backends: Vec::new(),
        rate_limits: RateLimits::default(),
        fallback: None,
    }
}

fn any_path(rule: usize) -> RouteMatch {
    RouteMatch {
        rule,
        path: PathMatch::Prefix(Prefix::new("/")),
        headers: Vec::new(),
        query: Vec::new(),
        method: None,
        hosts: Vec::new(),
    }
}

fn holds(condition: &RouteMatch, request: http::request::Builder) -> bool {
    condition.holds(&request.body(()).unwrap().into_parts().0)
}

fn get(uri: &str) -> http::request::Builder {
    Request::builder().uri(uri)
}

fn exact(text: &str) -> ValueMatch {
    ValueMatch::Exact(text.into())
}

fn regex(text: &str) -> ValueMatch {
    ValueMatch::Regex(Pattern::new(text).unwrap())
}

#[test]
fn a_prefix_matches_by_element() {
    for prefix in ["/abc", "/abc/"] {
        let prefix = Prefix::new(prefix);
        for path in ["/abc", "/abc/", "/abc/d", "/abc//d"] {
            assert!(prefix.covers(path), "{prefix:?} {path}");
        }
        for path in ["/abcd", "/ab", "/", "", "/Abc", "/x/abc"] {
            assert!(!prefix.covers(path), "{prefix:?} {path}");
        }
    }
}

#[test]
fn the_root_prefix_covers_everything() {
    for path in ["/", "/a", "", "*"] {
        assert!(Prefix::new("/").covers(path), "{path:?}");
    }
    assert!(holds(&any_path(0), Request::builder().method("CONNECT").uri("payments.shop:80")));
    assert!(holds(&any_path(0), Request::builder().method("OPTIONS").uri("*")));
}

#[test]
fn an_exact_path_is_exact_and_ignores_the_query() {
    let condition = RouteMatch { path: PathMatch::Exact("/a".into()), ..any_path(0) };
    assert!(holds(&condition, get("/a?x=1")));
    assert!(!holds(&condition, get("/a/")));
    assert!(!holds(&condition, get("/A")));
}

#[test]
fn an_expression_matches_the_whole_text() {
    let pattern = Pattern::new("/v[0-9]+|/w").unwrap();
    assert!(pattern.matches("/v12"));
    assert!(pattern.matches("/w"));
    assert!(!pattern.matches("/v12/x"));
    assert!(!pattern.matches("x/w"));
    assert!(!pattern.matches("/w\n"));
}

#[test]
fn expressions_that_escape_or_explode_are_refused() {
    for bad in ["a)|(b", "(", "a{1000}{1000}", "(?=x)"] {
        assert!(Pattern::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn all_parts_of_a_match_must_hold() {
    let condition = RouteMatch {
        path: PathMatch::Prefix(Prefix::new("/a")),
        method: Some(Method::POST),
        headers: vec![HeaderMatch { name: HeaderName::from_static("x-version"), value: exact("two") }],
        query: vec![QueryMatch { name: "q".into(), value: exact("1") }],
        ..any_path(0)
    };
    let good = || get("/a?q=1").method("POST").header("X-Version", "two");
    assert!(holds(&condition, good()));
    assert!(!holds(&condition, good().method("GET")));
    assert!(!holds(&condition, good().uri("/b?q=1")));
    assert!(!holds(&condition, good().uri("/a")));
    assert!(!holds(&condition, get("/a?q=1").method("POST").header("x-version", "Two")));
    assert!(!holds(&condition, get("/a?q=1").method("POST")));
}

#[test]
fn repeated_fields_are_compared_as_one() {
    let with = |value| RouteMatch {
        headers: vec![HeaderMatch { name: HeaderName::from_static("x-list"), value }],
        ..any_path(0)
    };
    let request = || get("/").header("x-list", "a").header("X-List", "b");
    assert!(holds(&with(exact("a, b")), request()));
    assert!(holds(&with(regex("a, [bc]")), request()));
    for value in [exact("a"), exact("b"), exact("a, b, "), exact("a,b"), regex("a")] {
        assert!(!holds(&with(value), request()));
    }
    let cookie =
        RouteMatch { headers: vec![HeaderMatch { name: COOKIE, value: exact("a=1; b=2") }], ..any_path(0) };
    assert!(holds(&cookie, get("/").header("cookie", "a=1").header("cookie", "b=2")));
}

#[test]
fn the_host_is_found_wherever_the_request_carries_it() {
    let condition = RouteMatch {
        headers: vec![HeaderMatch { name: HOST, value: exact("payments.shop") }],
        ..any_path(0)
    };
    assert!(holds(&condition, get("/").header("host", "payments.shop")));
    assert!(holds(&condition, get("http://payments.shop/").header("host", "other")));
    assert!(!holds(&condition, get("http://other/").header("host", "payments.shop")));
    assert!(!holds(&condition, get("/")));
}

#[test]
fn query_parameters_are_decoded_and_the_first_counts() {
    let with = |name: &str, value| RouteMatch {
        query: vec![QueryMatch { name: name.into(), value }],
        ..any_path(0)
    };
    assert!(holds(&with("q", exact("1")), get("/?a=0&q=1&q=2")));
    assert!(!holds(&with("q", exact("2")), get("/?a=0&q=1&q=2")));
    assert!(holds(&with("café", exact("a b/c")), get("/?caf%C3%A9=a+b%2fc")));
    assert!(holds(&with("q", regex("a [bc]")), get("/?q=a%20b")));
    assert!(holds(&with("q", exact("100%")), get("/?q=100%")));
    assert!(holds(&with("q", exact("%zz")), get("/?q=%zz")));
    assert!(holds(&with("flag", exact("")), get("/?flag")));
    assert!(!holds(&with("flag", exact("")), get("/")));
    assert!(!holds(&with("q", exact("%FF")), get("/?q=%FF")), "a byte that is no text equals no text");
}

#[test]
fn the_first_match_that_holds_decides() {
    let table = RouteTable::new(
        vec![
            RouteMatch { method: Some(Method::PUT), ..any_path(1) },
            RouteMatch { path: PathMatch::Prefix(Prefix::new("/a")), ..any_path(0) },
            any_path(7),
            any_path(2),
        ],
        vec![rule("a"), rule("put"), rule("rest")],
    );
    let found = |request: http::request::Builder| {
        table.find(&request.body(()).unwrap().into_parts().0).map(|rule| rule.name.to_string())
    };
    assert_eq!(found(get("/a").method("PUT")).as_deref(), Some("put"));
    assert_eq!(found(get("/a/b")).as_deref(), Some("a"));
    assert_eq!(found(get("/b")).as_deref(), Some("rest"), "a match without its rule is passed over");
}

#[test]
fn what_matches_nothing_has_no_rule() {
    let table = RouteTable::new(
        vec![RouteMatch { path: PathMatch::Exact("/a".into()), ..any_path(0) }],
        vec![rule("a")],
    );
    assert!(table.find(&get("/b").body(()).unwrap().into_parts().0).is_none());
    assert!(RouteTable::default().find(&get("/").body(()).unwrap().into_parts().0).is_none());
}

fn backends(weights: &[u32]) -> Vec<Backend> {
    weights
        .iter()
        .enumerate()
        .map(|(index, &weight)| Backend {
            weight,
            target: Target::Invalid(Arc::from(index.to_string())),
            filters: Vec::new(),
        })
        .collect()
}

#[test]
fn backends_get_their_share_within_two_points() {
    let backends = backends(&[90, 0, 10]);
    let mut rng = StdRng::seed_from_u64(3);
    let mut hits = [0u32; 3];
    for _ in 0..10_000 {
        let chosen = choose_backend(&backends, &mut rng).unwrap();
        hits[backends.iter().position(|backend| std::ptr::eq(backend, chosen)).unwrap()] += 1;
    }
    assert_eq!(hits[1], 0);
    assert!((8_800..=9_200).contains(&hits[0]), "{hits:?}");
}

#[test]
fn no_weight_is_no_backend() {
    let mut rng = StdRng::seed_from_u64(3);
    assert!(choose_backend(&[], &mut rng).is_none());
    assert!(choose_backend(&backends(&[0]), &mut rng).is_none());
    assert!(choose_backend(&backends(&[0, 0]), &mut rng).is_none());
}

proptest! {
    #[test]
    fn some_backend_with_weight_is_always_chosen(
        weights in prop::collection::vec(0u32..=1_000_000, 1..6), seed: u64,
    ) {
        let backends = backends(&weights);
        let chosen = choose_backend(&backends, &mut StdRng::seed_from_u64(seed));
        prop_assert_eq!(chosen.is_some(), weights.iter().any(|weight| *weight > 0));
        prop_assert!(chosen.is_none_or(|backend| backend.weight > 0));
    }

    #[test]
    fn matching_never_panics(path in "/[ -~]{0,20}", query in "[ -~]{0,20}", name in "[a-z%]{0,3}") {
        let Ok(uri) = format!("{path}?{query}").parse::<http::Uri>() else { return Ok(()) };
        let condition = RouteMatch {
            query: vec![QueryMatch { name: name.into(), value: regex(".*") }],
            path: PathMatch::Prefix(Prefix::new(&path)),
            ..any_path(0)
        };
        holds(&condition, Request::builder().uri(uri));
    }
}

#[test]
fn a_match_for_hosts_holds_for_these_however_the_request_names_them() {
    let condition =
        RouteMatch { hosts: ["a.example.com", "*.example.org"].map(HostPattern::new).into(), ..any_path(0) };
    let request = |uri: &str, host: &str| Request::builder().uri(uri).header("host", host);
    for (uri, host, expected) in [
        ("/", "a.example.com", true),
        ("/", "A.EXAMPLE.com:8080", true),
        ("/", "b.example.com", false),
        ("/", "x.example.org", true),
        ("/", "example.org", false),
        ("http://a.example.com/", "b.example.com", true),
        ("/", "[::1]:80", false),
    ] {
        assert_eq!(holds(&condition, request(uri, host)), expected, "{uri} {host}");
    }
}
