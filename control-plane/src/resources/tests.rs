//! Reading texts: several documents, lists, both formats, and where problems are found. What the tests of the
//! single kinds share.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The one document of a text that must be fine.
pub(super) fn accepted(text: &str) -> Resource {
    let mut documents = parse(text, Format::Yaml).unwrap_or_else(|rejected| panic!("{rejected}")).documents;
    assert_eq!(documents.len(), 1);
    documents.remove(0).resource
}

/// The problems of a text, as `field: message`.
pub(super) fn problems(text: &str) -> Vec<String> {
    let rejected = parse(text, Format::Yaml).expect_err("the document was accepted");
    rejected.problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
}

/// The warnings of a text that is accepted, as `field: message`.
pub(super) fn warnings(text: &str) -> Vec<String> {
    let parsed = parse(text, Format::Yaml).unwrap_or_else(|rejected| panic!("{rejected}"));
    let warnings = parsed.documents.into_iter().flat_map(|document| document.warnings);
    warnings.map(|warning| format!("{}: {}", warning.field, warning.message)).collect()
}

/// Every expected start must be among the problems, and there must be no others.
#[track_caller]
pub(super) fn assert_problems(text: &str, expected: &[&str]) {
    let found = problems(text);
    for start in expected {
        assert!(found.iter().any(|problem| problem.starts_with(start)), "no {start:?} in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  ports:\n  - port: 80\n";

#[test]
fn several_documents_with_comments_and_empty_ones_between_are_read() {
    let text =
        format!("# head\n---\n{SERVICE}---\n# nothing here\n---\n{}...\n", SERVICE.replace("web", "db"));
    let parsed = parse(&text, Format::Yaml).unwrap();
    let names: Vec<_> = parsed.documents.iter().map(|document| document.resource.key().name).collect();
    assert_eq!(names, ["web", "db"]);
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let text = format!("\u{feff}{SERVICE}\u{feff}---\n{}", SERVICE.replace("web", "db"));
    assert_eq!(parse(&text, Format::Yaml).unwrap().documents.len(), 2);
    let json = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": { "ports": [{ "port": 80 }] } });
    for format in [Format::Yaml, Format::Json] {
        assert_eq!(parse(&format!("\u{feff}{json}"), format).unwrap().documents.len(), 1);
    }
}

#[test]
fn what_nests_without_end_is_refused_before_it_is_read() {
    for text in ["{\"a\":".repeat(100_000), "[".repeat(100_000), format!("a: {}", "- ".repeat(100_000))] {
        let rejected = parse(&text, Format::Yaml).unwrap_err();
        assert!(rejected.to_string().contains("nests deeper than 64 levels"), "{rejected}");
    }
}

#[test]
fn a_problem_is_told_with_document_line_and_field() {
    let text =
        format!("{SERVICE}---\n# a comment\n{}", SERVICE.replace("port: 80", "port: 80\n    prot: TCP"));
    let rejected = parse(&text, Format::Yaml).unwrap_err();
    let [problem] = rejected.problems.as_slice() else { panic!("{rejected}") };
    assert_eq!((problem.document, problem.line), (Some(2), Some(19)), "{rejected}");
    assert_eq!(problem.field, "spec.ports[0].prot");
    assert!(
        rejected.to_string().starts_with("document 2 (Service shop/web, line 19): spec.ports[0].prot: "),
        "{rejected}"
    );
}

#[test]
fn problems_of_all_documents_are_told_together() {
    let text = format!(
        "{}---\n{}",
        SERVICE.replace("port: 80", "port: 0"),
        SERVICE.replace("name: web", "name: Web")
    );
    let rejected = parse(&text, Format::Yaml).unwrap_err();
    let found: Vec<_> =
        rejected.problems.iter().map(|problem| (problem.document, problem.field.as_str())).collect();
    assert_eq!(found, [(Some(1), "spec.ports[0].port"), (Some(2), "metadata.name")]);
}

#[test]
fn broken_text_is_malformed_and_told_with_its_line() {
    for (text, format, line) in [
        ("kind: Service\n  name: [", Format::Yaml, 2),
        (&*format!("{SERVICE}---\na: 1\na: 2\n"), Format::Yaml, 10),
        ("{\"kind\": \"Service\",\n \"kind\": \"Service\"}", Format::Json, 2),
        ("{\n\"a\": }", Format::Json, 2),
    ] {
        let rejected = parse(text, format).unwrap_err();
        assert!(rejected.malformed, "{rejected}");
        assert_eq!(rejected.problems[0].line, Some(line), "{text}: {rejected}");
    }
}

#[test]
fn a_text_without_documents_is_refused() {
    for text in ["", "---\n", "# only\n---\n# comments\n", "null"] {
        assert!(parse(text, Format::Yaml).unwrap_err().to_string().contains("no document"), "{text:?}");
    }
}

#[test]
fn lists_and_arrays_are_taken_apart() {
    let one = serde_json::to_value(accepted(SERVICE).to_value()).unwrap();
    let mut other = one.clone();
    other["metadata"]["name"] = "db".into();
    for list in [
        json!({ "apiVersion": "v1", "kind": "List", "items": [one, other] }),
        json!({ "apiVersion": "v1", "kind": "ServiceList", "metadata": { "resourceVersion": "7" }, "items": [one, other] }),
        json!([one, other]),
    ] {
        for format in [Format::Json, Format::Yaml] {
            assert_eq!(parse(&list.to_string(), format).unwrap().documents.len(), 2);
        }
    }
    other["spec"]["ports"][0]["port"] = "http".into();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [one, other] });
    let rejected = parse(&serde_json::to_string_pretty(&list).unwrap(), Format::Json).unwrap_err();
    assert_eq!(
        (rejected.problems[0].document, rejected.problems[0].field.as_str()),
        (Some(2), "spec.ports[0].port")
    );
}

#[test]
fn json_among_yaml_is_read_as_json() {
    let json = serde_json::to_string(&accepted(SERVICE).to_value()).unwrap().replace(":", ":\t");
    let text = format!("%YAML 1.2\n---\n{}---\n{json}\n", SERVICE.replace("web", "db"));
    assert_eq!(parse(&text, Format::Yaml).unwrap().documents.len(), 2);
    let rejected = parse(&text.replace("\"port\":\t80", "\n\"port\":\t0"), Format::Yaml).unwrap_err();
    assert_eq!(rejected.problems[0].line, Some(13), "{rejected}");
}

#[test]
fn a_great_many_problems_are_told_without_reading_the_text_again_for_each() {
    let one = accepted(SERVICE).to_value();
    let items: Vec<_> = (0..2000)
        .map(|number| {
            let mut item = one.clone();
            item["metadata"]["name"] = format!("s{number}").into();
            item["spec"]["ports"][0]["port"] = 0.into();
            item
        })
        .collect();
    let rejected = parse(&json!(items).to_string(), Format::Json).unwrap_err();
    assert_eq!(rejected.problems.len(), 500);
    assert!(rejected.problems[0].line.is_some() && rejected.problems[499].line.is_none());
}

#[test]
fn the_same_document_twice_is_refused() {
    let text = format!("{SERVICE}---\n{SERVICE}");
    assert_problems(&text, &[": Service shop/web is there a second time"]);
}

#[test]
fn kind_and_version_must_be_known() {
    assert_problems(
        &SERVICE.replace("kind: Service", "kind: Ingress"),
        &["kind: \"Ingress\" is not a kind known here; there are Service, HTTPRoute"],
    );
    assert_problems(&SERVICE.replace("v1", "v2"), &["apiVersion: \"v2\" is not supported; expected v1"]);
    assert_problems("metadata: {name: a}", &["kind: is required"]);
    assert_problems("just text", &[": must be an object"]);
    assert_problems(
        "kind: Service",
        &["apiVersion: is required", "metadata: is required", "spec: is required"],
    );
}

#[test]
fn metadata_is_checked_and_completed() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web, creationTimestamp: null}\nspec: {ports: [{port: 80}]}\nstatus: {loadBalancer: {}}";
    assert_eq!(accepted(text).key().namespace, "default");
    assert_eq!(parse_in(text, Format::Yaml, "shop").unwrap().documents[0].resource.key().namespace, "shop");
    assert_problems(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: we.b\n  namespace: Shop\n  resourceVersion: x\n  generateName: a\n  labels: {'a b': c, d: 'e f', n: 1}\nspec: {ports: [{port: 80}]}",
        &["metadata.generateName: is not a field here", "metadata.labels.n: must be text"],
    );
    assert_problems(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: we.b\n  namespace: Shop\n  resourceVersion: x\n  labels: {'a b': c, d: 'e f'}\nspec: {ports: [{port: 80}]}",
        &[
            "metadata.name: \"we.b\" is not a DNS label",
            "metadata.namespace: \"Shop\" is not a DNS label",
            "metadata.resourceVersion: \"x\" was never given out here",
            "metadata.labels[\"a b\"]: is no valid key",
            "metadata.labels.d: \"e f\" is no label value",
        ],
    );
}

