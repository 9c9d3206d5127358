use http::{Method, Request, request};
use proptest::prelude::*;

use super::*;
use crate::gateway::HostPattern;
use crate::route::{HeaderMatch, Pattern, Prefix, RouteTable, ValueMatch};

fn head_of(method: &str, path: &str, teams: &[String], host: &str) -> request::Parts {
    let request = Request::builder().method(method).uri(path).header("host", host);
    let request = teams.iter().fold(request, |request, team| request.header("x-team", team));
    request.body(()).unwrap().into_parts().0
}

fn at(path: &str) -> request::Parts {
    let target = http::uri::PathAndQuery::try_from(path).unwrap_or(http::uri::PathAndQuery::from_static("/"));
    let mut head = Request::builder().body(()).unwrap().into_parts().0;
    head.uri = if path.is_empty() { "a:80".parse().unwrap() } else { target.into() };
    head
}

fn with_path(path: PathMatch) -> RouteMatch {
    RouteMatch { rule: 0, path, headers: Vec::new(), query: Vec::new(), method: None, hosts: Vec::new() }
}

fn prefixes(count: usize) -> Vec<RouteMatch> {
    (0..count).map(|n| with_path(PathMatch::Prefix(Prefix::new(&format!("/api/resource-{n}"))))).collect()
}

#[test]
fn few_matches_are_tried_and_many_are_looked_up() {
    assert!(PathIndex::of(&prefixes(FEW)).is_none());
    assert!(PathIndex::of(&prefixes(FEW + 1)).is_some());
}

#[test]
fn of_a_thousand_paths_only_those_that_fit_are_asked() {
    let mut matches = prefixes(1_000);
    matches.push(with_path(PathMatch::Prefix(Prefix::new("/"))));
    let index = PathIndex::of(&matches).unwrap();
    for (path, found, most) in [
        ("/api/resource-999/items", Some(999), 1),
        ("/api/resource-0", Some(0), 1),
        ("/api/resource-1000", Some(1_000), 1),
        ("/other", Some(1_000), 1),
        ("*", Some(1_000), 1),
        ("", Some(1_000), 1),
    ] {
        let mut asked = 0;
        let first = index.first(&matches, &at(path), |one| {
            asked += 1;
            one.path.holds(path)
        });
        assert_eq!(first, found, "{path}");
        assert!(asked <= most, "{path}: {asked} matches were asked");
    }
}

#[test]
fn a_path_of_nothing_but_slashes_costs_no_more_than_the_longest_prefix() {
    let matches = prefixes(100);
    let index = PathIndex::of(&matches).unwrap();
    assert_eq!(index.first(&matches, &at(&"/".repeat(60_000)), |_| true), None);
}

#[test]
fn of_a_thousand_matches_of_one_path_only_those_of_the_requests_value_are_asked() {
    let path = || with_path(PathMatch::Prefix(Prefix::new("/api")));
    let team = |team: &str| HeaderMatch {
        name: http::HeaderName::from_static("x-team"),
        value: ValueMatch::Exact(team.into()),
    };
    let hosts = |text: &str| vec![HostPattern::new(text)];
    let by_field = (0..1_000).map(|n| RouteMatch { headers: vec![team(&n.to_string())], ..path() });
    let by_host = (0..1_000).map(|n| RouteMatch { hosts: hosts(&format!("{n}.example.com")), ..path() });
    let request = |host: &str, team: &str| {
        let request = Request::builder().uri("/api/x").header("host", host).header("x-team", team);
        request.body(()).unwrap().into_parts().0
    };
    for (mut matches, head, missed) in [
        (by_field.collect::<Vec<_>>(), request("a", "999"), request("a", "none")),
        (by_host.collect(), request("999.Example.com.:80", ""), request("none.example.com", "")),
    ] {
        matches.push(RouteMatch { headers: vec![team("none")], ..path() });
        matches.push(RouteMatch { hosts: hosts("*.example.com"), ..path() });
        let index = PathIndex::of(&matches).unwrap();
        let other = matches.iter().position(|one| one.holds(&missed));
        for (head, found) in [(head, Some(999)), (missed, other)] {
            let mut asked = 0;
            let first = index.first(&matches, &head, |one| {
                asked += 1;
                one.holds(&head)
            });
            assert_eq!(first, found);
            assert!(asked <= 3, "{asked} matches were asked");
        }
    }
}

