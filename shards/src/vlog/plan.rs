//! Which segments to collect: a pure decision.
//!
//! Collecting a segment of which the part `d` is garbage writes `1/d` bytes for each byte that comes
//! back, and waiting for `d` costs the space of `d`: a quarter while there is space, less and less as
//! it runs out.

use crate::ids::{LogIndex, ValueSegmentId};

/// Segments are collected when more than this part of the value log is garbage, while there is
/// space.
const RATIO_RELAXED: f64 = 0.25;
/// The same when space has run out.
const RATIO_URGENT: f64 = 0.05;
/// At this part of free space and above there is space.
const FREE_PLENTY: f64 = 0.20;
/// At this part of free space and below it has run out.
const FREE_SCARCE: f64 = 0.05;

/// A segment and how much of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentUse {
    /// Its number.
    pub id: ValueSegmentId,
    /// Bytes of its records.
    pub bytes: u64,
    /// How many of them the tables refer to.
    pub referenced: u64,
    /// Its records.
    pub records: u64,
    /// Whether nothing is written to it any more.
    pub sealed: bool,
    /// Highest log index of a record.
    pub highest: LogIndex,
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// All segments.
    pub segments: &'a [SegmentUse],
    /// The log holds only entries above it, and everything up to it is in tables.
    pub purged: Option<LogIndex>,
    /// Free part of the device, 0 to 1.
    pub free_fraction: f64,
}

/// What to do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Not yet: it is written to, or the log or a memtable may refer to its records, so that what
    /// of it is garbage is not known.
    Wait,
    /// Nothing.
    Keep,
    /// Write its live records anew.
    Rewrite,
    /// Remove it: nothing refers to it.
    Drop,
}

/// What a report says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentGarbage {
    /// Its number.
    pub id: ValueSegmentId,
    /// Bytes of its records.
    pub bytes: u64,
    /// How many of them are garbage, 0 while that is not known.
    pub garbage: u64,
    /// What to do with it now.
    pub action: Action,
    /// Bytes that this would give back.
    pub reclaimed: u64,
}

/// The state of the value log's garbage, and what to do about it.
#[derive(Clone, Debug, PartialEq)]
pub struct GarbageReport {
    /// In the order of the input.
    pub segments: Vec<SegmentGarbage>,
    /// Bytes of all records.
    pub bytes: u64,
    /// How many of them are garbage, as far as is known.
    pub garbage: u64,
    /// The part of garbage above which a segment is rewritten.
    pub ratio: f64,
}

impl GarbageReport {
    /// The segments to remove.
    pub fn drops(&self) -> impl Iterator<Item = ValueSegmentId> {
        self.with(Action::Drop)
    }

    /// The segment to rewrite next.
    pub fn rewrite(&self) -> Option<ValueSegmentId> {
        self.with(Action::Rewrite).next()
    }

    /// Bytes that doing all this would give back.
    pub fn reclaimed(&self) -> u64 {
        self.segments.iter().map(|segment| segment.reclaimed).sum()
    }

    fn with(&self, action: Action) -> impl Iterator<Item = ValueSegmentId> {
        let chosen = move |segment: &&SegmentGarbage| segment.action == action;
        self.segments
            .iter()
            .filter(chosen)
            .map(|segment| segment.id)
    }
}

/// The part of garbage that is left alone at this part of free space.
fn ratio(free_fraction: f64) -> f64 {
    let scarcity = (FREE_PLENTY - free_fraction) / (FREE_PLENTY - FREE_SCARCE);
    RATIO_RELAXED - (RATIO_RELAXED - RATIO_URGENT) * scarcity.clamp(0.0, 1.0)
}

/// Says what is garbage and what to do: remove every segment that nothing refers to, and rewrite the
/// one with the largest part of garbage if there is too much in all.
pub fn plan(input: PlanInput<'_>) -> GarbageReport {
    let ratio = ratio(input.free_fraction);
    let mut segments: Vec<SegmentGarbage> = input
        .segments
        .iter()
        .map(|segment| judge(segment, input.purged))
        .collect();
    let bytes = segments.iter().map(|segment| segment.bytes).sum();
    let garbage = segments.iter().map(|segment| segment.garbage).sum();
    if garbage as f64 > ratio * bytes as f64
        && let Some(worst) = worst(&mut segments)
        // Most of the garbage may be in segments that are dropped anyway.
        && worst.garbage as f64 > ratio * worst.bytes as f64
    {
        worst.action = Action::Rewrite;
        worst.reclaimed = worst.garbage;
    }
    GarbageReport {
        segments,
        bytes,
        garbage,
        ratio,
    }
}

fn judge(segment: &SegmentUse, purged: Option<LogIndex>) -> SegmentGarbage {
    let is_settled = segment.sealed && purged.is_some_and(|purged| segment.highest <= purged);
    let garbage = match is_settled {
        true => segment.bytes.saturating_sub(segment.referenced),
        false => 0,
    };
    let (action, reclaimed) = match (is_settled, segment.referenced) {
        (false, _) => (Action::Wait, 0),
        (true, 0) => (Action::Drop, segment.bytes),
        (true, _) => (Action::Keep, 0),
    };
    SegmentGarbage {
        id: segment.id,
        bytes: segment.bytes,
        garbage,
        action,
        reclaimed,
    }
}

