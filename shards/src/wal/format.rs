//! The bytes of the log: blocks, and the records in them. Shared by the writer and all readers.
//!
//! A segment file is a sequence of blocks; each is one write, starts at a multiple of 4 KiB and is
//! padded with zeros to one. Blocks are numbered from 0 through all segments of a log. All numbers
//! are little-endian.
//!
//! ```text
//! block      +-----------+---------------------+---------+
//!            | header 64 | payload             | padding |
//!            +-----------+---------------------+---------+
//! header      0 magic "CLWL"           u32
//!             4 format version         u16
//!             6 flags                  u16   1 start of a segment, 2 after a recovery
//!             8 header crc             u32   crc32c of bytes 12..64, then 4..8
//!            12 payload crc            u32   crc32c of the payload
//!            16 payload length         u32
//!            20 previous               u32   header crc of the block before (the chain); 0 for block 0
//!            24 store id               u64
//!            32 block number           u64
//!            40 flushed up to          u64   all blocks below this number, and all values that they
//!                                             refer to, were durable at this write
//!            48 commit index           u64   plus one; 0 if none is known
//!            56 segment                u32   id of the segment, which is its generation
//!            60 shard                  u32
//! payload    of a start block: the state; of any other block: fragments, one after the other
//! state       0 presence               u8    1 vote, 2 vote is committed, 4 purged, 8 last
//!             1 zero                   7 bytes
//!             8 vote                   term u64, node u64
//!            24 purged                 log id
//!            48 last                   log id
//! log id     term u64, node u64, index u64
//! fragment   +--------+---------+-----------+---------+--------+------+
//!            | len u32| part u8 | record u8 | kind u8 | space  | data |
//!            +--------+---------+-----------+---------+--------+------+
//!            part: 1 whole record, 2 first, 3 middle, 4 last
//!            space u8: in the first fragment of a separated entry, of its value's key (see key.rs); else 0
//! record     1 entry           log id, body length u32 (both in the first fragment), body
//!            2 vote            term u64, node u64, committed u8
//!            3 truncate after  presence u8, log id: all entries after it (all, if absent) are gone
//!            4 purge           log id: all entries up to it are gone
//!            5 separated entry log id, head length u32, key start u32, key length u32, pointer (all
//!                              in the first fragment), head
//! pointer    segment u64, slot u32, offset u64, length u32, crc u32
//! ```
//!
//! A separated entry's body is its head and then the value that the pointer names in the value log;
//! the value's key stands in the head. Format version 1 had no separated entries.
//!
//! A segment id is never used twice, so a block that carries another segment's id is left over from
//! an earlier use of the file. Magic, format version and header crc keep their places in every
//! format version, so that a newer one is told from damage.

use super::Vote;
use crate::ids::{LogId, LogIndex, ReplicaId, SegmentId, ShardId, Term, ValueSegmentId};
use crate::key::Space;
use crate::length;
use crate::vlog::ValuePointer;
use bytes::BufMut;

pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"CLWL");
pub(crate) const VERSION: u16 = 2;

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const FRAGMENT_HEADER_BYTES: usize = 8;
/// What comes before an entry's body in its first fragment.
const ENTRY_HEADER_BYTES: usize = LOG_ID_BYTES + 4;
/// What comes before a separated entry's head in its first fragment.
const SEPARATED_HEADER_BYTES: usize = ENTRY_HEADER_BYTES + 8 + POINTER_BYTES;
const LOG_ID_BYTES: usize = 24;
const POINTER_BYTES: usize = 28;
pub(crate) const STATE_BYTES: usize = 24 + 2 * LOG_ID_BYTES;
/// The longest record that is not an entry; it is never split.
pub(crate) const SMALL_RECORD_BYTES_MAX: usize = 1 + LOG_ID_BYTES;

/// The first block of a segment: its payload is the state.
pub(crate) const FLAG_START: u16 = 1;
/// The segment was begun by a recovery: a record left open before it was never finished.
pub(crate) const FLAG_RECOVERED: u16 = 2;

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) flags: u16,
    pub(crate) payload_crc: u32,
    pub(crate) payload_len: u32,
    pub(crate) previous: u32,
    pub(crate) store_id: u64,
    pub(crate) number: u64,
    pub(crate) flushed_up_to: u64,
    pub(crate) commit: Option<LogIndex>,
    pub(crate) segment: SegmentId,
    pub(crate) shard: ShardId,
}

