//! One rule at a time.

use crate::compaction::picker::Output;
use crate::compaction::{
    LevelShape, Options, Policy, RunShape, Shape, TableShape, Task, WriteMix, debt, pick,
    searches_due, settled,
};
use crate::ids::{LogIndex, TableId};
use bytes::Bytes;

const MIB: u64 = 1 << 20;

/// A table of keys from `first` to `last`, with 4,096 entries for each MiB.
fn table(id: u64, first: u32, last: u32, mib: u64) -> TableShape {
    TableShape {
        id: TableId(id),
        file_bytes: mib * MIB,
        entries: mib * 4096,
        deletions: 0,
        value_bytes: 0,
        first: Bytes::copy_from_slice(&first.to_be_bytes()),
        last: Bytes::copy_from_slice(&last.to_be_bytes()),
        highest: LogIndex(id),
        busy: false,
    }
}

fn deleting(mut table: TableShape, deletions: u64) -> TableShape {
    table.deletions = deletions;
    table
}

/// Runs by level, each with the tables' id, first and last key and MiB. A run has the id of its first
/// table.
fn shape(runs: &[(usize, &[TableShape])]) -> Shape {
    let mut levels = vec![LevelShape::default(); 7];
    for (level, tables) in runs {
        levels[*level].runs.push(RunShape {
            id: tables[0].id.0,
            tables: tables.to_vec(),
        });
    }
    Shape {
        levels,
        claims: Vec::new(),
    }
}

/// Flushes of all keys, newest first, with ids from `from` on.
fn flushes(from: u64, count: u64) -> Vec<(usize, Vec<TableShape>)> {
    (from..from + count)
        .map(|id| (0, vec![table(id, 0, 1000, 45)]))
        .collect()
}

fn with(runs: &[(usize, Vec<TableShape>)]) -> Shape {
    let borrowed: Vec<(usize, &[TableShape])> = runs
        .iter()
        .map(|(level, tables)| (*level, tables.as_slice()))
        .collect();
    shape(&borrowed)
}

/// Of a store of which is known that all keys are new.
fn filling() -> Options {
    let mut mix = WriteMix::default();
    mix.merged(&[1000, 1000], 0);
    Options {
        mix,
        ..Options::default()
    }
}

fn ids(task: &Task) -> Vec<(usize, Vec<u64>)> {
    let tables = |ids: &[TableId]| ids.iter().map(|id| id.0).collect();
    task.inputs
        .iter()
        .map(|input| (input.level, tables(&input.tables)))
        .collect()
}

fn leveled(shape: &Shape) -> Option<Task> {
    pick(shape, Policy::Leveled, &filling())
}

#[test]
fn names_and_tags() {
    for policy in [Policy::Leveled, Policy::Tiered] {
        assert_eq!(policy.to_string().parse(), Ok(policy));
        assert_eq!(Policy::of_tag(policy.tag()), Some(policy));
    }
    assert_eq!((Policy::Leveled.tag(), Policy::Tiered.tag()), (1, 2));
    assert_eq!(Policy::of_tag(0), None);
    assert!("Leveled".parse::<Policy>().is_err());
}

#[test]
fn nothing_is_done_without_need() {
    let mut runs = flushes(10, 9);
    runs.push((6, vec![table(1, 0, 1000, 64)]));
    for shape in [Shape::default(), with(&runs)] {
        for policy in [Policy::Leveled, Policy::Tiered] {
            assert_eq!(pick(&shape, policy, &filling()), None);
            assert!(settled(&shape, policy, &filling()));
            let debt = debt(&shape, policy, &filling());
            assert!(debt.bytes == 0 && debt.score <= 1.0, "{debt:?}");
        }
    }
}

#[test]
fn too_many_runs_are_merged_at_the_lowest_price() {
    let mut runs = flushes(21, 8);
    runs.push((0, vec![table(3, 0, 1000, 300)]));
    runs.push((0, vec![table(2, 0, 1000, 400)]));
    runs.push((0, vec![table(1, 0, 1000, 500)]));
    runs.push((6, vec![table(0, 0, 1000, 900)]));
    assert_eq!(leveled(&with(&runs)), None, "twelve runs are allowed");

    runs.splice(0..0, flushes(20, 1));
    let task = leveled(&with(&runs)).unwrap();
    let short: Vec<(usize, Vec<u64>)> = (20..29).map(|id| (0, vec![id])).collect();
    assert_eq!(ids(&task), short);
    let output = Output {
        level: 0,
        run: Some(28),
    };
    assert_eq!(task.output, output);
    assert!(!task.bottom && !task.moves);
    assert_eq!(task.mixed, [45 * 4096; 9]);
}

