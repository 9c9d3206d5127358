//! 2.8: what people are told of a route.

use outrigger_tests::{Mesh, eventually};
use serde_json::Value;

use super::{assert_refused, conditions_of, conformance, http};

const V1: &str = "{backendRefs: [{name: echo-v1, port: 80}]}";

async fn status(mesh: &Mesh) -> Value {
    mesh.show("/v1/namespaces/shop/httproutes/r").await["status"].clone()
}

/// Waits until the status is of this generation.
async fn observed(mesh: &Mesh, generation: i64) -> Value {
    eventually("the status follows the document", || async {
        let status = status(mesh).await;
        let conditions = status["parents"][0]["conditions"].as_array().cloned().unwrap_or_default();
        let current = |condition: &Value| condition["observedGeneration"] == generation;
        if !conditions.is_empty() && conditions.iter().all(current) { Ok(status) } else { Err(status) }
    })
    .await
}

#[tokio::test]
async fn every_parent_has_its_conditions_in_our_name() {
    let two = http("r", &[V1]).replace(
        "parentRefs: [",
        "parentRefs: [{group: core, kind: Service, name: echo-v2, port: 80}, {group: '', kind: Service, name: nobody}, ",
    );
    let mesh = conformance(&two).await;
    let status = observed(&mesh, 1).await;
    let parents = status["parents"].as_array().unwrap();
    let names: Vec<_> = parents.iter().map(|parent| parent["parentRef"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["echo-v2", "echo"], "one that is not there has no entry");
    assert_eq!(parents[0]["parentRef"]["group"], "core", "as it was written");
    for parent in parents {
        assert_eq!(parent["controllerName"], "outrigger.dev/control-plane");
        assert_eq!(conditions_of(parent), ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]);
    }
}

#[tokio::test]
async fn observed_generation_is_the_documents() {
    let mesh = conformance(&http("r", &[V1])).await;
    observed(&mesh, 1).await;
    mesh.apply(&http("r", &["{backendRefs: [{name: nobody, port: 80}]}"])).await;
    let status = observed(&mesh, 2).await;
    let expected = ["Accepted=True/Accepted", "ResolvedRefs=False/BackendNotFound"];
    assert_eq!(conditions_of(&status["parents"][0]), expected);
}

#[tokio::test]
async fn an_entry_goes_with_its_parent_and_comes_with_it() {
    let elsewhere = http("r", &[V1]).replace("name: echo,", "name: later,");
    let mesh = conformance(&elsewhere).await;
    assert_eq!(status(&mesh).await["parents"], Value::Array(vec![]));
    mesh.apply(&super::ECHO.replace("name: echo,", "name: later,")).await;
    observed(&mesh, 1).await;
    mesh.api("DELETE", "/v1/namespaces/shop/services/later", "").await;
    eventually("the entry is gone", || async {
        let status = status(&mesh).await;
        if status["parents"] == Value::Array(vec![]) { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn a_status_that_is_written_is_ignored() {
    let mesh = conformance("").await;
    let lie =
        "status: {parents: [{controllerName: other.example/x, parentRef: {name: x}, conditions: []}]}\n---\n";
    mesh.apply(&http("r", &[V1]).replace("---\n", lie)).await;
    let status = observed(&mesh, 1).await;
    assert_eq!(status["parents"].as_array().unwrap().len(), 1);
    let shown = mesh.show("/v1/namespaces/shop/httproutes/r").await;
    let again = mesh.apply(&shown.to_string()).await;
    assert_eq!(again["changes"][0]["change"], "unchanged", "what is shown can be applied: {again}");
}

#[tokio::test]
async fn a_rule_that_no_proxy_could_use_does_not_come_in() {
    // What would be dropped, or fallen back from, elsewhere is refused here before it is kept.
    let mesh = conformance("").await;
    let bad = http("r", &[V1, "{matches: [{path: {type: RegularExpression, value: '('}}]}"]);
    assert_refused(&mesh, &bad, "spec.rules[1].matches[0].path.value").await;
}

/// The times of the conditions at the first parent, by type.
fn times(status: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let conditions = status["parents"][0]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().map(|one| (text(&one["type"]), text(&one["lastTransitionTime"]))).collect()
}

#[tokio::test]
async fn a_transition_time_is_kept_until_the_status_of_its_condition_changes() {
    let mesh = conformance(&http("r", &[V1])).await;
    let made = mesh.show("/v1/namespaces/shop/httproutes/r").await["metadata"]["creationTimestamp"].clone();
    let first = times(&observed(&mesh, 1).await);
    let both = |time: &Value| {
        ["Accepted", "ResolvedRefs"].map(|kind| (kind.to_owned(), time.as_str().unwrap().to_owned()))
    };
    assert_eq!(first, both(&made), "it was so from the beginning");
    mesh.apply(&http("r", &[V1, V1])).await;
    assert_eq!(times(&observed(&mesh, 2).await), first, "another generation says the same");
    mesh.apply(&http("r", &["{backendRefs: [{name: nobody, port: 80}]}"])).await;
    let later = times(&observed(&mesh, 3).await);
    assert_eq!(later[0], first[0]);
    assert!(later[1].1 >= first[1].1, "RFC 3339 in UTC, which sorts as it is: {later:?}");
    assert_eq!(times(&observed(&mesh, 3).await), later);
}
