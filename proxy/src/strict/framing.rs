//! Where one HTTP/1 request ends and the next begins, byte by byte (RFC 9112), without a buffer.

mod lines;
mod value;

use crate::failure::Failure;
use lines::{Target, is_token, is_value};
use value::Value;

/// A head, or a trailer section, may have this many bytes.
pub const MAX_HEAD_BYTES: usize = 60 << 10;
/// A head, or a trailer section, may have this many fields.
pub const MAX_FIELDS: usize = 100;

/// Chunk extensions of one message may have this many bytes: nobody uses them, except to make a proxy work.
const MAX_EXTENSION_BYTES: usize = 4 << 10;
/// Empty lines before a request that are forgiven (RFC 9112 §2.2); some old clients send one after a body.
const MAX_BLANK_LINES: u8 = 2;

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// A line that ends in LF alone.
    #[error("a line ends in a bare LF")]
    BareLineFeed,
    /// A CR that no LF follows.
    #[error("a CR without an LF")]
    BareCarriageReturn,
    /// NUL or another control byte in the head.
    #[error("a control byte in the head")]
    ControlByte,
    /// A line that begins with white space, as folded fields once did (RFC 9112 §5.2).
    #[error("a field line begins with white space")]
    FoldedField,
    /// White space between a field's name and its colon (RFC 9112 §5.1).
    #[error("white space before the colon of a field")]
    SpaceBeforeColon,
    /// A field's name is empty or not a token.
    #[error("a field's name is not a token")]
    FieldName,
    /// Not METHOD SP TARGET SP VERSION.
    #[error("the request line is not METHOD SP TARGET SP VERSION")]
    RequestLine,
    /// Not HTTP/1.1 or HTTP/1.0.
    #[error("the version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    /// None with HTTP/1.1, or two (RFC 9112 §3.2).
    #[error("not exactly one Host field")]
    Host,
    /// Not a number, or too great a one.
    #[error("Content-Length is not a number that can be counted")]
    ContentLength,
    /// Two Content-Length fields, equal or not.
    #[error("two Content-Length fields")]
    TwoContentLengths,
    /// Anything but the one coding `chunked`, once, with HTTP/1.1 (RFC 9112 §6.1).
    #[error("Transfer-Encoding is not the one coding chunked")]
    TransferEncoding,
    /// Both Content-Length and Transfer-Encoding.
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    /// A chunk that is not SIZE CRLF DATA CRLF (RFC 9112 §7.1).
    #[error("a chunk is malformed")]
    Chunk,
    /// A trailer field that frames or routes the message (RFC 9110 §6.5.1).
    #[error("a trailer field that belongs into the head")]
    Trailer,
    /// Over [`MAX_HEAD_BYTES`] or [`MAX_FIELDS`].
    #[error("the head is over 60 KiB or 100 fields")]
    HeadTooLarge,
}

impl Violation {
    /// What the caller is told.
    pub fn failure(self) -> Failure {
        match self {
            Self::HeadTooLarge => Failure::HeadTooLarge,
            _ => Failure::BadRequest,
        }
    }
}

/// Follows the requests of one connection.
///
/// The verdict depends on the bytes alone, not on how they are split into calls of [`Self::feed`]. After a violation
/// the state is meaningless; feed nothing more.
#[derive(Debug, Clone)]
pub struct Framing {
    state: State,
    section: Section,
    /// Of the current section, and of all chunk extensions.
    bytes: usize,
    fields: usize,
    extension_bytes: usize,
    /// Of the current message.
    version_11: bool,
    hosts: u8,
    length: Option<u64>,
    chunked: bool,
    /// The name of the current field, as far as it may be one of interest.
    name: [u8; LONGEST_NAME],
    name_length: usize,
}

const LONGEST_NAME: usize = b"transfer-encoding".len();
const VERSION: &[u8] = b"HTTP/1.";

/// Which fields are being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Head,
    Trailers,
}

