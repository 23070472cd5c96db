//! The CRC-32C of a whole from those of its parts.
//!
//! Appending bytes to what a CRC covers multiplies it by a power of x, which is linear over GF(2): a matrix of 32 columns.
//! Those for powers of two of bytes are computed by the compiler, so a chunk of such a length costs one multiplication (some
//! 50 ns) and any other at most 31.

/// The polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Column `n` is what bit `n` becomes.
type Matrix = [u32; 32];

/// What appending `2^n` zero bytes does.
static APPEND: [Matrix; 32] = append();

#[expect(
    clippy::indexing_slicing,
    reason = "columns and powers are counted to 32"
)]
const fn append() -> [Matrix; 32] {
    let mut bit: Matrix = [0; 32];
    bit[0] = POLYNOMIAL;
    let mut at = 1;
    while at < 32 {
        bit[at] = 1 << (at - 1);
        at += 1;
    }
    let byte = square(&square(&square(&bit)));
    let mut all = [byte; 32];
    let mut power = 1;
    while power < 32 {
        all[power] = square(&all[power - 1]);
        power += 1;
    }
    all
}

#[expect(
    clippy::indexing_slicing,
    reason = "columns are counted to 32, and a bit of 32 is one of them"
)]
const fn multiply(matrix: &Matrix, vector: u32) -> u32 {
    let mut sum = 0;
    let mut left = vector;
    while left != 0 {
        sum ^= matrix[left.trailing_zeros() as usize];
        left &= left - 1;
    }
    sum
}

#[expect(clippy::indexing_slicing, reason = "columns are counted to 32")]
const fn square(matrix: &Matrix) -> Matrix {
    let mut squared = [0; 32];
    let mut column = 0;
    while column < 32 {
        squared[column] = multiply(matrix, matrix[column]);
        column += 1;
    }
    squared
}

/// The CRC-32C of bytes with the CRC `before`, followed by `len` bytes with the CRC `after`.
pub(crate) fn combine(before: u32, after: u32, len: u32) -> u32 {
    let powers = APPEND.iter().enumerate();
    let powers = powers.filter(|(power, _)| len >> power & 1 == 1);
    powers.fold(before, |crc, (_, matrix)| multiply(matrix, crc)) ^ after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_of_a_whole_is_that_of_its_parts() {
        let bytes: Vec<u8> = (0..3 << 20)
            .map(|at: u32| (at.wrapping_mul(at) >> 7) as u8)
            .collect();
        let cuts: [&[usize]; 7] = [
            &[],
            &[0],
            &[1],
            &[1 << 20],
            &[1 << 20, 2 << 20],
            &[1 << 20, (1 << 20) + 1],
            &[5, 77_777, 1_234_567, 3_000_001],
        ];
        for cuts in cuts {
            let mut from = 0;
            let mut whole = 0;
            for to in cuts.iter().copied().chain([bytes.len()]) {
                let part = &bytes[from..to];
                whole = combine(whole, crc32c::crc32c(part), part.len() as u32);
                from = to;
            }
            assert_eq!(whole, crc32c::crc32c(&bytes), "{cuts:?}");
        }
    }

    #[test]
    fn it_agrees_with_another_implementation() {
        for len in [1, 255, 1 << 20, 1 << 31, u32::MAX] {
            let expected = crc32c::crc32c_combine(0x1234_5678, 0x9abc_def0, len as usize);
            assert_eq!(combine(0x1234_5678, 0x9abc_def0, len), expected, "{len}");
        }
    }
}
