//! The rules for names, labels and annotations that every kind shares, as an API server keeps them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{Schema, json_schema};

use super::kind::Scope;
use super::{FieldPath, Kind, Problems};

/// All annotations of a document together, keys included.
const MOST_ANNOTATION_BYTES: usize = 256 * 1024;

/// Whether `text` is a DNS label: 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end (RFC 1123).
pub(crate) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether `text` is DNS labels joined by dots, at most 253 bytes (RFC 1123 subdomain).
pub(crate) fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// Whether `text` may name a label: up to 63 of letters, digits, `-`, `_` and `.`, a letter or digit at either end.
fn is_qualified_name(text: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && end(bytes.first())
        && end(bytes.last())
}

/// Whether `text` is `[PREFIX/]NAME`, the form of keys of labels and annotations, and of `appProtocol`.
pub(crate) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified_name(name),
        None => is_qualified_name(text),
    }
}

/// The JSON schema of the metadata that documents may carry: what a user writes, and what the store adds, which
/// is ignored when it is written (but `resourceVersion` and `uid`, which must be current).
pub(crate) fn schema() -> Schema {
    let text_map = |what: &str| serde_json::json!({ "type": ["object", "null"], "description": what, "additionalProperties": { "type": "string" } });
    let ignored = "Kept by the store; ignored when written.";
    json_schema!({
        "type": "object",
        "description": "What names the document, and what the store keeps about it.",
        "required": ["name"],
        "properties": {
            "name": { "type": "string", "description": "Unique within kind and namespace." },
            "namespace": { "type": "string", "description": "Default: `default`. Absent for kinds without namespace." },
            "labels": text_map("Key and value to select documents by."),
            "annotations": text_map("Key and value of any use to tools."),
            "resourceVersion": {
                "type": "string",
                "description": "Changes with every change. When written, the document must still have it.",
            },
            "uid": { "type": "string", "description": "Told apart from namesakes. When written, it must be the document's." },
            "generation": { "type": "integer", "description": ignored },
            "creationTimestamp": { "type": ["string", "null"], "format": "date-time", "description": ignored },
            "managedFields": { "type": "array", "description": ignored, "items": {} },
            "selfLink": { "type": "string", "description": ignored },
        },
    })
}

impl Problems {
    /// Refuses what is no DNS label.
    pub(crate) fn check_label(&mut self, path: &FieldPath, text: &str) {
        if !is_label(text) {
            self.error(
                path,
                format!("{text:?} is not a DNS label: 1 to 63 of a-z, 0-9 and '-', no '-' at either end"),
            );
        }
    }

    /// Refuses what is no DNS subdomain.
    pub(crate) fn check_subdomain(&mut self, path: &FieldPath, text: &str) {
        if !is_subdomain(text) {
            self.error(
                path,
                format!("{text:?} is not a DNS name: up to 253 of a-z, 0-9, '-' and '.', each part starting and ending with a letter or digit"),
            );
        }
    }

    /// Checks what every kind's metadata must be.
    pub(crate) fn check_metadata(&mut self, kind: Kind, metadata: &ObjectMeta) {
        let path = FieldPath::root().field("metadata");
        let name = metadata.name.as_deref().unwrap_or_default();
        match kind {
            Kind::Service => self.check_label(&path.field("name"), name),
            _ => self.check_subdomain(&path.field("name"), name),
        }
        match (kind.scope(), metadata.namespace.as_deref()) {
            (Scope::Namespaced, namespace) => {
                self.check_label(&path.field("namespace"), namespace.unwrap_or_default());
            }
            (Scope::Cluster, Some(_)) => {
                self.error(&path.field("namespace"), format!("must be left out: {kind} is in no namespace"));
            }
            (Scope::Cluster, None) => {}
        }
        if let Some(version) = &metadata.resource_version
            && version.parse::<u64>().is_err()
        {
            self.error(
                &path.field("resourceVersion"),
                format!("{version:?} was never given out here; leave it out, or write what `get` shows"),
            );
        }
        self.check_labels(&path, metadata);
    }

    fn check_labels(&mut self, path: &FieldPath, metadata: &ObjectMeta) {
        const KEY: &str =
            "is no valid key: write NAME or PREFIX/NAME, the name up to 63 letters, digits, '-', '_' and '.'";
        for (key, value) in metadata.labels.iter().flatten() {
            let path = path.field("labels").field(key);
            if !is_label_key(key) {
                self.error(&path, KEY);
            }
            if !value.is_empty() && !is_qualified_name(value) {
                self.error(&path, format!("{value:?} is no label value: up to 63 letters, digits, '-', '_' and '.', a letter or digit at either end"));
            }
        }
        let mut bytes = 0;
        for (key, value) in metadata.annotations.iter().flatten() {
            if !is_label_key(&key.to_ascii_lowercase()) {
                self.error(&path.field("annotations").field(key), KEY);
            }
            bytes += key.len() + value.len();
        }
        if bytes > MOST_ANNOTATION_BYTES {
            self.error(
                &path.field("annotations"),
                format!("must not be longer than {MOST_ANNOTATION_BYTES} bytes together"),
            );
        }
    }
}
