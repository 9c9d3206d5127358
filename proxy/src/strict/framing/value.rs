//! The values of the fields that say where a message ends, read byte by byte.

use super::Violation;

/// The only transfer coding that is understood.
pub(super) const CHUNKED: &[u8] = b"chunked";

/// What has been read of a field's value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    /// One that does not matter here.
    Other,
    /// Content-Length: no digit yet, digits, or white space after them.
    Length { number: Option<u64>, ended: bool },
    /// Transfer-Encoding: so much of `chunked`, or white space after it.
    Coding { matched: usize, ended: bool },
}

impl Value {
    /// Takes in one byte that may be in a value.
    pub(super) fn push(self, byte: u8) -> Result<Self, Violation> {
        let white = matches!(byte, b' ' | b'\t');
        match self {
            Self::Other => Ok(Self::Other),
            Self::Length { number, .. } if white => Ok(Self::Length { number, ended: number.is_some() }),
            Self::Length { number, ended: false } if byte.is_ascii_digit() => {
                let number = number.unwrap_or(0).checked_mul(10);
                let number = number.and_then(|number| number.checked_add(u64::from(byte - b'0')));
                // Over 2^63 - 1 somebody's signed arithmetic overflows.
                let number = number.filter(|number| i64::try_from(*number).is_ok());
                Ok(Self::Length { number: Some(number.ok_or(Violation::ContentLength)?), ended: false })
            }
            Self::Length { .. } => Err(Violation::ContentLength),
            Self::Coding { matched, .. } if white => {
                if matched == 0 || matched == CHUNKED.len() {
                    Ok(Self::Coding { matched, ended: matched > 0 })
                } else {
                    Err(Violation::TransferEncoding)
                }
            }
            Self::Coding { matched, ended: false }
                if CHUNKED.get(matched) == Some(&byte.to_ascii_lowercase()) =>
            {
                Ok(Self::Coding { matched: matched + 1, ended: false })
            }
            Self::Coding { .. } => Err(Violation::TransferEncoding),
        }
    }
}