#[test]
fn a_bomb_of_aliases_is_refused_and_not_expanded() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let inner = format!("*a{}, ", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{}]\n", inner.trim_end_matches(", ")));
    }
    assert!(parse(&text, Format::Yaml).unwrap_err().malformed);
}

#[test]
fn a_policy_is_read_and_its_cross_field_rules_are_kept() {
    let head =
        "apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {name: web, namespace: shop}\n";
    let Resource::ServicePolicy(policy) = accepted(&format!(
        "{head}spec:\n  targetRefs: [{{name: web}}]\n  loadBalancer: {{type: RoundRobin}}\n  connection: {{connectTimeout: 1500ms}}\n  defaults: {{retry: {{attempts: 2, codes: [503], grpcCodes: [14]}}}}\n"
    )) else {
        panic!("another kind")
    };
    assert_eq!(
        (policy.spec.target_refs[0].group.as_str(), policy.spec.target_refs[0].kind.as_str()),
        ("", "Service")
    );
    assert_eq!(policy.spec.connection.as_ref().unwrap().connect_timeout, Some(Period::from_millis(1500)));
    assert_problems(
        &format!(
            "{head}spec:\n  targetRefs: [{{name: web}}, {{name: web}}, {{name: x, kind: Pod}}]\n  circuitBreaker: {{minOpen: 5s, maxOpen: 1s}}\n  connection: {{connectTimeout: 0s}}\n  defaults: {{timeouts: {{request: 1s, backendRequest: 2s}}}}\n"
        ),
        &[
            "spec.targetRefs[1].name: names \"web\" a second time",
            "spec.targetRefs[2].kind: must be Service",
            "spec.circuitBreaker.minOpen: must not be longer than maxOpen, 1s",
            "spec.connection.connectTimeout: must be longer than 0s",
            "spec.defaults.timeouts.backendRequest: must not be longer than request, 1s",
        ],
    );
    let policy = |fields: &str| format!("{head}spec: {{targetRefs: [{{name: web}}], {fields}}}");
    accepted(&policy("hedging: {percentile: 95, maxExtra: 2}, sessionPersistence: {}"));
    for (fields, problem) in [
        ("hedging: {}", "hedging: must have one of delay and percentile"),
        ("hedging: {delay: 1s, percentile: 9}", "hedging: must have one of delay and percentile"),
        ("hedging: {delay: 0s}", "hedging.delay: must be longer than 0s"),
        ("hedging: {delay: 1s, maxExtra: 5}", "hedging.maxExtra: 5 is out of range, 1 to 4"),
        ("sessionPersistence: {sessionName: 'a b'}", "sessionPersistence.sessionName: \"a b\" is not a name"),
        ("sessionPersistence: {idleTimeout: 0s}", "sessionPersistence.idleTimeout: must be longer than 0s"),
        (
            "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}",
            "sessionPersistence.absoluteTimeout: is required for a Permanent cookie",
        ),
        (
            "sessionPersistence: {type: Header, cookieConfig: {}}",
            "sessionPersistence.cookieConfig: means something with the type Cookie alone",
        ),
        ("connection: {tcpKeepalive: {time: 999ms}}", "connection.tcpKeepalive.time: must be at least 1s"),
        (
            "connection: {http2: {initialStreamWindowBytes: 1}}",
            "connection.http2.initialStreamWindowBytes: 1 is out of range, 65535 to 268435456",
        ),
    ] {
        assert_problems(&policy(fields), &[&format!("spec.{problem}")]);
    }
    let balanced =
        |fields: &str| format!("{head}spec: {{targetRefs: [{{name: web}}], loadBalancer: {{{fields}}}}}");
    accepted(&balanced("type: Hash, hash: {cookie: {name: user, ttl: 1h, path: /a}, maxLoadPercent: 125}"));
    accepted(&balanced("slowStart: {window: 30s}, zone: {minHealthyPercent: 50}"));
    for (fields, problem) in [
        ("type: Hash", "hash: is required with the type Hash"),
        ("hash: {header: a}", "hash: means something with the type Hash alone"),
        ("type: Hash, hash: {header: a, sourceAddress: true}", "hash: must have one of header, cookie"),
        ("type: Hash, hash: {sourceAddress: false}", "hash: must have one of header, cookie"),
        ("type: Hash, hash: {header: 'x y'}", "hash.header: \"x y\" is not a name"),
        ("type: Hash, hash: {cookie: {name: a, ttl: 0s}}", "hash.cookie.ttl: must be longer than 0s"),
        ("type: Hash, hash: {cookie: {name: a, path: 'a;b'}}", "hash.cookie.path: must begin with /"),
        (
            "type: Hash, hash: {header: a, maxLoadPercent: 99}",
            "hash.maxLoadPercent: 99 is out of range, 100 to 10000",
        ),
        ("slowStart: {window: 0s}", "slowStart.window: must be longer than 0s"),
        ("zone: {minHealthyPercent: 0}", "zone.minHealthyPercent: 0 is out of range, 1 to 100"),
    ] {
        assert_problems(&balanced(fields), &[&format!("spec.loadBalancer.{problem}")]);
    }
    assert_problems(
        &format!(
            "{head}spec: {{targetRefs: [], defaults: {{retry: {{attempts: 0, codes: [200], grpcCodes: [0]}}}}}}"
        ),
        &[
            "spec.defaults.retry.attempts: 0 is out of range, 1 to 10",
            "spec.defaults.retry.codes[0]: 200 is out of range, 400 to 599",
            "spec.defaults.retry.grpcCodes[0]: 0 is out of range, 1 to 16",
        ],
    );
}

