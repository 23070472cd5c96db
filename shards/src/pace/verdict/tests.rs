use super::*;

const BACKGROUND: u64 = 100 << 20;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Compaction's debt, and memtables, beside a client.
fn with(bytes: u64, runs: usize, memtables: f64) -> Pressure {
    Pressure {
        debt: Debt {
            bytes,
            runs,
            score: 0.0,
        },
        memtables,
        is_busy: true,
        ..Pressure::default()
    }
}

/// Gibibytes of garbage and of all values.
fn of_garbage(garbage: f64, all: f64) -> Pressure {
    Pressure {
        garbage_bytes: (garbage * GIB as f64) as u64,
        value_bytes: (all * GIB as f64) as u64,
        ..with(0, 0, 1.0)
    }
}

fn of_incoming(pressure: Pressure, inline: u64, separated: u64) -> Verdict {
    let incoming = Incoming {
        inline: inline as f64,
        separated: separated as f64,
    };
    let pressure = Pressure {
        incoming,
        ..pressure
    };
    judge(&pressure, &PaceLimits::default())
}

fn verdict(pressure: Pressure) -> Verdict {
    judge(&pressure, &PaceLimits::default())
}

/// Seconds that a byte is delayed.
fn delay(pressure: Pressure) -> Option<f64> {
    let writers = judge_writers(&pressure, &PaceLimits::default());
    assert_eq!(writers, verdict(pressure).writers);
    match writers {
        Writers::Free => Some(0.0),
        Writers::Slow(part) => Some(1.0 / Writers::rate(part, BACKGROUND) as f64),
        Writers::Stop => None,
    }
}

#[test]
fn writers_are_delayed_in_proportion() {
    // Delays are in those of a byte at the rate of the background.
    let cases = [
        ("nothing", with(0, 0, 0.0), Some(0.0)),
        ("as much as is usual", with(64 << 30, 20, 2.0), Some(0.0)),
        ("debt half-way", with(160 << 30, 0, 0.0), Some(1.0)),
        ("runs half-way", with(0, 30, 0.0), Some(1.0)),
        ("memtables half-way", with(0, 0, 2.5), Some(1.0)),
        ("the worst counts", with(65 << 30, 30, 2.4), Some(1.0)),
        ("too much debt", with(256 << 30, 0, 0.0), None),
        ("too many runs", with(0, 36, 0.0), None),
        ("memory full", with(0, 0, 3.0), None),
        ("far beyond", with(u64::MAX, usize::MAX, 99.0), None),
        ("garbage as is usual", of_garbage(60.0, 100.0), Some(0.0)),
        ("garbage half-way", of_garbage(75.0, 100.0), Some(1.0)),
        ("little garbage", of_garbage(0.9, 0.9), Some(0.0)),
        ("nothing but garbage", of_garbage(9.0, 9.0), Some(1.8)),
    ];
    for (what, pressure, background_rates) in cases {
        let expected = background_rates.map(|rates| rates / BACKGROUND as f64);
        match (delay(pressure), expected) {
            (Some(is), Some(expected)) => assert!(
                (is - expected).abs() < 0.01 / BACKGROUND as f64,
                "{what}: {is} instead of {expected}"
            ),
            (is, expected) => assert_eq!(is, expected, "{what}"),
        }
    }
}

/// Steps through `values`, and expects the result never to fall nor to jump.
fn check_smooth(what: &str, jump_max: f64, values: impl Iterator<Item = Option<f64>>) {
    let mut before = 0.0;
    let mut stopped = false;
    for value in values {
        let Some(value) = value else {
            stopped = true;
            continue;
        };
        assert!(!stopped, "{what}: writers go on beyond a stop");
        assert!(value >= before, "{what} falls from {before} to {value}");
        assert!(
            value - before <= jump_max,
            "{what} jumps from {before} to {value}"
        );
        before = value;
    }
}

#[test]
fn the_delay_grows_without_jumps() {
    let jump = 2.0 / BACKGROUND as f64 / 90.0;
    check_smooth("debt", jump, (0..280).map(|n| delay(with(n * GIB, 0, 0.0))));
    check_smooth(
        "memtables",
        jump,
        (0..400).map(|n| delay(with(0, 0, f64::from(n) / 100.0))),
    );
    check_smooth(
        "garbage",
        jump,
        (0..400).map(|n| delay(of_garbage(f64::from(n) / 4.0, 100.0))),
    );
    // Runs are few, so that their steps are larger: an eighth of the background's rate.
    let jump = 2.0 / BACKGROUND as f64 / 8.0;
    check_smooth("runs", jump, (0..40).map(|runs| delay(with(0, runs, 0.0))));
}

