//! The one form of a path that policy is written for and requests are brought to.
//!
//! Whoever can spell a path in two ways can go around a rule about it. So there are two steps, and both planes take
//! them with the same code:
//!
//! - [`normalized`] gives the normal form (RFC 3986 section 6.2.2, and no empty segment but the last): dot segments are
//!   resolved, slashes merged, unreserved characters decoded, `%xx` written `%XX`, and what may not stand in a path
//!   encoded, but for what clients send as it is all the same (`[ ] | ^ { } "`). A backslash is not among these: browsers
//!   and some servers take it for a slash. Routes match this form and the application gets it.
//! - [`decoded`] is what access rules compare, with a pattern decoded alike: the normal form without any percent-encoding.
//!   A path that could still be read in two ways (an encoded slash, a backslash, a control character) has none.

use std::borrow::Cow;

/// Why a path has no decoded form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// It was not brought to its normal form.
    #[error("is not in its normal form")]
    NotNormal,
    /// `%2F`, which some servers take for a slash.
    #[error("has an encoded slash")]
    Slash,
    /// A backslash, encoded or not, which some servers take for a slash.
    #[error("has a backslash")]
    Backslash,
    /// A control character.
    #[error("has a control character")]
    Control,
    /// What it encodes is not UTF-8.
    #[error("does not encode UTF-8")]
    Utf8,
    /// A segment such as `..;x`, which some servers take for `..`.
    #[error("has a dot segment with a parameter")]
    DotParameter,
}

/// The normal form of `path`; `None` where it has it already, which is found in one look.
pub fn normalized(path: &str) -> Option<String> {
    if is_plain(path) || !path.starts_with('/') {
        return None;
    }
    let mut bytes = Vec::with_capacity(path.len() + 8);
    recode(path.as_bytes(), &mut bytes);
    let recoded = String::from_utf8(bytes).expect("what is not ASCII was encoded");
    let resolved = resolve(&recoded);
    (resolved != path).then_some(resolved)
}

/// The text of `path` as rules compare it.
///
/// # Errors
/// What makes it ambiguous.
pub fn decoded(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    if path.contains('\\') {
        return Err(Ambiguous::Backslash);
    }
    if normalized(path).is_some() {
        return Err(Ambiguous::NotNormal);
    }
    let text = if path.contains('%') { Cow::Owned(plain(path)?) } else { Cow::Borrowed(path) };
    let hides_dots = |segment: &str| matches!(segment.split_once(';'), Some(("." | "..", _)));
    if text.split('/').any(hides_dots) { Err(Ambiguous::DotParameter) } else { Ok(text) }
}

fn plain(path: &str) -> Result<String, Ambiguous> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let byte = hex(after).ok_or(Ambiguous::NotNormal)?;
        rest = &after[2..];
        match byte {
            b'/' => return Err(Ambiguous::Slash),
            b'\\' => return Err(Ambiguous::Backslash),
            ..0x20 | 0x7f => return Err(Ambiguous::Control),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| Ambiguous::Utf8)
}

/// Whether nothing in `path` can need a change. Most paths; errs on the side of a second look. Every request comes by, so
/// there is no branch but the loop's.
fn is_plain(path: &str) -> bool {
    let (mut seen, mut before) = (0, 0);
    for &byte in path.as_bytes() {
        let look = LOOKS[byte as usize];
        seen |= look & (CHANGES | before << 1);
        before = look & SLASH;
    }
    seen == 0
}

/// Is never found in a normal form as it is.
const CHANGES: u8 = 1 << 2;
/// Is not found after a slash.
const NOT_AFTER: u8 = 1 << 1;
const SLASH: u8 = 1;

const LOOKS: [u8; 256] = {
    let mut looks = [CHANGES; 256];
    let mut byte = 0;
    while byte < 256 {
        if STAYS[byte] {
            looks[byte] = 0;
        }
        byte += 1;
    }
    looks[b'/' as usize] = SLASH | NOT_AFTER;
    looks[b'.' as usize] = NOT_AFTER;
    looks
};

