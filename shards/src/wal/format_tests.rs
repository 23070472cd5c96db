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
        node: NodeId(n + 1),
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

/// The bytes of format version 1 do not change.
#[test]
fn the_bytes_of_a_header_are_these() {
    let (bytes, _) = header().encode();
    let expected = [
        "434c574c01000300",
        "2a44a0d7",
        "7069e3f407000000efbeadde08070605040302010000000000010000",
        "fdffffffff000000",
        "0100000000000000",
        "ffffffff09000000",
    ];
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, expected.concat());
}

#[test]
fn a_state_reads_back() {
    let vote = Vote {
        term: Term(4),
        node: NodeId(2),
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

/// A payload with one record of each kind, and the fragments it must read as.
fn sample() -> (Vec<u8>, Vec<Fragment<'static>>) {
    let mut bytes = vec![0; 512];
    let mut len = 0;
    let vote = Vote {
        term: Term(4),
        node: NodeId(2),
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
    for (total, here) in [(&b"whole"[..], 5), (b"", 0), (b"first and more", 5)] {
        let mut out = &mut bytes[len..];
        put_entry_header(&mut out, log_id(7), 2, total.len() as u32, here as u32);
        out.put_slice(&total[..here]);
        len += FRAGMENT_HEADER_BYTES + ENTRY_HEADER_BYTES + here;
        let record = Record::Entry {
            id: log_id(7),
            kind: 2,
            body_len: total.len() as u32,
        };
        fragments.push(Fragment::Begin(record, &total[..here]));
    }
    for (rest, is_last) in [(&b" and"[..], false), (b" more", true)] {
        let mut out = &mut bytes[len..];
        put_more_header(&mut out, rest.len() as u32, is_last);
        out.put_slice(rest);
        len += FRAGMENT_HEADER_BYTES + rest.len();
        fragments.push(Fragment::More(rest));
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
