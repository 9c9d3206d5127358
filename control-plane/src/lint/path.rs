//! Paths that no request has: every path is brought to its normal form before a route or a limit looks at it. (An
//! AccessPolicy with such a path is refused.)

use outrigger_api::path::normalized;
use serde_json::Value;

use super::{Findings, Subject, spec};
use crate::resources::{FieldPath, Kind, PathNormalization, ResourceKey};

pub(super) fn look(subject: &Subject, findings: &mut Findings) {
    let mesh = subject.documents.mesh_config.as_ref();
    if mesh.is_some_and(|mesh| mesh.spec.path_normalization == Some(PathNormalization::None)) {
        return;
    }
    for (kind, list) in [(Kind::HttpRoute, "rules"), (Kind::RateLimitPolicy, "limits")] {
        for document in subject.of_kind(kind) {
            let (key, value) = (document.key(), document.to_value());
            for (index, rule) in value["spec"][list].as_array().into_iter().flatten().enumerate() {
                look_at(rule, &spec().field(list).index(index), &key, findings);
            }
        }
    }
}

fn look_at(rule: &Value, path: &FieldPath, key: &ResourceKey, findings: &mut Findings) {
    for (index, found) in rule["matches"].as_array().into_iter().flatten().enumerate() {
        let Some(value) = found["path"]["value"].as_str() else { continue };
        if found["path"]["type"].as_str() == Some("RegularExpression") {
            continue;
        }
        if let Some(normal) = normalized(value) {
            let path = path.field("matches").index(index).field("path").field("value");
            let message = format!(
                "no request has a path with {value:?}: paths are brought to their normal form first; write {normal:?}"
            );
            findings.add(key, path, message);
        }
    }
}