/// The segment with the largest part of garbage of those that stay; the oldest of several.
fn worst(segments: &mut [SegmentGarbage]) -> Option<&mut SegmentGarbage> {
    segments
        .iter_mut()
        .filter(|segment| segment.action == Action::Keep && segment.garbage > 0)
        .max_by(|a, b| {
            let part_a = u128::from(a.garbage) * u128::from(b.bytes);
            let part_b = u128::from(b.garbage) * u128::from(a.bytes);
            part_a.cmp(&part_b).then(b.id.cmp(&a.id))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (id, bytes, referenced, sealed, highest)
    type Row = (u64, u64, u64, bool, u64);

    fn uses(rows: &[Row]) -> Vec<SegmentUse> {
        rows.iter()
            .map(|(id, bytes, referenced, sealed, highest)| SegmentUse {
                id: ValueSegmentId(*id),
                bytes: *bytes,
                referenced: *referenced,
                records: bytes / 10,
                sealed: *sealed,
                highest: LogIndex(*highest),
            })
            .collect()
    }

    fn actions(rows: &[Row], purged: Option<u64>, free_fraction: f64) -> Vec<Action> {
        let segments = uses(rows);
        let report = plan(PlanInput {
            segments: &segments,
            purged: purged.map(LogIndex),
            free_fraction,
        });
        report
            .segments
            .iter()
            .map(|segment| segment.action)
            .collect()
    }

    #[test]
    fn segments_are_chosen_by_rule() {
        use Action::{Drop, Keep, Rewrite, Wait};
        // (segments, purged, free part, actions)
        type Case<'a> = (&'a [Row], Option<u64>, f64, &'a [Action]);
        let cases: [Case<'_>; 13] = [
            (&[], Some(9), 0.5, &[]),
            // Nothing refers to it: dropped at any ratio.
            (
                &[(1, 100, 0, true, 5), (2, 900, 900, true, 6)],
                Some(9),
                0.9,
                &[Drop, Keep],
            ),
            (&[(1, 0, 0, true, 0)], Some(0), 0.9, &[Drop]),
            // Not sealed, not purged far enough, nothing purged at all.
            (&[(1, 100, 0, false, 5)], Some(9), 0.5, &[Wait]),
            (&[(1, 100, 0, true, 5)], Some(4), 0.5, &[Wait]),
            (&[(1, 100, 0, true, 5)], Some(5), 0.5, &[Drop]),
            (&[(1, 100, 0, true, 0)], None, 0.5, &[Wait]),
            // A quarter of all is the limit while there is space.
            (&[(1, 100, 75, true, 1)], Some(9), 0.5, &[Keep]),
            (&[(1, 100, 74, true, 1)], Some(9), 0.5, &[Rewrite]),
            (
                &[(1, 100, 40, true, 1), (2, 900, 900, true, 1)],
                Some(9),
                0.5,
                &[Keep, Keep],
            ),
            // The largest part, not the largest number, and the oldest of two.
            (
                &[
                    (1, 1000, 600, true, 1),
                    (2, 100, 20, true, 1),
                    (3, 100, 20, true, 1),
                ],
                Some(9),
                0.5,
                &[Keep, Rewrite, Keep],
            ),
            // When space has run out, a twentieth.
            (&[(1, 100, 94, true, 1)], Some(9), 0.01, &[Rewrite]),
            // What is dropped does not make the rest worth a rewrite.
            (
                &[(1, 500, 0, true, 1), (2, 500, 490, true, 1)],
                Some(9),
                0.5,
                &[Drop, Keep],
            ),
        ];
        for (rows, purged, free, expected) in cases {
            assert_eq!(actions(rows, purged, free), expected, "{rows:?} at {free}");
        }
    }

    #[test]
    fn the_ratio_falls_smoothly_with_free_space() {
        let cases = [
            (1.0, 0.25),
            (0.2, 0.25),
            (0.125, 0.15),
            (0.05, 0.05),
            (0.0, 0.05),
            (-1.0, 0.05),
        ];
        for (free, expected) in cases {
            assert!((ratio(free) - expected).abs() < 1e-9, "{free}");
        }
    }

    #[test]
    fn a_report_adds_up() {
        let segments = uses(&[
            (1, 100, 0, true, 1),
            (2, 100, 10, true, 1),
            (3, 100, 50, true, 1),
            (4, 100, 0, false, 1),
        ]);
        let report = plan(PlanInput {
            segments: &segments,
            purged: Some(LogIndex(1)),
            free_fraction: 0.5,
        });
        assert_eq!((report.bytes, report.garbage), (400, 240));
        assert_eq!(report.drops().collect::<Vec<_>>(), [ValueSegmentId(1)]);
        assert_eq!(report.rewrite(), Some(ValueSegmentId(2)));
        assert_eq!(report.reclaimed(), 190);
    }
}
