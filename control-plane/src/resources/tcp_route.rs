//! `TCPRoute`: the defaults and the rules that its CRD gives an API server.

use gateway_api::experimental::tcproutes::TcpRoute;

use super::as_http;
use super::http_route::{self, GATEWAY_GROUP};
use super::{Admission, FieldPath, Problems};

impl Admission for TcpRoute {
    fn fill_defaults(&mut self) {
        self.status = None;
        for parent in self.spec.parent_refs.iter_mut().flatten() {
            parent.group.get_or_insert_with(|| GATEWAY_GROUP.to_owned());
            parent.kind.get_or_insert_with(|| "Gateway".to_owned());
        }
        for backend in self.spec.rules.iter_mut().flat_map(|rule| &mut rule.backend_refs) {
            backend.group.get_or_insert_default();
            backend.kind.get_or_insert_with(|| "Service".to_owned());
            backend.weight.get_or_insert(1);
        }
    }

    fn check(&self, problems: &mut Problems) {
        let twin = as_http::of_tcp(self);
        let path = FieldPath::root().field("spec");
        http_route::check_frame(&twin, &path, problems);
        let path = path.field("rules");
        if self.spec.rules.len() != 1 {
            problems.error(&path, format!("must have one entry, not {}", self.spec.rules.len()));
        }
        for (index, rule) in twin.spec.rules.iter().flatten().enumerate().take(1) {
            let path = path.index(index);
            if rule.backend_refs.as_ref().is_none_or(Vec::is_empty) {
                problems.error(&path.field("backendRefs"), "must name at least one backend");
            }
            http_route::check_rule_apart_from_matches(rule, &path, problems);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::resources::tests::{accepted, assert_problems};

    fn route(version: &str, rules: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/{version}\nkind: TCPRoute\nmetadata: {{name: db, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: db}}]\n  rules: {rules}"
        )
    }

    #[test]
    fn defaults_are_those_of_the_crd() {
        for version in ["v1", "v1alpha2"] {
            let value = accepted(&route(version, "[{backendRefs: [{name: a, port: 5432}]}]")).to_value();
            assert_eq!(value["apiVersion"], "gateway.networking.k8s.io/v1");
            let backend = json!({"group": "", "kind": "Service", "name": "a", "port": 5432, "weight": 1});
            assert_eq!(value["spec"]["rules"], json!([{ "backendRefs": [backend] }]));
        }
    }

    #[test]
    fn what_the_crd_refuses_is_refused_with_its_field() {
        let rule = "{backendRefs: [{name: a, port: 1}]}";
        for (rules, expected) in [
            ("[]".to_owned(), "spec.rules: must have one entry, not 0"),
            (format!("[{rule}, {rule}]"), "spec.rules: must have one entry, not 2"),
            ("[{backendRefs: []}]".to_owned(), "spec.rules[0].backendRefs: must name at least one"),
            ("[{backendRefs: [{name: a}]}]".to_owned(), "spec.rules[0].backendRefs[0].port: is required"),
            (
                "[{backendRefs: [{name: a, port: 1, weight: -1}]}]".to_owned(),
                "spec.rules[0].backendRefs[0].weight: -1 is out of range",
            ),
        ] {
            assert_problems(&route("v1", &rules), &[expected]);
        }
    }
}
