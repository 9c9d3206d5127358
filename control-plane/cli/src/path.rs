//! The REST API's paths, and the names that may become part of one.

use outrigger_control_plane::resources::{Kind, Scope};

/// The path of one document.
pub(crate) fn document(kind: Kind, namespace: &str, name: &str) -> String {
    match kind.scope() {
        Scope::Namespaced => format!("/v1/namespaces/{namespace}/{}/{name}", kind.plural()),
        Scope::Cluster => format!("/v1/{}/{name}", kind.plural()),
    }
}

/// The path of all documents of a kind, in one namespace or in every one.
pub(crate) fn list(kind: Kind, namespace: Option<&str>) -> String {
    match (kind.scope(), namespace) {
        (Scope::Namespaced, Some(namespace)) => format!("/v1/documents?kind={kind}&namespace={namespace}"),
        _ => format!("/v1/documents?kind={kind}"),
    }
}

/// Reads the name of a document or namespace: only what may be in a name may become part of a path.
///
/// # Errors
/// Says what a name may consist of.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let is_label = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if (1..=253).contains(&text.len()) && text.bytes().all(allowed) && text.split('.').all(is_label) {
        Ok(text.to_owned())
    } else {
        Err("a name is 1 to 253 of a-z, 0-9, '-' and '.', with no '-' or '.' at either end".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_config_has_no_namespace_in_its_path() {
        assert_eq!(document(Kind::HttpRoute, "shop", "web"), "/v1/namespaces/shop/httproutes/web");
        assert_eq!(document(Kind::MeshConfig, "shop", "mesh"), "/v1/meshconfigs/mesh");
        assert_eq!(list(Kind::Service, None), "/v1/documents?kind=Service");
        assert_eq!(list(Kind::Service, Some("shop")), "/v1/documents?kind=Service&namespace=shop");
        assert_eq!(list(Kind::MeshConfig, Some("shop")), "/v1/documents?kind=MeshConfig");
    }

    #[test]
    fn a_name_cannot_leave_its_place_in_a_path() {
        for bad in ["", "a/b", "..", "a..b", "-a", "a-", "A", "a?b", "a b", "a%2fb", &"a".repeat(254)] {
            assert!(parse_name(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "payments-v1", "a.b", "9"] {
            assert_eq!(parse_name(good).as_deref(), Ok(good));
        }
    }
}
