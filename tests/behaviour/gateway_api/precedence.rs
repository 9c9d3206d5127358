//! The order of matches as a law: what the control plane compiles and a proxy finds is what the specification's text
//! says, by a reader that takes it word by word and knows nothing of either.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use http::Request;
use outrigger_control_plane::compile_all;
use outrigger_control_plane::resources::{Documents, Format, parse};
use outrigger_proxy::policy;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Paths of matches, and of requests.
const PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/a/bc", "/ab", "/b/a", "/b/a/c"];
/// An expression, and what it means in plain words.
type Expression = (&'static str, fn(&str) -> bool);

const EXPRESSIONS: [Expression; 4] = [
    ("/a.*", |path| path.starts_with("/a")),
    ("/[ab]/.*", |path| path.starts_with("/a/") || path.starts_with("/b/")),
    (".*c", |path| path.ends_with('c')),
    ("/(a|b)", |path| path == "/a" || path == "/b"),
];
const METHODS: [&str; 2] = ["GET", "PUT"];
const NAMES: [&str; 3] = ["x", "y", "X"];
const VALUES: [&str; 2] = ["1", "2"];
const SERVICES: [&str; 4] = ["a", "ab", "b.C", "a.B"];
const CALLS: [&str; 3] = ["Say", "Sing", "S"];
/// Of services and methods.
const WORDS: [Expression; 3] = [
    ("a.*", |word| word.starts_with('a')),
    ("S|Say", |word| word == "S" || word == "Say"),
    ("[^/]*", |_| true),
];

#[derive(Debug, Clone)]
enum Path {
    Exact(usize),
    Prefix(usize),
    Expression(usize),
    /// Service and method; both by expression or neither.
    Call {
        expression: bool,
        service: Option<usize>,
        method: Option<usize>,
    },
}

#[derive(Debug, Clone)]
struct Match {
    path: Path,
    method: Option<usize>,
    headers: Vec<(usize, usize)>,
    query: Vec<(usize, usize)>,
}

#[derive(Debug, Clone)]
struct Route {
    name: usize,
    created: Option<u8>,
    rules: Vec<Vec<Match>>,
}

/// One match and where it stands.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    found: &'a Match,
    route: &'a Route,
    rule: usize,
    index: usize,
}

/// What is sent.
#[derive(Debug, Clone)]
struct Sent {
    path: String,
    method: usize,
    headers: Vec<(usize, usize)>,
    query: Vec<(usize, usize)>,
}

// ---- the slow reader ----

/// Of entries with equivalent names only the first is considered.
fn considered(pairs: &[(usize, usize)], name: fn(&str) -> String) -> Vec<(String, &'static str)> {
    let mut kept: Vec<(String, &'static str)> = Vec::new();
    for (key, value) in pairs {
        let key = name(NAMES[*key]);
        if kept.iter().all(|(earlier, _)| *earlier != key) {
            kept.push((key, VALUES[*value]));
        }
    }
    kept
}

fn folded(name: &str) -> String {
    name.to_lowercase()
}

impl Match {
    fn headers(&self) -> Vec<(String, &'static str)> {
        considered(&self.headers, folded)
    }

    fn query(&self) -> Vec<(String, &'static str)> {
        considered(&self.query, str::to_owned)
    }

    fn holds(&self, sent: &Sent) -> bool {
        let path = match &self.path {
            Path::Exact(path) => PATHS[*path] == sent.path,
            Path::Prefix(prefix) => {
                let elements: Vec<&str> = sent.path.split('/').collect();
                let prefix: Vec<&str> = PATHS[*prefix].trim_end_matches('/').split('/').collect();
                elements.starts_with(&prefix)
            }
            Path::Expression(expression) => EXPRESSIONS[*expression].1(&sent.path),
            Path::Call { expression, service, method } => {
                let (called, of) = sent.path[1..].split_once('/').unwrap_or((&sent.path[1..], ""));
                let is = |wanted: Option<usize>, names: &[&str], word: &str| {
                    wanted.is_none_or(
                        |wanted| if *expression { WORDS[wanted].1(word) } else { names[wanted] == word },
                    )
                };
                is(*service, &SERVICES, called) && is(*method, &CALLS, of)
            }
        };
        let all = |wanted: Vec<(String, &str)>, there: Vec<(String, &str)>| {
            wanted.iter().all(|(name, value)| there.iter().any(|(key, is)| key == name && is == value))
        };
        path && self.method.is_none_or(|method| method == sent.method)
            && all(self.headers(), considered(&sent.headers, folded))
            && all(self.query(), considered(&sent.query, str::to_owned))
    }
}

/// How much of something a match has; the second argument counts the characters of a text.
type Criterion = fn(&Match, &dyn Fn(&str) -> usize) -> usize;

/// Which of two goes first, criterion by criterion, "continuing on ties".
fn compare(a: Place<'_>, b: Place<'_>) -> Ordering {
    let length = |text: &str| text.chars().count();
    let criteria: Vec<Criterion> = vec![
        // An exact path, before an expression, before a prefix.
        |found, _| match found.path {
            Path::Exact(_) => 2,
            Path::Expression(_) => 1,
            Path::Prefix(_) | Path::Call { .. } => 0,
        },
        // The most characters of the expression or the prefix.
        |found, length| match found.path {
            Path::Expression(expression) => length(EXPRESSIONS[expression].0),
            Path::Prefix(prefix) => length(PATHS[prefix].trim_end_matches('/')),
            Path::Exact(_) | Path::Call { .. } => 0,
        },
        // Of calls: literal names, before expressions, before any.
        |found, _| match found.path {
            Path::Call { service: None, method: None, .. } => 0,
            Path::Call { expression: true, .. } => 1,
            Path::Call { expression: false, .. } => 2,
            _ => 0,
        },
        // The most characters in a service, then in a method.
        |found, length| match found.path {
            Path::Call { expression: true, service: Some(service), .. } => length(WORDS[service].0),
            Path::Call { expression: false, service: Some(service), .. } => length(SERVICES[service]),
            _ => 0,
        },
        |found, length| match found.path {
            Path::Call { expression: true, method: Some(method), .. } => length(WORDS[method].0),
            Path::Call { expression: false, method: Some(method), .. } => length(CALLS[method]),
            _ => 0,
        },
        |found, _| usize::from(found.method.is_some()),
        |found, _| found.headers().len(),
        |found, _| found.query().len(),
    ];
    for criterion in criteria {
        let (more, less) = (criterion(a.found, &length), criterion(b.found, &length));
        if more != less {
            return less.cmp(&more);
        }
    }
    match (a.route.created, b.route.created) {
        (Some(older), Some(younger)) if older != younger => return older.cmp(&younger),
        (Some(_), None) => return Ordering::Less,
        (None, Some(_)) => return Ordering::Greater,
        _ => {}
    }
    let name = |place: Place<'_>| format!("shop/{}", ROUTES[place.route.name]);
    name(a).cmp(&name(b)).then(a.rule.cmp(&b.rule)).then(a.index.cmp(&b.index))
}

fn places(routes: &[Route]) -> Vec<Place<'_>> {
    let mut places = Vec::new();
    for route in routes {
        for (rule, matches) in route.rules.iter().enumerate() {
            let there = matches.iter().enumerate();
            places.extend(there.map(|(index, found)| Place { found, route, rule, index }));
        }
    }
    places
}

