//! What a client says of a large value: names and texts, which servers keep and do not read.

use super::at_most;
use crate::error::DecodeError;
use crate::fields::Fields;
use crate::limits::ATTRIBUTES_BYTES_MAX;
use bytes::{BufMut, BytesMut};

/// The attributes of a large value, in the order in which they were given. `content-type` is one like any other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Names and values.
    pub pairs: Vec<(String, String)>,
}

impl Attributes {
    /// As they are sent and kept.
    ///
    /// # Errors
    /// They are longer than attributes may be.
    pub fn encode(&self) -> Result<Vec<u8>, DecodeError> {
        let what = "attributes";
        let texts = || self.pairs.iter().flat_map(|(name, value)| [name, value]);
        let len = texts().map(|text| 2 + text.len()).sum();
        at_most(what, len, ATTRIBUTES_BYTES_MAX)?;
        let mut out = BytesMut::with_capacity(len);
        for text in texts() {
            // All together are shorter than this width allows.
            out.put_u16_le(text.len() as u16);
            out.put_slice(text.as_bytes());
        }
        assert_eq!(out.len(), len, "the length was computed");
        Ok(out.into())
    }

    /// Reads attributes.
    ///
    /// # Errors
    /// They are malformed or too long.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "attributes";
        at_most(what, bytes.len(), ATTRIBUTES_BYTES_MAX)?;
        let mut fields = Fields::of(bytes, what);
        let mut pairs = Vec::new();
        while !fields.is_empty() {
            pairs.push((text(&mut fields)?, text(&mut fields)?));
        }
        Ok(Self { pairs })
    }
}

fn text(fields: &mut Fields<'_>) -> Result<String, DecodeError> {
    let len = fields.u16()?;
    let bytes = fields.bytes(len.into())?;
    match str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(fields.malformed()),
    }
}

const _: () = assert!(ATTRIBUTES_BYTES_MAX <= u16::MAX as usize);
