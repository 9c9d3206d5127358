//! A request read twice: as the proxy reads it, and as the most forgiving application might.

use http::Request;
use http::request::Parts;

/// The head as the proxy's HTTP library gives it, if the proxy lets the bytes through to it at all.
pub fn head(bytes: &[u8]) -> Option<Parts> {
    outrigger_proxy::strict::Framing::new().feed(bytes).ok()?;
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut fields);
    if !parsed.parse(bytes).ok()?.is_complete() {
        return None;
    }
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    for field in parsed.headers.iter() {
        request = request.header(field.name, field.value);
    }
    Some(request.body(()).ok()?.into_parts().0)
}

/// Whether some application may take the request for one about `/admin`, to `secret.shop`, or by an admin.
///
/// Written apart from the proxy on purpose: it knows of no library, decodes whatever can be decoded, takes a backslash for
/// a slash and an underscore for a dash, and forgets parameters.
pub fn is_forbidden(bytes: &[u8]) -> bool {
    let text: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).collect();
    let Some((line, fields)) = text.split_first() else { return false };
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let (host, path) = split(target);
    let fields: Vec<_> =
        fields.iter().take_while(|line| !line.is_empty()).filter_map(|line| field(line)).collect();
    let named =
        |name: &'static str| fields.iter().filter(move |(own, _)| own == name).map(|(_, value)| value);
    let hosts = host.map(<[u8]>::to_vec).into_iter().chain(named("host").filter(|_| host.is_none()).cloned());
    let is_admin =
        |value: &Vec<u8>| value.split(|byte| *byte == b',').any(|item| item.trim_ascii() == b"admin");
    is_admin_path(path) || hosts.into_iter().any(|host| is_secret(&host)) || named("x-role").any(is_admin)
}

/// Host and path of a target. One that begins with no slash and has no scheme is a host, or an asterisk.
fn split(target: &[u8]) -> (Option<&[u8]>, &[u8]) {
    if target.starts_with(b"/") {
        return (None, target);
    }
    let Some(at) = target.windows(3).position(|window| window == b"://") else { return (Some(target), b"") };
    let rest = &target[at + 3..];
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    (Some(&rest[..end]), &rest[end..])
}

fn field(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase().replace('_', "-");
    Some((name, line[colon + 1..].trim_ascii().to_vec()))
}

fn is_secret(host: &[u8]) -> bool {
    let host = host.split(|byte| *byte == b':').next().unwrap_or_default();
    host.strip_suffix(b".").unwrap_or(host).eq_ignore_ascii_case(b"secret.shop")
}

fn is_admin_path(path: &[u8]) -> bool {
    let path = path.split(|byte| b"?#".contains(byte)).next().unwrap_or_default();
    let mut segments: Vec<&[u8]> = Vec::new();
    let plain = decoded(path);
    for segment in plain.split(|byte| b"/\\".contains(byte)) {
        match segment.split(|byte| *byte == b';').next().unwrap_or_default() {
            b"" if segment.is_empty() => {}
            b"." => {}
            b".." => drop(segments.pop()),
            // Also one that is nothing but a parameter: the proxy has resolved what leads out of it (RFC 3986 section
            // 5.2.4) before anybody can take it for nothing.
            name => segments.push(name),
        }
    }
    segments.into_iter().find(|name| !name.is_empty()) == Some(b"admin")
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut plain = Vec::new();
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let meant = match (byte, after) {
            (b'%', [high, low, ..]) => {
                digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4 | low) as u8)
            }
            _ => None,
        };
        plain.push(meant.unwrap_or(byte));
        if meant.is_some() {
            rest = &after[2..];
        }
    }
    plain
}