// ---- the documents ----

const ROUTES: [&str; 4] = ["a", "a-b", "b", "z"];

fn pairs(pairs: &[(usize, usize)]) -> Vec<Value> {
    pairs.iter().map(|(name, value)| json!({"name": NAMES[*name], "value": VALUES[*value]})).collect()
}

fn written(found: &Match) -> Value {
    let mut value = json!({"headers": pairs(&found.headers)});
    let path = |kind: &str, text: &str| json!({"type": kind, "value": text});
    match &found.path {
        Path::Exact(text) => value["path"] = path("Exact", PATHS[*text]),
        Path::Prefix(text) => value["path"] = path("PathPrefix", PATHS[*text]),
        Path::Expression(text) => value["path"] = path("RegularExpression", EXPRESSIONS[*text].0),
        Path::Call { service: None, method: None, .. } => {}
        Path::Call { expression, service, method } => {
            let text = |names: &[&'static str], word: &Option<usize>| {
                word.map(|word| if *expression { WORDS[word].0 } else { names[word] })
            };
            let kind = if *expression { "RegularExpression" } else { "Exact" };
            value["method"] = json!({"type": kind});
            for (field, text) in [("service", text(&SERVICES, service)), ("method", text(&CALLS, method))] {
                if let Some(text) = text {
                    value["method"][field] = text.into();
                }
            }
        }
    }
    if !found.query.is_empty() {
        value["queryParams"] = pairs(&found.query).into();
    }
    if let Some(method) = found.method {
        value["method"] = METHODS[method].into();
    }
    value
}

fn documents(kind: &str, routes: &[Route]) -> Documents {
    let mut documents = Documents::default();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo", "namespace": "shop"},
        "spec": {"ports": [{"port": 80}]}});
    let route = |route: &Route| {
        let rule = |(index, matches): (usize, &Vec<Match>)| {
            let matches: Vec<Value> = matches.iter().map(written).collect();
            json!({"name": format!("r{index}"), "matches": matches, "backendRefs": [{"name": "echo", "port": 80}]})
        };
        let rules: Vec<Value> = route.rules.iter().enumerate().map(rule).collect();
        let mut metadata = json!({"name": ROUTES[route.name], "namespace": "shop"});
        if let Some(created) = route.created {
            metadata["creationTimestamp"] = format!("2025-01-01T00:00:0{created}Z").into();
        }
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": metadata,
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "echo"}], "rules": rules}})
    };
    let all: Vec<Value> = std::iter::once(service).chain(routes.iter().map(route)).collect();
    let parsed =
        parse(&Value::from(all).to_string(), Format::Json).unwrap_or_else(|rejected| panic!("{rejected}"));
    parsed.documents.into_iter().for_each(|document| documents.insert(document.resource));
    documents
}

