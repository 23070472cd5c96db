//! What is printed of a case.

use crate::metrics::{Metric as M, Metrics};
use crate::options::Workload;
use crate::plan::Engine;
use std::fmt::Write as _;

/// Head, unit in which the metric is shown, and the metric.
type Column = (&'static str, f64, M);

/// Microseconds in a millisecond: latencies are shown in milliseconds.
const MS: f64 = 1e3;
const NAME_WIDTH: usize = 15;
const WIDTH: usize = 10;

fn columns(workload: Workload) -> &'static [Column] {
    const PUT: &[Column] = &[
        ("puts/s", 1.0, M::PutsPerSecond),
        ("MiB/s", 1.0, M::MibPerSecond),
        ("p50 ms", MS, M::PutP50Us),
        ("p90", MS, M::PutP90Us),
        ("p99", MS, M::PutP99Us),
        ("p99.9", MS, M::PutP999Us),
        ("p99.99", MS, M::PutP9999Us),
        ("max", MS, M::PutMaxUs),
        ("us CPU/op", 1.0, M::CpuUsPerOp),
        ("write amp", 1.0, M::WriteAmplification),
        ("space amp", 1.0, M::SpaceAmplification),
        ("RSS MiB", 1.0, M::PeakResidentMib),
    ];
    const FILL: &[Column] = &[
        ("settled/s", 1.0, M::PutsPerSecond),
        ("puts/s", 1.0, M::PutPhaseOpsPerSecond),
        ("MiB/s", 1.0, M::MibPerSecond),
        ("settle s", 1.0, M::SettleSeconds),
        ("p50 ms", MS, M::PutP50Us),
        ("p99", MS, M::PutP99Us),
        ("p99.9", MS, M::PutP999Us),
        ("max", MS, M::PutMaxUs),
        ("us CPU/op", 1.0, M::CpuUsPerOp),
        ("write amp", 1.0, M::WriteAmplification),
        ("space amp", 1.0, M::SpaceAmplification),
        ("its max", 1.0, M::SpaceAmplificationMax),
        ("RSS MiB", 1.0, M::PeakResidentMib),
    ];
    const GET: &[Column] = &[
        ("gets/s", 1.0, M::GetsPerSecond),
        ("MiB/s", 1.0, M::MibPerSecond),
        ("p50 ms", MS, M::GetP50Us),
        ("p90", MS, M::GetP90Us),
        ("p99", MS, M::GetP99Us),
        ("p99.9", MS, M::GetP999Us),
        ("p99.99", MS, M::GetP9999Us),
        ("max", MS, M::GetMaxUs),
        ("us CPU/op", 1.0, M::CpuUsPerOp),
        ("RSS MiB", 1.0, M::PeakResidentMib),
    ];
    const MIXED: &[Column] = &[
        ("gets/s", 1.0, M::GetsPerSecond),
        ("p50 ms", MS, M::GetP50Us),
        ("p99", MS, M::GetP99Us),
        ("p99.9", MS, M::GetP999Us),
        ("max", MS, M::GetMaxUs),
        ("puts/s", 1.0, M::PutsPerSecond),
        ("p50 ms", MS, M::PutP50Us),
        ("p99", MS, M::PutP99Us),
        ("p99.9", MS, M::PutP999Us),
        ("max", MS, M::PutMaxUs),
        ("us CPU/op", 1.0, M::CpuUsPerOp),
        ("write amp", 1.0, M::WriteAmplification),
        ("RSS MiB", 1.0, M::PeakResidentMib),
    ];
    const TIMELINE: &[Column] = &[
        ("gets/s", 1.0, M::GetsPerSecond),
        ("p50 ms", MS, M::GetP50Us),
        ("p99", MS, M::GetP99Us),
        ("idle p99", MS, M::GetIdleP99Us),
        ("busy p99", MS, M::GetBusyP99Us),
        ("max", MS, M::GetMaxUs),
        ("puts/s", 1.0, M::PutsPerSecond),
        ("p99 ms", MS, M::PutP99Us),
        ("idle p99", MS, M::PutIdleP99Us),
        ("busy p99", MS, M::PutBusyP99Us),
        ("max", MS, M::PutMaxUs),
        ("stalls", 1.0, M::Stalls),
        ("stall ms", 1.0, M::StalledMs),
        ("us CPU/op", 1.0, M::CpuUsPerOp),
        ("write amp", 1.0, M::WriteAmplification),
    ];
    match workload {
        Workload::Put => PUT,
        Workload::Fill | Workload::Overwrite => FILL,
        Workload::Get => GET,
        Workload::Mixed => MIXED,
        Workload::Timeline => TIMELINE,
        // It prints what it has itself.
        Workload::Scale => &[],
    }
}

