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
    let target = target_run(rest);
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

/// How many bytes at the beginning are a target.
fn target_run(bytes: &[u8]) -> usize {
    let (mut part, mut length) = (Target::Empty, 0);
    while let Some(next) = bytes.get(length).and_then(|byte| part.after(*byte)) {
        part = next;
        length += 1 + part.run(&bytes[length + 1..]);
    }
    length
}

/// The part of a target that the next byte belongs to, unless it begins another.
///
/// What may stand in each is what the HTTP library takes, which answers with a bare 400 what it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Nothing is there yet.
    Empty,
    /// From the first slash on.
    Path,
    /// A scheme, or an authority.
    Named,
    Query,
}

impl Target {
    /// The part that `byte` is in. `None`: it is in none.
    pub(super) fn after(self, byte: u8) -> Option<Self> {
        let part = match (self, byte) {
            (Self::Empty | Self::Named, b'/') => Self::Path,
            (Self::Empty, _) => Self::Named,
            (Self::Path | Self::Named, b'?') => return Some(Self::Query),
            (part, _) => part,
        };
        (CLASSES[usize::from(byte)] & part.class() != 0).then_some(part)
    }

    /// How many bytes at the beginning are in the same part.
    pub(super) fn run(self, bytes: &[u8]) -> usize {
        run(bytes, self.class())
    }

    fn class(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Path => PATH,
            Self::Named => NAMED,
            Self::Query => QUERY,
        }
    }
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

/// RFC 9110 §5.5: visible, white space, or opaque bytes from 0x80 on.
pub(super) fn is_value(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & VALUE != 0
}

const TOKEN: u8 = 1;
const PATH: u8 = 2;
const VALUE: u8 = 4;
const QUERY: u8 = 8;
const NAMED: u8 = 16;

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
    // `#` begins a fragment, which no request carries.
    if byte.is_ascii_graphic() && !matches!(byte, b'#' | b'<' | b'>') {
        if !matches!(byte, b'?' | b'`') {
            classes |= PATH;
            if !matches!(byte, b'/' | b'"' | b'\\' | b'^' | b'{' | b'|' | b'}') {
                classes |= NAMED;
            }
        }
        if byte != b'"' {
            classes |= QUERY;
        }
    }
    if byte >= b' ' && byte != 0x7f || byte == b'\t' {
        classes |= VALUE;
    }
    classes
}
