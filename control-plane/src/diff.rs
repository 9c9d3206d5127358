//! What a change does to a document, as people read it: a unified diff of YAML.

use std::time::Duration;

use similar::TextDiff;

use crate::resources::Resource;

/// A diff that takes longer is finished with larger pieces.
const PATIENCE: Duration = Duration::from_millis(200);

/// The difference between a document before and after, with three lines around each change; empty where there is
/// none. What only the store decides (version, generation) is left out.
pub fn unified(old: Option<&Resource>, new: Option<&Resource>) -> String {
    let Some(key) = old.or(new).map(Resource::key) else { return String::new() };
    let (before, after) = (yaml(old), yaml(new));
    if before == after {
        return String::new();
    }
    let name = |side: Option<&Resource>| match side {
        Some(_) => key.to_string(),
        None => "/dev/null".to_owned(),
    };
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(before.as_str(), after.as_str());
    diff.unified_diff().header(&name(old), &name(new)).to_string()
}

/// A document as a user would write it.
pub fn yaml(resource: Option<&Resource>) -> String {
    let Some(resource) = resource else { return String::new() };
    let mut value = resource.to_value();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        for field in ["creationTimestamp", "generation", "resourceVersion", "uid"] {
            metadata.remove(field);
        }
    }
    serde_yaml_ng::to_string(&value).unwrap_or_else(|_| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{Format, parse};

    fn service(port: u16) -> Resource {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}\n"
        );
        parse(&text, Format::Yaml).unwrap().documents.remove(0).resource
    }

    #[test]
    fn a_change_shows_the_lines_that_differ() {
        let text = unified(Some(&service(80)), Some(&service(81)));
        assert!(text.starts_with("--- Service shop/web\n+++ Service shop/web\n"), "{text}");
        assert!(text.contains("\n-  - port: 80\n+  - port: 81\n"), "{text}");
    }

    #[test]
    fn what_is_new_or_gone_is_compared_with_nothing() {
        assert!(unified(None, Some(&service(80))).starts_with("--- /dev/null\n+++ Service shop/web\n"));
        assert!(unified(Some(&service(80)), None).starts_with("--- Service shop/web\n+++ /dev/null\n"));
        assert_eq!(unified(Some(&service(80)), Some(&service(80))), "");
    }
}
