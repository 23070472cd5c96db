//! Tables of what the table of uploads decides, and runs at random in which its rows are compared with it.

mod bounds;
mod stored;

use super::entry::{ChunkRun, DropChunks, Step};
use super::load::{Loading, StrangeRow};
use super::rows::mark_key;
use super::*;
use crate::limits::{DROP_CHUNKS_MAX, ENDED_UPLOADS_KEPT_MAX};
use corelith_wire::request::Condition;
use corelith_wire::upload::{Digest, PartLength};

/// Numbers from a seed.
struct Numbers(u64);

impl Numbers {
    /// Below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }
}

/// Parts and their lengths.
type Parts<'a> = &'a [(u32, u64)];

/// A table with its rows, as the engine would have them.
#[derive(Default)]
struct Shard {
    table: Uploads,
    rows: BTreeMap<(u8, Bytes), Bytes>,
    /// Keys whose value is large, with the upload.
    large: BTreeMap<Bytes, UploadId>,
    /// Versions of keys.
    versions: BTreeMap<Bytes, LogIndex>,
    at: u64,
}

fn upload(number: u128) -> UploadId {
    UploadId(number)
}

fn chunk_of(number: u128, part: u32, chunk: u32) -> ChunkId {
    ChunkId {
        upload: UploadId(number),
        part,
        chunk,
    }
}

fn content(len: u32, crc32c: u32) -> ChunkContent {
    ChunkContent { len, crc32c }
}

fn begin(number: u128, key: &str) -> Begin {
    Begin {
        upload: UploadId(number),
        key: Bytes::copy_from_slice(key.as_bytes()),
        ttl_ms: 10_000,
        attributes: Bytes::from_static(b"attributes"),
    }
}

fn commit(number: u128, parts: &[(u32, u64)], crc32c: u32) -> CommitUpload {
    let parts = parts.iter();
    CommitUpload {
        upload: UploadId(number),
        condition: Condition::Any,
        crc32c,
        digest: Digest::default(),
        parts: parts
            .map(|(part, len)| PartLength {
                part: *part,
                len: *len,
            })
            .collect(),
    }
}

impl Shard {
    fn next(&mut self) -> LogIndex {
        self.at += 1;
        LogIndex(self.at)
    }

    fn write(&mut self, at: LogIndex, changes: Vec<RowChange>) {
        for change in changes {
            match change {
                RowChange::Put(space, key, value) => {
                    self.rows.insert((space as u8, key), value);
                }
                RowChange::Delete(space, key) => {
                    self.rows.remove(&(space as u8, key));
                }
                RowChange::Large(key, large) => {
                    self.versions.insert(key.clone(), at);
                    self.large.insert(key, large.upload);
                }
            }
        }
        self.check();
    }

    fn begin(&mut self, begin: &Begin, time_us: u64) -> UploadState {
        let (at, mut changes) = (self.next(), Vec::new());
        let state = self.table.begin(begin, time_us, &mut changes);
        self.write(at, changes);
        state
    }

    fn chunk(&mut self, chunk: ChunkId, content: ChunkContent) -> UploadState {
        let (at, mut changes) = (self.next(), Vec::new());
        if let Some(state) = self.table.settled(chunk, content) {
            return state;
        }
        self.table.stage(chunk, content, &mut changes);
        let row = Bytes::copy_from_slice(&content.len.to_le_bytes());
        self.rows
            .insert((Space::Chunk as u8, chunk_key(chunk)), row);
        self.write(at, changes);
        UploadState::Open
    }

    fn commit(&mut self, commit: &CommitUpload, time_us: u64) -> UploadState {
        let (at, mut changes) = (self.next(), Vec::new());
        if let Err(state) = self.table.check_commit(commit) {
            return state;
        }
        let key = self.table.key(commit.upload).unwrap();
        let current = self.versions.get(&key).copied();
        let holds = match commit.condition {
            Condition::Any => true,
            Condition::Absent => current.is_none(),
            Condition::Version(version) => current == Some(LogIndex(version)),
        };
        let holds = if holds { Ok(()) } else { Err(current) };
        let state = self.table.commit(at, commit, holds, time_us, &mut changes);
        self.write(at, changes);
        state
    }

