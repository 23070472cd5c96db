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

/// The number of a level as a field of 8 bits.
///
/// # Panics
/// If it does not fit, as [`stored`].
#[track_caller]
pub(crate) fn stored_level(level: usize) -> u8 {
    match u8::try_from(level) {
        Ok(level) => level,
        Err(_) => panic!("level {level} does not fit its field of 8 bits"),
    }
}

#[cfg(test)]
mod tests {
    use super::{stored, stored_level};

    #[test]
    fn lengths_that_fit_are_stored_as_they_are() {
        for len in [0, 1, 1 << 20, u32::MAX as usize] {
            assert_eq!(stored(len) as usize, len);
        }
    }

    #[test]
    #[should_panic(expected = "level 256 does not fit")]
    fn a_level_that_does_not_fit_is_never_stored_as_another() {
        assert_eq!(stored_level(255), u8::MAX);
        stored_level(256);
    }

    #[test]
    #[should_panic(expected = "a length of 4294967296 does not fit its field of 32 bits")]
    fn one_that_does_not_fit_is_never_stored_as_another() {
        stored(1 << 32);
    }
}