/// Why bytes are no block header of this format version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Wrong magic, wrong checksum or too short.
    Damaged,
    /// Intact, but of this newer format version.
    Newer(u16),
}

impl BlockHeader {
    /// The bytes of the header, and its crc (the next block's `previous`).
    pub(crate) fn encode(&self) -> ([u8; HEADER_BYTES], u32) {
        debug_assert!(
            self.flushed_up_to <= self.number,
            "flushed before it is written"
        );
        let mut rest = [0; HEADER_BYTES - 12];
        let mut out = rest.as_mut_slice();
        out.put_u32_le(self.payload_crc);
        out.put_u32_le(self.payload_len);
        out.put_u32_le(self.previous);
        out.put_u64_le(self.store_id);
        out.put_u64_le(self.number);
        out.put_u64_le(self.flushed_up_to);
        out.put_u64_le(self.commit.map_or(0, |index| index.0 + 1));
        out.put_u32_le(segment_number(self.segment));
        out.put_u32_le(self.shard.0);
        let crc = crc32c::crc32c(&rest);
        let mut header = [0; HEADER_BYTES];
        let mut out = header.as_mut_slice();
        out.put_u32_le(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(self.flags);
        let crc = append_version_and_flags(crc, VERSION, self.flags);
        out.put_u32_le(crc);
        out.put_slice(&rest);
        (header, crc)
    }

    /// Reads a header and its crc.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, u32), BadHeader> {
        Self::parse(bytes).ok_or(BadHeader::Damaged)?
    }

    fn parse(bytes: &[u8]) -> Option<Result<(Self, u32), BadHeader>> {
        let mut from = Cursor(bytes.get(..HEADER_BYTES)?);
        if from.u32()? != MAGIC {
            return None;
        }
        let version = from.u16()?;
        let flags = from.u16()?;
        let crc = from.u32()?;
        let computed = append_version_and_flags(crc32c::crc32c(from.0), version, flags);
        if crc != computed {
            return None;
        }
        if version > VERSION {
            return Some(Err(BadHeader::Newer(version)));
        }
        let header = Self {
            flags,
            payload_crc: from.u32()?,
            payload_len: from.u32()?,
            previous: from.u32()?,
            store_id: from.u64()?,
            number: from.u64()?,
            flushed_up_to: from.u64()?,
            commit: from.u64()?.checked_sub(1).map(LogIndex),
            segment: SegmentId(u64::from(from.u32()?)),
            shard: ShardId(from.u32()?),
        };
        Some(Ok((header, crc)))
    }

    /// Bytes of header and payload.
    pub(crate) fn used_len(&self) -> usize {
        HEADER_BYTES + self.payload_len as usize
    }

    /// Whether `payload` is what the header was made for.
    pub(crate) fn covers(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_len as usize && crc32c::crc32c(payload) == self.payload_crc
    }
}

/// Version and flags are under the header's checksum although they precede it.
fn append_version_and_flags(crc: u32, version: u16, flags: u16) -> u32 {
    let crc = crc32c::crc32c_append(crc, &version.to_le_bytes());
    crc32c::crc32c_append(crc, &flags.to_le_bytes())
}

/// A segment id as blocks carry it.
///
/// # Panics
/// Beyond 2^32 segments, which are 2^48 bytes of the shortest.
pub(crate) fn segment_number(id: SegmentId) -> u32 {
    match u32::try_from(id.0) {
        Ok(number) => number,
        Err(_) => panic!("segment {id} is beyond the format"),
    }
}

/// What a log amounts to besides its entries, as of some block; repeated at the start of every
/// segment, so that freeing the segments before it loses nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogId>,
    /// The last entry, or `purged` if nothing follows it.
    pub(crate) last: Option<LogId>,
}

impl State {
    pub(crate) fn encode(&self) -> [u8; STATE_BYTES] {
        let vote = self.vote.unwrap_or_default();
        let mut bytes = [0; STATE_BYTES];
        let mut out = bytes.as_mut_slice();
        out.put_u8(
            u8::from(self.vote.is_some())
                | u8::from(vote.committed) << 1
                | u8::from(self.purged.is_some()) << 2
                | u8::from(self.last.is_some()) << 3,
        );
        out.put_bytes(0, 7);
        out.put_u64_le(vote.term.0);
        out.put_u64_le(vote.node.0);
        put_log_id(&mut out, self.purged.unwrap_or_default());
        put_log_id(&mut out, self.last.unwrap_or_default());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Cursor(bytes.get(..STATE_BYTES)?);
        let presence = from.u8()?;
        from.take(7)?;
        let vote = Vote {
            term: Term(from.u64()?),
            node: ReplicaId(from.u64()?),
            committed: presence & 2 != 0,
        };
        let purged = from.log_id()?;
        let last = from.log_id()?;
        Some(Self {
            vote: (presence & 1 != 0).then_some(vote),
            purged: (presence & 4 != 0).then_some(purged),
            last: (presence & 8 != 0).then_some(last),
        })
    }
}