// ---- what comes ----

fn some_pairs() -> impl Strategy<Value = Vec<(usize, usize)>> {
    // Names differ as the CRD's list maps want it; `x` and `X` may both be there.
    let pairs = prop::collection::vec((0..NAMES.len(), 0..VALUES.len()), 0..3);
    pairs.prop_map(|pairs| {
        let mut seen = HashSet::new();
        pairs.into_iter().filter(|(name, _)| seen.insert(*name)).collect()
    })
}

fn path_match() -> impl Strategy<Value = Match> {
    let path = prop_oneof![
        (0..PATHS.len()).prop_map(Path::Exact),
        (0..PATHS.len()).prop_map(Path::Prefix),
        (0..EXPRESSIONS.len()).prop_map(Path::Expression),
    ];
    let method = prop::option::of(0..METHODS.len());
    (path, method, some_pairs(), some_pairs()).prop_map(|(path, method, headers, query)| Match {
        path,
        method,
        headers,
        query,
    })
}

fn call_match() -> impl Strategy<Value = Match> {
    let word = || prop::option::of(0..3usize);
    (any::<bool>(), word(), word(), some_pairs()).prop_map(|(expression, service, method, headers)| Match {
        path: Path::Call { expression, service, method },
        method: None,
        headers,
        query: Vec::new(),
    })
}

fn routes(found: impl Strategy<Value = Match> + Clone + 'static) -> impl Strategy<Value = Vec<Route>> {
    let rules = prop::collection::vec(prop::collection::vec(found, 1..4), 1..4);
    let all = prop::collection::vec((prop::option::of(0..3u8), rules), 1..=ROUTES.len());
    let names = Just((0..ROUTES.len()).collect::<Vec<_>>()).prop_shuffle();
    (all, names).prop_map(|(all, names)| {
        let route = |((created, rules), name)| Route { name, created, rules };
        all.into_iter().zip(names).map(route).collect()
    })
}

fn requests(path: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<Sent>> {
    let sent = (path, 0..METHODS.len(), some_pairs(), some_pairs());
    prop::collection::vec(
        sent.prop_map(|(path, method, headers, query)| Sent { path, method, headers, query }),
        1..8,
    )
}

fn head(sent: &Sent) -> http::request::Parts {
    let query: Vec<String> =
        sent.query.iter().map(|(name, value)| format!("{}={}", NAMES[*name], VALUES[*value])).collect();
    let uri = if query.is_empty() { sent.path.clone() } else { format!("{}?{}", sent.path, query.join("&")) };
    let mut request = Request::builder().method(METHODS[sent.method]).uri(uri);
    for (name, value) in considered(&sent.headers, folded) {
        request = request.header(name, value);
    }
    request.body(()).unwrap().into_parts().0
}

/// Compiles and finds, and compares both with the slow reader.
fn agree(kind: &str, routes: &[Route], requests: &[Sent]) -> Result<(), TestCaseError> {
    let mut places = places(routes);
    for a in &places {
        for b in &places {
            let same = std::ptr::eq(a.found, b.found);
            prop_assert_eq!(compare(*a, *b) == Ordering::Equal, same, "the order is total");
            prop_assert_eq!(compare(*a, *b), compare(*b, *a).reverse());
        }
    }
    places.sort_by(|a, b| compare(*a, *b));
    let named =
        |place: &Place<'_>| (format!("shop/{}", ROUTES[place.route.name]), format!("r{}", place.rule));

    let service = compile_all(Arc::new(documents(kind, routes))).remove(0);
    let port = &service.ports[0];
    let compiled = port.matches.iter().map(|found| &port.rules[found.rule as usize]);
    let compiled: Vec<_> = compiled.map(|rule| (rule.route.clone(), rule.name.clone())).collect();
    prop_assert_eq!(compiled, places.iter().map(named).collect::<Vec<_>>());

    let read = policy::service(&service).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let table = read.ports[0].routes.as_ref().unwrap();
    for sent in requests {
        let expected = places.iter().find(|place| place.found.holds(sent)).map(named);
        let found = table.find(&head(sent)).map(|rule| (rule.route.to_string(), rule.name.to_string()));
        prop_assert_eq!(found, expected, "{:?}", sent);
    }
    Ok(())
}

proptest! {
    #[test]
    fn requests_find_the_rule_that_the_text_says(
        routes in routes(path_match().boxed()),
        requests in requests(prop::sample::select(&PATHS[..]).prop_map(str::to_owned)),
    ) {
        agree("HTTPRoute", &routes, &requests)?;
    }

    #[test]
    fn calls_find_the_rule_that_the_text_says(
        routes in routes(call_match().boxed()),
        requests in requests(
            (prop::sample::select(&SERVICES[..]), prop::sample::select(&CALLS[..]))
                .prop_map(|(service, method)| format!("/{service}/{method}"))
        ),
    ) {
        agree("GRPCRoute", &routes, &requests)?;
    }
}
