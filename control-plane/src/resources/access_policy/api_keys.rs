//! The API keys that callers may bring, known by their SHA-256 sums.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::has_meaning;
use crate::resources::http_route::check_name;
use crate::resources::{FieldPath, Problems};

/// Where keys stand where nothing is said.
const HEADER: &str = "x-api-key";
/// The sum of nothing at all.
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The API keys that callers may bring. The application is told of none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKeys {
    /// The header whose value is the key. Default: `x-api-key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Refuses requests without a key. One that is there and unknown is refused in any case. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// The keys.
    #[schemars(length(min = 1, max = 1024))]
    pub keys: Vec<ApiKey>,
}

/// One key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKey {
    /// What rules and limits call whoever has it: a DNS label. Keys of one name are as good as each other, so that one can
    /// follow another.
    pub name: String,
    /// The SHA-256 sum of the key, in hexadecimal digits (`printf %s KEY | sha256sum`). A key should be 32 random
    /// characters or more: the sum of a word can be found by trying.
    pub sha256: String,
}

impl ApiKeys {
    pub(super) fn check(&self, path: &FieldPath, problems: &mut Problems) {
        if let Some(header) = &self.header {
            let path = path.field("header");
            check_name(header, &path, problems);
            if has_meaning(&header.to_ascii_lowercase()) {
                problems.error(&path, "means something else than a key");
            }
        }
        for (index, key) in self.keys.iter().enumerate() {
            let path = path.field("keys").index(index);
            problems.check_label(&path.field("name"), &key.name);
            let path = path.field("sha256");
            match key.sum() {
                None => problems.error(&path, "must be the 64 hexadecimal digits of a SHA-256 sum"),
                Some(_) if key.sha256.eq_ignore_ascii_case(OF_NOTHING) => {
                    problems.error(&path, "is the sum of an empty key");
                }
                Some(sum) if self.keys[..index].iter().any(|earlier| earlier.sum() == Some(sum)) => {
                    problems.error(&path, "is that of an earlier key");
                }
                Some(_) => {}
            }
        }
    }

    /// Where a key stands, in lower case.
    pub(crate) fn header(&self) -> String {
        self.header.as_deref().unwrap_or(HEADER).to_ascii_lowercase()
    }
}

impl ApiKey {
    /// The sum as bytes. `None`: it is none.
    pub(crate) fn sum(&self) -> Option<[u8; 32]> {
        let digits = self.sha256.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut sum = [0; 32];
        for (byte, pair) in sum.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::tests::{accepted, assert_problems};

    const SUM: &str = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";

    fn policy(keys: &str) -> String {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: keys, namespace: shop}}\n\
             spec: {{targetRefs: [{{name: web}}], apiKeys: {keys}}}\n"
        )
    }

    #[test]
    fn a_key_is_a_name_and_a_sum() {
        accepted(&policy(&format!("{{keys: [{{name: phone, sha256: {SUM}}}]}}")));
        assert_problems(
            &policy(&format!(
                "{{header: Host, keys: [{{name: A b, sha256: {SUM}}}, {{name: a, sha256: abc}}, \
                 {{name: b, sha256: {OF_NOTHING}}}, {{name: c, sha256: {}}}]}}",
                SUM.to_uppercase()
            )),
            &[
                "spec.apiKeys.header: means something else",
                "spec.apiKeys.keys[0].name: ",
                "spec.apiKeys.keys[1].sha256: must be the 64",
                "spec.apiKeys.keys[2].sha256: is the sum of an empty key",
                "spec.apiKeys.keys[3].sha256: is that of an earlier key",
            ],
        );
        assert_problems(&policy("{keys: []}"), &["spec.apiKeys.keys: "]);
    }

    #[test]
    fn a_sum_is_read_digit_by_digit() {
        let sum = |text: &str| ApiKey { name: String::new(), sha256: text.to_owned() }.sum();
        assert_eq!(sum(SUM).unwrap()[..3], [0x76, 0x92, 0xc3]);
        assert_eq!(sum(SUM), sum(&SUM.to_uppercase()));
        for wrong in ["", &SUM[1..], &SUM.replace('7', "g"), &format!("+1{}", &SUM[2..])] {
            assert_eq!(sum(wrong), None, "{wrong}");
        }
    }
}