#[test]
fn the_first_level_becomes_one_run_when_reads_have_paid_for_it() {
    let mut runs = flushes(11, 5);
    runs.push((0, vec![table(2, 0, 1000, 200)]));
    runs.push((0, vec![table(1, 0, 1000, 800)]));
    runs.push((6, vec![table(0, 0, 1000, 900)]));
    let shape = with(&runs);
    // Six runs of 425 MiB become one, which spares five; the oldest run is longer than they are.
    let price = 425 * 4096 + 425 * MIB / 320;
    let due = searches_due(&shape, Policy::Leveled, &filling()).unwrap();
    assert_eq!(due, price / 5);
    let after = |searches: u64| Options {
        searches,
        ..filling()
    };
    assert_eq!(pick(&shape, Policy::Leveled, &after(due - 1)), None);
    let task = pick(&shape, Policy::Leveled, &after(due)).unwrap();
    let first: Vec<(usize, Vec<u64>)> = [11, 12, 13, 14, 15, 2].map(|id| (0, vec![id])).into();
    assert_eq!(ids(&task), first);
    assert_eq!((task.output.level, task.output.run), (0, Some(2)));
    assert!(!settled(&shape, Policy::Leveled, &after(due)));

    let pick_at_last = |runs: &[(usize, Vec<TableShape>)]| {
        let shape = with(runs);
        assert_eq!(searches_due(&shape, Policy::Leveled, &filling()), None);
        pick(&shape, Policy::Leveled, &after(u64::MAX))
    };
    let one = [runs[0].clone(), runs[6].clone(), runs[7].clone()];
    assert_eq!(pick_at_last(&one), None, "nothing that could be spared");
    assert_eq!(pick_at_last(&[]), None);
    assert_eq!(pick(&shape, Policy::Tiered, &after(u64::MAX)), None);
}

#[test]
fn the_first_level_is_merged_down_when_it_is_long_enough() {
    // MiB in level 0, and in the level below; whether they are merged.
    let cases = [
        (900, 0, false),
        (1100, 0, true),
        (1100, 1000, false),
        (2100, 1000, true),
        (3900, 9000, false),
        (4100, 9000, true),
    ];
    for (upper, lower, merged) in cases {
        let mut runs = vec![
            (0, vec![table(9, 0, 900, upper - 100)]),
            (0, vec![table(8, 0, 900, 100)]),
        ];
        if lower > 0 {
            runs.push((6, vec![table(1, 0, 500, lower)]));
        } else {
            // So that nothing can be moved.
            runs.push((6, vec![table(1, 0, 500, 1)]));
        }
        let task = leveled(&with(&runs));
        assert_eq!(task.is_some(), merged, "{upper} over {lower}");
        let all = [(0, vec![9]), (0, vec![8]), (6, vec![1])];
        assert!(task.is_none_or(|task| ids(&task) == all && task.bottom));
    }
}

#[test]
fn a_long_first_level_is_merged_down_in_pieces() {
    let oldest = [table(8, 0, 99, 600), table(9, 100, 999, 600)];
    let lower = [table(1, 0, 99, 64), table(2, 100, 999, 640)];
    let shape = shape(&[(0, &[table(20, 0, 999, 600)]), (0, &oldest), (6, &lower)]);
    let pick_up_to = |whole_bytes_max| {
        let options = Options {
            whole_bytes_max,
            ..filling()
        };
        pick(&shape, Policy::Leveled, &options).map(|task| ids(&task))
    };
    let whole = vec![(0, vec![20]), (0, vec![8, 9]), (6, vec![1, 2])];
    assert_eq!(pick_up_to(4000 * MIB), Some(whole));
    assert_eq!(
        pick_up_to(2000 * MIB),
        Some(vec![(0, vec![8]), (6, vec![1])])
    );
}

#[test]
fn what_meets_nothing_is_moved() {
    // Tables of level 0, and whether the newer one is moved past the older one into level 6.
    let older = table(1, 100, 200, 45);
    let cases = [
        ("apart", table(2, 300, 400, 45), true),
        ("meets level 0", table(2, 150, 400, 45), false),
        ("meets level 6", table(2, 0, 60, 45), false),
        ("short", table(2, 300, 400, 2), false),
        (
            "busy",
            TableShape {
                busy: true,
                ..table(2, 300, 400, 45)
            },
            false,
        ),
        ("deletes", deleting(table(2, 300, 400, 45), 100_000), false),
    ];
    for (what, newer, moved) in cases {
        // The older one meets something, so that it stays.
        let lower = [table(8, 50, 120, 64)];
        let shape = shape(&[
            (0, &[newer]),
            (0, std::slice::from_ref(&older)),
            (6, &lower),
        ]);
        let task = leveled(&shape).filter(|task| task.moves);
        assert_eq!(task.is_some(), moved, "{what}");
        let output = Output {
            level: 6,
            run: Some(8),
        };
        assert!(task.is_none_or(|task| task.output == output));
    }
}

