//! Tables of what the table of uploads decides, and runs at random in which its rows are compared with it.

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
    // Asked again, of whatever it was.
    assert_eq!(shard.commit(&commit(7, &[], 0), 400), committed);
    assert_eq!(shard.abort(7, 400), committed);
    assert_eq!(shard.begin(&begin(7, "key"), 400), committed);
    assert_eq!(shard.chunk(chunk, content(4, 9)), committed);
    // Replaced it can be read until it is dropped.
    assert_eq!(shard.drop_some(upload(7), 10), committed);
    assert_eq!(shard.chunks(upload(7)), [chunk]);
    shard.put("key");
    assert!(shard.table.is_readable(upload(7)) && shard.table.is_dead(upload(7)));
    assert_eq!(shard.drop_some(upload(7), 10), committed);
    assert!(!shard.table.is_readable(upload(7)) && !shard.table.is_dead(upload(7)));
    assert_eq!(shard.chunks(upload(7)), []);
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

#[test]
fn all_is_bounded() {
    let mut table = Uploads::default();
    let mut changes = Vec::new();
    for number in 1..=OPEN_UPLOADS_MAX as u128 {
        let state = table.begin(&begin(number, "key"), 0, &mut changes);
        assert_eq!(state, UploadState::Open);
    }
    let limit = OPEN_UPLOADS_MAX as u32;
    let state = table.begin(&begin(1 << 100, "key"), 0, &mut changes);
    let too_many = |limit| UploadState::Refused(UploadRefusal::TooMany { limit });
    assert_eq!(state, too_many(limit));
    for chunk in 0..UPLOAD_CHUNKS_MAX as u32 {
        let chunk = chunk_of(1, chunk, 0);
        assert_eq!(table.settled(chunk, content(1, 0)), None);
        table.stage(chunk, content(1, 0), &mut changes);
    }
    let more = table.settled(chunk_of(1, 1 << 20, 0), content(1, 0));
    assert_eq!(more, Some(too_many(UPLOAD_CHUNKS_MAX as u32)));
    for number in 2.. {
        if table.counts().staged_chunks == STAGED_CHUNKS_MAX {
            break;
        }
        for chunk in 0..UPLOAD_CHUNKS_MAX as u32 {
            table.stage(chunk_of(number, chunk, 0), content(1, 0), &mut changes);
        }
        changes.clear();
    }
    let more = table.settled(chunk_of(1000, 0, 0), content(1, 0));
    assert_eq!(more, Some(too_many(STAGED_CHUNKS_MAX as u32)));
    let refused: [(ChunkContent, u32, UploadRefusal); 3] = [
        (content(0, 0), 0, UploadRefusal::Malformed),
        (content(CHUNK_BYTES + 1, 0), 0, UploadRefusal::Malformed),
        (
            content(1, 0),
            4096,
            UploadRefusal::TooLarge { limit: 1 << 31 },
        ),
    ];
    for (content, chunk, refusal) in refused {
        let settled = table.settled(chunk_of(1000, 7, chunk), content);
        assert_eq!(settled, Some(UploadState::Refused(refusal)));
    }
    // Those that ended are forgotten, the oldest first.
    let mut table = Uploads::default();
    for number in 1..=ENDED_UPLOADS_KEPT_MAX as u128 + 1 {
        let upload = upload(number);
        table.begin(&begin(number, "key"), 0, &mut changes);
        table.abort(upload, 0, &mut changes);
        let dropped = DropChunks::of(upload, std::iter::empty(), true);
        table.drop_chunks(LogIndex(number as u64), &dropped, 0, &mut changes);
    }
    assert_eq!(table.state(upload(1)), UploadState::Unknown);
    assert_eq!(table.state(upload(2)), UploadState::Aborted);
    assert_eq!(table.known.len(), ENDED_UPLOADS_KEPT_MAX);
}

#[test]
fn an_entry_drops_a_bounded_number_of_chunks() {
    let mut shard = Shard::default();
    shard.begin(&begin(1, "key"), 0);
    shard.abort(1, 0);
    let run = ChunkRun {
        part: 0,
        first: 0,
        count: DROP_CHUNKS_MAX as u32 + 1,
    };
    let dropped = DropChunks {
        upload: upload(1),
        runs: vec![run],
        is_last: true,
    };
    let state = shard
        .table
        .drop_chunks(LogIndex(9), &dropped, 0, &mut Vec::new());
    assert_eq!(state, UploadState::Refused(UploadRefusal::Malformed));
    let body = entry::dropping(0, &dropped);
    assert_eq!(entry::parse(crate::command::kind::UPLOAD_DROP, &body), None);
}

