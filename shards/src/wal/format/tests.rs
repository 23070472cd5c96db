use super::*;

fn header() -> BlockHeader {
    BlockHeader {
        flags: FLAG_START | FLAG_RECOVERED,
        payload_crc: crc32c::crc32c(b"payload"),
        payload_len: 7,
        previous: 0xdead_beef,
        store_id: 0x0102_0304_0506_0708,
        number: 1 << 40,
        flushed_up_to: (1 << 40) - 3,
        commit: Some(LogIndex(0)),
        segment: SegmentId(u64::from(u32::MAX)),
        shard: ShardId(9),
    }
}

fn log_id(n: u64) -> LogId {
    LogId {
        term: Term(n),
        node: ReplicaId(n + 1),
        index: LogIndex(n + 2),
    }
}

#[test]
fn a_header_reads_back() {
    for commit in [None, Some(LogIndex(0)), Some(LogIndex(u64::MAX - 1))] {
        let header = BlockHeader { commit, ..header() };
        let (bytes, crc) = header.encode();
        assert_eq!(BlockHeader::decode(&bytes), Ok((header, crc)));
    }
    assert!(header().covers(b"payload"));
    assert!(!header().covers(b"payloae"));
    assert!(!header().covers(b"payloa"));
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_header_is_noticed() {
    let (bytes, _) = header().encode();
    for bit in 0..HEADER_BYTES * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            BlockHeader::decode(&flipped),
            Err(BadHeader::Damaged),
            "bit {bit}"
        );
    }
    for len in 0..HEADER_BYTES {
        assert_eq!(BlockHeader::decode(&bytes[..len]), Err(BadHeader::Damaged));
    }
}

/// The bytes of a format version do not change; all versions are read.
#[test]
fn the_bytes_of_a_header_are_these() {
    let rest = [
        "7069e3f407000000efbeadde08070605040302010000000000010000",
        "fdffffffff000000",
        "0100000000000000",
        "ffffffff09000000",
    ]
    .concat();
    let v1 = unhex(&format!("434c574c010003002a44a0d7{rest}"));
    let v2 = unhex(&format!("434c574c0200030013cd82b5{rest}"));
    assert_eq!(header().encode().0.as_slice(), v2);
    for bytes in [v1, v2] {
        let crc = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        assert_eq!(BlockHeader::decode(&bytes), Ok((header(), crc)));
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// As above.
#[test]
fn the_bytes_of_a_separated_entry_are_these() {
    let head = EntryHead {
        id: log_id(0x51),
        kind: 2,
        stored_len: 3,
        separated: Some(separated()),
    };
    let mut bytes = [0; 128];
    let mut out = bytes.as_mut_slice();
    put_entry_header(&mut out, &head, 3);
    out.put_slice(b"abc");
    let left = out.len();
    let expected = [
        "4300000001050200",
        "510000000000000052000000000000005300000000000000",
        "030000000100000001000000",
        "08070605040302011413121128272625242322213433323144434241",
        "616263",
    ];
    assert_eq!(bytes[..128 - left], unhex(&expected.concat()));
}

/// What no writer writes is not read: a key outside of the head, an empty value, a cut pointer.
#[test]
fn a_separated_entry_that_makes_no_sense_is_not_read() {
    type Change = fn(&mut Separated);
    let changes: [(Change, bool); 5] = [
        (|_| (), true),
        (|separated| separated.key_len = 2, true),
        (|separated| separated.key_len = 3, false),
        (|separated| separated.key_len = u32::MAX, false),
        (|separated| separated.place.len = 0, false),
    ];
    for (change, is_read) in changes {
        let mut separated = separated();
        change(&mut separated);
        let head = EntryHead {
            id: log_id(1),
            kind: 2,
            stored_len: 3,
            separated: Some(separated),
        };
        let mut bytes = [0; 75];
        let mut out = bytes.as_mut_slice();
        put_entry_header(&mut out, &head, 3);
        out.put_slice(b"abc");
        let read: Option<Vec<_>> = Fragments::new(&bytes).collect();
        assert_eq!(read.is_some(), is_read, "{separated:?}");
    }
}

#[test]
fn a_state_reads_back() {
    let vote = Vote {
        term: Term(4),
        node: ReplicaId(2),
        committed: true,
    };
    for state in [
        State::default(),
        State {
            vote: Some(vote),
            purged: None,
            last: Some(log_id(1)),
        },
        State {
            vote: Some(Vote {
                committed: false,
                ..vote
            }),
            purged: Some(log_id(0)),
            last: Some(log_id(1)),
        },
    ] {
        assert_eq!(State::decode(&state.encode()), Some(state));
    }
    assert_eq!(State::decode(&[0; STATE_BYTES - 1]), None);
}

fn separated() -> Separated {
    Separated {
        key_start: 1,
        key_len: 1,
        space: Space::User,
        place: ValuePointer {
            segment: ValueSegmentId(0x0102_0304_0506_0708),
            slot: 0x1112_1314,
            offset: 0x2122_2324_2526_2728,
            len: 0x3132_3334,
            crc: 0x4142_4344,
        },
    }
}

/// A payload with one record of each kind, and the fragments it must read as.
fn sample() -> (Vec<u8>, Vec<Fragment<'static>>) {
    let mut bytes = vec![0; 1024];
    let mut len = 0;
    let vote = Vote {
        term: Term(4),
        node: ReplicaId(2),
        committed: true,
    };
    let small = [
        Record::Vote(vote),
        Record::TruncateAfter(None),
        Record::TruncateAfter(Some(log_id(3))),
        Record::Purge(log_id(1)),
    ];
    for record in &small {
        len += put_small_record(&mut bytes[len..], record);
    }
    let mut fragments: Vec<_> = small
        .iter()
        .map(|record| Fragment::Begin(*record, b""))
        .collect();
    for separated in [None, Some(separated())] {
        let mut head = EntryHead {
            id: log_id(7),
            kind: 2,
            stored_len: 0,
            separated,
        };
        for (total, here) in [(&b"whole"[..], 5), (b"12", 2), (b"first and more", 5)] {
            head.stored_len = total.len() as u32;
            let mut out = &mut bytes[len..];
            put_entry_header(&mut out, &head, here as u32);
            out.put_slice(&total[..here]);
            len += FRAGMENT_HEADER_BYTES + head.header_bytes() + here;
            fragments.push(Fragment::Begin(Record::Entry(head), &total[..here]));
        }
        for (rest, is_last) in [(&b" and"[..], false), (b" more", true)] {
            let mut out = &mut bytes[len..];
            put_more_header(&mut out, &head, rest.len() as u32, is_last);
            out.put_slice(rest);
            len += FRAGMENT_HEADER_BYTES + rest.len();
            fragments.push(Fragment::More(rest));
        }
    }
    bytes.truncate(len);
    (bytes, fragments)
}

#[test]
fn records_read_back() {
    let (bytes, fragments) = sample();
    let read: Option<Vec<_>> = Fragments::new(&bytes).collect();
    assert_eq!(read, Some(fragments));
}

/// Damage is the checksum's business, but nothing read from a disk may panic.
#[test]
fn cut_and_changed_records_do_not_panic() {
    let (bytes, _) = sample();
    for len in 0..bytes.len() {
        Fragments::new(&bytes[..len]).for_each(drop);
    }
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            assert!(Fragments::new(&changed).count() <= bytes.len());
        }
    }
}