#[test]
fn a_level_gives_what_overlaps_least() {
    let upper = |last: TableShape| [table(11, 0, 99, 600), table(12, 200, 299, 600), last];
    let lower = [
        table(21, 0, 50, 9000),
        table(22, 210, 220, 1000),
        table(23, 500, 600, 3000),
    ];
    let shape_of = |last| shape(&[(5, &upper(last)), (6, &lower)]);
    let least = leveled(&shape_of(table(13, 480, 550, 600))).unwrap();
    assert_eq!(ids(&least), [(5, vec![12]), (6, vec![22])]);
    assert!(least.bottom && !least.moves);
    assert_eq!(least.output.run, Some(21));

    let free = leveled(&shape_of(table(13, 400, 450, 600))).unwrap();
    assert_eq!(ids(&free), [(5, vec![13])]);
    assert!(free.moves);

    // Among equals, what was written longest ago.
    let equal = [
        table(19, 0, 9, 900),
        table(12, 10, 19, 900),
        table(15, 20, 29, 900),
    ];
    let below: Vec<TableShape> = (0..3)
        .map(|n| table(21 + u64::from(n), n * 10, n * 10 + 9, 5000))
        .collect();
    let oldest = leveled(&shape(&[(5, &equal), (6, &below)])).unwrap();
    assert_eq!(ids(&oldest), [(5, vec![12]), (6, vec![22])]);
}

#[test]
fn running_tasks_are_kept_off() {
    let upper = [table(11, 0, 99, 1000), table(12, 200, 299, 1000)];
    let lower = [table(21, 0, 120, 9000), table(22, 180, 220, 5000)];
    let mut shape = shape(&[(5, &upper), (6, &lower)]);
    let first = leveled(&shape).unwrap();
    assert_eq!(ids(&first), [(5, vec![12]), (6, vec![22])]);
    shape.start(&first);
    assert!(!settled(&shape, Policy::Leveled, &filling()));
    // What is left of level 5 is short enough.
    assert_eq!(leveled(&shape), None);

    // Keys between those of busy tables may get a table of level 6 that is not there yet.
    let between = table(13, 221, 230, 2000);
    let mut shape = shape.clone();
    shape.levels[5].runs[0].tables[1].last = Bytes::copy_from_slice(&210_u32.to_be_bytes());
    shape.levels[5].runs[0].tables.push(between);
    let second = leveled(&shape).unwrap();
    assert!(ids(&second).iter().all(|(_, tables)| !tables.contains(&13)));
}

#[test]
fn runs_of_a_deeper_level_become_one() {
    let runs = [
        (5, vec![table(3, 0, 100, 64)]),
        (5, vec![table(2, 50, 150, 64)]),
        (6, vec![table(1, 0, 200, 640)]),
    ];
    let shape = with(&runs);
    let task = leveled(&shape).unwrap();
    assert_eq!(ids(&task), [(5, vec![3]), (5, vec![2])]);
    assert!(!task.bottom);
    assert!(debt(&shape, Policy::Leveled, &filling()).bytes >= 128 * MIB);
    assert_eq!(pick(&shape, Policy::Tiered, &filling()), None);
}

#[test]
fn deletions_are_merged_when_they_free_enough() {
    // Deletions in a table of 1 MiB over tables of 100 MiB, 409,600 entries.
    for (deletions, pinned, merged) in [
        (4000, false, false),
        (100_000, false, true),
        (100_000, true, false),
    ] {
        let upper = TableShape {
            entries: deletions,
            ..deleting(table(9, 0, 1000, 1), deletions)
        };
        let lower = [table(1, 0, 500, 50), table(2, 501, 1000, 50)];
        for level in [0, 5] {
            let shape = shape(&[(level, std::slice::from_ref(&upper)), (6, &lower)]);
            let options = Options {
                oldest_pin: LogIndex(if pinned { 5 } else { u64::MAX }),
                base_bytes: 20 * MIB,
                ..filling()
            };
            let task = pick(&shape, Policy::Leveled, &options);
            assert_eq!(task.is_some(), merged, "{deletions} in level {level}");
        }
    }
}

