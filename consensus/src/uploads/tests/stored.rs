//! The rows and entries in which the table is kept, and rows that make none.

use super::*;

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
