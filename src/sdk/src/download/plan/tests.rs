use super::*;

const CHUNK: u32 = 8;

fn parts(lens: &[u64]) -> Vec<PartLength> {
    // Numbers of parts say nothing of their order.
    let part = |(at, len): (usize, &u64)| PartLength {
        part: 9 - at as u32,
        len: *len,
    };
    lens.iter().enumerate().map(part).collect()
}

fn layout(lens: &[u64]) -> ChunkLayout {
    ChunkLayout::new(&parts(lens), CHUNK, lens.iter().sum()).unwrap()
}

fn value(len: u64) -> Bytes {
    (0..len).map(|at| (at * 7) as u8).collect()
}

fn bytes_of(value: &Bytes, piece: &ChunkPiece) -> Bytes {
    value.slice(piece.at as usize..(piece.at + piece.len()) as usize)
}

fn plan(len: u64, range: Range<u64>, ahead: usize) -> DownloadPlan {
    let crc = crc32c::crc32c(&value(len));
    DownloadPlan::new(layout(&[len]), range, crc, ahead)
}

#[test]
fn pieces_lie_where_the_parts_say() {
    let layout = layout(&[10, 0, 8, 3]);
    // (from, end, part, chunk, bytes of the chunk)
    let table = [
        (0, 21, Some((9, 0, 0..8))),
        (3, 21, Some((9, 0, 3..8))),
        (3, 5, Some((9, 0, 3..5))),
        (8, 21, Some((9, 1, 0..2))),
        (10, 21, Some((7, 0, 0..8))),
        (17, 18, Some((7, 0, 7..8))),
        (18, 21, Some((6, 0, 0..3))),
        (20, 99, Some((6, 0, 2..3))),
        (21, 99, None),
        (5, 5, None),
        (5, 2, None),
    ];
    for (at, end, expected) in table {
        let found = layout.piece(at, end);
        let found = found.map(|piece| (piece.place.part, piece.place.chunk, piece.range));
        assert_eq!(found, expected, "{at}..{end}");
    }
}

#[test]
fn parts_that_are_not_those_of_the_value_are_refused() {
    assert!(ChunkLayout::new(&parts(&[10]), CHUNK, 11).is_none());
    assert!(ChunkLayout::new(&parts(&[10]), 0, 10).is_none());
    assert!(ChunkLayout::new(&parts(&[u64::MAX, 2]), CHUNK, 1).is_none());
    assert!(ChunkLayout::new(&[], CHUNK, 0).is_some_and(|layout| layout.is_empty()));
}

#[test]
fn pieces_are_given_out_in_order_and_bounded() {
    let value = value(30);
    let mut plan = plan(30, 0..30, 3);
    let pieces: Vec<ChunkPiece> = std::iter::from_fn(|| plan.next_piece()).collect();
    assert_eq!(
        pieces.iter().map(|piece| piece.at).collect::<Vec<_>>(),
        [0, 8, 16]
    );
    plan.arrived(16, bytes_of(&value, &pieces[2])).unwrap();
    assert_eq!((plan.take(99), plan.next_piece()), (Ok(None), None));
    plan.arrived(0, bytes_of(&value, &pieces[0])).unwrap();
    assert_eq!(plan.take(3), Ok(Some(value.slice(0..3))));
    assert_eq!(plan.next_piece(), None, "the first is not given out yet");
    assert_eq!(plan.take(99), Ok(Some(value.slice(3..8))));
    let last = plan.next_piece().unwrap();
    assert_eq!((last.at, last.len()), (24, 6));
    plan.arrived(24, bytes_of(&value, &last)).unwrap();
    plan.arrived(8, bytes_of(&value, &pieces[1])).unwrap();
    let rest: Vec<u8> = std::iter::from_fn(|| plan.take(99).unwrap())
        .flatten()
        .collect();
    assert_eq!(rest, value[8..]);
    assert!(plan.is_at_end() && plan.next_piece().is_none());
}

#[test]
fn damage_is_not_given_out() {
    let mut other = value(12).to_vec();
    let mut whole = plan(12, 0..12, 4);
    while whole.next_piece().is_some() {}
    assert_eq!(
        whole.arrived(8, Bytes::from_static(b"abc")),
        Err(ValueDamage::Length)
    );
    let mut whole = plan(12, 0..12, 4);
    while whole.next_piece().is_some() {}
    other[2] ^= 1;
    whole
        .arrived(0, Bytes::copy_from_slice(&other[..8]))
        .unwrap();
    whole
        .arrived(8, Bytes::copy_from_slice(&other[8..]))
        .unwrap();
    assert!(whole.take(99).unwrap().is_some());
    assert!(whole.take(2).unwrap().is_some());
    assert_eq!(whole.take(2), Err(ValueDamage::Checksum));
    assert_eq!(whole.take(2), Err(ValueDamage::Checksum), "and again");
    // Of a range nobody knows the checksum.
    let mut range = plan(12, 0..11, 4);
    while range.next_piece().is_some() {}
    range
        .arrived(0, Bytes::copy_from_slice(&other[..8]))
        .unwrap();
    range
        .arrived(8, Bytes::copy_from_slice(&other[8..11]))
        .unwrap();
    while range.take(99).unwrap().is_some() {}
    assert!(range.is_at_end());
}

#[test]
fn a_seek_keeps_what_comes_next() {
    let value = value(64);
    let mut plan = plan(64, 0..64, 4);
    let pieces: Vec<ChunkPiece> = std::iter::from_fn(|| plan.next_piece()).collect();
    plan.arrived(8, bytes_of(&value, &pieces[1])).unwrap();
    // (to, pieces dropped, the next piece that is asked for)
    assert_eq!(plan.seek(10), [0]);
    assert_eq!(plan.take(99), Ok(Some(value.slice(10..16))));
    plan.arrived(0, bytes_of(&value, &pieces[0])).unwrap();
    assert_eq!(plan.take(99), Ok(None), "nobody waits for it");
    assert_eq!(plan.next_piece().map(|piece| piece.at), Some(32));
    assert_eq!(plan.seek(5), [16, 24, 32]);
    let piece = plan.next_piece().unwrap();
    assert_eq!((piece.at, piece.range.clone()), (5, 5..8));
    plan.arrived(5, bytes_of(&value, &piece)).unwrap();
    assert_eq!(plan.take(99), Ok(Some(value.slice(5..8))));
    plan.seek(99);
    assert!(plan.is_at_end() && plan.next_piece().is_none());
}

#[test]
fn every_range_is_read_as_it_is() {
    let (lens, value) = ([10, 3, 16, 1], value(30));
    let crc = crc32c::crc32c(&value);
    for start in 0..=30u64 {
        for end in start..=32 {
            for ahead in [1, 3] {
                let mut plan = DownloadPlan::new(layout(&lens), start..end, crc, ahead);
                let mut found = Vec::new();
                let mut waiting: Vec<ChunkPiece> = Vec::new();
                while !plan.is_at_end() {
                    waiting.extend(std::iter::from_fn(|| plan.next_piece()));
                    assert!(waiting.len() <= ahead);
                    if let Some(piece) = waiting.pop() {
                        plan.arrived(piece.at, bytes_of(&value, &piece)).unwrap();
                    }
                    while let Some(bytes) = plan.take(5).unwrap() {
                        found.extend_from_slice(&bytes);
                    }
                }
                let expected = &value[start as usize..end.min(30) as usize];
                assert_eq!(found, expected, "{start}..{end}");
            }
        }
    }
}
