use super::*;
use corelith_wire::upload::DigestKind;

const SETTINGS: PlanSettings = PlanSettings {
    chunk_bytes: 8,
    bytes_max: 1000,
    in_flight_max: 2,
};

fn plan() -> UploadPlan {
    UploadPlan::new(SETTINGS, Digester::none())
}

/// The chunks that it sends now, as text.
fn sent(plan: &mut UploadPlan) -> Vec<String> {
    let chunks = std::iter::from_fn(|| plan.next_chunk().unwrap());
    chunks.map(|chunk| shown(&chunk)).collect()
}

fn shown(chunk: &PlannedChunk) -> String {
    let ChunkPlace { part, chunk: at } = chunk.place;
    format!("{part}.{at}:{}", String::from_utf8_lossy(&chunk.bytes))
}

fn at(part: u32, chunk: u32) -> ChunkPlace {
    ChunkPlace { part, chunk }
}

fn staged(part: u32, chunk: u32, bytes: &str) -> StagedChunk {
    StagedChunk {
        part,
        chunk,
        len: bytes.len() as u32,
        crc32c: crc32c::crc32c(bytes.as_bytes()),
    }
}

fn resumed(chunks: &[StagedChunk]) -> UploadPlan {
    UploadPlan::resume(SETTINGS, Digester::none(), chunks).unwrap()
}

#[test]
fn bytes_become_chunks_as_far_as_there_is_room() {
    let mut plan = plan();
    assert_eq!(plan.write(b"01234"), Ok(5));
    assert!(sent(&mut plan).is_empty());
    assert_eq!(plan.write(b"56789abc"), Ok(3));
    assert_eq!(plan.write(b"8"), Ok(0), "it is to be sent first");
    assert_eq!(sent(&mut plan), ["0.0:01234567"]);
    assert_eq!(plan.write(b"89abcdef"), Ok(8));
    assert_eq!(sent(&mut plan), ["0.1:89abcdef"]);
    // Two are in flight and one is full: no more.
    assert_eq!(plan.write(b"ghijklmnop"), Ok(8));
    assert_eq!((sent(&mut plan).len(), plan.room()), (0, 0));
    plan.durable(at(0, 1));
    assert_eq!(sent(&mut plan), ["0.2:ghijklmn"]);
    assert_eq!((plan.room(), plan.position()), (8, 24));
    plan.durable(at(0, 0));
    plan.durable(at(0, 2));
    plan.write(b"op").unwrap();
    plan.finish();
    assert_eq!((plan.content(), plan.room()), (None, 0));
    assert_eq!(sent(&mut plan), ["0.3:op"]);
    assert_eq!(plan.content(), None);
    plan.durable(at(0, 3));
    let content = plan.content().unwrap();
    assert_eq!(content.parts, [PartLength { part: 0, len: 26 }]);
    assert_eq!(
        content.crc32c,
        crc32c::crc32c(b"0123456789abcdefghijklmnop")
    );
}

#[test]
fn whole_chunks_are_not_copied() {
    let mut plan = plan();
    let mut bytes = Bytes::from_static(b"0123456789abcdefgh");
    let place = bytes.as_ptr();
    assert_eq!(plan.write_shared(&mut bytes), Ok(8));
    assert_eq!(plan.write_shared(&mut bytes), Ok(0));
    let chunk = plan.next_chunk().unwrap().unwrap();
    assert_eq!(chunk.bytes.as_ptr(), place);
    assert_eq!(plan.write_shared(&mut bytes), Ok(8));
    assert_eq!(sent(&mut plan), ["0.1:89abcdef"]);
    assert_eq!(plan.write_shared(&mut bytes), Ok(2));
    assert!(bytes.is_empty());
}

#[test]
fn an_empty_stream_has_no_parts() {
    let mut plan = plan();
    plan.flush();
    assert!(plan.is_flushed());
    plan.finish();
    assert!(sent(&mut plan).is_empty());
    let content = plan.content().unwrap();
    assert_eq!(
        (content.parts.len(), content.len, content.crc32c),
        (0, 0, 0)
    );
}

#[test]
fn a_flush_ends_the_part_and_the_next_waits_for_it() {
    let mut plan = plan();
    plan.write(b"01234567").unwrap();
    sent(&mut plan);
    plan.write(b"89").unwrap();
    plan.flush();
    assert!(!plan.is_flushed());
    assert_eq!(sent(&mut plan), ["0.1:89"]);
    plan.durable(at(0, 1));
    assert!(!plan.is_flushed());
    // Whoever does not wait for the flush: the next part does.
    plan.write(b"abcdefgh").unwrap();
    assert!(sent(&mut plan).is_empty());
    plan.durable(at(0, 0));
    assert_eq!(sent(&mut plan), ["1.0:abcdefgh"]);
    plan.durable(at(1, 0));
    plan.finish();
    let content = plan.content().unwrap();
    let parts = content.parts.iter().map(|part| (part.part, part.len));
    assert_eq!(parts.collect::<Vec<_>>(), [(0, 10), (1, 8)]);
    assert_eq!(content.crc32c, crc32c::crc32c(b"0123456789abcdefgh"));
}