/// What the next byte is.
#[derive(Debug, Clone, Copy)]
enum State {
    /// The first of a request, or CR of an empty line before it.
    Start { blank: u8 },
    /// LF of such a line.
    StartLf { blank: u8 },
    /// In the method.
    Method,
    /// In the target.
    Target(Target),
    /// In the version, of which so much has matched.
    Version { matched: usize },
    /// CR of the request line.
    VersionCr,
    /// LF of the request line or of a field line.
    LineLf,
    /// The first of a field line, or CR of the empty line that ends the section.
    FieldStart,
    /// In a field's name.
    Name,
    /// In a field's value.
    Value(Value),
    /// LF of the empty line that ends the section.
    SectionLf,
    /// In a body with a length.
    Body { left: u64 },
    /// In a chunk's size.
    Size { size: u64, digits: u8 },
    /// In a chunk's extension.
    Extension { size: u64 },
    /// LF of a chunk's first line.
    SizeLf { size: u64 },
    /// In a chunk.
    Data { left: u64 },
    /// CR after a chunk.
    DataCr,
    /// LF after a chunk.
    DataLf,
}

impl Default for Framing {
    fn default() -> Self {
        Self::new()
    }
}

impl Framing {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        Self {
            state: State::Start { blank: 0 },
            section: Section::Head,
            bytes: 0,
            fields: 0,
            extension_bytes: 0,
            version_11: false,
            hosts: 0,
            length: None,
            chunked: false,
            name: [0; LONGEST_NAME],
            name_length: 0,
        }
    }

    /// A head has begun and not ended.
    pub fn is_inside_head(&self) -> bool {
        let begun = !matches!(
            self.state,
            State::Start { .. }
                | State::Body { .. }
                | State::Size { .. }
                | State::Extension { .. }
                | State::SizeLf { .. }
                | State::Data { .. }
                | State::DataCr
                | State::DataLf
        );
        begun && self.section == Section::Head
    }

    /// Takes in the next bytes of the connection.
    ///
    /// # Errors
    /// The first violation in them.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Body { left } => {
                    let (taken, left) = count_down(left, bytes.len());
                    if left == 0 {
                        self.next_request();
                    } else {
                        self.state = State::Body { left };
                    }
                    taken
                }
                State::Data { left } => {
                    let (taken, left) = count_down(left, bytes.len());
                    self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                    taken
                }
                // Most heads come in one piece, and their lines are taken in as such.
                State::Start { .. } => self.whole_request_line(bytes),
                State::FieldStart => self.whole_field_line(bytes)?,
                // In those that do not, runs of bytes that only have to be allowed are most of what there is.
                State::Value(Value::Other) => self.skip(lines::value_run(bytes))?,
                State::Target(part) => self.skip(part.run(bytes))?,
                _ => 0,
            };
            bytes = &bytes[taken..];
            if taken == 0 {
                self.step(bytes[0])?;
                bytes = &bytes[1..];
            }
        }
        Ok(())
    }

    /// Takes in a request line, if all of it is there and right. How many bytes that were.
    fn whole_request_line(&mut self, bytes: &[u8]) -> usize {
        let Some(line) = lines::request_line(bytes).filter(|line| self.has_room(line.bytes)) else {
            return 0;
        };
        self.bytes += line.bytes;
        self.version_11 = line.version_11;
        self.state = State::FieldStart;
        line.bytes
    }

    /// Takes in a field line or the end of the section, if all of it is there and right. How many bytes that were.
    fn whole_field_line(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        const END: &[u8] = b"\r\n";
        if bytes.starts_with(END) && self.has_room(END.len()) {
            self.bytes += END.len();
            self.end_section()?;
            return Ok(END.len());
        }
        let Some(line) = lines::field_line(bytes) else { return Ok(0) };
        if self.fields >= MAX_FIELDS || !self.has_room(line.bytes) {
            return Ok(0);
        }
        self.fields += 1;
        self.bytes += line.bytes;
        let mut value = self.begin_value(line.name)?;
        if !matches!(value, Value::Other) {
            for byte in line.value {
                value = value.push(*byte)?;
            }
            self.end_value(value)?;
        }
        Ok(line.bytes)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= MAX_HEAD_BYTES
    }

    /// Passes over so many bytes.
    fn skip(&mut self, bytes: usize) -> Result<usize, Violation> {
        self.count(bytes)?;
        Ok(bytes)
    }

    /// Counts bytes of a section.
    fn count(&mut self, bytes: usize) -> Result<(), Violation> {
        self.bytes += bytes;
        if self.bytes > MAX_HEAD_BYTES { Err(Violation::HeadTooLarge) } else { Ok(()) }
    }

    /// Takes in one byte that is not in a body.
    fn step(&mut self, byte: u8) -> Result<(), Violation> {
        self.state = match self.state {
            State::Size { .. } | State::Extension { .. } | State::SizeLf { .. } => self.chunk_line(byte)?,
            State::DataCr if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => State::Size { size: 0, digits: 0 },
            State::DataCr | State::DataLf => return Err(Violation::Chunk),
            _ => {
                self.count(1)?;
                return self.section_byte(byte);
            }
        };
        Ok(())
    }

    /// Takes in one byte of a head or a trailer section.
    fn section_byte(&mut self, byte: u8) -> Result<(), Violation> {
        self.state = match self.state {
            State::SectionLf => {
                line_feed(byte)?;
                return self.end_section();
            }
            State::FieldStart | State::Name | State::Value(_) => return self.field_byte(byte),
            State::LineLf => {
                line_feed(byte)?;
                State::FieldStart
            }
            _ => self.request_line(byte)?,
        };
        Ok(())
    }

    /// Takes in one byte of the request line or of what is before it.
    fn request_line(&mut self, byte: u8) -> Result<State, Violation> {
        if let State::Target(part) = self.state
            && let Some(part) = part.after(byte)
        {
            return Ok(State::Target(part));
        }
        match (self.state, byte) {
            (State::Start { blank }, b'\r') if blank < MAX_BLANK_LINES => Ok(State::StartLf { blank }),
            (State::Start { .. } | State::Method, byte) if is_token(byte) => Ok(State::Method),
            (State::StartLf { blank }, byte) => {
                line_feed(byte)?;
                Ok(State::Start { blank: blank + 1 })
            }
            (State::Method, b' ') => Ok(State::Target(Target::Empty)),
            (State::Target(part), b' ') if part != Target::Empty => Ok(State::Version { matched: 0 }),
            (State::Version { matched }, byte) if matched < VERSION.len() && byte == VERSION[matched] => {
                Ok(State::Version { matched: matched + 1 })
            }
            (State::Version { matched }, b'0' | b'1') if matched == VERSION.len() => {
                self.version_11 = byte == b'1';
                Ok(State::VersionCr)
            }
            (State::VersionCr, b'\r') => Ok(State::LineLf),
            (_, b'\n') => Err(Violation::BareLineFeed),
            (State::Version { .. } | State::VersionCr, _) => Err(Violation::Version),
            (_, byte) if byte.is_ascii_control() && byte != b'\r' => Err(Violation::ControlByte),
            _ => Err(Violation::RequestLine),
        }
    }

    /// Takes in one byte of a field line.
    fn field_byte(&mut self, byte: u8) -> Result<(), Violation> {
        self.state = match (self.state, byte) {
            (State::FieldStart, b'\r') => State::SectionLf,
            (State::FieldStart, b' ' | b'\t') => return Err(Violation::FoldedField),
            (State::FieldStart, byte) if is_token(byte) => {
                self.fields += 1;
                if self.fields > MAX_FIELDS {
                    return Err(Violation::HeadTooLarge);
                }
                self.name_length = 0;
                self.push_name(byte);
                State::Name
            }
            (State::Name, byte) if is_token(byte) => {
                self.push_name(byte);
                State::Name
            }
            (State::Name, b':') => {
                let name = self.name;
                State::Value(self.begin_value(name.get(..self.name_length).unwrap_or_default())?)
            }
            (State::Name, b' ' | b'\t') => return Err(Violation::SpaceBeforeColon),
            (State::Value(value), b'\r') => {
                self.end_value(value)?;
                State::LineLf
            }
            (State::Value(value), byte) if is_value(byte) => State::Value(value.push(byte)?),
            (_, b'\n') => return Err(Violation::BareLineFeed),
            (_, byte) if byte.is_ascii_control() && byte != b'\r' => return Err(Violation::ControlByte),
            _ => return Err(Violation::FieldName),
        };
        Ok(())
    }

    fn push_name(&mut self, byte: u8) {
        if let Some(place) = self.name.get_mut(self.name_length) {
            *place = byte;
        }
        // A longer name is none of interest, however its beginning reads.
        self.name_length = (self.name_length + 1).min(LONGEST_NAME + 1);
    }

    fn begin_value(&mut self, name: &[u8]) -> Result<Value, Violation> {
        // By the length first: few names have one of these.
        let value = match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts = self.hosts.saturating_add(1);
                Value::Other
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                Value::Length { number: None, ended: false }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                Value::Coding { matched: 0, ended: false }
            }
            _ => return Ok(Value::Other),
        };
        // These frame or route the message.
        if self.section == Section::Trailers { Err(Violation::Trailer) } else { Ok(value) }
    }

    fn end_value(&mut self, value: Value) -> Result<(), Violation> {
        match value {
            Value::Other => {}
            Value::Length { number: None, .. } => return Err(Violation::ContentLength),
            Value::Length { .. } if self.length.is_some() => return Err(Violation::TwoContentLengths),
            Value::Length { number, .. } => self.length = number,
            Value::Coding { matched, .. } if matched < value::CHUNKED.len() || self.chunked => {
                return Err(Violation::TransferEncoding);
            }
            Value::Coding { .. } => self.chunked = true,
        }
        Ok(())
    }

    /// After the empty line: decides what follows.
    fn end_section(&mut self) -> Result<(), Violation> {
        if self.section == Section::Trailers {
            self.next_request();
            return Ok(());
        }
        if self.hosts > 1 || self.version_11 && self.hosts == 0 {
            return Err(Violation::Host);
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Violation::LengthAndEncoding),
            (true, None) if !self.version_11 => return Err(Violation::TransferEncoding),
            (true, None) => self.state = State::Size { size: 0, digits: 0 },
            (false, None | Some(0)) => self.next_request(),
            (false, Some(left)) => self.state = State::Body { left },
        }
        Ok(())
    }

    /// Takes in one byte of the line that begins a chunk.
    fn chunk_line(&mut self, byte: u8) -> Result<State, Violation> {
        match (self.state, byte) {
            // Sixteen digits are 2^64 - 1, so that the size cannot overflow.
            (State::Size { size, digits }, byte) if byte.is_ascii_hexdigit() && digits < 16 => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
            }
            (State::Size { size, digits: 1.. }, b';') => Ok(State::Extension { size }),
            (State::Size { size, digits: 1.. } | State::Extension { size }, b'\r') => {
                Ok(State::SizeLf { size })
            }
            (State::Extension { size }, byte) if is_value(byte) => {
                self.extension_bytes += 1;
                if self.extension_bytes > MAX_EXTENSION_BYTES {
                    return Err(Violation::Chunk);
                }
                Ok(State::Extension { size })
            }
            (State::SizeLf { size: 0 }, b'\n') => {
                self.section = Section::Trailers;
                self.bytes = 0;
                self.fields = 0;
                Ok(State::FieldStart)
            }
            (State::SizeLf { size }, b'\n') => Ok(State::Data { left: size }),
            _ => Err(Violation::Chunk),
        }
    }

    fn next_request(&mut self) {
        *self = Self::new();
    }
}

/// How many of `bytes` belong to something that has `left` to go, and how many are then left.
fn count_down(left: u64, bytes: usize) -> (usize, u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes);
    (taken, left - taken as u64)
}

fn line_feed(byte: u8) -> Result<(), Violation> {
    if byte == b'\n' { Ok(()) } else { Err(Violation::BareCarriageReturn) }
}

#[cfg(test)]
mod tests;
