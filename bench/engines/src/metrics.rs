//! The figures of a measurement, and their medians over rounds.

use crate::timeline::Timeline;
use corelith_bench::latencies::{Latencies, Percentiles};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Seconds that were measured.
    Seconds,
    OpsPerSecond,
    PutsPerSecond,
    GetsPerSecond,
    /// Keys and values put and got.
    MibPerSecond,
    /// Without the time to settle.
    PutPhaseOpsPerSecond,
    SettleSeconds,
    PutP50Us,
    PutP90Us,
    PutP99Us,
    PutP999Us,
    PutP9999Us,
    PutMaxUs,
    GetP50Us,
    GetP90Us,
    GetP99Us,
    GetP999Us,
    GetP9999Us,
    GetMaxUs,
    /// Of the operations of a timeline's windows without background work, see [`crate::timeline`].
    PutIdleP99Us,
    GetIdleP99Us,
    /// And of those with compaction or collection.
    PutBusyP99Us,
    GetBusyP99Us,
    /// The one divided by the other.
    PutBusyToIdle,
    GetBusyToIdle,
    /// How often the device stood still beside a timeline, and how long in all.
    Stalls,
    StalledMs,
    /// Of reads that go past the engine.
    ProbeP99Us,
    /// User and system time of the process, load generator included.
    CpuUsPerOp,
    /// Sent to the block layer, as the kernel counts it.
    WrittenMib,
    /// As the engine counts it, if it does.
    EngineWrittenMib,
    /// Bytes written for each byte put.
    WriteAmplification,
    /// Allocated bytes of the directory for each live byte.
    SpaceAmplification,
    /// The most of it during the run.
    SpaceAmplificationMax,
    DirectoryMib,
    LiveMib,
    PeakResidentMib,
    Flushes,
    Compactions,
    Collections,
    /// Due in an open loop and never started.
    NotStarted,
}

/// Figures by name.
pub(crate) type Metrics = BTreeMap<Metric, f64>;

/// What a child reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) metrics: Metrics,
    pub(crate) timeline: Option<Timeline>,
}

impl From<Metrics> for Outcome {
    fn from(metrics: Metrics) -> Self {
        Self {
            metrics,
            timeline: None,
        }
    }
}

use Metric as M;

const PUT_LATENCIES: [Metric; 6] = [
    M::PutP50Us,
    M::PutP90Us,
    M::PutP99Us,
    M::PutP999Us,
    M::PutP9999Us,
    M::PutMaxUs,
];
const GET_LATENCIES: [Metric; 6] = [
    M::GetP50Us,
    M::GetP90Us,
    M::GetP99Us,
    M::GetP999Us,
    M::GetP9999Us,
    M::GetMaxUs,
];

/// Adds the percentiles of puts and gets, if there were any.
pub(crate) fn add_latencies(metrics: &mut Metrics, puts: &Latencies, gets: &Latencies) {
    for (latencies, names) in [(puts, PUT_LATENCIES), (gets, GET_LATENCIES)] {
        if latencies.count() == 0 {
            continue;
        }
        let Percentiles {
            p50_us,
            p90_us,
            p99_us,
            p999_us,
            p9999_us,
            max_us,
            ..
        } = latencies.percentiles();
        let values = [p50_us, p90_us, p99_us, p999_us, p9999_us, max_us];
        metrics.extend(names.into_iter().zip(values));
    }
}

/// Adds what a timeline tells of the whole time.
pub(crate) fn add_timeline(metrics: &mut Metrics, timeline: &Timeline) {
    let busy_to_idle = |busy: Option<f64>, idle: Option<f64>| {
        let idle = idle.filter(|idle| *idle > 0.0);
        Some(busy? / idle?)
    };
    let (get_idle, get_busy) = (timeline.get_idle_p99_us, timeline.get_busy_p99_us);
    let (put_idle, put_busy) = (timeline.put_idle_p99_us, timeline.put_busy_p99_us);
    let stalled_ms = timeline
        .stalls
        .iter()
        .map(|stall| stall.to_ms - stall.from_ms);
    let figures = [
        (M::GetIdleP99Us, get_idle),
        (M::GetBusyP99Us, get_busy),
        (M::GetBusyToIdle, busy_to_idle(get_busy, get_idle)),
        (M::PutIdleP99Us, put_idle),
        (M::PutBusyP99Us, put_busy),
        (M::PutBusyToIdle, busy_to_idle(put_busy, put_idle)),
        (M::Stalls, Some(timeline.stalls.len() as f64)),
        (M::StalledMs, Some(stalled_ms.sum::<u64>() as f64)),
        (M::ProbeP99Us, timeline.probe.map(|probe| probe.p99_us)),
    ];
    metrics.extend(
        figures
            .into_iter()
            .filter_map(|(metric, value)| Some((metric, value?))),
    );
}

/// The median of each figure.
pub(crate) fn medians<'a>(rounds: impl IntoIterator<Item = &'a Metrics>) -> Metrics {
    let mut values: BTreeMap<Metric, Vec<f64>> = BTreeMap::new();
    for metrics in rounds {
        for (metric, value) in metrics {
            values.entry(*metric).or_default().push(*value);
        }
    }
    values
        .into_iter()
        .filter_map(|(metric, values)| Some((metric, median(values)?)))
        .collect()
}

/// The middle one; of an even number the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stall::Stall;
    use std::time::Duration;

    #[test]
    fn medians_are_in_the_middle() {
        for (values, expected) in [
            (vec![], None),
            (vec![3.0], Some(3.0)),
            (vec![9.0, 1.0, 2.0], Some(2.0)),
            (vec![4.0, 1.0, 2.0, 9.0], Some(3.0)),
        ] {
            assert_eq!(median(values), expected);
        }
        let rounds = [
            Metrics::from([(M::OpsPerSecond, 1.0)]),
            Metrics::from([(M::OpsPerSecond, 3.0), (M::GetMaxUs, 7.0)]),
        ];
        let expected = Metrics::from([(M::OpsPerSecond, 2.0), (M::GetMaxUs, 7.0)]);
        assert_eq!(medians(&rounds), expected);
    }

    #[test]
    fn a_timeline_gives_what_it_has() {
        let stall = |from_ms, to_ms| Stall { from_ms, to_ms };
        let timeline = Timeline {
            stalls: vec![stall(10, 40), stall(100, 1100)],
            get_idle_p99_us: Some(200.0),
            get_busy_p99_us: Some(300.0),
            put_busy_p99_us: Some(500.0),
            ..Timeline::default()
        };
        let mut metrics = Metrics::default();
        add_timeline(&mut metrics, &timeline);
        let expected = Metrics::from([
            (M::GetIdleP99Us, 200.0),
            (M::GetBusyP99Us, 300.0),
            (M::GetBusyToIdle, 1.5),
            (M::PutBusyP99Us, 500.0),
            (M::Stalls, 2.0),
            (M::StalledMs, 1030.0),
        ]);
        assert_eq!(metrics, expected);
    }

    #[test]
    fn an_outcome_survives_the_way_back() {
        let mut puts = Latencies::default();
        puts.record(Duration::from_micros(5));
        let mut outcome = Outcome::default();
        add_latencies(&mut outcome.metrics, &puts, &Latencies::default());
        assert_eq!(outcome.metrics.len(), 6);
        let text = serde_json::to_string(&outcome).unwrap();
        assert!(text.contains("\"put_p50_us\":5."), "{text}");
        assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome);
    }
}
