//! The API keys that a port takes.

use outrigger_api::v1;

use super::problem::{Path, Problems};
use super::routes::header_name;
use crate::api_key::{ApiKey, ApiKeys};

/// Keys of one port.
const MOST: usize = 1024;

pub(super) fn api_keys(raw: &v1::ApiKeys, path: &Path<'_>, problems: &mut Problems) -> Option<ApiKeys> {
    let list = path.field("keys");
    if raw.keys.len() > MOST {
        problems.add(&list, format!("has {} entries, over {MOST}", raw.keys.len()));
    }
    let mut keys = Vec::with_capacity(raw.keys.len().min(MOST));
    for (index, raw) in raw.keys.iter().take(MOST).enumerate() {
        match <[u8; 32]>::try_from(raw.sha256.as_slice()) {
            Ok(sha256) => keys.push(ApiKey { name: raw.name.as_str().into(), sha256 }),
            Err(_) => problems.add(
                &list.index(index).field("sha256"),
                format!("has {} bytes, not the 32 of a SHA-256", raw.sha256.len()),
            ),
        }
    }
    let header = header_name(&raw.header, &path.field("header"), problems)?;
    Some(ApiKeys { header, keys, required: raw.required })
}