#[test]
fn the_mesh_config_is_one_and_without_namespace() {
    let config = |name: &str, metadata: &str, spec: &str| {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: {name}{metadata}}}\nspec: {spec}\n"
        )
    };
    let key = accepted(&config("mesh", "", "{mtls: {mode: Permissive}, accessLog: {enabled: true}}")).key();
    assert_eq!((key.namespace.as_str(), key.name.as_str()), ("", "mesh"));
    assert_problems(
        &config("other", ", namespace: shop", "{}"),
        &["metadata.name: must be mesh", "metadata.namespace: must be left out"],
    );
    for endpoint in [
        "127.0.0.1:4317",
        "https://a:1",
        "http://a:1/v1/traces",
        "http://:4317",
        "http://a:0",
        "http://u@a:1",
        "http://a:99999",
    ] {
        assert_problems(
            &config("mesh", "", &format!("{{tracing: {{endpoint: '{endpoint}'}}}}")),
            &["spec.tracing.endpoint: "],
        );
    }
    accepted(&config(
        "mesh",
        "",
        "{tracing: {endpoint: 'http://[::1]:4317', samplingRatio: 1, formats: [W3C, B3Multi]}}",
    ));
    assert_problems(
        &config("mesh", "", "{tracing: {samplingRatio: 1.5, formats: [Jaeger]}, mtls: {mode: strict}}"),
        &[
            "spec.tracing.samplingRatio: 1.5 is out of range, 0 to 1",
            "spec.tracing.formats[0]: \"Jaeger\" is not supported; expected W3C, B3, B3Multi",
            "spec.mtls.mode: \"strict\" is not supported; expected Strict, Permissive",
        ],
    );
}

