//! Lengths in the widths that formats use.

/// `len` for a field of four bytes.
///
/// # Panics
/// If it does not fit: the caller's limits allowed a structure that no reader could parse.
pub fn u32_len(len: usize) -> u32 {
    match u32::try_from(len) {
        Ok(len) => len,
        Err(_) => unreachable!("a length of {len} was built, the limits allow none above 2^32"),
    }
}

#[cfg(test)]
mod tests {
    use super::u32_len;

    #[test]
    fn the_longest_length_is_written_as_it_is() {
        assert_eq!(u32_len(u32::MAX as usize), u32::MAX);
    }

    #[test]
    #[should_panic = "a length of 4294967296 was built"]
    fn a_longer_one_is_never_written() {
        u32_len(1 << 32);
    }
}
