use http::{Method, Request, request};
use proptest::prelude::*;

use super::*;
use crate::route::{HeaderMatch, Pattern, Prefix, RouteTable, ValueMatch};

fn head(method: &str, path: &str, header: &str) -> request::Parts {
    Request::builder().method(method).uri(path).header("x-team", header).body(()).unwrap().into_parts().0
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
        let first = index.first(&matches, path, |one| {
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
    assert_eq!(index.first(&matches, &"/".repeat(60_000), |_| true), None);
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
    let team = prop::option::of("[ab]");
    (path, method, team).prop_map(|(path, method, team)| RouteMatch {
        method,
        headers: team
            .map(|team| HeaderMatch {
                name: http::HeaderName::from_static("x-team"),
                value: ValueMatch::Exact(team.into()),
            })
            .into_iter()
            .collect(),
        ..with_path(path)
    })
}

proptest! {
    #[test]
    fn looking_up_is_the_same_as_trying_all(
        matches in prop::collection::vec(any_match(), FEW + 1..80),
        path in "(/[ab]{0,2}){1,4}|\\*", method in "GET|PUT", team in "[ab]",
    ) {
        let head = head(&method, &path, &team);
        let tried = matches.iter().position(|one| one.holds(&head));
        let index = PathIndex::of(&matches).unwrap();
        prop_assert_eq!(index.first(&matches, head.uri.path(), |one| one.holds(&head)), tried);
        let table = RouteTable::new(matches, vec![crate::route::tests::rule("any")]);
        prop_assert_eq!(table.position(&head), tried);
    }

    #[test]
    fn a_match_holds_when_no_part_of_it_is_missed(
        one in any_match(), path in "(/[ab]{0,2}){1,4}", method in "GET|PUT", team in "[ab]",
    ) {
        let head = head(&method, &path, &team);
        prop_assert_eq!(one.mismatches(&head).is_empty(), one.holds(&head));
    }
}
