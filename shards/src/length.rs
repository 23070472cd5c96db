//! Lengths and counts as they are stored.

/// A length or a count as a field of 32 bits.
///
/// # Panics
/// If it does not fit: whatever is stored has a limit far below, so this is a bug, and a wrong length would
/// be damage.
#[track_caller]
pub(crate) fn stored(len: usize) -> u32 {
    match u32::try_from(len) {
        Ok(len) => len,
        Err(_) => panic!("a length of {len} does not fit its field of 32 bits"),
    }
}

#[cfg(test)]
mod tests {
    use super::stored;

    #[test]
    fn lengths_that_fit_are_stored_as_they_are() {
        for len in [0, 1, 1 << 20, u32::MAX as usize] {
            assert_eq!(stored(len) as usize, len);
        }
    }

    #[test]
    #[should_panic(expected = "a length of 4294967296 does not fit its field of 32 bits")]
    fn one_that_does_not_fit_is_never_stored_as_another() {
        stored(1 << 32);
    }
}
