//! Random shapes, with tasks running beside each other and memtables flushed between them.

use super::model::{Random, Record, Sizes, Tree};
use crate::compaction::{PickerOptions, Policy};
use crate::ids::LogIndex;
use proptest::prelude::*;

const KEYS: u32 = 400;

/// Everything small, so that few records make a tree of several levels.
fn tree(policy: Policy) -> Tree {
    let sizes = Sizes {
        put: 512,
        deletion: 24,
        value: 0,
    };
    let mut tree = Tree::new(policy, sizes);
    tree.options = PickerOptions {
        levels: 5,
        table_bytes: 4 << 10,
        level_ratio: 4,
        base_bytes: 8 << 10,
        whole_bytes_max: 48 << 10,
        leveled_runs_max: 7,
        tiered_runs_max: 6,
        ..PickerOptions::default()
    };
    tree.levels.truncate(5);
    tree.chunks_from = KEYS / 2;
    tree
}

/// A tree with these numbers of runs in its levels, of random keys.
fn grown(policy: Policy, runs: &[usize], random: &mut Random) -> Tree {
    let mut tree = tree(policy);
    for (level, runs) in runs.iter().enumerate().rev() {
        for _ in 0..*runs {
            let from = random.below(KEYS);
            let to = from + 1 + random.below(KEYS - from);
            let one_in = 1 + random.below(6);
            let deletions = random.below(4);
            let mut records: Vec<Record> = Vec::new();
            for key in from..to {
                if random.below(7) < one_in {
                    records.push(tree.write(key, random.below(4) < deletions));
                }
            }
            if !records.is_empty() {
                tree.add(level, &records);
            }
        }
    }
    tree.check();
    tree
}

/// What holds of a tree in which nothing is left to do.
fn check_settled(tree: &Tree) {
    tree.check();
    let runs = tree.runs();
    match tree.policy {
        Policy::Leveled => {
            assert!(tree.levels[1..].iter().all(|runs| runs.len() <= 1));
            assert!(runs <= tree.options.leveled_runs_max + 1, "{runs} runs");
        }
        Policy::Tiered => assert!(runs <= tree.options.tiered_runs_max, "{runs} runs"),
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Leveled), Just(Policy::Tiered)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_shape_settles_in_order(
        policy in policies(),
        runs in prop::collection::vec(0_usize..5, 5),
        pinned in any::<bool>(),
        is_eager in any::<bool>(),
        seed in 1_u64..,
    ) {
        let mut random = Random(seed);
        let mut tree = grown(policy, &runs, &mut random);
        if pinned {
            tree.options.oldest_pin = LogIndex(u64::from(random.below(3000)));
        }
        tree.options.is_eager = is_eager;
        let mut tasks = 0;
        while let Some(task) = tree.pick() {
            tree.apply(&task);
            tree.check();
            tasks += 1;
            prop_assert!(tasks < 500, "it never settles: {}", tree.picture());
        }
        tree.settle();
        check_settled(&tree);
    }

    #[test]
    fn nothing_is_left_of_what_is_deleted(
        policy in policies(),
        runs in prop::collection::vec(0_usize..5, 5),
        seed in 1_u64..,
    ) {
        let mut tree = grown(policy, &runs, &mut Random(seed));
        tree.settle();
        tree.flush((0..KEYS).map(|key| (key, true)));
        tree.settle();
        tree.check();
        prop_assert_eq!(tree.table_bytes(), 0, "{}", tree.picture());
    }

    #[test]
    fn tasks_run_beside_each_other(
        first in policies(),
        runs in prop::collection::vec(0_usize..5, 5),
        steps in prop::collection::vec(0_u32..8, 1..150),
        seed in 1_u64..,
    ) {
        let mut random = Random(seed);
        let mut tree = grown(first, &runs, &mut random);
        for step in steps {
            match step {
                0 => {
                    let from = random.below(KEYS);
                    let count = 1 + random.below(60);
                    tree.flush((from..KEYS.min(from + count)).map(|key| (key, key % 5 == 0)));
                }
                1 => {
                    tree.policy = match tree.policy {
                        Policy::Leveled => Policy::Tiered,
                        Policy::Tiered => Policy::Leveled,
                    };
                }
                2 | 3 if !tree.running.is_empty() => {
                    let finished = random.below(tree.running.len() as u32);
                    let task = tree.running.swap_remove(finished as usize);
                    tree.apply(&task);
                }
                _ => match tree.pick() {
                    Some(task) if task.moves => tree.apply(&task),
                    Some(task) => tree.running.push(task),
                    None => {}
                },
            }
            tree.check();
        }
        while let Some(task) = tree.running.pop() {
            tree.apply(&task);
        }
        tree.settle();
        check_settled(&tree);
    }
}
