//! Lines of a head that came whole and are well formed: taken in at once, where [`super::Framing`] alone would go
//! byte by byte.
//!
//! A line that is recognised here is one that the byte-wise form would have let pass, up to what a field's value
//! means. Everything else, what is cut off by the end of a read included, is left to that form, which names what is
//! wrong. Whoever changes the one changes the other; the tests compare them.

/// METHOD SP TARGET SP VERSION CRLF.
pub(super) struct RequestLine {
    /// Its length, with its end.
    pub(super) bytes: usize,
    /// HTTP/1.1, not 1.0.
    pub(super) version_11: bool,
}

/// NAME ":" VALUE CRLF.
pub(super) struct FieldLine<'a> {
    pub(super) name: &'a [u8],
    /// With the white space around it.
    pub(super) value: &'a [u8],
    /// The length of the line, with its end.
    pub(super) bytes: usize,
}

/// The request line that `bytes` begin with.
pub(super) fn request_line(bytes: &[u8]) -> Option<RequestLine> {
    let method = run(bytes, TOKEN);
    if method == 0 || bytes.get(method) != Some(&b' ') {
        return None;
    }
    let rest = &bytes[method + 1..];
    let target = run(rest, TARGET);
    let end: &[u8; 11] = rest[target..].first_chunk()?;
    let version_11 = match end {
        _ if target == 0 => return None,
        b" HTTP/1.1\r\n" => true,
        b" HTTP/1.0\r\n" => false,
        _ => return None,
    };
    Some(RequestLine { bytes: method + 1 + target + end.len(), version_11 })
}

/// The field line that `bytes` begin with.
pub(super) fn field_line(bytes: &[u8]) -> Option<FieldLine<'_>> {
    let colon = run(bytes, TOKEN);
    if colon == 0 || bytes.get(colon) != Some(&b':') {
        return None;
    }
    let (name, rest) = (&bytes[..colon], &bytes[colon + 1..]);
    let value = value_run(rest);
    rest[value..].starts_with(b"\r\n").then(|| FieldLine {
        name,
        value: &rest[..value],
        bytes: colon + 1 + value + 2,
    })
}

/// How many bytes at the beginning may be in a field's value.
pub(super) fn value_run(bytes: &[u8]) -> usize {
    /// As many as the compiler looks at together.
    const BLOCK: usize = 16;
    let blocks = bytes.as_chunks::<BLOCK>().0;
    let whole = BLOCK * blocks.iter().take_while(|block| is_plain(block)).count();
    whole + run(&bytes[whole..], VALUE)
}

/// How many bytes at the beginning may be in a target.
pub(super) fn target_run(bytes: &[u8]) -> usize {
    run(bytes, TARGET)
}

/// Without a branch, so that it is a handful of vector instructions.
fn is_plain(block: &[u8; 16]) -> bool {
    block.iter().fold(true, |plain, byte| plain & (*byte >= b' ') & (*byte != 0x7f))
}

fn run(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|byte| CLASSES[usize::from(*byte)] & class == 0).unwrap_or(bytes.len())
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TOKEN != 0
}

/// Visible ASCII, without the fragment that no request carries.
pub(super) fn is_target(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TARGET != 0
}

/// RFC 9110 §5.5: visible, white space, or opaque bytes from 0x80 on.
pub(super) fn is_value(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & VALUE != 0
}

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const VALUE: u8 = 4;

/// Where each byte may stand.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = classes_of(byte as u8);
        byte += 1;
    }
    classes
};

const fn classes_of(byte: u8) -> u8 {
    let mut classes = 0;
    if byte.is_ascii_alphanumeric() {
        classes |= TOKEN;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < marks.len() {
        if byte == marks[index] {
            classes |= TOKEN;
        }
        index += 1;
    }
    if byte.is_ascii_graphic() && byte != b'#' {
        classes |= TARGET;
    }
    if byte >= b' ' && byte != 0x7f || byte == b'\t' {
        classes |= VALUE;
    }
    classes
}
