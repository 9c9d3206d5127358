//! HTTPRoute: what is filled in, and what is refused with which field.

use crate::resources::Resource;
use crate::resources::tests::{accepted, assert_problems, warnings};
use serde_json::{Value, json};

/// A route with these rules.
fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: shop}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules:\n{rules}"
    )
}

fn spec(text: &str) -> Value {
    accepted(text).to_value()["spec"].clone()
}

#[test]
fn defaults_are_those_of_the_crd() {
    let text = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: HTTPRoute\nmetadata: {name: web}\nspec: {parentRefs: [{name: gw}]}";
    let value = accepted(text).to_value();
    assert_eq!(value["apiVersion"], "gateway.networking.k8s.io/v1");
    assert_eq!(
        value["spec"],
        json!({
            "parentRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw" }],
            "rules": [{ "matches": [{ "path": { "type": "PathPrefix", "value": "/" } }] }],
        })
    );
    let rules = spec(&route(
        "  - matches: [{headers: [{name: a, value: b}], queryParams: [{name: c, value: d}], path: {value: /x}}]\n    backendRefs: [{name: v1, port: 80}]\n",
    ));
    assert_eq!(
        rules["rules"][0],
        json!({
            "matches": [{
                "path": { "type": "PathPrefix", "value": "/x" },
                "headers": [{ "type": "Exact", "name": "a", "value": "b" }],
                "queryParams": [{ "type": "Exact", "name": "c", "value": "d" }],
            }],
            "backendRefs": [{ "group": "", "kind": "Service", "name": "v1", "port": 80, "weight": 1 }],
        })
    );
}

#[test]
fn filters_are_defaulted_on_rules_and_on_backends_alike() {
    use super::filters::{default_backend_filter, default_filter};
    let filters = json!([
        { "type": "RequestRedirect", "requestRedirect": {} },
        { "type": "CORS", "cors": {} },
        { "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "a", "port": 1 }, "fraction": { "numerator": 1 } } },
    ]);
    let filled = json!([
        { "type": "RequestRedirect", "requestRedirect": { "statusCode": 302 } },
        { "type": "CORS", "cors": { "maxAge": 5 } },
        { "type": "RequestMirror", "requestMirror": {
            "backendRef": { "group": "", "kind": "Service", "name": "a", "port": 1 },
            "fraction": { "numerator": 1, "denominator": 100 },
        } },
    ]);
    let mut of_rule: Vec<_> = serde_json::from_value(filters.clone()).unwrap();
    of_rule.iter_mut().for_each(default_filter);
    assert_eq!(serde_json::to_value(of_rule).unwrap(), filled);
    let mut of_backend: Vec<_> = serde_json::from_value(filters).unwrap();
    of_backend.iter_mut().for_each(default_backend_filter);
    assert_eq!(serde_json::to_value(of_backend).unwrap(), filled);
}

#[test]
fn parents_must_be_services_told_apart() {
    let parents = |parents: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: shop}}\nspec: {{parentRefs: {parents}}}"
        )
    };
    assert_problems(&parents("[]"), &["spec.parentRefs: must name at least one Service"]);
    assert_problems(&parents("[{kind: Service, name: a}]"), &["spec.parentRefs[0].group: must be \"\""]);
    assert_problems(
        &parents("[{group: '', kind: Pod, name: a}]"),
        &["spec.parentRefs[0].kind: \"Pod\" of group \"\" cannot be a parent"],
    );
    let service = "group: '', kind: Service, name: a";
    accepted(&parents(&format!(
        "[{{{service}, port: 80}}, {{{service}, port: 81}}, {{{service}, namespace: other}}]"
    )));
    for twins in [
        format!("[{{{service}}}, {{{service}}}]"),
        format!("[{{{service}, port: 80}}, {{{service}}}]"),
        format!(
            "[{{{service}, port: 80}}, {{group: core, kind: Service, name: a, namespace: shop, port: 80}}]"
        ),
    ] {
        assert_problems(&parents(&twins), &["spec.parentRefs[1]: names an earlier parent a second time"]);
    }
    assert_problems(
        &parents("[{group: '', kind: Service, name: A, namespace: b_c, port: 0, sectionName: '-'}]"),
        &[
            "spec.parentRefs[0].name: ",
            "spec.parentRefs[0].namespace: ",
            "spec.parentRefs[0].port: 0 is not a port number",
            "spec.parentRefs[0].sectionName: ",
        ],
    );
    assert!(warnings(&parents("[{name: gw}]")).is_empty(), "a Gateway, by default");
}

