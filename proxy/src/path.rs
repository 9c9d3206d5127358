//! Brings the path of a request to its normal form, before a route or a rule looks at it and it is passed on.

use http::Uri;
use http::uri::PathAndQuery;
use outrigger_api::path::normalized;

use crate::failure::Failure;

/// Replaces the path by its normal form, and says whether it had another. One that has it, as most have, costs one
/// look; the query stays.
///
/// # Errors
/// [`Failure::BadRequest`]: the form is longer than a target may be.
pub(crate) fn normalize(uri: &mut Uri) -> Result<bool, Failure> {
    let Some(mut target) = normalized(uri.path()) else { return Ok(false) };
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| Failure::BadRequest)?);
    *uri = Uri::from_parts(parts).map_err(|_| Failure::BadRequest)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_is_brought_to_its_form() {
        for (sent, expected) in [
            ("/a?x=//y/../%41", "/a?x=//y/../%41"),
            ("/a/../b?x=%2e%2e/", "/b?x=%2e%2e/"),
            ("http://web.shop:80//a/./b", "http://web.shop:80/a/b"),
            ("*", "*"),
            ("//evil.example/x", "/evil.example/x"),
        ] {
            let mut uri: Uri = sent.parse().unwrap();
            normalize(&mut uri).unwrap();
            assert_eq!(uri.to_string(), expected);
        }
    }
}
