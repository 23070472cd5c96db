//! The position at which a scan continues, in a form that can be stored.
//!
//! ```text
//! version u8 = 1 | cluster u64 | start length u32 | start | end length u32 | end | crc32c of all before
//! ```
//! Little-endian, as hexadecimal text.

use crate::error::{Error, Result};
use crate::token_text::{self, CRC_BYTES};
use bytes::{Buf, BufMut, Bytes};
use corelith_wire::ClusterId;
use corelith_wire::limits::KEY_BYTES_MAX;
use std::fmt;
use std::str::FromStr;

const VERSION: u8 = 1;
/// Bytes of a token without its keys.
const FIXED_BYTES: usize = 1 + 8 + 4 + 4 + CRC_BYTES;

/// The rest of a scan, see [`Scan::token`](crate::Scan::token). Its text (`Display`, `FromStr`) can be
/// stored or sent to another process. A resumed scan reads the state at that time, not an earlier one.
#[derive(Clone, PartialEq, Eq)]
pub struct ScanToken {
    cluster: ClusterId,
    start: Bytes,
    end: Bytes,
}

impl ScanToken {
    pub(super) fn new(cluster: ClusterId, start: Bytes, end: Bytes) -> Self {
        Self {
            cluster,
            start,
            end,
        }
    }

    /// Start and end of the rest; an error if the token is of another cluster.
    pub(crate) fn range(&self, cluster: ClusterId) -> Result<(Bytes, Bytes)> {
        if self.cluster != cluster {
            return Err(Error::Invalid {
                what: "scan token: it is of another cluster",
            });
        }
        Ok((self.start.clone(), self.end.clone()))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.start.len() + self.end.len());
        bytes.put_u8(VERSION);
        bytes.put_u64_le(self.cluster.0);
        for key in [&self.start, &self.end] {
            assert!(key.len() <= KEY_BYTES_MAX, "a scan goes over keys");
            bytes.put_u32_le(key.len() as u32);
            bytes.put_slice(key);
        }
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if rest.try_get_u8().ok()? != VERSION {
            return None;
        }
        let cluster = ClusterId(rest.try_get_u64_le().ok()?);
        let mut key = || {
            let len = rest.try_get_u32_le().ok()? as usize;
            let (key, behind) = rest.split_at_checked(len)?;
            rest = behind;
            (len <= KEY_BYTES_MAX).then(|| Bytes::copy_from_slice(key))
        };
        let (start, end) = (key()?, key()?);
        rest.is_empty().then_some(Self {
            cluster,
            start,
            end,
        })
    }
}

impl fmt::Display for ScanToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        token_text::write(f, self.bytes())
    }
}

impl fmt::Debug for ScanToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanToken")
            .field("cluster", &self.cluster)
            .field("start", &self.start)
            .field("end", &self.end)
            .finish()
    }
}

impl FromStr for ScanToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        token_text::read(text)
            .and_then(|bytes| Self::of_bytes(&bytes))
            .ok_or(Error::Invalid {
                what: "scan token: it is incomplete or not a token",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> ScanToken {
        let (start, end) = (Bytes::from_static(b"a\0\xff"), Bytes::from_static(b"b"));
        ScanToken::new(ClusterId(0xc0), start, end)
    }

    #[test]
    fn tokens_survive_their_text() {
        let text = token().to_string();
        // As it was first written: tokens are kept.
        assert_eq!(
            text,
            "01c0000000000000000300000061 00ff0100000062".replace(' ', "")
                + &text[text.len() - 8..]
        );
        assert_eq!(text.parse::<ScanToken>().unwrap(), token());
        let empty = ScanToken::new(ClusterId(1), Bytes::new(), Bytes::new());
        assert_eq!(format!(" {empty}\n").parse::<ScanToken>().unwrap(), empty);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let text = token().to_string();
        for at in 0..text.len() {
            assert!(text[..at].parse::<ScanToken>().is_err(), "cut at {at}");
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).unwrap();
            assert!(other.parse::<ScanToken>().is_err(), "changed at {at}");
        }
        for wrong in ["", "zz", "ä", "0"] {
            assert!(wrong.parse::<ScanToken>().is_err(), "{wrong}");
        }
        let error = token().range(ClusterId(1)).unwrap_err();
        assert!(error.to_string().contains("another cluster"), "{error}");
    }
}
