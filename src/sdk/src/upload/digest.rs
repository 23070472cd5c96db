//! Digests of whole values.

use crate::error::{Error, Result};
use corelith_wire::upload::{Digest, DigestKind};
use std::fmt;

/// Computes the digest of a value as its bytes go by.
#[derive(Clone, Default)]
pub struct Digester {
    state: DigestState,
    /// Whether all bytes must go by, also those that are not sent.
    is_needed: bool,
}

#[derive(Clone, Default)]
enum DigestState {
    #[default]
    None,
    #[cfg(feature = "sha256")]
    Sha256(Box<sha2::Sha256>),
    #[cfg(feature = "blake3")]
    Blake3(Box<blake3::Hasher>),
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digester")
            .field("is_needed", &self.is_needed)
            .finish_non_exhaustive()
    }
}

impl Digester {
    /// Computes none.
    pub fn none() -> Self {
        Self::default()
    }

    /// Computes none, but wants all bytes.
    #[cfg(test)]
    pub(crate) fn of_all_bytes() -> Self {
        Self {
            is_needed: true,
            ..Self::default()
        }
    }

    /// Computes a digest of this kind.
    ///
    /// # Errors
    /// `Invalid` without the feature of that kind.
    pub fn new(kind: DigestKind) -> Result<Self> {
        let state = match kind {
            DigestKind::None => Some(DigestState::None),
            #[cfg(feature = "sha256")]
            DigestKind::Sha256 => Some(DigestState::Sha256(Box::default())),
            #[cfg(feature = "blake3")]
            DigestKind::Blake3 => Some(DigestState::Blake3(Box::default())),
            #[cfg(not(all(feature = "sha256", feature = "blake3")))]
            _ => None,
        };
        let state = state.ok_or(Error::Invalid {
            what: "digest: enable the feature `sha256` or `blake3` of corelith-client",
        })?;
        Ok(Self {
            state,
            is_needed: kind != DigestKind::None,
        })
    }

    /// Wants all bytes to go by, whether or not there is a digest.
    pub(crate) fn need_all_bytes(&mut self) {
        self.is_needed = true;
    }

    pub(crate) fn is_needed(&self) -> bool {
        self.is_needed
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            DigestState::None => {}
            #[cfg(feature = "sha256")]
            DigestState::Sha256(hasher) => sha2::Digest::update(hasher.as_mut(), bytes),
            #[cfg(feature = "blake3")]
            DigestState::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
        // Without a digest nobody looks at them.
        let _ = bytes;
    }

    /// The digest of all bytes so far.
    pub(crate) fn finish(&self) -> Digest {
        match &self.state {
            DigestState::None => Digest::default(),
            #[cfg(feature = "sha256")]
            DigestState::Sha256(hasher) => Digest {
                kind: DigestKind::Sha256,
                bytes: sha2::Digest::finalize(sha2::Sha256::clone(hasher)).into(),
            },
            #[cfg(feature = "blake3")]
            DigestState::Blake3(hasher) => Digest {
                kind: DigestKind::Blake3,
                bytes: hasher.finalize().into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digest: &Digest) -> String {
        digest.bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Of "abc", in two pieces.
    fn check(kind: DigestKind, expected: &str) {
        let mut digester = Digester::new(kind).unwrap();
        digester.update(b"a");
        digester.update(b"bc");
        let digest = digester.finish();
        assert_eq!((digest.kind, &hex(&digest)[..16]), (kind, expected));
        assert_eq!(digester.is_needed(), kind != DigestKind::None);
    }

    #[test]
    fn digests_are_those_of_their_kind() {
        check(DigestKind::None, "0000000000000000");
        #[cfg(feature = "sha256")]
        check(DigestKind::Sha256, "ba7816bf8f01cfea");
        #[cfg(feature = "blake3")]
        check(DigestKind::Blake3, "6437b3ac38465133");
    }

    #[cfg(not(feature = "sha256"))]
    #[test]
    fn a_digest_needs_its_feature() {
        let digester = Digester::new(DigestKind::Sha256);
        assert!(matches!(digester, Err(Error::Invalid { .. })));
    }
}