/// What may stand in a path as it is (RFC 3986 section 3.3), and what clients send as it is all the same.
const STAYS: [bool; 256] = {
    let mut stays = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let character = byte as u8;
        stays[byte] = is_unreserved(character)
            || matches!(
                character,
                b'/' | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b':'
                    | b'@'
            )
            || matches!(character, b'[' | b']' | b'|' | b'^' | b'`' | b'{' | b'}' | b'"' | b'<' | b'>');
        byte += 1;
    }
    stays
};

/// RFC 3986 section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// One spelling of each character: unreserved ones decoded, the others encoded with capital digits.
fn recode(path: &[u8], out: &mut Vec<u8>) {
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, hex(after)) {
            (b'%', Some(meant)) => {
                rest = &after[2..];
                if is_unreserved(meant) { out.push(meant) } else { encode(meant, out) }
            }
            // It encodes nothing, and must not come to encode something by what is decoded behind it.
            (b'%', None) => encode(b'%', out),
            (byte, _) if STAYS[byte as usize] => out.push(byte),
            (byte, _) => encode(byte, out),
        }
    }
}

fn encode(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// The byte that two digits name.
fn hex(text: &[u8]) -> Option<u8> {
    let [high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(*high)? << 4 | digit(*low)?) as u8)
}

/// Without empty segments and dot segments; what leads above the root stays at the root.
fn resolve(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/') {
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in &segments {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if directory || segments.is_empty() {
        resolved.push('/');
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_comes_to_one_form() {
        for (sent, normal) in [
            ("/", "/"),
            ("*", "*"),
            ("", ""),
            ("/a/b.c/.d/..e", "/a/b.c/.d/..e"),
            ("//", "/"),
            ("/a//b///c", "/a/b/c"),
            ("/a/./b/.", "/a/b/"),
            ("/a/../admin", "/admin"),
            ("/../../admin", "/admin"),
            ("/a/b/..", "/a/"),
            ("/a/..", "/"),
            ("/%61dmin", "/admin"),
            ("/a/%2e%2E/admin", "/admin"),
            ("/a/.%2e/%2e/admin/", "/admin/"),
            ("/%7euser", "/~user"),
            ("/a%2fb%5c", "/a%2Fb%5C"),
            ("/\\evil.example/..\\x", "/%5Cevil.example/..%5Cx"),
            ("/[a]|^{\"b\"}", "/[a]|^{\"b\"}"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%", "/a%25"),
            ("/a%4", "/a%254"),
            ("/a%zz", "/a%25zz"),
            ("/%%341", "/%2541"),
            ("/%2561", "/%2561"),
            ("/a;x=1/..", "/"),
        ] {
            assert_eq!(normalized(sent).as_deref().unwrap_or(sent), normal, "{sent}");
            assert_eq!(normalized(normal), None, "{normal} is normal");
        }
    }

    #[test]
    fn rules_compare_what_is_meant() {
        for (path, text) in [
            ("/a/b", "/a/b"),
            ("/user%40x", "/user@x"),
            ("/a%20b", "/a b"),
            ("/100%25", "/100%"),
            ("/%2561", "/%61"),
        ] {
            assert_eq!(decoded(path).as_deref(), Ok(text), "{path}");
        }
        for (path, why) in [
            ("/a/../b", Ambiguous::NotNormal),
            ("/a//b", Ambiguous::NotNormal),
            ("/%61", Ambiguous::NotNormal),
            ("/a%2Fb", Ambiguous::Slash),
            ("/a%5Cb", Ambiguous::Backslash),
            ("/a\\b", Ambiguous::Backslash),
            ("/a%00", Ambiguous::Control),
            ("/a%0A", Ambiguous::Control),
            ("/a%7F", Ambiguous::Control),
            ("/a%", Ambiguous::NotNormal),
            ("/%FF", Ambiguous::Utf8),
            ("/a/..;/b", Ambiguous::DotParameter),
            ("/a/.;x/b", Ambiguous::DotParameter),
            ("/a/..%3Bx/b", Ambiguous::DotParameter),
        ] {
            assert_eq!(decoded(path), Err(why), "{path}");
        }
    }
}
