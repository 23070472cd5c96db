use super::*;
use std::time::Duration;

fn used(mib: u64, written_bytes: u64) -> Used {
    Used {
        cpu_seconds: 0.5,
        written_bytes,
        read_bytes: 0,
        peak_over_idle_bytes: mib << 20,
    }
}

fn phase(bytes: u64, node: Used) -> LargePhase {
    let measured = Measured {
        elapsed: Duration::from_secs(2),
        nodes: vec![node; 3],
        client: used(64, 0),
    };
    LargePhase::new("upload", bytes, measured)
}

fn puts(p99_us: f64) -> SmallPuts {
    SmallPuts {
        latency: Percentiles {
            p99_us,
            ..Percentiles::default()
        },
        operations: 100,
        not_started: 0,
        errors: BTreeMap::new(),
    }
}

fn figures() -> LargeFigures {
    let bytes = 1 << 30;
    LargeFigures {
        bytes,
        streams: 1,
        disk: Some(DiskRates {
            write: 3.0 * GIB,
            read: GIB,
        }),
        leads: vec![1, 0, 0],
        phases: vec![phase(bytes, used(256, bytes + bytes / 50))],
        beside: BesideFigures {
            rate: 500.0,
            uploads: phase(bytes, used(1, bytes)),
            alone: puts(1000.0),
            during: puts(3000.0),
            leads_stayed: true,
        },
    }
}

#[test]
fn figures_at_the_limits_are_good_and_beyond_are_not() {
    assert!(figures().is_good(), "{}", figures().text());
    type Worsen = fn(&mut LargeFigures);
    let worse: [(Worsen, &str); 6] = [
        (
            |of| of.beside.uploads = phase(of.bytes, used(257, 0)),
            "256 MiB",
        ),
        (
            |of| {
                for phase in &mut of.phases {
                    phase.client.peak_over_idle_bytes += 1;
                }
            },
            "64 MiB",
        ),
        (
            |of| of.phases = vec![phase(of.bytes, used(1, of.bytes + of.bytes / 45))],
            "1.02",
        ),
        (|of| of.beside.alone.operations = 99, "too few"),
        (|of| of.beside.during = puts(3001.0), "suffer"),
        (|of| of.beside.leads_stayed = false, "another leader"),
    ];
    for (worsen, said) in worse {
        let mut worse = figures();
        worsen(&mut worse);
        assert!(!worse.is_good(), "{said}");
        let text = worse.text();
        let bad: Vec<&str> = text.lines().filter(|line| line.contains("NOT")).collect();
        assert!(bad.len() == 1 && bad[0].contains(said), "{said}: {text}");
    }
}

#[test]
fn a_row_lines_up_with_the_head() {
    let bytes = 1 << 30;
    let row = phase(bytes, used(10, bytes)).row();
    let head = header();
    let first = head.lines().next().unwrap();
    assert_eq!(row.trim_end().len(), first.len(), "{head}{row}");
    for part in ["upload", "512.0", "0.50/0.50/0.50", "10/10/10", "1.000"] {
        assert!(row.contains(part), "{part} is missing in {row}");
    }
}

#[test]
fn what_was_used_counts_for_each_byte() {
    let of = LargeUsage::new(&used(1, 3 << 29), 1 << 30);
    assert!((of.cpu_seconds_per_gib - 0.5).abs() < 1e-9);
    assert!((of.written_per_byte - 1.5).abs() < 1e-9);
    let none = LargeUsage::new(&used(0, 0), 0);
    assert!(none.cpu_seconds_per_gib.is_finite());
}
