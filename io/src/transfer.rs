//! Reads and writes that end early, as a signal, the end of an extent or a full device may cause, and how
//! a file goes on with them: the same in both worlds.

use crate::buf::{BLOCK_SIZE, Buf};
use crate::error::Result;
use std::io;
use std::ops::Deref;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Pieces in a row that bring no whole block before a transfer is given up.
const FRUITLESS_MAX: u32 = 64;

/// The reads and writes of a file, each of which may do less than it is asked for, but never more. Offsets and
/// lengths are multiples of a block.
pub(crate) trait Pieces {
    type Bytes: Deref<Target = [u8]>;

    async fn read_piece(&self, start: u64, len: usize) -> Result<Self::Bytes>;

    /// Returns how many bytes it wrote.
    async fn write_piece(&self, offset: u64, bytes: &[u8]) -> Result<usize>;

    /// Whether the file has bytes from this offset on.
    fn goes_on(&self, offset: u64) -> Result<bool>;

    fn failed(&self, operation: &'static str, error: io::Error) -> crate::Error;
}

/// Goes on with a read from `start` that returned `first`, less than the file has. Returns the `len` bytes
/// from `skip` on, fewer only at the end of the file.
pub(crate) async fn read_rest(
    file: &impl Pieces,
    start: u64,
    skip: usize,
    len: usize,
    first: &[u8],
) -> Result<Buf> {
    assert!(start.is_multiple_of(BLOCK), "a read starts at a block");
    let wanted = skip.saturating_add(len);
    let mut bytes = first.to_vec();
    let mut fruitless = 0;
    while bytes.len() < wanted && file.goes_on(start.saturating_add(bytes.len() as u64))? {
        bytes.truncate(bytes.len() - bytes.len() % BLOCK_SIZE);
        let missing = (wanted - bytes.len()).next_multiple_of(BLOCK_SIZE);
        let more = file
            .read_piece(start.saturating_add(bytes.len() as u64), missing)
            .await?;
        assert!(
            more.len() <= missing,
            "a read returned more than was asked for"
        );
        fruitless = match more.len() < BLOCK_SIZE {
            true => fruitless + 1,
            false => 0,
        };
        if fruitless > FRUITLESS_MAX {
            let why = io::Error::other("the file system returns less than a block");
            return Err(file.failed("read", why));
        }
        bytes.extend_from_slice(&more);
    }
    let bytes = bytes.get(skip..).unwrap_or_default();
    let bytes = bytes.get(..len).unwrap_or(bytes);
    let mut buf = Buf::to_overwrite(bytes.len());
    buf.copy_from_slice(bytes);
    Ok(buf)
}

/// Goes on with a write of `bytes` at `offset` of which only the first `done` bytes were written.
pub(crate) async fn write_rest(
    file: &impl Pieces,
    offset: u64,
    bytes: &[u8],
    mut done: usize,
) -> Result<()> {
    assert!(offset.is_multiple_of(BLOCK), "a write starts at a block");
    assert!(
        bytes.len().is_multiple_of(BLOCK_SIZE),
        "a write is of whole blocks"
    );
    let mut fruitless = 0;
    loop {
        assert!(done <= bytes.len(), "more was written than there is");
        let aligned = done - done % BLOCK_SIZE;
        let rest = bytes.get(aligned..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        let written = file.write_piece(offset + aligned as u64, rest).await?;
        fruitless = match aligned + written <= done {
            true => fruitless + 1,
            false => 0,
        };
        if fruitless > 0 && (written == 0 || fruitless > FRUITLESS_MAX) {
            return Err(file.failed("write", io::ErrorKind::StorageFull.into()));
        }
        done = done.max(aligned + written);
    }
}

/// The block in which an offset lies, and how far from its start.
pub(crate) fn align(offset: u64) -> (u64, usize) {
    let within = offset % BLOCK;
    (offset - within, usize::try_from(within).unwrap_or(0))
}