/// Which part of a record a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    First,
    Middle,
    Last,
}

impl Part {
    fn tag(self) -> u8 {
        match self {
            Self::Whole => 1,
            Self::First => 2,
            Self::Middle => 3,
            Self::Last => 4,
        }
    }
}

const RECORD_ENTRY: u8 = 1;
const RECORD_VOTE: u8 = 2;
const RECORD_TRUNCATE_AFTER: u8 = 3;
const RECORD_PURGE: u8 = 4;
const RECORD_SEPARATED_ENTRY: u8 = 5;

/// What an entry's record says before the bytes of the body that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHead {
    pub(crate) id: LogId,
    pub(crate) kind: u8,
    /// Bytes of the body that the record holds: all of them, or the head of a separated entry.
    pub(crate) stored_len: u32,
    pub(crate) separated: Option<Separated>,
}

/// What a separated entry's record says beyond that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Separated {
    /// Where in the head the key is.
    pub(crate) key_start: u32,
    pub(crate) key_len: u32,
    pub(crate) space: Space,
    /// Where the value is.
    pub(crate) place: ValuePointer,
}

impl EntryHead {
    /// Bytes before those of the body in the first fragment.
    pub(crate) fn header_bytes(&self) -> usize {
        match self.separated {
            None => ENTRY_HEADER_BYTES,
            Some(_) => SEPARATED_HEADER_BYTES,
        }
    }

    /// Length of the whole body.
    pub(crate) fn whole_len(&self) -> u64 {
        let separated = self.separated.map_or(0, |separated| separated.place.len);
        u64::from(self.stored_len) + u64::from(separated)
    }

    fn tag(&self) -> u8 {
        match self.separated {
            None => RECORD_ENTRY,
            Some(_) => RECORD_SEPARATED_ENTRY,
        }
    }
}

/// A record without the body that an entry has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Entry(EntryHead),
    Vote(Vote),
    TruncateAfter(Option<LogId>),
    Purge(LogId),
}

/// A part of a record, as it stands in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'a> {
    /// A record begins; if it is an entry, with these bytes of its body. It goes on in the next
    /// fragment if they are fewer than its body is long.
    Begin(Record, &'a [u8]),
    /// More bytes of the body of the entry begun before.
    More(&'a [u8]),
}

/// Writes the header of an entry's first fragment, which `here` bytes of the body follow.
pub(crate) fn put_entry_header(out: &mut &mut [u8], head: &EntryHead, here: u32) {
    assert!(here <= head.stored_len, "a part is longer than the whole");
    let part = if here == head.stored_len {
        Part::Whole
    } else {
        Part::First
    };
    out.put_u32_le(length::stored(head.header_bytes() + here as usize));
    let separated = head.separated.as_ref();
    let space = separated.map_or(0, |separated| separated.space.tag());
    out.put_slice(&[part.tag(), head.tag(), head.kind, space]);
    put_log_id(out, head.id);
    out.put_u32_le(head.stored_len);
    if let Some(separated) = &head.separated {
        out.put_u32_le(separated.key_start);
        out.put_u32_le(separated.key_len);
        out.put_u64_le(separated.place.segment.0);
        out.put_u32_le(separated.place.slot);
        out.put_u64_le(separated.place.offset);
        out.put_u32_le(separated.place.len);
        out.put_u32_le(separated.place.crc);
    }
}

/// Writes the header of a later fragment of an entry, which `here` bytes of the body follow.
pub(crate) fn put_more_header(out: &mut &mut [u8], head: &EntryHead, here: u32, is_last: bool) {
    let part = if is_last { Part::Last } else { Part::Middle };
    out.put_u32_le(here);
    out.put_slice(&[part.tag(), head.tag(), 0, 0]);
}

/// Encodes a whole record that is not an entry, and returns its length.
pub(crate) fn put_small_record(out: &mut [u8], record: &Record) -> usize {
    let mut data = [0; SMALL_RECORD_BYTES_MAX];
    let mut rest = data.as_mut_slice();
    let tag = match *record {
        Record::Vote(vote) => {
            rest.put_u64_le(vote.term.0);
            rest.put_u64_le(vote.node.0);
            rest.put_u8(u8::from(vote.committed));
            RECORD_VOTE
        }
        Record::TruncateAfter(last) => {
            rest.put_u8(u8::from(last.is_some()));
            put_log_id(&mut rest, last.unwrap_or_default());
            RECORD_TRUNCATE_AFTER
        }
        Record::Purge(upto) => {
            put_log_id(&mut rest, upto);
            RECORD_PURGE
        }
        Record::Entry(_) => panic!("an entry is not a small record"),
    };
    let len = SMALL_RECORD_BYTES_MAX - rest.len();
    let mut out = out;
    out.put_u32_le(length::stored(len));
    out.put_slice(&[Part::Whole.tag(), tag, 0, 0]);
    out.put_slice(data.get(..len).unwrap_or_default());
    FRAGMENT_HEADER_BYTES + len
}

fn put_log_id(out: &mut &mut [u8], id: LogId) {
    out.put_u64_le(id.term.0);
    out.put_u64_le(id.node.0);
    out.put_u64_le(id.index.0);
}

/// The fragments of a block's payload; `None` in place of one that cannot be read, after which
/// there are no more.
pub(crate) struct Fragments<'a> {
    rest: Cursor<'a>,
}