#[test]
fn what_is_not_a_row_is_refused() {
    let key = upload_key(upload(1));
    let mark = mark_key(upload(1));
    let open = UploadRecord::Open(OpenRecord {
        key: Bytes::from_static(b"key"),
        begun_us: 1,
        expires_us: 2,
        attributes: Bytes::new(),
    });
    let sound = open.encode();
    let bad: [(&[u8], Bytes); 7] = [
        (&key, Bytes::new()),
        (&key, sound.slice(..sound.len() - 1 - 3)),
        (&key, Bytes::from([&[9], &sound[1..]].concat())),
        (&key, UploadRecord::Time(1).encode()),
        (&upload_key(TIME), sound.clone()),
        (&mark, sound.clone()),
        (b"short", sound.clone()),
    ];
    for (key, value) in bad {
        let taken = Loading::default().upload(key, &value);
        assert_eq!(taken, Err(StrangeRow), "{key:?} {value:?}");
    }
    let chunk = chunk_of(1, 2, 3).key();
    assert!(Loading::default().staged(&chunk, &[0; 7]).is_err());
    assert!(Loading::default().staged(&chunk[1..], &[0; 8]).is_err());
}

/// The stored forms of version 1, which stay readable.
#[test]
fn records_and_entries_have_these_bytes() {
    let committed = CommittedRecord {
        key: Bytes::from_static(b"key"),
        version: LogIndex(5),
        committed_us: 6,
        len: 7,
        chunk_bytes: 8,
        crc32c: 9,
        digest: Digest {
            kind: corelith_wire::upload::DigestKind::Blake3,
            bytes: [0xdd; 32],
        },
        attributes: Bytes::from_static(b"at"),
        parts: vec![PartLength { part: 1, len: 7 }],
    };
    let open = OpenRecord {
        key: Bytes::from_static(b"key"),
        begun_us: 1,
        expires_us: 2,
        attributes: Bytes::from_static(b"at"),
    };
    let conflicted = Final::Conflicted { current: None };
    let version = LogIndex(3);
    let digest = "dd".repeat(32);
    let records = [
        (UploadRecord::Time(258), "01000201000000000000".to_owned()),
        (
            UploadRecord::Open(open),
            "0101010000000000000002000000000000000300000".to_owned() + "06b65796174",
        ),
        (
            UploadRecord::Committed(committed),
            format!(
                "0102{}{}{}{}{}02{digest}{}{}6b657961740100000007{}",
                "0500000000000000",
                "0600000000000000",
                "0700000000000000",
                "08000000",
                "09000000",
                "03000000",
                "02000000",
                "00000000000000"
            ),
        ),
        (
            UploadRecord::Dead {
                how: conflicted,
                bytes: 4,
            },
            "01030200000000000000000400000000000000".to_owned(),
        ),
        (
            UploadRecord::Ended {
                how: Final::Committed { version },
                at: LogIndex(4),
            },
            "01040103000000000000000400000000000000".to_owned(),
        ),
    ];
    for (record, hex) in records {
        assert_eq!(format!("{:x}", record.encode()), hex, "{record:?}");
        assert_eq!(UploadRecord::decode(&record.encode()), Some(record));
    }
    let chunks = [(1, 0), (1, 1), (2, 5)].map(|(part, chunk)| chunk_of(9, part, chunk));
    let dropped = DropChunks::of(upload(9), chunks.into_iter(), true);
    let body = entry::dropping(3, &dropped);
    let hex = "030000000000000000000000000000000000000000000009010100000000000000020000000200000005000000\
               01000000";
    assert_eq!(format!("{body:x}"), hex);
    let step = Step::Drop(dropped);
    assert_eq!(
        entry::parse(crate::command::kind::UPLOAD_DROP, &body),
        Some((3, step))
    );
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

/// Steps at random on few uploads and keys; after each of them the rows make the table, and no chunk is lost or left.
#[test]
fn rows_and_table_agree_whatever_happens() {
    for seed in 0..60 {
        let mut random = Numbers(seed);
        let mut shard = Shard::default();
        let mut time_us = 0;
        for _ in 0..300 {
            let number = u128::from(1 + random.below(11));
            let key = ["a", "b", "c"][random.below(3) as usize];
            time_us += random.below(400_000);
            match random.below(20) {
                0..4 => drop(shard.begin(&begin(number, key), time_us)),
                4..10 => {
                    let chunk = chunk_of(number, random.below(3) as u32, 0);
                    let len = 1 + random.below(3) as u32;
                    shard.chunk(chunk, content(len, len));
                }
                10..14 => {
                    let open = shard.table.open(upload(number));
                    let chunks = open.map(|open| open.chunks.clone()).unwrap_or_default();
                    let named = chunks.iter().filter(|_| random.below(10) < 7);
                    let named: Vec<_> = named.collect();
                    let parts = named.iter().map(|((part, _), one)| (*part, one.len.into()));
                    let parts: Vec<(u32, u64)> = parts.collect();
                    let crc32c = named
                        .iter()
                        .fold(0, |crc, (_, one)| crc::combine(crc, one.crc32c, one.len));
                    let condition = match random.below(3) {
                        0 => Condition::Absent,
                        1 => Condition::Version(shard.at / 2),
                        _ => Condition::Any,
                    };
                    let commit = CommitUpload {
                        condition,
                        ..commit(number, &parts, crc32c)
                    };
                    shard.commit(&commit, time_us);
                }
                14 => shard.put(key),
                15 => drop(shard.abort(number, time_us)),
                16 => shard.expire(time_us),
                _ => {
                    let dead = shard.table.dead_after(UploadId(0), usize::MAX);
                    for upload in dead {
                        shard.drop_some(upload, random.below(3) as usize);
                    }
                }
            }
        }
        assert!(!shard.table.ended.is_empty(), "seed {seed}");
    }
}

/// Rows that are each in order, and together are no table's: no replica ends over them, its shard is down and says so.
#[test]
fn rows_that_make_no_table_are_refused() {
    let committed = |key: &'static [u8]| {
        UploadRecord::Committed(CommittedRecord {
            key: Bytes::from_static(key),
            version: LogIndex(5),
            committed_us: 6,
            len: 7,
            chunk_bytes: CHUNK_BYTES,
            crc32c: 9,
            digest: Digest::default(),
            attributes: Bytes::new(),
            parts: vec![PartLength { part: 1, len: 7 }],
        })
    };
    let load = |records: Vec<UploadRecord>| {
        let mut loading = Loading::default();
        for (number, record) in (1..).zip(records) {
            loading.upload(&upload_key(upload(number)), &record.encode())?;
        }
        loading.finish()
    };
    let two = load(vec![committed(b"a"), committed(b"b")]).unwrap();
    assert_eq!(two.counts().live, 2);
    // Two values of one key, the later one in the middle or at the end.
    let one_key = vec![committed(b"a"), committed(b"a")];
    assert_eq!(load(one_key.clone()), Err(StrangeRow));
    let followed = [one_key, vec![UploadRecord::Time(1)]].concat();
    assert_eq!(load(followed), Err(StrangeRow));
    let ended = |at| UploadRecord::Ended {
        how: Final::Aborted,
        at: LogIndex(at),
    };
    let most = ENDED_UPLOADS_KEPT_MAX as u64;
    assert!(load((0..most).map(ended).collect()).is_ok());
    assert_eq!(load((0..=most).map(ended).collect()), Err(StrangeRow));
    let open = |_| {
        UploadRecord::Open(OpenRecord {
            key: Bytes::from_static(b"key"),
            begun_us: 1,
            expires_us: 2,
            attributes: Bytes::new(),
        })
    };
    let most = OPEN_UPLOADS_MAX as u64;
    assert!(load((0..most).map(open).collect()).is_ok());
    assert_eq!(load((0..=most).map(open).collect()), Err(StrangeRow));
}

