//! What each policy costs, on trees of real keys. Lengths are those of a real store, records are
//! longer so that there are fewer of them.

use super::model::{Random, Sizes, Tree};
use crate::compaction::Policy::{self, Leveled, Tiered};

/// 1,440 of these make a flush of 45 MiB.
const SMALL: Sizes = Sizes {
    put: 32 << 10,
    deletion: 5 << 10,
    value: 0,
};

const FLUSH: u32 = 1440;

fn report(what: &str, tree: &Tree) {
    let figures = &tree.figures;
    eprintln!(
        "{what}, {}: written {:.2}, space {:.2} (at most {:.2}), runs {} (at most {}), {} merges \
         (longest {} MiB), {} moves, values: hidden {:.3}, tables {:.4};{}",
        tree.policy,
        figures.amplification(),
        tree.space(),
        figures.space_max,
        tree.runs(),
        figures.runs_max,
        figures.merges,
        figures.longest >> 20,
        figures.moves,
        tree.hidden(),
        (figures.flushed + figures.rewritten) as f64 / figures.values.max(1) as f64,
        tree.picture(),
    );
}

fn filled(policy: Policy, flushes: u32) -> Tree {
    let mut tree = Tree::new(policy, SMALL);
    let mut random = Random(7);
    for _ in 0..flushes {
        tree.flush((0..FLUSH).map(|_| (random.below(u32::MAX), false)));
        tree.settle();
    }
    tree
}

/// Flushes of keys drawn from 0 to `keys`.
fn overwrite(tree: &mut Tree, keys: u32, flushes: u32) {
    let mut random = Random(11);
    for _ in 0..flushes {
        tree.flush((0..FLUSH).map(|_| (random.below(keys), false)));
        tree.settle();
    }
}

#[test]
#[ignore = "prints figures, for minutes: --ignored --nocapture figures"]
fn a_random_fill() {
    for policy in [Leveled, Tiered] {
        for flushes in [20, 40, 50, 55, 60, 65, 70, 80, 120, 240, 480] {
            let tree = filled(policy, flushes);
            report(&format!("random fill of {flushes}"), &tree);
        }
    }
}

#[test]
fn a_fill_in_order() {
    for policy in [Leveled, Tiered] {
        let mut tree = Tree::new(policy, SMALL);
        for flush in 0..300 {
            tree.flush((0..FLUSH).map(|key| (flush * FLUSH + key, false)));
            tree.settle();
        }
        report("fill in order", &tree);
    }
}

#[test]
#[ignore = "prints figures, for minutes: --ignored --nocapture figures"]
fn a_fixed_set_overwritten() {
    for policy in [Leveled, Tiered] {
        for flushes in [10, 60, 300] {
            let keys = flushes * FLUSH;
            let mut tree = Tree::new(policy, SMALL);
            overwrite(&mut tree, keys, 3 * flushes);
            report(&format!("warm-up of overwriting {flushes}"), &tree);
            tree.figures = Default::default();
            overwrite(&mut tree, keys, 2 * flushes);
            report(&format!("overwriting {flushes}"), &tree);
        }
    }
}

#[test]
#[ignore = "prints figures, for minutes: --ignored --nocapture figures"]
fn everything_deleted() {
    for policy in [Leveled, Tiered] {
        for flushes in [5, 60, 300] {
            let keys = flushes * FLUSH;
            let mut tree = Tree::new(policy, SMALL);
            overwrite(&mut tree, keys, flushes);
            tree.figures = Default::default();
            // Each deletion is for another key, in no order.
            for flush in 0..flushes {
                tree.flush((0..FLUSH).map(|n| {
                    let key = u64::from(flush * FLUSH + n) * 2_654_435_761 % u64::from(keys);
                    (key as u32, true)
                }));
                tree.settle();
            }
            tree.flush((0..keys).map(|key| (key, true)));
            tree.settle();
            report(&format!("deletion of {flushes}"), &tree);
        }
    }
}

#[test]
#[ignore = "prints figures, for minutes: --ignored --nocapture figures"]
fn the_other_policy() {
    for (from, to) in [(Leveled, Tiered), (Tiered, Leveled)] {
        let mut tree = filled(from, 300);
        report("before the change", &tree);
        tree.figures = Default::default();
        tree.policy = to;
        tree.figures.flushed = tree.table_bytes();
        let tasks = tree.settle();
        report(&format!("after {tasks} tasks"), &tree);
    }
}

#[test]
#[ignore = "prints figures, for minutes: --ignored --nocapture figures"]
fn separated_values() {
    for policy in [Leveled, Tiered] {
        for (keys, value, flush) in [
            (32_768, 64 << 10, 2048),
            (32_768, 4 << 10, 2048),
            (200_000, 64 << 10, 2048),
        ] {
            let sizes = Sizes {
                put: 40,
                deletion: 24,
                value,
            };
            let mut tree = Tree::new(policy, sizes);
            let mut random = Random(3);
            tree.flush((0..keys).map(|key| (key, false)));
            tree.settle();
            tree.figures = Default::default();
            let (mut sum, mut most) = (0.0, 0.0f64);
            for _ in 0..64 {
                tree.flush((0..flush).map(|_| (random.below(keys), false)));
                tree.settle();
                sum += tree.hidden();
                most = most.max(tree.hidden());
            }
            report(
                &format!(
                    "values of {value}: hidden {:.3}, at most {most:.3}",
                    sum / 64.0
                ),
                &tree,
            );
        }
    }
}
