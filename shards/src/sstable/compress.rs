//! LZ4 for single blocks, in its block format.
//!
//! A block takes whole units of direct I/O, so one that does not become a unit shorter is stored as it
//! is, and is read without any work.

use super::block::Damage;
use super::format::{StoredPayload, span_of};
use bytes::Bytes;
use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

/// Compresses blocks, with buffers that are used again.
pub(super) struct Compressor {
    table: CompressTable,
    output: Vec<u8>,
    /// What the blocks so far shrank to, the last ones counting most; in parts of [`WHOLE`].
    shrunk: usize,
}

const WHOLE: usize = 1 << 10;
/// Blocks differ: as much is added to what the next one is expected to shrink to, so that few take a
/// unit more than was planned.
const MARGIN: usize = WHOLE / 32;

impl Compressor {
    pub(super) fn new() -> Self {
        Self {
            table: CompressTable::small(),
            output: Vec::new(),
            shrunk: WHOLE,
        }
    }

    /// What a payload of `len` bytes is likely to shrink to.
    pub(super) fn expected(&self, len: usize) -> usize {
        len * (self.shrunk + MARGIN).min(WHOLE) / WHOLE
    }

    /// The compressed form of `payload`, if that saves a unit of direct I/O.
    pub(super) fn compress(&mut self, payload: &[u8]) -> Option<&[u8]> {
        let len_max = get_maximum_output_size(payload.len());
        if self.output.len() < len_max {
            self.output.resize(len_max, 0);
        }
        let len = compress_into_with_table(payload, &mut self.output, &mut self.table).ok()?;
        let shrunk = (len * WHOLE / payload.len().max(1)).min(WHOLE);
        self.shrunk = (3 * self.shrunk + shrunk) / 4;
        assert!(self.shrunk <= WHOLE, "a part is no more than the whole");
        let saves = span_of(len) < span_of(payload.len());
        self.output.get(..len).filter(|_| saves)
    }
}

/// Makes `out` the unpacked bytes; their length was checked when the block was decoded.
fn unpack_into(bytes: &[u8], whole: usize, out: &mut Vec<u8>) -> Result<(), Damage> {
    // What is left of an earlier block needs no clearing: every byte is written, or it is an error.
    out.resize(whole, 0);
    match decompress_into(bytes, out) {
        Ok(len) if len == whole => Ok(()),
        _ => Err("a block does not decompress"),
    }
}

impl<'a> StoredPayload<'a> {
    /// The payload in memory of its own.
    pub(super) fn to_bytes(self) -> Result<Bytes, Damage> {
        let Some(whole) = self.whole else {
            return Ok(Bytes::copy_from_slice(self.bytes));
        };
        let mut out = Vec::new();
        unpack_into(self.bytes, whole, &mut out)?;
        Ok(out.into())
    }

    /// Whether the payload was put into `out`; otherwise it is the stored bytes.
    pub(super) fn unpack(self, out: &mut Vec<u8>) -> Result<bool, Damage> {
        let Some(whole) = self.whole else {
            return Ok(false);
        };
        unpack_into(self.bytes, whole, out)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_saves_a_unit_is_compressed_and_damage_is_noticed() {
        let mut compressor = Compressor::new();
        let zeros = vec![0; 8000];
        let packed = compressor.compress(&zeros).unwrap().to_vec();
        assert!(packed.len() < 100);
        assert!(compressor.expected(8000) < 6500);
        let stored = |bytes, whole| StoredPayload {
            bytes,
            whole: Some(whole),
        };
        let unpacked = stored(&packed, zeros.len()).to_bytes().unwrap();
        assert!(unpacked == zeros);
        let mut reused = vec![9; 20_000];
        assert!(stored(&packed, 8000).unpack(&mut reused).unwrap());
        assert!(reused == zeros);
        for whole in [0, 1, 7999, 8001, 100_000] {
            assert!(stored(&packed, whole).to_bytes().is_err(), "{whole}");
        }
        for len in 0..packed.len() {
            assert!(stored(&packed[..len], 8000).to_bytes().is_err(), "{len}");
        }

        // Less than a unit cannot be saved.
        assert!(compressor.compress(&zeros[..4000]).is_none());
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(8000)
        .collect();
        assert!(compressor.compress(&noise).is_none());
        (0..20).for_each(|_| assert!(compressor.compress(&noise).is_none()));
        assert_eq!(compressor.expected(8000), 8000);
    }
}