#[test]
fn none_begins_while_too_many_are_to_be_dropped() {
    let mut table = Uploads::default();
    let mut changes = Vec::new();
    for number in 1..=DEAD_UPLOADS_MAX as u128 {
        let begun = table.begin(&begin(number, "key"), 0, &mut changes);
        assert_eq!(begun, UploadState::Open, "{number}");
        table.abort(upload(number), 0, &mut changes);
        changes.clear();
    }
    let limit = DEAD_UPLOADS_MAX as u32;
    let next = begin(u128::MAX, "key");
    let refusal = refused(UploadRefusal::TooMany { limit });
    assert_eq!(table.begin(&next, 0, &mut changes), refusal);
    let dropped = DropChunks::of(upload(1), [].into_iter(), true);
    table.drop_chunks(LogIndex(9), &dropped, 0, &mut changes);
    assert_eq!(table.begin(&next, 0, &mut changes), UploadState::Open);
}

#[test]
fn large_values_are_so_many_at_most() {
    let (mut table, mut changes) = (Uploads::default(), Vec::new());
    table.live.insert(Bytes::from_static(b"here"), upload(1));
    table.counts.live = LIVE_UPLOADS_MAX;
    let limit = LIVE_UPLOADS_MAX as u32;
    let one_more = table.begin(&begin(2, "new"), 0, &mut changes);
    let too_many = UploadRefusal::TooMany { limit };
    assert_eq!(one_more, UploadState::Refused(too_many));
    // What takes the place of another one makes no more of them.
    let in_place = table.begin(&begin(2, "here"), 0, &mut changes);
    assert_eq!(in_place, UploadState::Open);
}

#[test]
fn what_is_dead_is_looked_at_in_turn() {
    let mut table = Uploads::default();
    for number in [2, 3, 5, 8] {
        table.insert_dead(upload(number), Final::Aborted, 0, false);
    }
    let after = |number, most| {
        let dead = table.dead_after(upload(number), most);
        dead.into_iter().map(|id| id.0).collect::<Vec<_>>()
    };
    assert_eq!(after(0, 3), [2, 3, 5]);
    assert_eq!(after(5, 3), [8, 2, 3]);
    assert_eq!(after(6, 9), [8, 2, 3, 5]);
    assert_eq!(after(9, 9), [2, 3, 5, 8]);
}