impl<'a> Fragments<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self {
            rest: Cursor(payload),
        }
    }

    fn read(&mut self) -> Option<Fragment<'a>> {
        let len = self.rest.u32()?;
        let part = self.rest.u8()?;
        let record = self.rest.u8()?;
        let kind = self.rest.u8()?;
        let space = self.rest.u8()?;
        let mut data = Cursor(self.rest.take(len as usize)?);
        let is_first = match part {
            1 | 2 => true,
            3 | 4 if matches!(record, RECORD_ENTRY | RECORD_SEPARATED_ENTRY) => {
                return Some(Fragment::More(data.0));
            }
            _ => return None,
        };
        let record = match record {
            RECORD_ENTRY | RECORD_SEPARATED_ENTRY if is_first => {
                let (id, stored_len) = (data.log_id()?, data.u32()?);
                let separated = match record {
                    RECORD_SEPARATED_ENTRY => Some(data.separated(stored_len, space)?),
                    _ => None,
                };
                Record::Entry(EntryHead {
                    id,
                    kind,
                    stored_len,
                    separated,
                })
            }
            RECORD_VOTE => Record::Vote(Vote {
                term: Term(data.u64()?),
                node: ReplicaId(data.u64()?),
                committed: data.u8()? != 0,
            }),
            RECORD_TRUNCATE_AFTER => {
                let is_some = data.u8()? != 0;
                let last = data.log_id()?;
                Record::TruncateAfter(is_some.then_some(last))
            }
            RECORD_PURGE => Record::Purge(data.log_id()?),
            _ => return None,
        };
        let well_formed = match record {
            Record::Entry(head) if part == 1 => data.0.len() == head.stored_len as usize,
            Record::Entry(head) => data.0.len() < head.stored_len as usize,
            _ => part == 1 && data.0.is_empty(),
        };
        well_formed.then_some(Fragment::Begin(record, data.0))
    }
}

impl<'a> Iterator for Fragments<'a> {
    type Item = Option<Fragment<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.0.is_empty() {
            return None;
        }
        let fragment = self.read();
        if fragment.is_none() {
            self.rest = Cursor(&[]);
        }
        Some(fragment)
    }
}

/// Reads numbers off the front of a slice; `None` when it is too short.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn log_id(&mut self) -> Option<LogId> {
        Some(LogId {
            term: Term(self.u64()?),
            node: ReplicaId(self.u64()?),
            index: LogIndex(self.u64()?),
        })
    }

    /// What stands between the length and the bytes of a head of `head_len`.
    fn separated(&mut self, head_len: u32, space: u8) -> Option<Separated> {
        let separated = Separated {
            key_start: self.u32()?,
            key_len: self.u32()?,
            space: Space::of_tag(space).filter(|space| space.is_separable())?,
            place: ValuePointer {
                segment: ValueSegmentId(self.u64()?),
                slot: self.u32()?,
                offset: self.u64()?,
                len: self.u32()?,
                crc: self.u32()?,
            },
        };
        let key_end = separated.key_start.checked_add(separated.key_len)?;
        (key_end <= head_len && separated.place.len > 0).then_some(separated)
    }
}

#[cfg(test)]
mod tests;
