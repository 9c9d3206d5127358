//! What a rule of an HTTPRoute may match on: paths, headers, query parameters.

use gateway_api::experimental::httproutes::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeaders, HttpRouteRulesMatchesHeadersType,
    HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType, HttpRouteRulesMatchesQueryParamsType,
};

use crate::resources::{FieldPath, Problems};

const MOST_HEADERS: usize = 16;
const MOST_PATH_BYTES: usize = 1024;
const MOST_HEADER_VALUE_BYTES: usize = 4096;
const MOST_QUERY_VALUE_BYTES: usize = 1024;
/// A compiled pattern larger than this is a mistake, or an attack on every proxy's memory.
const MOST_REGEX_BYTES: usize = 64 * 1024;

pub(in crate::resources) fn check_match(
    found: &HttpRouteRulesMatches,
    path: &FieldPath,
    problems: &mut Problems,
) {
    if let Some(matched) = &found.path {
        check_path(matched, &path.field("path"), problems);
    }
    let headers = found.headers.as_deref().unwrap_or_default();
    check_header_matches(headers, &path.field("headers"), problems);
    let parameters = found.query_params.as_deref().unwrap_or_default();
    problems.check_count(&path.field("queryParams"), parameters.len(), MOST_HEADERS);
    for (index, parameter) in parameters.iter().enumerate() {
        let path = path.field("queryParams").index(index);
        check_name(&parameter.name, &path.field("name"), problems);
        let is_regex = parameter.r#type == Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression);
        check_value(&parameter.value, is_regex, MOST_QUERY_VALUE_BYTES, &path.field("value"), problems);
        if parameters[..index].iter().any(|earlier| earlier.name == parameter.name) {
            problems.error(&path.field("name"), format!("{:?} is listed a second time", parameter.name));
        }
    }
}

pub(in crate::resources) fn check_header_matches(
    headers: &[HttpRouteRulesMatchesHeaders],
    path: &FieldPath,
    problems: &mut Problems,
) {
    problems.check_count(path, headers.len(), MOST_HEADERS);
    for (index, header) in headers.iter().enumerate() {
        let path = path.index(index);
        check_name(&header.name, &path.field("name"), problems);
        let is_regex = header.r#type == Some(HttpRouteRulesMatchesHeadersType::RegularExpression);
        check_value(&header.value, is_regex, MOST_HEADER_VALUE_BYTES, &path.field("value"), problems);
        let earlier = &headers[..index];
        if earlier.iter().any(|earlier| earlier.name == header.name) {
            problems.error(&path.field("name"), format!("{:?} is listed a second time", header.name));
        } else if earlier.iter().any(|earlier| earlier.name.eq_ignore_ascii_case(&header.name)) {
            problems.warning(&path, format!("has no effect: the first entry for {:?} counts", header.name));
        }
    }
}

fn check_path(matched: &HttpRouteRulesMatchesPath, path: &FieldPath, problems: &mut Problems) {
    let value = matched.value.as_deref().unwrap_or_default();
    let path = path.field("value");
    if value.len() > MOST_PATH_BYTES {
        problems.error(&path, format!("must not be longer than {MOST_PATH_BYTES} bytes"));
    } else if matched.r#type == Some(HttpRouteRulesMatchesPathType::RegularExpression) {
        check_regex(value, &path, problems);
    } else {
        check_literal_path(value, &path, problems);
    }
}

/// The CRD's rules for Exact and PathPrefix: a path that normalisation would change could never match.
pub(in crate::resources) fn check_literal_path(value: &str, path: &FieldPath, problems: &mut Problems) {
    if !value.starts_with('/') {
        problems.error(path, format!("{value:?} must start with '/'"));
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if value.contains(part) {
            problems.error(path, format!("{value:?} must not contain {part:?}"));
        }
    }
    for end in ["/.", "/.."] {
        if value.ends_with(end) {
            problems.error(path, format!("{value:?} must not end with {end:?}"));
        }
    }
    if !has_path_characters_only(value) {
        problems.error(path, format!("{value:?} has a character that no path has; write it percent-encoded"));
    }
}

fn has_path_characters_only(value: &str) -> bool {
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let fine = match byte {
            b'%' => {
                let mut hex = || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
                hex() && hex()
            }
            // '#' has a message of its own.
            byte => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@#".contains(&byte),
        };
        if !fine {
            return false;
        }
    }
    true
}

/// Refuses what is no field name (RFC 9110 section 5.1); the Gateway API gives query parameters the same form.
pub(crate) fn check_name(name: &str, path: &FieldPath, problems: &mut Problems) {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !(1..=256).contains(&name.len()) || !name.bytes().all(is_token) {
        problems.error(path, format!("{name:?} is not a name: 1 to 256 letters, digits and !#$%&'*+-.^_`|~"));
    }
}

fn check_value(value: &str, is_regex: bool, most: usize, path: &FieldPath, problems: &mut Problems) {
    if !(1..=most).contains(&value.len()) {
        problems.error(path, format!("must have 1 to {most} bytes"));
    } else if is_regex {
        check_regex(value, path, problems);
    }
}

pub(in crate::resources) fn check_regex(value: &str, path: &FieldPath, problems: &mut Problems) {
    // Anchored as the proxy will use it: the whole text has to match.
    let whole = format!("^(?:{value})$");
    let compiled = regex::RegexBuilder::new(&whole).size_limit(MOST_REGEX_BYTES).build();
    // Read alone as well, so that no parenthesis of it closes ours.
    if let Err(error) = regex::Regex::new(value).and(compiled) {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim();
        problems.error(path, format!("{value:?} is no regular expression that can be used: {reason}"));
    }
}
