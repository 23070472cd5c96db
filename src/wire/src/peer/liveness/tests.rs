use super::super::tests::{forged, head, received};
use super::*;

fn health(damaged: u32) -> NodeHealth {
    NodeHealth {
        node: Health {
            is_disk_full: true,
            is_slow: true,
            ..Health::default()
        },
        damaged: (0..damaged).map(ShardId).collect(),
        has_more: false,
        write_us: 77_000,
        map: Epoch(31),
    }
}

pub(in super::super) fn beat() -> Beat {
    Beat {
        number: 1 << 40,
        sent_at: 5_000_000_001,
        heard: 4_999_000_002,
        vouched: CoreSet::from_iter([0, 63, 64, 255]),
        health: health(2),
        mark: Mark(1 << 33),
    }
}

pub(in super::super) fn reply() -> BeatReply {
    BeatReply {
        number: 1 << 40,
        replied_at: 6_000_000_003,
        promise: Duration::from_millis(300),
        epoch: PromiseEpoch(0x1234_5678_9a00_0007),
        to: CoreSet::from_iter([1, 128]),
        health: health(0),
    }
}

fn beat_frame(beat: &Beat) -> Frame {
    let mut out = Outbox::default();
    encode_beat(&mut out, head(), beat);
    received(&out).remove(0)
}

fn reply_frame(reply: &BeatReply) -> Frame {
    let mut out = Outbox::default();
    encode_beat_reply(&mut out, head(), reply);
    received(&out).remove(0)
}

#[test]
fn beats_and_replies_read_back() {
    let most = NodeHealth {
        node: Health {
            is_disk_full: true,
            is_damaged: true,
            is_draining: true,
            is_slow: true,
        },
        damaged: vec![ShardId(u32::MAX); DAMAGED_NAMED_MAX],
        has_more: true,
        write_us: u32::MAX,
        map: Epoch(u32::MAX),
    };
    let least = Beat {
        number: 0,
        sent_at: 0,
        heard: 0,
        vouched: CoreSet::default(),
        health: NodeHealth::default(),
        mark: Mark(0),
    };
    let largest = Beat {
        number: u64::MAX,
        sent_at: u64::MAX,
        heard: u64::MAX,
        vouched: (0..CORES_MAX).collect(),
        health: most.clone(),
        mark: Mark(u64::MAX),
    };
    for beat in [least, beat(), largest] {
        assert_eq!(parse_beat(&beat_frame(&beat)), Ok(beat));
    }
    let nothing = BeatReply {
        number: 0,
        replied_at: 1,
        promise: Duration::ZERO,
        epoch: PromiseEpoch(1),
        to: CoreSet::default(),
        health: NodeHealth::default(),
    };
    let largest = BeatReply {
        number: u64::MAX,
        replied_at: u64::MAX,
        promise: PROMISE_MAX,
        epoch: PromiseEpoch(u64::MAX),
        to: (0..CORES_MAX).collect(),
        health: most,
    };
    for reply in [nothing, reply(), largest] {
        assert_eq!(parse_beat_reply(&reply_frame(&reply)), Ok(reply));
    }
}

#[test]
fn more_damage_than_can_be_named_is_damage_everywhere() {
    let named = DAMAGED_NAMED_MAX as u32;
    for (count, elsewhere) in [(0, false), (named, false), (named + 1, true)] {
        let sent = BeatReply {
            health: health(count),
            ..reply()
        };
        let read = parse_beat_reply(&reply_frame(&sent)).unwrap().health;
        assert_eq!(read.damaged.len() as u32, count.min(named));
        let other = ShardId(u32::MAX);
        assert_eq!(read.of(other).is_damaged, elsewhere, "{count} are damaged");
        assert!((0..count).all(|shard| read.of(ShardId(shard)).is_damaged));
    }
}

#[test]
fn what_is_cut_or_promises_too_much_is_malformed() {
    let (good, kind) = (beat_frame(&beat()), kinds::BEAT);
    for len in 0..good.body().len() {
        let cut = forged(kind, &good.body()[..len], &[]);
        assert!(parse_beat(&cut).is_err(), "a beat cut at {len}");
    }
    let longer = [good.body(), &[0]].concat();
    assert!(parse_beat(&forged(kind, &longer, &[])).is_err());
    let (good, kind) = (reply_frame(&reply()), kinds::BEAT_REPLY);
    for len in 0..good.body().len() {
        let cut = forged(kind, &good.body()[..len], &[]);
        assert!(parse_beat_reply(&cut).is_err(), "a reply cut at {len}");
    }
    let max = PROMISE_MAX.as_nanos() as u64;
    for (promise, is_right) in [(0, true), (max, true), (max + 1, false), (u64::MAX, false)] {
        let mut body = good.body().to_vec();
        body[16..24].copy_from_slice(&promise.to_le_bytes());
        let parsed = parse_beat_reply(&forged(kind, &body, &[]));
        assert_eq!(parsed.is_ok(), is_right, "{promise} ns");
    }
    let mut body = beat_frame(&beat()).body().to_vec();
    body[61..63].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(parse_beat(&forged(kinds::BEAT, &body, &[])).is_err());
}

#[test]
fn epochs_of_a_start_rise_and_end() {
    let start = Start {
        incarnation: 3,
        nonce: u64::MAX,
    };
    let first = PromiseEpoch::first(start);
    let table = [
        (first, Some(PromiseEpoch(first.0 + 1))),
        (
            PromiseEpoch(first.0 + ((1 << 24) - 3)),
            Some(PromiseEpoch(u64::MAX)),
        ),
        (PromiseEpoch(u64::MAX), None),
        (PromiseEpoch(0x00ff_ffff), None),
    ];
    for (epoch, next) in table {
        assert_eq!(epoch.next(), next, "{epoch}");
    }
    let zero = Start::default();
    assert_ne!(PromiseEpoch::first(zero), PromiseEpoch(0));
}

#[test]
fn cores_of_a_set() {
    let set = CoreSet::from_iter([0, 64, 255]);
    let all = (0..=u16::MAX).filter(|core| set.contains(*core));
    assert_eq!(all.collect::<Vec<_>>(), [0, 64, 255]);
    assert!(CoreSet::default().is_empty() && !set.is_empty());
}
