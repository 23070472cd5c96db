//! Which segments to collect: a pure decision.
//!
//! Collecting a segment of which the part `d` is garbage writes `1/d` bytes for each byte that comes
//! back, and waiting for `d` costs the space of `d`: a quarter while there is space, less and less as
//! it runs out.
//!
//! While little is written, garbage does not grow and cheaper segments are not to be had by waiting: then
//! each segment is collected that has more garbage than is left alone, whatever all have together.

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
    /// How many of them memtables refer to, or something that is being received may.
    pub in_memory: u64,
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
    /// Whether space matters more than what it costs to get it back: next to nothing is written, or the
    /// device is full.
    pub is_eager: bool,
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
    /// How many of them will be, while that is not known: nothing but the log refers to them.
    pub waiting: u64,
    /// Whether nothing is written to it any more.
    pub sealed: bool,
    /// Highest log index of a record.
    pub highest: LogIndex,
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
    /// How many more of them will be; see [`SegmentGarbage::waiting`].
    pub waiting: u64,
    /// The part of garbage above which a segment is rewritten.
    pub ratio: f64,
    /// The segment that is written to, if it is to be ended because of what of it will be garbage.
    pub end: Option<ValueSegmentId>,
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
    let is_too_much = |garbage: u64, bytes: u64| garbage as f64 > ratio * bytes as f64;
    if (input.is_eager || is_too_much(garbage, bytes))
        && let Some(worst) = worst(&mut segments)
        // Most of the garbage may be in segments that are dropped anyway.
        && is_too_much(worst.garbage, worst.bytes)
    {
        worst.action = Action::Rewrite;
        worst.reclaimed = worst.garbage;
    }
    let end = segments
        .iter()
        .find(|segment| !segment.sealed && is_too_much(segment.waiting, segment.bytes))
        .filter(|_| input.is_eager);
    GarbageReport {
        waiting: segments.iter().map(|segment| segment.waiting).sum(),
        end: end.map(|segment| segment.id),
        segments,
        bytes,
        garbage,
        ratio,
    }
}

fn judge(segment: &SegmentUse, purged: Option<LogIndex>) -> SegmentGarbage {
    let is_settled = segment.sealed && purged.is_some_and(|purged| segment.highest <= purged);
    assert!(
        !is_settled || segment.in_memory == 0,
        "what the log has purged is in tables"
    );
    let unreferenced = segment
        .bytes
        .saturating_sub(segment.referenced.saturating_add(segment.in_memory));
    let (garbage, waiting) = match is_settled {
        true => (unreferenced, 0),
        false => (0, unreferenced),
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
        waiting,
        sealed: segment.sealed,
        highest: segment.highest,
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
                in_memory: 0,
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
            is_eager: false,
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
            is_eager: false,
        });
        assert_eq!((report.bytes, report.garbage), (400, 240));
        assert_eq!(report.waiting, 100, "of the one that is written to");
        assert_eq!(report.drops().collect::<Vec<_>>(), [ValueSegmentId(1)]);
        assert_eq!(report.rewrite(), Some(ValueSegmentId(2)));
        assert_eq!(report.reclaimed(), 190);
    }

    #[test]
    fn what_waits_is_known_apart_and_ends_a_segment() {
        // (bytes, in tables, in memory, eager; waiting, ended)
        let cases = [
            (100, 0, 100, true, 0, false),
            (100, 40, 60, true, 0, false),
            (100, 40, 40, true, 20, false),
            (100, 40, 34, true, 26, true),
            (100, 40, 34, false, 26, false),
            (100, 0, 0, true, 100, true),
            (0, 0, 0, true, 0, false),
        ];
        for (bytes, referenced, in_memory, is_eager, waiting, ended) in cases {
            let mut segments = uses(&[(1, bytes, referenced, false, 5)]);
            segments[0].in_memory = in_memory;
            let report = plan(PlanInput {
                segments: &segments,
                purged: Some(LogIndex(9)),
                free_fraction: 0.5,
                is_eager,
            });
            assert_eq!((report.garbage, report.waiting), (0, waiting));
            assert_eq!(report.end, ended.then_some(ValueSegmentId(1)));
        }
    }

    #[test]
    fn a_segment_is_collected_for_itself_while_little_is_written() {
        let segments = uses(&[(1, 100, 70, true, 1), (2, 900, 900, true, 1)]);
        for is_eager in [false, true] {
            let report = plan(PlanInput {
                segments: &segments,
                purged: Some(LogIndex(9)),
                free_fraction: 0.5,
                is_eager,
            });
            let chosen = is_eager.then_some(ValueSegmentId(1));
            assert_eq!(report.rewrite(), chosen);
        }
    }
}
