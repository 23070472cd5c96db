//! The figures of rounds, and what they may be.

use super::Fault;
use std::fmt::Write as _;

/// What a fault may cost: half of the rounds, and each of them.
const MEDIAN_MS_MAX: f64 = 400.0;
const WORST_MS_MAX: f64 = 1000.0;
/// What the restart of a node in order may cost.
const RESTART_MS_MAX: f64 = 50.0;

/// The figures of one round. Times count from the fault.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Round {
    pub(crate) fault: Fault,
    pub(crate) round: u32,
    /// The node that was hurt, counted from 1.
    pub(crate) node: usize,
    /// Shards that it led.
    pub(crate) shards: Vec<u32>,
    /// Longest gap of one of them from the fault until the cluster was whole again.
    pub(crate) gap_ms: f64,
    /// When this gap began and ended.
    pub(crate) gap_from_ms: f64,
    pub(crate) gap_to_ms: f64,
    /// Longest gap of one of them after the node was mended.
    pub(crate) gap_after_ms: f64,
    /// Longest gap of all shards together.
    pub(crate) all_gap_ms: f64,
    /// Longest put.
    pub(crate) put_ms: f64,
    /// When each of the shards was seen to have another leader.
    pub(crate) elected_ms: Vec<f64>,
    /// Elections of all shards in the round.
    pub(crate) terms: u64,
    /// From the mending until the cluster was whole, and the leads spread; `None` if they did not.
    pub(crate) whole_ms: f64,
    pub(crate) spread_ms: Option<f64>,
    pub(crate) puts: u64,
    pub(crate) errors: u64,
    /// How late a thread of this program ran at most: how busy the machine was.
    pub(crate) late_ms: f64,
}

impl Round {
    pub(crate) fn text(&self) -> String {
        let list = |values: &[f64]| {
            let each: Vec<String> = values.iter().map(|ms| format!("{ms:.0}")).collect();
            each.join(" ")
        };
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<10}{:>5}{:>6}{:>8.0}{:>8.0}{:>8.0}{:>8.0}{:>7}{:>8.0}{:>8}{:>8}{:>7}{:>6.0}  {}",
            self.fault.name(),
            self.round,
            self.node,
            self.gap_ms,
            self.gap_after_ms,
            self.all_gap_ms,
            self.put_ms,
            self.terms,
            self.whole_ms,
            self.spread_ms
                .map_or("-".to_owned(), |ms| format!("{ms:.0}")),
            self.puts,
            self.errors,
            self.late_ms,
            if self.elected_ms.is_empty() {
                String::new()
            } else {
                format!(
                    "elected at {}, answered at {:.0}",
                    list(&self.elected_ms),
                    self.gap_to_ms
                )
            },
        );
        text
    }
}

/// The figures of all rounds of a fault.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct FaultSummary {
    fault: Fault,
    median_ms: f64,
    worst_ms: f64,
    /// Gaps of all rounds, in order.
    gaps_ms: Vec<f64>,
    /// Elections that no fault explains; `steady` only.
    changes: Option<u64>,
    errors: u64,
    is_good: bool,
    rounds: Vec<Round>,
}

impl FaultSummary {
    pub(crate) fn new(fault: Fault, rounds: Vec<Round>) -> Self {
        let gaps_ms: Vec<f64> = rounds.iter().map(|round| round.gap_ms).collect();
        let (median_ms, worst_ms) = (
            median(&gaps_ms),
            gaps_ms.iter().copied().fold(0.0, f64::max),
        );
        let errors = rounds.iter().map(|round| round.errors).sum();
        let changes: u64 = rounds.iter().map(|round| round.terms).sum();
        let is_good = errors == 0
            && match fault {
                Fault::Steady => changes == 0,
                Fault::Restart => worst_ms <= RESTART_MS_MAX,
                _ => median_ms <= MEDIAN_MS_MAX && worst_ms <= WORST_MS_MAX,
            };
        Self {
            fault,
            median_ms,
            worst_ms,
            gaps_ms,
            changes: (fault == Fault::Steady).then_some(changes),
            errors,
            is_good,
            rounds,
        }
    }

    pub(crate) fn text(&self) -> String {
        let values: Vec<String> = self.gaps_ms.iter().map(|ms| format!("{ms:.0}")).collect();
        let allowed = match self.fault {
            Fault::Steady => "no change of a lead".to_owned(),
            Fault::Restart => format!("worst {RESTART_MS_MAX:.0}"),
            _ => format!("median {MEDIAN_MS_MAX:.0}, worst {WORST_MS_MAX:.0}"),
        };
        let changes = self.changes.map_or_else(String::new, |changes| {
            format!(", {changes} changes of a lead")
        });
        format!(
            "{}: longest gap without an answered write, ms: median {:.0}, worst {:.0}{changes}; {} \
             puts failed; allowed: {allowed}: {}\n    all: {}\n\n",
            self.fault.name(),
            self.median_ms,
            self.worst_ms,
            self.errors,
            if self.is_good { "good" } else { "NOT REACHED" },
            values.join(" "),
        )
    }

    /// Whether the figures are within what is allowed.
    pub(crate) fn is_good(&self) -> bool {
        self.is_good
    }
}

/// The middle value; the mean of both for an even number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(at(middle.saturating_sub(1)), at(middle))
    } else {
        at(middle)
    }
}

/// The head of the table.
pub(crate) fn header() -> String {
    let columns = [
        ("round", "", 5),
        ("node", "", 6),
        ("gap", "ms", 8),
        ("gap", "after", 8),
        ("gap of", "all", 8),
        ("longest", "put", 8),
        ("terms", "", 7),
        ("whole", "ms", 8),
        ("spread", "ms", 8),
        ("puts", "", 8),
        ("errors", "", 7),
        ("late", "ms", 6),
    ];
    let (mut names, mut units) = (format!("{:<10}", "fault"), format!("{:<10}", ""));
    for (name, unit, width) in columns {
        let _ = write!(names, "{name:>width$}");
        let _ = write!(units, "{unit:>width$}");
    }
    format!("{names}\n{units}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_good_if_median_and_worst_are() {
        let round = |fault, gap_ms, terms| Round {
            fault,
            round: 1,
            node: 1,
            shards: vec![0],
            gap_ms,
            gap_from_ms: 0.0,
            gap_to_ms: gap_ms,
            gap_after_ms: 0.0,
            all_gap_ms: gap_ms,
            put_ms: gap_ms,
            elected_ms: Vec::new(),
            terms,
            whole_ms: 0.0,
            spread_ms: None,
            puts: 1,
            errors: 0,
            late_ms: 0.0,
        };
        for (fault, gaps, terms, good) in [
            (Fault::Kill, &[390.0, 350.0, 990.0][..], 1, true),
            (Fault::Kill, &[390.0, 350.0, 1001.0], 1, false),
            (Fault::Stop, &[410.0, 401.0, 200.0], 1, false),
            (Fault::Restart, &[10.0, 51.0], 1, false),
            (Fault::Restart, &[10.0, 49.0], 1, true),
            (Fault::Steady, &[700.0], 0, true),
            (Fault::Steady, &[7.0], 1, false),
        ] {
            let rounds = gaps.iter().map(|gap| round(fault, *gap, terms));
            let summary = FaultSummary::new(fault, rounds.collect());
            assert_eq!(summary.is_good(), good, "{}", summary.text());
        }
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
    }
}