#[test]
fn background_gets_more_before_writers_are_slowed() {
    let share = |pressure| verdict(pressure).share;
    assert_eq!(share(with(0, 0, 1.0)), 100);
    assert_eq!(share(with(64 << 30, 0, 1.0)), 800);
    assert_eq!(share(with(0, 24, 1.0)), 800);
    assert_eq!(share(with(u64::MAX, usize::MAX, 1.0)), 800);
    assert_eq!(share(with(0, 0, 1.5)), 450);
    assert_eq!(share(with(0, 0, 2.0)), 800);
    assert_eq!(share(with(0, 0, 99.0)), 800);
    assert_eq!(share(of_garbage(35.0, 100.0)), 100);
    assert_eq!(share(of_garbage(60.0, 100.0)), 800);
    let more = |pressure| Some(f64::from(share(pressure)) - 100.0);
    let debts = (0..80).map(|n| more(with(n * GIB, 0, 1.0)));
    check_smooth("share by debt", 12.0, debts);
    let runs = (0..40).map(|n| more(with(0, n, 1.0)));
    check_smooth("share by runs", 120.0, runs);
}

#[test]
fn compaction_moves_what_comes_in_and_more_when_it_lags() {
    // (bytes that come in, debt, memtables, bytes it may move a second)
    let cases = [
        (0, (0, 0), 1.0, Some(32 * MIB)),
        (10 * MIB, (0, 12), 1.0, Some(160 * MIB)),
        (4 * MIB, (0, 0), 1.0, Some(64 * MIB)),
        (10 * MIB, (0, 18), 1.0, Some(320 * MIB)),
        (10 * MIB, (32 << 30, 0), 1.0, Some(320 * MIB)),
        (0, (0, 24), 1.0, None),
        (0, (u64::MAX, usize::MAX), 1.0, None),
        (10 * MIB, (0, 0), 1.3, Some(8 * MIB)),
        (10 * MIB, (0, 18), 1.6, Some(8 * MIB)),
        (10 * MIB, (0, 18), 1.4, Some(320 * MIB)),
        (10 * MIB, (0, 24), 2.5, None),
    ];
    for (inline, (bytes, runs), memtables, expected) in cases {
        let verdict = of_incoming(with(bytes, runs, memtables), inline, 10 * MIB);
        assert_eq!(
            verdict.compaction, expected,
            "{inline} {bytes} {runs} {memtables}"
        );
    }
}

#[test]
fn collection_moves_what_comes_in_and_more_when_garbage_grows() {
    let rate = |pressure, separated| of_incoming(pressure, 10 * MIB, separated).collection;
    let usual = of_garbage(30.0, 100.0);
    assert_eq!(rate(usual, 0), Some(32 * MIB));
    assert_eq!(rate(usual, 10 * MIB), Some(80 * MIB));
    let rate_of = |garbage| rate(of_garbage(garbage, 100.0), 10 * MIB);
    assert!(rate_of(47.5).is_some_and(|rate| rate.abs_diff(160 * MIB) < MIB));
    assert_eq!(rate_of(60.0), None);
    assert_eq!(rate_of(99.0), None);
}

#[test]
fn a_flush_keeps_ahead_of_the_next_memtable() {
    let rate = |memtables| verdict(with(0, 0, memtables)).flush;
    assert_eq!(rate(0.0), Some(16 * MIB));
    assert_eq!(rate(1.0), Some(16 * MIB));
    assert_eq!(rate(1.5), Some(32 * MIB));
    assert_eq!(rate(2.0), None);
    assert_eq!(rate(99.0), None);
}

#[test]
fn nothing_holds_background_work_back_alone_or_when_space_runs_out() {
    let short = |free_fraction, is_full| DeviceSpace {
        free_fraction,
        is_full,
    };
    let cases = [
        ("a client is there", true, short(0.5, false), false),
        ("nobody is", false, short(0.5, false), true),
        ("little is free", true, short(0.09, false), true),
        ("the device is full", true, short(0.5, true), true),
    ];
    for (what, is_busy, space, is_free) in cases {
        let pressure = Pressure {
            is_busy,
            space,
            ..with(0, 0, 0.0)
        };
        let Verdict {
            flush,
            compaction,
            collection,
            ..
        } = verdict(pressure);
        for rate in [flush, compaction, collection] {
            assert_eq!(rate.is_none(), is_free, "{what}");
        }
    }
}

#[test]
fn what_is_out_of_use_goes_in_steps() {
    let removal = |is_busy, removals| {
        let pressure = Pressure {
            is_busy,
            removals,
            ..Pressure::default()
        };
        verdict(pressure).removal
    };
    assert_eq!(removal(true, 0.0), Some(50));
    assert_eq!(removal(true, 0.5), Some(100));
    assert_eq!(removal(true, 1.0), Some(u64::MAX));
    assert_eq!(removal(false, 0.0), Some(1000));

    let reclaim = |inline| of_incoming(Pressure::default(), inline, 0).reclaim;
    assert_eq!(reclaim(MIB), Some(64_000));
    assert_eq!(reclaim(100 * MIB), None);
}
