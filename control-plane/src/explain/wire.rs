//! A message of the contract inside a JSON answer: the bytes that go over the wire, in hexadecimal digits.

use std::fmt;

use prost::Message;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// One message, as a proxy is sent it.
#[derive(Clone, PartialEq, Eq, ToSchema)]
#[schema(value_type = String)]
pub struct WireMessage(pub Vec<u8>);

/// Bytes that are not the message they should be.
#[derive(Debug, thiserror::Error)]
#[error("the control plane sent a message that cannot be read: {0}")]
pub struct NotAMessage(#[from] prost::DecodeError);

impl WireMessage {
    /// Reads it.
    ///
    /// # Errors
    /// It is not of this type.
    pub fn read<M: Message + Default>(&self) -> Result<M, NotAMessage> {
        Ok(M::decode(self.0.as_slice())?)
    }
}

impl fmt::Debug for WireMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireMessage({} bytes)", self.0.len())
    }
}

impl Serialize for WireMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(2 * self.0.len());
        for byte in &self.0 {
            for digit in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(digit.into(), 16));
            }
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for WireMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
        match bytes.collect::<Option<Vec<u8>>>().filter(|_| rest.is_empty()) {
            Some(bytes) => Ok(Self(bytes)),
            None => Err(D::Error::custom("must be pairs of hexadecimal digits")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_back_as_written() {
        let message = WireMessage((0..=255).collect());
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<WireMessage>(&text).unwrap(), message);
        for wrong in ["\"0\"", "\"0x\"", "\"é\""] {
            assert!(serde_json::from_str::<WireMessage>(wrong).is_err(), "{wrong}");
        }
    }
}