#[test]
fn flushes_cut_chunks_so_often_and_no_more() {
    let settings = PlanSettings {
        bytes_max: u64::MAX,
        ..SETTINGS
    };
    let mut plan = UploadPlan::new(settings, Digester::none());
    for _ in 0..UPLOAD_CUTS_MAX {
        plan.write(b"0").unwrap();
        plan.flush();
        let chunk = plan.next_chunk().unwrap().unwrap();
        plan.durable(chunk.place);
    }
    plan.write(b"0").unwrap();
    plan.flush();
    assert!(sent(&mut plan).is_empty());
    assert!(plan.is_flushed(), "all whole chunks are durable");
    assert_eq!(plan.write(b"0123456789"), Ok(7));
    assert!(!plan.is_flushed());
    // Another process counts on.
    let parts = (0..UPLOAD_CUTS_MAX).map(|part| staged(part, 0, "0"));
    let parts: Vec<StagedChunk> = parts.collect();
    let mut plan = UploadPlan::resume(settings, Digester::none(), &parts).unwrap();
    plan.write(b"01").unwrap();
    plan.flush();
    assert_eq!(sent(&mut plan), ["4000.0:01"]);
    plan.durable(at(4000, 0));
    plan.write(b"01").unwrap();
    plan.flush();
    assert!(sent(&mut plan).is_empty());
}

#[test]
fn values_have_a_longest_length() {
    let bytes_max = 12;
    let mut plan = UploadPlan::new(
        PlanSettings {
            bytes_max,
            ..SETTINGS
        },
        Digester::none(),
    );
    assert_eq!(plan.write(b"01234567"), Ok(8));
    sent(&mut plan);
    assert_eq!(plan.write(b"89abc"), Err(PlanError::TooLarge { len: 13 }));
    let mut bytes = Bytes::from_static(b"89abc");
    assert!(plan.write_shared(&mut bytes).is_err());
    assert_eq!((bytes.len(), plan.write(b"89ab")), (5, Ok(4)));
    assert_eq!(plan.write(b"c"), Err(PlanError::TooLarge { len: 13 }));
}

#[test]
fn a_resumed_stream_goes_on_behind_what_is_durable() {
    let whole = "01234567";
    // (chunks, position, what is written, what is sent, parts)
    type Case = (
        Vec<StagedChunk>,
        u64,
        &'static str,
        Vec<&'static str>,
        Vec<(u32, u64)>,
    );
    let cases: Vec<Case> = vec![
        (vec![], 0, "ab", vec!["0.0:ab"], vec![(0, 2)]),
        (vec![staged(0, 0, whole)], 8, "", vec![], vec![(0, 8)]),
        (
            vec![staged(0, 0, whole)],
            8,
            "ab",
            vec!["0.1:ab"],
            vec![(0, 10)],
        ),
        (
            vec![staged(0, 0, whole), staged(0, 1, "89")],
            10,
            "ab",
            vec!["1.0:ab"],
            vec![(0, 10), (1, 2)],
        ),
        (
            vec![
                staged(0, 0, "01"),
                staged(1, 0, whole),
                staged(1, 2, "ghijklmn"),
                staged(1, 3, "op"),
            ],
            10,
            "89abcdefghijklmnopq",
            vec!["1.1:89abcdef", "2.0:q"],
            vec![(0, 2), (1, 26), (2, 1)],
        ),
    ];
    for (chunks, position, written, expected, parts) in cases {
        let mut plan = resumed(&chunks);
        assert_eq!(plan.position(), position, "{chunks:?}");
        let mut rest = written.as_bytes();
        let mut found = Vec::new();
        while !rest.is_empty() {
            let count = plan.write(rest).unwrap();
            rest = &rest[count..];
            while let Some(chunk) = plan.next_chunk().unwrap() {
                found.push(shown(&chunk));
                plan.durable(chunk.place);
            }
        }
        plan.finish();
        while let Some(chunk) = plan.next_chunk().unwrap() {
            found.push(shown(&chunk));
            plan.durable(chunk.place);
        }
        assert_eq!(found, expected, "{chunks:?}");
        let content = plan.content().unwrap();
        let of_parts = content.parts.iter().map(|part| (part.part, part.len));
        assert_eq!(of_parts.collect::<Vec<_>>(), parts, "{chunks:?}");
        let tally = plan.tally();
        assert_eq!(tally.sent + tally.skipped, content.len);
    }
}

#[test]
fn other_bytes_than_before_are_refused() {
    let chunks = [staged(0, 1, "89abcdef")];
    let differs = |at| Err(PlanError::Differs { at });
    let mut plan = resumed(&chunks);
    plan.write(b"01234567").unwrap();
    sent(&mut plan);
    plan.write(b"89abcdeX").unwrap();
    assert_eq!(plan.next_chunk(), differs(8));
    // Fewer than before.
    let mut plan = resumed(&chunks);
    plan.write(b"01234567").unwrap();
    sent(&mut plan);
    plan.finish();
    assert_eq!(plan.next_chunk(), differs(8));
}