#[test]
fn backends_need_a_port_and_a_weight_in_range() {
    assert_problems(
        &route(
            "  - backendRefs: [{name: a}, {name: b, port: 70000}, {name: c, port: 1, weight: 1000001}, {name: d, port: 1, weight: -1}]\n",
        ),
        &[
            "spec.rules[0].backendRefs[0].port: is required for a Service",
            "spec.rules[0].backendRefs[1].port: 70000 is not a port number, 1 to 65535",
            "spec.rules[0].backendRefs[2].weight: 1000001 is out of range, 0 to 1000000",
            "spec.rules[0].backendRefs[3].weight: -1 is out of range",
        ],
    );
    let warned = warnings(&route("  - backendRefs: [{group: example.com, kind: Bucket, name: a}]\n"));
    assert!(warned[0].starts_with("spec.rules[0].backendRefs[0].kind: is not Service"), "{warned:?}");
}

#[test]
fn literal_paths_are_normal_paths() {
    for (path, problem) in [
        ("a", "must start with '/'"),
        ("/a//b", "must not contain \"//\""),
        ("/a/./b", "must not contain \"/./\""),
        ("/a/../b", "must not contain \"/../\""),
        ("/a%2fb", "must not contain \"%2f\""),
        ("/a%2Fb", "must not contain \"%2F\""),
        ("/a#b", "must not contain \"#\""),
        ("/a/..", "must not end with \"/..\""),
        ("/a/.", "must not end with \"/.\""),
        ("/a b", "has a character that no path has"),
        ("/a%zz", "has a character that no path has"),
        ("/ä", "has a character that no path has"),
    ] {
        for kind in ["Exact", "PathPrefix"] {
            let text = route(&format!("  - matches: [{{path: {{type: {kind}, value: '{path}'}}}}]\n"));
            assert_problems(&text, &[&format!("spec.rules[0].matches[0].path.value: {path:?} {problem}")]);
        }
    }
    accepted(&route("  - matches: [{path: {type: Exact, value: '/a-b/c.d/%20;v=1,2:@!$&()*+~_'}}]\n"));
}

#[test]
fn patterns_must_compile_by_themselves_and_stay_small() {
    accepted(&route("  - matches: [{path: {type: RegularExpression, value: '/v[0-9]+/(a|b)'}}]\n"));
    for pattern in ["/(", "a)(b", "[a", "(a{1000}){1000}"] {
        assert_problems(
            &route(&format!("  - matches: [{{path: {{type: RegularExpression, value: '{pattern}'}}}}]\n")),
            &["spec.rules[0].matches[0].path.value: "],
        );
        assert_problems(
            &route(&format!(
                "  - matches: [{{headers: [{{type: RegularExpression, name: a, value: '{pattern}'}}]}}]\n"
            )),
            &["spec.rules[0].matches[0].headers[0].value: "],
        );
    }
}

#[test]
fn headers_and_queries_have_names_once() {
    assert_problems(
        &route(
            "  - matches: [{headers: [{name: a b, value: x}, {name: c, value: x}, {name: c, value: y}, {name: d, value: ''}], queryParams: [{name: e, value: x}, {name: e, value: y}], method: GRAB}]\n",
        ),
        &["spec.rules[0].matches[0].method: \"GRAB\" is not supported; expected GET"],
    );
    assert_problems(
        &route(
            "  - matches: [{headers: [{name: a b, value: x}, {name: c, value: x}, {name: c, value: y}, {name: d, value: ''}], queryParams: [{name: e, value: x}, {name: e, value: y}]}]\n",
        ),
        &[
            "spec.rules[0].matches[0].headers[0].name: \"a b\" is not a name",
            "spec.rules[0].matches[0].headers[2].name: \"c\" is listed a second time",
            "spec.rules[0].matches[0].headers[3].value: must have 1 to 4096 bytes",
            "spec.rules[0].matches[0].queryParams[1].name: \"e\" is listed a second time",
        ],
    );
    let warned =
        warnings(&route("  - matches: [{headers: [{name: Foo, value: x}, {name: foo, value: y}]}]\n"));
    assert!(warned[0].starts_with("spec.rules[0].matches[0].headers[1]: has no effect"), "{warned:?}");
}