#[test]
fn a_fault_injection_says_one_thing_of_each() {
    let fault = |spec: &str| {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: FaultInjection\nmetadata: {{name: f, namespace: shop}}\nspec: {spec}\n"
        )
    };
    accepted(&fault(
        "{delay: {percent: 0.5, uniform: {min: 0s, max: 1s}}, abort: {grpcStatus: 14}, until: '2030-01-31T12:00:00+01:00'}",
    ));
    accepted(&fault("{delay: {exponential: 1m}, match: {headers: [{name: x, value: y}]}, maxConcurrent: 1}"));
    for (spec, problem) in [
        ("{}", "spec: must have delay, abort or both"),
        ("{delay: {percent: 5}}", "spec.delay: must have exactly one of fixed, uniform and exponential"),
        ("{delay: {fixed: 1s, exponential: 1s}}", "spec.delay: must have exactly one of"),
        ("{delay: {percent: 101, fixed: 1s}}", "spec.delay.percent: "),
        ("{delay: {fixed: 0s}}", "spec.delay.fixed: must be longer than 0s"),
        ("{delay: {fixed: 11m}}", "spec.delay.fixed: is too long"),
        ("{delay: {exponential: 61s}}", "spec.delay.exponential: is too long"),
        ("{delay: {uniform: {min: 2s, max: 1s}}}", "spec.delay.uniform.min: must not be longer than max, 1s"),
        ("{abort: {percent: 5}}", "spec.abort: must have exactly one of httpStatus and grpcStatus"),
        ("{abort: {httpStatus: 503, grpcStatus: 14}}", "spec.abort: must have exactly one"),
        ("{abort: {httpStatus: 200}}", "spec.abort.httpStatus: 200 is out of range, 400 to 599"),
        ("{abort: {grpcStatus: 14}, until: tomorrow}", "spec.until: \"tomorrow\" is not a time"),
        (
            "{abort: {grpcStatus: 14}, match: {headers: [{name: 'a b', value: c}]}}",
            "spec.match.headers[0].name: ",
        ),
        (
            "{abort: {grpcStatus: 14}, match: {headers: [{type: RegularExpression, name: a, value: '('}]}}",
            "spec.match.headers[0].value: \"(\" is not a regular expression",
        ),
    ] {
        assert_problems(&fault(spec), &[problem]);
    }
}

