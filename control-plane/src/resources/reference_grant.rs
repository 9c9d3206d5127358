//! `ReferenceGrant`: the rules that its CRD gives an API server.
//!
//! Kinds that are not known here are kept: a grant may be about what another implementation routes to.

use gateway_api::experimental::referencegrants::ReferenceGrant;

use super::metadata::is_label_key;
use super::{Admission, FieldPath, Problems};

/// The bound of the CRD's schema, for each of the lists.
const MOST_ENTRIES: usize = 16;

impl Admission for ReferenceGrant {
    fn check(&self, problems: &mut Problems) {
        let path = FieldPath::root().field("spec");
        let (from, to) = (path.field("from"), path.field("to"));
        for (path, entries) in [(&from, self.spec.from.len()), (&to, self.spec.to.len())] {
            if entries == 0 {
                problems.error(path, "must have at least one entry; a grant of nothing is no grant");
            }
            problems.check_count(path, entries, MOST_ENTRIES);
        }
        for (index, entry) in self.spec.from.iter().enumerate().take(MOST_ENTRIES) {
            let path = from.index(index);
            check_kind(&entry.group, &entry.kind, &path, problems);
            problems.check_label(&path.field("namespace"), &entry.namespace);
        }
        for (index, entry) in self.spec.to.iter().enumerate().take(MOST_ENTRIES) {
            let path = to.index(index);
            check_kind(&entry.group, &entry.kind, &path, problems);
            if let Some(name) = &entry.name {
                problems.check_subdomain(&path.field("name"), name);
            }
        }
    }
}

fn check_kind(group: &str, kind: &str, path: &FieldPath, problems: &mut Problems) {
    if group == "core" {
        problems.error(&path.field("group"), "must be \"\" for the core group");
    } else if !group.is_empty() {
        problems.check_subdomain(&path.field("group"), group);
    }
    if kind.contains('/') || !is_label_key(kind) {
        problems.error(&path.field("kind"), format!("{kind:?} is not the name of a kind"));
    }
}

#[cfg(test)]
mod tests {
    use crate::resources::tests::{accepted, assert_problems};

    fn grant(version: &str, spec: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/{version}\nkind: ReferenceGrant\n\
             metadata: {{name: g, namespace: shop}}\nspec: {spec}"
        )
    }

    #[test]
    fn both_versions_are_kept_as_the_newer() {
        let spec = "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: web}], to: [{group: '', kind: Service}]}";
        for version in ["v1", "v1beta1"] {
            let value = accepted(&grant(version, spec)).to_value();
            assert_eq!(value["apiVersion"], "gateway.networking.k8s.io/v1");
            assert_eq!(value["spec"]["to"][0]["kind"], "Service");
        }
    }

    #[test]
    fn what_the_crd_refuses_is_refused_with_its_field() {
        let from = "{group: g, kind: HTTPRoute, namespace: web}";
        let to = "{group: '', kind: Service}";
        for (spec, expected) in [
            (format!("{{from: [], to: [{to}]}}"), "spec.from: must have at least one entry"),
            (format!("{{from: [{from}], to: []}}"), "spec.to: must have at least one entry"),
            (
                format!("{{from: [{from}], to: [{}]}}", [to; 17].join(", ")),
                "spec.to: must not have more than 16",
            ),
            (
                format!("{{from: [{{group: g, kind: A, namespace: B}}], to: [{to}]}}"),
                "spec.from[0].namespace: ",
            ),
            (format!("{{from: [{{group: G, kind: A, namespace: b}}], to: [{to}]}}"), "spec.from[0].group: "),
            (format!("{{from: [{{group: g, kind: a/b, namespace: b}}], to: [{to}]}}"), "spec.from[0].kind: "),
            (format!("{{from: [{{group: g, kind: A}}], to: [{to}]}}"), "spec.from[0].namespace: is required"),
            (
                format!("{{from: [{from}], to: [{{group: core, kind: Service}}]}}"),
                "spec.to[0].group: must be \"\"",
            ),
            (format!("{{from: [{from}], to: [{{group: '', kind: Service, name: A}}]}}"), "spec.to[0].name: "),
        ] {
            assert_problems(&grant("v1", &spec), &[expected]);
        }
    }
}