/// The rows of a case: one for each engine, and for ours divided by each other one.
pub(crate) fn rows(workload: Workload, title: &str, engines: &[(Engine, Metrics)]) -> String {
    let columns = columns(workload);
    let mut text = format!("\n{title}\n{:NAME_WIDTH$}", "");
    for (head, _, _) in columns {
        let _ = write!(text, "{head:>WIDTH$}");
    }
    text.push('\n');
    for (engine, metrics) in engines {
        let cells = columns.iter().map(|(_, unit, metric)| {
            let value = metrics.get(metric)?;
            Some(number(value / unit))
        });
        line(&mut text, engine.name(), cells);
    }
    let Some((_, ours)) = engines.iter().find(|(engine, _)| *engine == Engine::Ours) else {
        return text;
    };
    for (engine, theirs) in engines.iter().filter(|(engine, _)| *engine != Engine::Ours) {
        let cells = columns.iter().map(|(_, _, metric)| {
            if is_of_the_device(*metric) {
                return None;
            }
            let (ours, theirs) = (ours.get(metric)?, theirs.get(metric)?);
            (*theirs != 0.0).then(|| format!("x{:.2}", ours / theirs))
        });
        line(&mut text, &format!("ours/{}", engine.name()), cells);
    }
    for (engine, metrics) in engines {
        let missed = metrics.get(&M::NotStarted).copied().unwrap_or(0.0);
        if missed > 0.0 {
            let _ = writeln!(
                text,
                "    {}: {missed:.0} operations were due and never started",
                engine.name()
            );
        }
    }
    text
}

/// Whether a figure says nothing about the engine beside which it was measured.
fn is_of_the_device(metric: M) -> bool {
    matches!(metric, M::Stalls | M::StalledMs | M::ProbeP99Us)
}

fn line(text: &mut String, name: &str, cells: impl Iterator<Item = Option<String>>) {
    let _ = write!(text, "{name:NAME_WIDTH$}");
    for cell in cells {
        let _ = write!(text, "{:>WIDTH$}", cell.as_deref().unwrap_or("-"));
    }
    text.push('\n');
}

/// Three digits that matter, or all in front of the point.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_divided_by_the_others() {
        let metrics = |rate, p99| Metrics::from([(M::GetsPerSecond, rate), (M::GetP99Us, p99)]);
        let engines = [
            (Engine::Ours, metrics(3000.0, 500.0)),
            (Engine::Rocksdb, metrics(1500.0, 1000.0)),
            (Engine::Fjall, metrics(6000.0, 0.0)),
        ];
        let text = rows(Workload::Get, "get: cold", &engines);
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert!(
            lines.iter().all(|line| line.len() == lines[0].len()),
            "{text}"
        );
        for (line, expected) in [
            (lines[1], ["ours", "3000", "0.500"]),
            (lines[4], ["ours/rocksdb", "x2.00", "x0.50"]),
            (lines[5], ["ours/fjall", "x0.50", "-"]),
        ] {
            let cells: Vec<_> = line.split_whitespace().collect();
            assert_eq!([cells[0], cells[1], cells[5]], expected, "{text}");
        }
    }

    #[test]
    fn stalls_are_shown_and_not_divided() {
        let metrics = |stalls| Metrics::from([(M::Stalls, stalls), (M::StalledMs, 100.0 * stalls)]);
        let engines = [
            (Engine::Ours, metrics(2.0)),
            (Engine::Rocksdb, metrics(1.0)),
        ];
        let text = rows(Workload::Timeline, "timeline", &engines);
        let lines: Vec<_> = text.lines().skip(2).collect();
        let cells = |line: &str| -> Vec<String> {
            line.split_whitespace()
                .filter(|cell| *cell != "-")
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(cells(lines[1]), ["ours", "2.00", "200"], "{text}");
        assert_eq!(cells(lines[3]), ["ours/rocksdb"], "{text}");
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (123_456.7, "123457"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (0.0123, "0.012"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
