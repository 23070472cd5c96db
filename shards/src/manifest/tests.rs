use super::format::{decode, encode};
use super::*;
use crate::ids::{FileId, LogIndex, ReplicaId, ShardId, Term, ValueSegmentId};
use crate::limits::{TABLES_MAX, VALUE_SEGMENTS_MAX};
use crate::sstable::Reference;
use bytes::Bytes;

pub(crate) fn example() -> (Owner, Manifest) {
    let owner = Owner {
        store_id: 0x0123_4567_89ab_cdef,
        shard: ShardId(3),
    };
    let id = |index| LogId {
        term: Term(4),
        node: ReplicaId(2),
        index: LogIndex(index),
    };
    let table = |number| TableMeta {
        id: TableId(number),
        file: FileId(u128::from(number) << 99 | 5),
        renumbered: match number {
            7 => (0..7)
                .map(|segment| ValueSegmentId(900 - segment))
                .collect(),
            _ => Vec::new(),
        },
        file_bytes: 24 << 10,
        entries: 12,
        deletions: 3,
        value_bytes: 77,
        lowest: LogIndex(number * 10),
        highest: LogIndex(number * 10 + 9),
        first_key: Bytes::from_static(b"\0apple"),
        last_key: Bytes::from_static(b"\x01zebra"),
        references: (0..number)
            .map(|segment| Reference {
                segment: ValueSegmentId(segment),
                values: number,
                bytes: 1 << number,
            })
            .collect(),
    };
    let segment = |number, generation| SegmentMeta {
        id: ValueSegmentId(number),
        generation,
        file: FileId(u128::from(number) << 77 | 6),
        records: 10,
        bytes: 70_000,
        highest: LogIndex(number * 100),
        file_bytes: 80 << 10,
    };
    let manifest = Manifest {
        generation: 9,
        next_table: TableId(8),
        checkpoint: Checkpoint {
            applied: Some(id(79)),
            membership: Some((id(40), Bytes::from_static(b"members"))),
        },
        installed: Some(id(30)),
        next_segment: ValueSegmentId(6),
        series: FileSeries(0xabcd << 100),
        policy: Policy::Tiered,
        tables: vec![
            PlacedTable {
                level: 0,
                run: RunId(7),
                meta: table(7),
            },
            PlacedTable {
                level: 6,
                run: RunId(3),
                meta: table(5),
            },
        ],
        segments: vec![segment(2, 0), segment(5, 3)],
    };
    (owner, manifest)
}

#[test]
fn a_manifest_reads_back() {
    let (owner, manifest) = example();
    for manifest in [manifest, Manifest::default()] {
        let bytes = encode(owner, &manifest);
        assert_eq!(decode(Path::new("M"), &bytes).unwrap(), (owner, manifest));
    }
}

#[test]
fn any_damaged_byte_is_noticed() {
    let (owner, manifest) = example();
    let bytes = encode(owner, &manifest);
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for place in 0..used {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[place] ^= flip;
            let error = decode(Path::new("M"), &damaged).unwrap_err();
            let newer = matches!(error, Error::NewerFormat { .. }) && (8..12).contains(&place);
            assert!(error.is_corrupt() || newer, "byte {place}: {error}");
        }
    }
    for len in 0..used {
        assert!(
            decode(Path::new("M"), &bytes[..len])
                .unwrap_err()
                .is_corrupt()
        );
    }
}

/// Whatever can be written can be read: counts are bounded by the length alone.
#[test]
fn a_manifest_of_more_than_a_shard_takes_reads_back() {
    let (owner, mut manifest) = example();
    let segment = manifest.segments[0];
    let numbers = 0..VALUE_SEGMENTS_MAX as u64 + 10;
    manifest.segments = numbers
        .clone()
        .map(ValueSegmentId)
        .map(|id| SegmentMeta { id, ..segment })
        .collect();
    manifest.next_segment = ValueSegmentId(numbers.end);
    let table = manifest.tables[1].clone();
    let numbers = 0..TABLES_MAX as u64 + 10;
    let place = |number: u64| {
        let mut placed = table.clone();
        placed.run = RunId(number);
        placed.meta.id = TableId(number);
        placed.meta.references.clear();
        placed.meta.renumbered.clear();
        placed
    };
    manifest.tables = numbers.clone().map(place).collect();
    manifest.next_table = TableId(numbers.end);
    let bytes = manifest.encode(owner);
    assert!(bytes.len() < MANIFEST_BYTES_MAX);
    assert_eq!(decode(Path::new("M"), &bytes).unwrap(), (owner, manifest));
}
