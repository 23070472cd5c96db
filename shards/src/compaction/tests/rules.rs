//! One rule at a time, as tables of text; see `text.rs`.

use super::text;
use crate::compaction::{PickerOptions, Policy, Shape, pick, settled};
use bytes::Bytes;

#[test]
fn leveled_picks_by_its_rules() {
    text::check(include_str!("cases/leveled.txt"));
}

#[test]
fn tiered_picks_by_its_rules() {
    text::check(include_str!("cases/tiered.txt"));
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
fn what_runs_is_not_settled_and_its_keys_are_kept_off() {
    let options = PickerOptions::default();
    let upper = "L5: 11 0-99 1000MiB, 12 200-299 1000MiB";
    let lower = "L6: 21 0-120 9000MiB, 22 180-220 5000MiB";
    let mut shape: Shape = text::parse(&[upper, lower].join("\n"));
    let first = pick(&shape, Policy::Leveled, &options).unwrap();
    shape.start(&first);
    assert!(!settled(&shape, Policy::Leveled, &options));

    // Keys between those of busy tables may get a table of level 6 that is not there yet.
    let between = text::parse("L5: 13 221-230 2000MiB");
    let run = &mut shape.levels[5].runs[0];
    run.tables[1].last = Bytes::copy_from_slice(&210_u32.to_be_bytes());
    run.tables.push(between.levels[5].runs[0].tables[0].clone());
    let second = pick(&shape, Policy::Leveled, &options).unwrap();
    let tables = second.inputs.iter().flat_map(|input| &input.tables);
    assert!(tables.into_iter().all(|table| table.0 != 13));
}

/// Input runs that share keys tell how much of what is written replaces something.
#[test]
fn a_task_says_what_it_mixes() {
    let shape = text::parse("L5: 3 0-100 64MiB\nL5: 2 50-150 64MiB\nL6: 1 0-200 640MiB");
    let task = pick(&shape, Policy::Leveled, &PickerOptions::default()).unwrap();
    assert_eq!(task.mixed, [64 * 4096; 2]);
    assert_eq!(task.bytes, 128 << 20);
}
