use super::*;
use crate::limits::{PLAIN_REQUEST_BYTES_MAX, WRITE_BYTES_MAX};
use proptest::prelude::*;

fn head(kind: Kind) -> Head {
    Head {
        kind,
        request_id: RequestId(7),
        shard: ShardId(3),
        epoch: Epoch(1),
    }
}

fn write_frame(body: &[u8], value: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    FrameBuilder::begin(&mut out, head(Kind::WRITE))
        .raw(body)
        .seal_with(value);
    out
}

fn take(bytes: &[u8]) -> Vec<Result<Frame, FrameError>> {
    FrameParser::new(Accepts::Requests)
        .take(&mut BytesMut::from(bytes))
        .collect()
}

fn with_field(mut frame: BytesMut, at: usize, bytes: &[u8]) -> BytesMut {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn a_frame_has_the_documented_layout() {
    let frame = write_frame(b"body", b"value");
    assert_eq!(frame.len(), 41);
    assert_eq!(frame[0..4], 9u32.to_le_bytes());
    assert_eq!(frame[4..8], crc32c::crc32c(&frame[8..]).to_le_bytes());
    assert_eq!(frame[8..12], [1, 0, 0, 0]);
    assert_eq!(frame[12..16], 4u32.to_le_bytes());
    assert_eq!(frame[16..24], 7u64.to_le_bytes());
    assert_eq!(frame[24..28], 3u32.to_le_bytes());
    assert_eq!(frame[28..32], 1u32.to_le_bytes());
    assert_eq!(&frame[32..], b"bodyvalue");
}

#[test]
fn a_detached_value_gives_the_same_bytes() {
    let mut out = BytesMut::from(&b"before"[..]);
    FrameBuilder::begin(&mut out, head(Kind::WRITE))
        .raw(b"body")
        .seal_detached(b"value");
    out.extend_from_slice(b"value");
    assert_eq!(out[6..], write_frame(b"body", b"value"));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let good = write_frame(b"a body", b"and a value");
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // A length that grew waits for bytes, which then do not match the checksum.
        bad.resize(good.len() + WRITE_BYTES_MAX.min(1 << 16), 0);
        let mut buffer = bad.clone();
        let first = FrameParser::new(Accepts::Requests).take(&mut buffer).next();
        match first {
            Some(Err(_)) => {}
            None => assert!(bit < 32, "bit {bit} makes the parser wait"),
            Some(Ok(frame)) => panic!("bit {bit} gives {frame:?}"),
        }
    }
}

#[test]
fn a_truncated_frame_waits_and_its_end_is_an_error() {
    let good = write_frame(b"a body", b"and a value");
    let parser = FrameParser::new(Accepts::Requests);
    for len in 0..good.len() {
        let mut buffer = BytesMut::from(&good[..len]);
        assert_eq!(parser.take(&mut buffer).count(), 0);
        assert_eq!(buffer.len(), len, "nothing is taken");
        assert_eq!(parser.end(&buffer).is_ok(), len == 0);
        let missing = if len < HEADER_BYTES {
            HEADER_BYTES
        } else {
            good.len()
        } - len;
        assert_eq!(parser.missing(&buffer), Ok(missing));
    }
}

#[test]
fn lengths_are_refused_on_the_header_alone() {
    let frame = || write_frame(b"", b"");
    let len = |len: u32| with_field(frame(), 0, &len.to_le_bytes());
    let too_long = |kind: Kind, len, limit| FrameError::TooLong {
        kind: kind.0,
        len,
        limit,
    };
    let cases = [
        (
            len(u32::MAX),
            too_long(Kind::WRITE, u32::MAX, WRITE_BYTES_MAX),
        ),
        (
            len(WRITE_BYTES_MAX as u32 + 1),
            too_long(Kind::WRITE, WRITE_BYTES_MAX as u32 + 1, WRITE_BYTES_MAX),
        ),
        (
            with_field(len(1 << 20), 8, &Kind::GET.0.to_le_bytes()),
            too_long(Kind::GET, 1 << 20, PLAIN_REQUEST_BYTES_MAX),
        ),
        (
            with_field(frame(), 8, &[0, 0]),
            FrameError::UnknownKind { kind: 0 },
        ),
        (
            with_field(frame(), 8, &Kind::VALUE.0.to_le_bytes()),
            FrameError::UnknownKind {
                kind: Kind::VALUE.0,
            },
        ),
        (
            with_field(frame(), 12, &1u32.to_le_bytes()),
            FrameError::BodyBeyondFrame {
                body_len: 1,
                len: 0,
            },
        ),
    ];
    for (mut bytes, expected) in cases {
        let parser = FrameParser::new(Accepts::Requests);
        assert_eq!(parser.missing(&bytes), Err(expected));
        let capacity = bytes.capacity();
        let found: Vec<_> = parser
            .take(&mut bytes)
            .map(|frame| frame.map(drop))
            .collect();
        assert_eq!(found, [Err(expected)]);
        assert_eq!(
            bytes.capacity(),
            capacity,
            "nothing is allocated on the length's word"
        );
    }
}

#[test]
fn good_frames_before_a_bad_one_are_given() {
    let mut bytes = write_frame(b"one", b"");
    bytes.unsplit(write_frame(b"two", b""));
    let at = bytes.len();
    bytes.unsplit(write_frame(b"three", b""));
    bytes.unsplit(write_frame(b"four", b""));
    bytes[at + HEADER_BYTES] ^= 1;
    let found = take(&bytes);
    assert_eq!(found.len(), 3);
    assert_eq!(found[1].as_ref().map(Frame::body), Ok(&b"two"[..]));
    assert!(matches!(found[2], Err(FrameError::Checksum { .. })));
}

#[test]
fn a_side_accepts_only_what_the_other_may_send() {
    for (accepts, ok, no) in [
        (Accepts::Requests, Kind::DESCRIBE, Kind::MAP),
        (Accepts::Answers, Kind::FAILURE, Kind::WRITE),
        (Accepts::Peer, Kind::PEER_FIRST, Kind::WRITE),
        (Accepts::Requests, Kind::WRITE, Kind::PEER_LAST),
    ] {
        let mut out = BytesMut::new();
        FrameBuilder::begin(&mut out, head(ok)).seal();
        FrameBuilder::begin(&mut out, head(no)).seal();
        let found: Vec<_> = FrameParser::new(accepts).take(&mut out).collect();
        assert!(found[0].is_ok());
        assert_eq!(
            found[1].as_ref().err(),
            Some(&FrameError::UnknownKind { kind: no.0 })
        );
    }
}

proptest! {
    #[test]
    fn frames_survive_any_cutting(
        frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..80),
            prop::collection::vec(any::<u8>(), 0..200)), 1..8),
        cuts in prop::collection::vec(1usize..150, 1..40),
    ) {
        let mut stream = BytesMut::new();
        for (body, value) in &frames {
            FrameBuilder::begin(&mut stream, head(Kind::WRITE)).raw(body).seal_with(value);
        }
        let parser = FrameParser::new(Accepts::Requests);
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for cut in cuts.into_iter().cycle() {
            if stream.is_empty() { break; }
            buffer.extend_from_slice(&stream.split_to(cut.min(stream.len())));
            for frame in parser.take(&mut buffer) {
                let frame = frame.unwrap();
                found.push((frame.body().to_vec(), frame.value().to_vec()));
            }
        }
        prop_assert_eq!(found, frames);
        prop_assert!(parser.end(&buffer).is_ok());
    }

    #[test]
    fn random_bytes_never_make_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(take(&bytes).iter().all(Result::is_err));
    }
}