#[test]
fn a_fallback_is_an_answer_that_a_proxy_can_give() {
    let policy = |fallback: &str| {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{{name: pay}}], fallback: {fallback}}}\n"
        )
    };
    accepted(&policy("{}"));
    accepted(&policy("{status: 503, contentType: application/json, body: '{}', on: [NoEndpoints]}"));
    let long = "x".repeat((16 << 10) + 1);
    for (fallback, problem) in [
        (format!("{{body: {long}}}"), "spec.fallback.body: has 16385 bytes, more than 16384"),
        ("{status: 204, body: x}".to_owned(), "spec.fallback.body: must be left out with status 204"),
        ("{status: 100}".to_owned(), "spec.fallback.status: 100 is out of range, 200 to 599"),
        ("{contentType: ''}".to_owned(), "spec.fallback.contentType: \"\" is not a header value"),
        ("{headers: [{name: a b, value: c}]}".to_owned(), "spec.fallback.headers[0].name: "),
        (
            "{headers: [{name: Content-Length, value: '1'}]}".to_owned(),
            "spec.fallback.headers[0].name: \"content-length\" is written by the proxy itself",
        ),
    ] {
        assert_problems(&policy(&fallback), &[problem]);
    }
}

proptest! {
    /// Whatever a text holds, reading it ends in documents or problems.
    #[test]
    fn no_text_makes_the_reader_panic(text in "[ -~\n]{0,200}") {
        let _ = parse(&text, Format::Yaml);
        let _ = parse(&text, Format::Json);
    }

    /// A printed document is read as the same document.
    #[test]
    fn print_then_parse_is_identity(
        name in "[a-z][a-z0-9]{0,10}",
        ports in proptest::collection::btree_set(1u16.., 1..5),
        label in "[A-Za-z0-9]{0,20}",
    ) {
        let ports: Vec<_> = ports.iter().map(|port| json!({ "port": port, "name": format!("p{port}") })).collect();
        let document = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "labels": { "a": label } },
            "spec": { "ports": ports },
        });
        let once = accepted(&document.to_string());
        let printed = serde_yaml_ng::to_string(&once.to_value()).unwrap();
        prop_assert_eq!(accepted(&printed), once);
    }
}