#[test]
fn deletions_that_hide_nothing_go() {
    let lower = [
        table(1, 0, 500, 64),
        deleting(table(2, 501, 1000, 64), 50_000),
    ];
    let shape = shape(&[(6, &lower)]);
    for policy in [Policy::Leveled, Policy::Tiered] {
        let task = pick(&shape, policy, &filling()).unwrap();
        assert_eq!(ids(&task), [(6, vec![2])]);
        assert!(task.bottom && !task.moves);
        assert!(debt(&shape, policy, &filling()).bytes > 0);
        let pinned = Options {
            oldest_pin: LogIndex(1),
            ..filling()
        };
        assert_eq!(
            pick(&shape, policy, &pinned),
            None,
            "a reader sees what they hide"
        );
    }
}

#[test]
fn values_are_found_hidden_while_that_is_cheap() {
    let referring = |id: u64, file_bytes: u64, value_bytes: u64| TableShape {
        file_bytes,
        value_bytes,
        ..table(id, 0, 1000, 1)
    };
    let gib = 1 << 30;
    // Table bytes and values of the newer run and of the older one.
    let cases = [
        (
            "a sixteenth, at one per cent",
            (80 << 10, gib / 8),
            (1300 << 10, 2 * gib),
            true,
        ),
        (
            "few of the values",
            (80 << 10, gib / 8),
            (1300 << 10, 8 * gib),
            false,
        ),
        (
            "long tables",
            (80 << 10, gib / 8),
            (13 << 20, 2 * gib),
            false,
        ),
    ];
    for (what, newer, older, merged) in cases {
        let newer = [referring(2, newer.0, newer.1)];
        let older = [referring(1, older.0, older.1)];
        let shape = shape(&[(0, &newer), (6, &older)]);
        for policy in [Policy::Leveled, Policy::Tiered] {
            let task = pick(&shape, policy, &filling());
            assert_eq!(task.is_some(), merged, "{policy}: {what}");
        }
    }
}

#[test]
fn tiers_are_merged_when_there_are_too_many() {
    let mut runs = flushes(20, 18);
    runs.push((5, vec![table(2, 0, 1000, 900)]));
    runs.push((6, vec![table(1, 0, 1000, 2000)]));
    assert_eq!(pick(&with(&runs), Policy::Tiered, &filling()), None);
    runs.insert(0, (0, vec![table(50, 0, 1000, 45)]));
    let task = pick(&with(&runs), Policy::Tiered, &filling()).unwrap();
    assert_eq!(task.inputs.len(), 19);
    assert_eq!(task.output.level, 0);
    assert!(!task.bottom);
}

#[test]
fn tiers_are_merged_whole_when_half_is_garbage() {
    let mut options = Options::default();
    options.mix.merged(&[1000, 10_000], 1000);
    let keys = |table: TableShape, entries| TableShape { entries, ..table };
    for (newer, merged) in [(8000, false), (11_000, true)] {
        let shape = shape(&[
            (0, &[keys(table(2, 0, 1000, newer / 1000), newer)]),
            (0, &[keys(table(1, 0, 1000, 10), 10_000)]),
        ]);
        let task = pick(&shape, Policy::Tiered, &options);
        assert_eq!(task.is_some(), merged, "{newer}");
        assert!(task.is_none_or(|task| task.bottom));
    }
}

#[test]
fn tiers_in_order_are_joined() {
    let shape = shape(&[
        (0, &[table(3, 200, 299, 45)]),
        (0, &[table(2, 0, 99, 45)]),
        (6, &[table(1, 50, 150, 64)]),
    ]);
    let task = pick(&shape, Policy::Tiered, &filling()).unwrap();
    assert_eq!(ids(&task), [(0, vec![3])]);
    assert!(task.moves && task.output.run == Some(2));
}

#[test]
fn tables_are_cut_where_much_lies_below() {
    let upper = [table(9, 0, 1000, 1200)];
    let below: Vec<TableShape> = (0..20)
        .map(|n| table(100 + u64::from(n), n * 50, n * 50 + 49, 64))
        .collect();
    let runs = [
        (0, upper.to_vec()),
        (5, vec![table(8, 0, 1000, 100)]),
        (6, below),
    ];
    let task = leveled(&with(&runs)).unwrap();
    let cut = |key: u32| Bytes::copy_from_slice(&key.to_be_bytes());
    assert_eq!(task.cuts, [cut(400), cut(800)]);
}