/// Small alphabets, so that paths meet and shadow each other.
fn any_match() -> impl Strategy<Value = RouteMatch> {
    let text = || "(/[ab]{0,2}){0,3}/?";
    let path = prop_oneof![
        text().prop_map(|text| PathMatch::Exact(text.into())),
        text().prop_map(|text| PathMatch::Prefix(Prefix::new(&text))),
        "[ab*]{0,2}".prop_map(|text| PathMatch::Prefix(Prefix::new(&text))),
        "/a[ab]\\*".prop_map(|text| PathMatch::Regex(Pattern::new(&text).unwrap())),
    ];
    let method = prop_oneof![Just(None), Just(Some(Method::GET)), Just(Some(Method::PUT))];
    let value = prop_oneof![
        3 => "[ab](, [ab])?".prop_map(|text| ValueMatch::Exact(text.into())),
        1 => Just(ValueMatch::Regex(Pattern::new("a.*").unwrap())),
    ];
    let name = prop_oneof!["x-team", "x-other", "host"].prop_map(|name| name.parse().unwrap());
    let header = (name, value).prop_map(|(name, value)| HeaderMatch { name, value });
    let headers = prop::collection::vec(header, 0..3);
    let host = prop_oneof!["[ab]", "\\*\\.b"].prop_map(|text| HostPattern::new(&text));
    let hosts = prop::collection::vec(host, 0..3);
    (path, method, headers, hosts).prop_map(|(path, method, headers, hosts)| RouteMatch {
        method,
        headers,
        hosts,
        ..with_path(path)
    })
}

/// Few paths, so that many matches share one.
fn any_crowded_match() -> impl Strategy<Value = RouteMatch> {
    any_match().prop_map(|one| RouteMatch {
        path: match one.path {
            PathMatch::Prefix(_) => PathMatch::Prefix(Prefix::new("/a")),
            PathMatch::Exact(_) => PathMatch::Exact("/a".into()),
            other => other,
        },
        ..one
    })
}

proptest! {
    #[test]
    fn looking_up_is_the_same_as_trying_all(
        matches in prop::collection::vec(any_match(), FEW + 1..80),
        path in "(/[ab]{0,2}){1,4}|\\*", method in "GET|PUT", team in "[ab]", host in "[aAb]|a\\.b",
    ) {
        let head = head_of(&method, &path, &[team], &host);
        let tried = matches.iter().position(|one| one.holds(&head));
        let index = PathIndex::of(&matches).unwrap();
        prop_assert_eq!(index.first(&matches, &head, |one| one.holds(&head)), tried);
        let table = RouteTable::new(matches, vec![crate::route::tests::rule("any")]);
        prop_assert_eq!(table.position(&head), tried);
    }

    #[test]
    fn looking_up_by_value_is_the_same_as_trying_all(
        matches in prop::collection::vec(any_crowded_match(), FEW + 1..200), path in "/a|/a/b",
        method in "GET|PUT", teams in prop::collection::vec("[ab]", 0..3), host in "[aAb]|a\\.b",
    ) {
        let head = head_of(&method, &path, &teams, &host);
        let tried = matches.iter().position(|one| one.holds(&head));
        let index = PathIndex::of(&matches).unwrap();
        prop_assert_eq!(index.first(&matches, &head, |one| one.holds(&head)), tried);
    }

    #[test]
    fn a_match_holds_when_no_part_of_it_is_missed(
        one in any_match(), path in "(/[ab]{0,2}){1,4}", method in "GET|PUT", team in "[ab]",
    ) {
        let head = head_of(&method, &path, &[team], "a");
        prop_assert_eq!(one.mismatches(&head).is_empty(), one.holds(&head));
    }
}
