//! A segment of the log, before, while and after it holds blocks that are needed.

use crate::ids::SegmentId;
use corelith_io::{BLOCK_SIZE, File};
use std::path::PathBuf;
use std::rc::Rc;

/// A segment that holds blocks of the log.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) path: PathBuf,
    pub(crate) file: Rc<File>,
    /// Number of its start block.
    pub(crate) first_number: u64,
    /// Bytes of blocks in it, submitted ones included.
    pub(crate) end: u64,
    /// Bytes of them that are durable: readers read no further, since what lies behind may change while
    /// they read it.
    pub(crate) durable_end: u64,
    /// Length of the file.
    pub(crate) file_len: u64,
}

/// A pre-written file under the name of a segment to come; the name is durable.
pub(crate) struct Prepared {
    pub(crate) id: SegmentId,
    pub(crate) path: PathBuf,
    pub(crate) file: Rc<File>,
    /// Its length.
    pub(crate) len: u64,
}

/// A segment that the log needs no more once `proven` has reached `proof`.
pub(crate) struct Released {
    pub(crate) segment: Segment,
    pub(crate) proof: u64,
}

/// A length or offset in a segment, in units of `BLOCK_SIZE`.
pub(crate) fn units(bytes: u64) -> u32 {
    match u32::try_from(bytes / BLOCK_SIZE as u64) {
        Ok(units) => units,
        Err(_) => panic!("offset {bytes} is beyond the longest segment"),
    }
}