    fn put(&mut self, key: &str) {
        let (at, mut changes) = (self.next(), Vec::new());
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.versions.insert(key.clone(), at);
        self.large.remove(&key);
        self.table.replaced(at, &key, &mut changes);
        self.write(at, changes);
    }

    fn abort(&mut self, number: u128, time_us: u64) -> UploadState {
        let (at, mut changes) = (self.next(), Vec::new());
        let state = self.table.abort(upload(number), time_us, &mut changes);
        self.write(at, changes);
        state
    }

    fn expire(&mut self, time_us: u64) {
        let (at, mut changes) = (self.next(), Vec::new());
        self.table.expire(time_us, &mut changes);
        self.write(at, changes);
    }

    /// The chunk rows of an upload.
    fn chunks(&self, upload: UploadId) -> Vec<ChunkId> {
        let keys = self.rows.keys();
        let keys = keys.filter(|(space, _)| *space == Space::Chunk as u8);
        let chunks = keys.filter_map(|(_, key)| ChunkId::of_key(key));
        chunks.filter(|chunk| chunk.upload == upload).collect()
    }

    fn drop_some(&mut self, upload: UploadId, most: usize) -> UploadState {
        let (at, mut changes) = (self.next(), Vec::new());
        let all = self.chunks(upload);
        let is_last = all.len() <= most;
        let dropped = DropChunks::of(upload, all.into_iter().take(most), is_last);
        let state = self.table.drop_chunks(at, &dropped, 0, &mut changes);
        self.write(at, changes);
        state
    }

    fn loaded(&self) -> Uploads {
        let mut loading = Loading::default();
        for ((space, key), value) in &self.rows {
            if *space == Space::Upload as u8 {
                loading.upload(key, value).unwrap();
            }
        }
        for ((space, key), value) in &self.rows {
            if *space == Space::Staged as u8 {
                loading.staged(key, value).unwrap();
            }
        }
        loading.finish().unwrap()
    }

    /// What must hold after each step.
    fn check(&self) {
        assert_eq!(self.loaded(), self.table);
        assert_eq!(self.table.live, self.large, "the large values of keys");
        for id in self.large.values() {
            let row = &self.rows[&(Space::Upload as u8, upload_key(*id))];
            let Some(UploadRecord::Committed(record)) = UploadRecord::decode(row) else {
                panic!("{id} is committed");
            };
            let (mut len, parts) = (0, record.parts.iter());
            let parts: BTreeMap<u32, u64> = parts.map(|part| (part.part, part.len)).collect();
            for chunk in self.chunks(*id) {
                assert!(parts.contains_key(&chunk.part), "{chunk} is in no part");
                let row = &self.rows[&(Space::Chunk as u8, chunk_key(chunk))];
                len += u64::from(u32::from_le_bytes(row[..].try_into().unwrap()));
            }
            assert_eq!(len, record.len, "the chunks of {id}");
        }
        for (space, key) in self.rows.keys() {
            if *space >= Space::Staged as u8 {
                let id = ChunkId::of_key(key).unwrap().upload;
                let state = self.table.state(id);
                let has_it = state == UploadState::Open
                    || self.table.is_dead(id)
                    || (self.table.is_readable(id) && *space == Space::Chunk as u8);
                assert!(has_it, "{id} has rows and is {state:?}");
            }
        }
    }
}