#[test]
fn rules_and_matches_are_counted_and_named_once() {
    let rules = |count: usize, matches: usize| {
        let one = format!("  - matches: [{}]\n", vec!["{method: GET}"; matches].join(", "));
        route(&one.repeat(count))
    };
    accepted(&rules(16, 8));
    assert_problems(&rules(17, 1), &["spec.rules: must not have more than 16 entries, not 17"]);
    assert_problems(&rules(1, 65), &["spec.rules[0].matches: must not have more than 64 entries"]);
    assert_problems(&rules(3, 43), &["spec.rules: must not have more than 128 matches in all, not 129"]);
    assert_problems(
        &route("  - name: a\n  - name: b\n  - name: a\n"),
        &["spec.rules[2].name: \"a\" names an earlier rule"],
    );
}

#[test]
fn timeouts_and_retries_are_in_range() {
    accepted(&route(
        "  - timeouts: {request: 0s, backendRequest: 5s}\n    retry: {attempts: 3, backoff: 100ms, codes: [500, 503]}\n",
    ));
    assert_problems(
        &route(
            "  - timeouts: {request: 1s, backendRequest: 2s}\n    retry: {attempts: 11, backoff: 1.5s, codes: [503, 399]}\n  - timeouts: {request: 10}\n",
        ),
        &["spec.rules[1].timeouts.request: must be text"],
    );
    assert_problems(
        &route(
            "  - timeouts: {request: 1s, backendRequest: 2s}\n    retry: {attempts: 11, backoff: 1.5s, codes: [503, 399]}\n  - timeouts: {request: soon}\n",
        ),
        &[
            "spec.rules[0].timeouts.backendRequest: must not be longer than request, 1s",
            "spec.rules[0].retry.attempts: 11 is out of range, 1 to 10",
            "spec.rules[0].retry.backoff: \"1.5s\" is not a duration",
            "spec.rules[0].retry.codes[1]: 399 is out of range, 400 to 599",
            "spec.rules[1].timeouts.request: \"soon\" is not a duration",
        ],
    );
}

#[test]
fn a_filter_has_the_field_of_its_type_and_no_other_once() {
    assert_problems(
        &route(
            "  - filters: [{type: RequestHeaderModifier}, {type: ResponseHeaderModifier, requestHeaderModifier: {}, responseHeaderModifier: {}}, {type: RequestHeaderModifier, requestHeaderModifier: {}}]\n",
        ),
        &[
            "spec.rules[0].filters[0].requestHeaderModifier: is required for type RequestHeaderModifier",
            "spec.rules[0].filters[1].requestHeaderModifier: must be left out where type is not RequestHeaderModifier",
            "spec.rules[0].filters[2].type: must not be repeated",
        ],
    );
}

#[test]
fn header_modifiers_act_once_on_a_header_with_valid_names_and_values() {
    let filter = |place: &str, modifier: &str| {
        format!("{place}filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {modifier}}}]")
    };
    let modifier =
        "{set: [{name: A, value: x}], add: [{name: a, value: y}, {name: b c, value: z}], remove: [A, d], }";
    let on_rule = route(&format!("  - {}\n", filter("", modifier)));
    let on_backend = route(&format!("  - backendRefs: [{{name: v1, port: 80, {}}}]\n", filter("", modifier)));
    for (text, path) in [(on_rule, "spec.rules[0]"), (on_backend, "spec.rules[0].backendRefs[0]")] {
        assert_problems(
            &text,
            &[
                &format!("{path}.filters[0].requestHeaderModifier.add[0].name: \"a\" is named a second time"),
                &format!("{path}.filters[0].requestHeaderModifier.add[1].name: \"b c\" is not a name"),
                &format!("{path}.filters[0].requestHeaderModifier.remove[0]: \"A\" is named a second time"),
            ],
        );
    }
    assert_problems(
        &route(
            "  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: a, value: \"x\\ny\"}]}}]\n",
        ),
        &["spec.rules[0].filters[0].responseHeaderModifier.set[0].value: "],
    );
}