#[test]
fn a_flush_before_a_durable_chunk_cuts_nothing() {
    let mut plan = resumed(&[staged(0, 1, "89abcdef")]);
    plan.write(b"0123").unwrap();
    plan.flush();
    assert!(sent(&mut plan).is_empty() && plan.is_flushed());
    plan.write(b"4567").unwrap();
    assert_eq!(sent(&mut plan), ["0.0:01234567"]);
}

#[test]
fn chunks_of_something_else_are_no_stream() {
    for chunks in [
        // A gap in a part that is not the last.
        vec![staged(0, 1, "01"), staged(1, 0, "01")],
        vec![staged(0, 0, "01234567"), staged(1, 0, "01")],
        vec![staged(1, 0, "01")],
        // Behind a short one.
        vec![staged(0, 0, "01"), staged(0, 1, "01")],
        vec![staged(0, 0, "0123456789")],
    ] {
        let plan = UploadPlan::resume(SETTINGS, Digester::none(), &chunks);
        assert_eq!(plan.err(), Some(PlanError::NotAStream), "{chunks:?}");
    }
}

/// xorshift64* (Marsaglia 2003; Vigna 2016).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

/// What the cluster has of an upload.
#[derive(Default)]
struct Staged(BTreeMap<ChunkPlace, Vec<u8>>);

impl Staged {
    fn chunks(&self) -> Vec<StagedChunk> {
        let chunk = |(place, bytes): (&ChunkPlace, &Vec<u8>)| StagedChunk {
            part: place.part,
            chunk: place.chunk,
            len: bytes.len() as u32,
            crc32c: crc32c::crc32c(bytes),
        };
        self.0.iter().map(chunk).collect()
    }

    fn value(&self, parts: &[PartLength]) -> Vec<u8> {
        let chunks = |part: &PartLength| {
            let range = at(part.part, 0)..=at(part.part, u32::MAX);
            self.0.range(range).flat_map(|(_, bytes)| bytes.clone())
        };
        parts.iter().flat_map(chunks).collect()
    }
}

/// Writes of any length, flushes that are waited for or not, answers in any order, and processes that die and are
/// succeeded by others: the value is what was written, and nothing durable is sent again.
#[test]
fn values_are_whole_whatever_happens_on_the_way() {
    let mut deaths = 0;
    for seed in 1..4000u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let len = dice.below(200);
        let value: Vec<u8> = (0..len).map(|_| b'a' + dice.below(26) as u8).collect();
        let mut cluster = Staged::default();
        let with_digest = seed % 3 == 0;
        let content = loop {
            let digester = match with_digest {
                true => Digester::of_all_bytes(),
                false => Digester::none(),
            };
            let mut plan = UploadPlan::resume(SETTINGS, digester, &cluster.chunks()).unwrap();
            assert!(!with_digest || plan.position() == 0);
            let mut on_the_way: Vec<PlannedChunk> = Vec::new();
            let content = loop {
                if dice.below(60) == 0 {
                    break None;
                }
                while let Some(chunk) = plan.next_chunk().unwrap() {
                    let is_new = !cluster.0.contains_key(&chunk.place);
                    assert!(is_new, "seed {seed}: {:?} is sent again", chunk.place);
                    on_the_way.push(chunk);
                }
                let rest = &value[plan.position() as usize..];
                match dice.below(8) {
                    0 => plan.flush(),
                    1..=3 if !on_the_way.is_empty() => {
                        let which = dice.below(on_the_way.len() as u64) as usize;
                        let chunk = on_the_way.swap_remove(which);
                        cluster.0.insert(chunk.place, chunk.bytes.to_vec());
                        plan.durable(chunk.place);
                    }
                    _ if rest.is_empty() => plan.finish(),
                    _ => {
                        let some = rest.len().min(1 + dice.below(11) as usize);
                        plan.write(&rest[..some]).unwrap();
                    }
                }
                if let Some(content) = plan.content() {
                    break Some(content);
                }
            };
            let tally = plan.tally();
            if let Some(content) = content {
                assert_eq!(tally.sent + tally.skipped, len);
                break content;
            }
            deaths += 1;
            // Some of what was on the way arrives nevertheless.
            for chunk in on_the_way {
                if dice.below(2) == 0 {
                    cluster.0.insert(chunk.place, chunk.bytes.to_vec());
                }
            }
        };
        assert_eq!(content.len, len, "seed {seed}");
        assert_eq!(cluster.value(&content.parts), value, "seed {seed}");
        assert_eq!(content.crc32c, crc32c::crc32c(&value), "seed {seed}");
        assert_eq!(content.digest.kind, DigestKind::None);
    }
    assert!(deaths > 1000, "{deaths} processes died");
}