#[test]
fn the_life_of_an_upload() {
    let mut shard = Shard::default();
    let chunk = chunk_of(7, 0, 0);
    assert_eq!(shard.table.state(upload(7)), UploadState::Unknown);
    assert_eq!(
        shard.chunk(chunk, content(5, 1)),
        UploadState::Unknown,
        "no chunk of what has not begun"
    );
    assert_eq!(shard.begin(&begin(7, "key"), 100), UploadState::Open);
    assert_eq!(shard.begin(&begin(7, "key"), 200), UploadState::Open);
    assert_eq!(
        shard.begin(&begin(7, "other"), 200),
        UploadState::Refused(UploadRefusal::OtherKey)
    );
    assert_eq!(shard.chunk(chunk, content(5, 1)), UploadState::Open);
    assert_eq!(shard.chunk(chunk, content(5, 1)), UploadState::Open);
    for other in [content(4, 1), content(5, 2)] {
        assert_eq!(
            shard.chunk(chunk, other),
            UploadState::Refused(UploadRefusal::ChunkDiffers)
        );
    }
    let committed = shard.commit(&commit(7, &[(0, 5)], 1), 300);
    let version = shard.at;
    assert_eq!(committed, UploadState::Committed { version });
    // Asked again, also with other parts of the same content; other content is not what was committed.
    assert_eq!(shard.commit(&commit(7, &[(0, 5)], 1), 400), committed);
    assert_eq!(
        shard.commit(&commit(7, &[(0, 2), (1, 3)], 1), 400),
        committed
    );
    let otherwise = UploadState::Refused(UploadRefusal::CommittedOtherwise { version });
    let others: [(Parts<'_>, u32); 3] = [(&[], 0), (&[(0, 5)], 2), (&[(0, 4)], 1)];
    for (parts, crc32c) in others {
        assert_eq!(shard.commit(&commit(7, parts, crc32c), 400), otherwise);
    }
    assert_eq!(shard.abort(7, 400), committed);
    assert_eq!(shard.begin(&begin(7, "key"), 400), committed);
    assert_eq!(shard.chunk(chunk, content(4, 9)), committed);
    // Replaced it can be read until it is dropped.
    assert_eq!(shard.drop_some(upload(7), 10), committed);
    assert_eq!(shard.chunks(upload(7)), [chunk]);
    shard.put("key");
    assert!(shard.table.is_readable(upload(7)) && shard.table.is_dead(upload(7)));
    assert_eq!(shard.commit(&commit(7, &[(0, 5)], 1), 450), committed);
    assert_eq!(shard.commit(&commit(7, &[], 0), 450), otherwise);
    assert_eq!(shard.drop_some(upload(7), 10), committed);
    assert!(!shard.table.is_readable(upload(7)) && !shard.table.is_dead(upload(7)));
    assert_eq!(shard.chunks(upload(7)), []);
    // What it was is not known any more.
    assert_eq!(shard.commit(&commit(7, &[], 0), 500), committed);
    assert_eq!(shard.table.counts(), UploadCounts::default());
}

/// What a commit of two parts must name, of which the first has three chunks.
#[test]
fn a_commit_needs_all_that_it_names() {
    let long = u64::from(CHUNK_BYTES);
    let incomplete = |part, chunk| UploadRefusal::Incomplete { part, chunk };
    let (one, two) = (crc32c::crc32c(b"one"), crc32c::crc32c(b"two"));
    let zeros = crc32c::crc32c(&vec![0; CHUNK_BYTES as usize]);
    let part_5 = crc::combine(crc::combine(zeros, zeros, CHUNK_BYTES), one, 3);
    let both = crc::combine(part_5, two, 3);
    let other_way = crc::combine(two, part_5, 2 * CHUNK_BYTES + 3);
    let refused: [(Parts<'_>, u32, UploadRefusal); 11] = [
        (
            &[(5, 2 * long + 3), (9, 3)],
            both ^ 1,
            UploadRefusal::ChecksumDiffers,
        ),
        (
            &[(9, 3), (5, 2 * long + 3)],
            both,
            UploadRefusal::ChecksumDiffers,
        ),
        (&[(5, 2 * long + 2)], 0, incomplete(5, 2)),
        (&[(5, 2 * long)], 0, incomplete(5, 2)),
        (&[(5, 3 * long)], 0, incomplete(5, 2)),
        (
            &[(5, 2 * long + 3), (5, 2 * long + 3)],
            0,
            UploadRefusal::Malformed,
        ),
        (&[(5, 0)], 0, incomplete(5, 0)),
        (&[(9, 4)], 0, incomplete(9, 0)),
        (&[(8, 1)], 0, incomplete(8, 0)),
        (&[(9, long + 3)], 0, incomplete(9, 0)),
        (
            &[(8, 1 << 31), (9, 1)],
            0,
            UploadRefusal::TooLarge { limit: 1 << 31 },
        ),
    ];
    let shard = || {
        let mut shard = Shard::default();
        shard.begin(&begin(1, "key"), 0);
        for chunk in 0..2 {
            shard.chunk(chunk_of(1, 5, chunk), content(CHUNK_BYTES, zeros));
        }
        shard.chunk(chunk_of(1, 5, 2), content(3, one));
        shard.chunk(chunk_of(1, 9, 0), content(3, two));
        shard
    };
    for (parts, crc32c, refusal) in refused {
        let state = shard().commit(&commit(1, parts, crc32c), 0);
        assert_eq!(state, UploadState::Refused(refusal), "{parts:?}");
    }
    let taken: [(Parts<'_>, u32, usize); 6] = [
        (&[(5, 2 * long + 3), (9, 3)], both, 4),
        (&[(9, 3), (5, 2 * long + 3)], other_way, 4),
        (&[(9, 3)], two, 1),
        (&[(9, 3), (100, 0)], two, 1),
        (&[(5, 2 * long + 3)], part_5, 3),
        (&[], 0, 0),
    ];
    for (parts, crc32c, chunks) in taken {
        let mut shard = shard();
        let state = shard.commit(&commit(1, parts, crc32c), 0);
        let version = shard.at;
        assert_eq!(state, UploadState::Committed { version }, "{parts:?}");
        assert_eq!(shard.chunks(upload(1)).len(), chunks, "{parts:?}");
    }
}

/// Values of up to 2 GiB are taken, in parts of any length; no count of bytes wraps or is cut.
#[test]
fn values_have_up_to_two_gib() {
    let zeros = crc32c::crc32c(&vec![0; CHUNK_BYTES as usize]);
    let chunks = (1 << 31) / CHUNK_BYTES;
    let limit = 1_u64 << 31;
    for len in [limit - 1, limit] {
        let mut table = Uploads::default();
        let mut changes = Vec::new();
        table.begin(&begin(1, "key"), 0, &mut changes);
        let mut whole = 0;
        for chunk in 0..chunks {
            let left = len - u64::from(chunk) * u64::from(CHUNK_BYTES);
            let bytes = left.min(CHUNK_BYTES.into()) as u32;
            let crc32c = match bytes == CHUNK_BYTES {
                true => zeros,
                false => crc32c::crc32c(&vec![0; bytes as usize]),
            };
            let content = content(bytes, crc32c);
            assert_eq!(table.settled(chunk_of(1, 0, chunk), content), None);
            table.stage(chunk_of(1, 0, chunk), content, &mut changes);
            whole = crc::combine(whole, crc32c, bytes);
        }
        let more = table.settled(chunk_of(1, 0, chunks), content(1, 0));
        let too_large = UploadState::Refused(UploadRefusal::TooLarge { limit });
        assert_eq!(more, Some(too_large), "a byte more in a part");
        assert_eq!(table.settled(chunk_of(1, 1, 0), content(1, 0)), None);
        table.stage(chunk_of(1, 1, 0), content(1, 0), &mut changes);
        for more in [
            &[(0, limit), (1, 1)][..],
            &[(0, 9_999_999_999)],
            &[(0, u64::MAX), (1, 1)],
        ] {
            let refused = table.check_commit(&commit(1, more, whole));
            assert_eq!(refused, Err(too_large), "{more:?}");
        }
        let commit = commit(1, &[(0, len)], whole);
        assert_eq!(table.check_commit(&commit), Ok(()), "{len}");
        changes.clear();
        let at = LogIndex(9);
        let state = table.commit(at, &commit, Ok(()), 0, &mut changes);
        assert_eq!(state, UploadState::Committed { version: 9 });
        let mut large = changes.iter().filter_map(|change| match change {
            RowChange::Large(_, large) => Some(large.len),
            _ => None,
        });
        assert_eq!(large.next(), Some(len));
    }
}

/// What is sent again counts once.
#[test]
fn repeated_chunks_and_begins_count_once() {
    let mut table = Uploads::default();
    let mut changes = Vec::new();
    let first = chunk_of(1, 0, 0);
    for turn in 0..2 * UPLOAD_CHUNKS_MAX {
        assert_eq!(
            table.begin(&begin(1, "key"), 0, &mut changes),
            UploadState::Open
        );
        let settled = table.settled(first, content(9, 7));
        assert_eq!(settled, (turn > 0).then_some(UploadState::Open));
        if turn == 0 {
            table.stage(first, content(9, 7), &mut changes);
        }
    }
    let counts = table.counts();
    assert_eq!((counts.open, counts.staged_chunks), (1, 1));
}

#[test]
fn a_commit_whose_condition_does_not_hold_ends_the_upload() {
    let mut shard = Shard::default();
    for number in 1..=3 {
        shard.begin(&begin(number, "key"), 0);
        shard.chunk(chunk_of(number, 0, 0), content(1, 1));
    }
    let conditional = |number, condition| CommitUpload {
        condition,
        ..commit(number, &[(0, 1)], 1)
    };
    let first = shard.commit(&conditional(1, Condition::Absent), 0);
    let version = shard.at;
    assert_eq!(first, UploadState::Committed { version });
    let current = Some(version);
    let second = shard.commit(&conditional(2, Condition::Absent), 0);
    assert_eq!(second, UploadState::Conflicted { current });
    assert_eq!(shard.commit(&conditional(2, Condition::Any), 0), second);
    assert_eq!(shard.drop_some(upload(2), 9), second);
    assert_eq!(shard.chunks(upload(2)), []);
    assert_eq!(shard.commit(&conditional(2, Condition::Any), 0), second);
    let third = shard.commit(&conditional(3, Condition::Version(version)), 0);
    let version = shard.at;
    assert_eq!(third, UploadState::Committed { version });
    assert!(shard.table.is_dead(upload(1)), "the first is replaced");
    assert_eq!(shard.table.state(upload(1)), first);
}

#[test]
fn time_rises_and_ends_uploads() {
    let mut shard = Shard::default();
    shard.begin(&begin(1, "a"), 1_000_000);
    let long = Begin {
        ttl_ms: u64::MAX,
        ..begin(2, "b")
    };
    // The clock went back.
    shard.begin(&long, 5);
    assert_eq!(shard.table.time_us(), 1_000_001);
    shard.begin(
        &Begin {
            ttl_ms: 1,
            ..begin(3, "c")
        },
        1_000_002,
    );
    let week_us = UPLOAD_TTL_MAX.as_micros() as u64;
    let expected = [11_000_000, 1_000_001 + week_us, 2_000_002];
    for (number, expires) in (1..).zip(expected) {
        assert_eq!(shard.table.expires_us(upload(number)), Some(expires));
    }
    shard.expire(2_000_001);
    assert_eq!(shard.table.counts().open, 3);
    shard.expire(2_000_002);
    assert_eq!(shard.table.state(upload(3)), UploadState::Expired);
    shard.expire(u64::MAX);
    assert_eq!(shard.table.counts().open, 0);
    assert_eq!(shard.abort(1, 0), UploadState::Expired);
    assert_eq!(shard.table.time_us(), u64::MAX);
}

/// A replaced value of `chunks` chunks, in parts of one.
fn replaced_value(shard: &mut Shard, chunks: u32) -> UploadId {
    shard.begin(&begin(7, "key"), 0);
    let mut parts = Vec::new();
    for part in 0..chunks {
        shard.chunk(chunk_of(7, part, 0), content(1, 1));
        parts.push((part, 1));
    }
    let crc32c = (0..chunks).fold(0, |crc, _| crc::combine(crc, 1, 1));
    let committed = shard.commit(&commit(7, &parts, crc32c), 0);
    assert!(matches!(committed, UploadState::Committed { .. }));
    shard.put("key");
    upload(7)
}

#[test]
fn a_value_of_which_something_is_dropped_is_not_readable() {
    let mut shard = Shard::default();
    let value = replaced_value(&mut shard, 3);
    assert!(shard.table.is_readable(value));
    let dead = shard.table.counts();
    let state = shard.drop_some(value, 1);
    assert!(matches!(state, UploadState::Committed { .. }));
    assert_eq!(shard.chunks(value).len(), 2);
    assert!(!shard.table.is_readable(value) && shard.table.is_dead(value));
    assert_eq!(shard.table.counts(), dead);
    for left in [1, 0] {
        assert_eq!(shard.drop_some(value, 1), state);
        assert_eq!(shard.chunks(value).len(), left);
    }
    assert!(!shard.table.is_readable(value) && !shard.table.is_dead(value));
    assert_eq!(
        shard.table.state(value),
        state,
        "it is known for what it was"
    );
    assert_eq!(shard.table.counts(), UploadCounts::default());
    let is_upload = |key: &&(u8, Bytes)| key.0 == Space::Upload as u8;
    let rows = shard.rows.keys().filter(is_upload).count();
    assert_eq!(rows, 2, "the time and how it ended");
}