#[test]
fn what_this_version_cannot_do_is_refused_by_name_beside_its_own_mistakes() {
    assert_problems(
        &route(
            "  - filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}, {type: URLRewrite, urlRewrite: {}}]\n    matches: [{path: {type: Exact, value: /y}}]\n    backendRefs: [{name: a, port: 1}]\n",
        ),
        &[
            "spec.rules[0].backendRefs: must be left out where the rule redirects",
            "spec.rules[0].filters: must not have both RequestRedirect and URLRewrite",
            "spec.rules[0].filters[0].requestRedirect.statusCode: 304 is not",
            "spec.rules[0].filters[0].requestRedirect.path: replaces a prefix",
        ],
    );
    assert_problems(
        &route(
            "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a}, percent: 101, fraction: {numerator: 5, denominator: 4}}}]\n    sessionPersistence: {type: Header, sessionName: 'a b', idleTimeout: 0s, cookieConfig: {lifetimeType: Permanent}}\n",
        ),
        &[
            "spec.rules[0].filters[0].requestMirror.backendRef.port: is required for a Service",
            "spec.rules[0].filters[0].requestMirror: must have percent or fraction, not both",
            "spec.rules[0].filters[0].requestMirror.percent: 101 is out of range",
            "spec.rules[0].filters[0].requestMirror.fraction.numerator: must be 0 to the denominator, 4",
            "spec.rules[0].sessionPersistence.sessionName: \"a b\" is not a name",
            "spec.rules[0].sessionPersistence.idleTimeout: must be longer than 0s",
            "spec.rules[0].sessionPersistence.absoluteTimeout: is required for a Permanent cookie",
            "spec.rules[0].sessionPersistence.cookieConfig: means something with the type Cookie alone",
        ],
    );
    assert_problems(
        &route(
            "  - filters: [{type: URLRewrite, urlRewrite: {hostname: a_b, path: {type: ReplaceFullPath, replaceFullPath: x}}}]\n  - filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: '/a?b'}}}]\n",
        ),
        &[
            "spec.rules[0].filters[0].urlRewrite.hostname: ",
            "spec.rules[0].filters[0].urlRewrite.path.replaceFullPath: \"x\" is not a path",
            "spec.rules[1].filters[0].urlRewrite.path.replacePrefixMatch: \"/a?b\" is not a path",
        ],
    );
    let long = "'https://a/b', 'https://a.*.b', a.b, 'https://*.a:0'";
    assert_problems(
        &route(&format!(
            "  - filters: [{{type: CORS, cors: {{allowOrigins: [{long}], allowHeaders: ['a b'], exposeHeaders: ['*', a], maxAge: 0}}}}]\n"
        )),
        &[
            "spec.rules[0].filters[0].cors.exposeHeaders: must not have other entries beside \"*\"",
            "spec.rules[0].filters[0].cors.allowOrigins[0]: \"https://a/b\" is not an origin",
            "spec.rules[0].filters[0].cors.allowOrigins[1]: \"https://a.*.b\" is not an origin",
            "spec.rules[0].filters[0].cors.allowOrigins[2]: \"a.b\" is not an origin",
            "spec.rules[0].filters[0].cors.allowOrigins[3]: \"https://*.a:0\" is not an origin",
            "spec.rules[0].filters[0].cors.allowHeaders[0]: \"a b\" is not a name",
            "spec.rules[0].filters[0].cors.maxAge: must be 1 second or more",
        ],
    );
    accepted(&route(
        "  - filters: [{type: CORS, cors: {allowOrigins: ['https://*.a.example:8443', 'http://*', 'http://[::1]:80', 'app://x'], allowMethods: ['*'], allowHeaders: ['*'], exposeHeaders: ['*']}}]\n",
    ));
    accepted(&route(
        "  - filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}}]\n",
    ));
    assert_eq!(
        warnings(&route(
            "  - filters: [{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: FaultInjection, name: b}}]\n",
        )),
        [""; 0]
    );
    let warned = warnings(&route(
        "  - filters: [{type: ExtensionRef, extensionRef: {group: a.example, kind: Magic, name: b}}]\n",
    ));
    assert!(
        warned[0].starts_with("spec.rules[0].filters[0].extensionRef: Magic \"b\" is not known here"),
        "{warned:?}"
    );
}

#[test]
fn unknown_fields_are_told_with_the_rest() {
    assert_problems(
        &route("  - backendRef: []\n    backendRefs: [{name: a, weigth: 3}]\n"),
        &[
            "spec.rules[0].backendRef: is not a field here; did you mean \"backendRefs\"?",
            "spec.rules[0].backendRefs[0].weigth: is not a field here; did you mean \"weight\"?",
            "spec.rules[0].backendRefs[0].port: is required for a Service",
        ],
    );
}

#[test]
fn a_printed_route_is_read_as_the_same_route() {
    let Resource::HttpRoute(once) = accepted(&route(
        "  - name: canary\n    matches: [{path: {type: Exact, value: /pay}, method: POST, headers: [{name: x, value: y}]}]\n    backendRefs: [{name: v1, port: 80, weight: 90}, {name: v2, port: 80, weight: 10}]\n    timeouts: {request: 10s}\n    retry: {attempts: 2, codes: [503]}\n",
    )) else {
        panic!("another kind")
    };
    let printed = Resource::HttpRoute(once.clone()).to_value().to_string();
    assert_eq!(accepted(&printed), Resource::HttpRoute(once));
}
