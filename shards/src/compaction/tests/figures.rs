//! What each policy costs, on trees of real keys. Lengths are those of a real store; records are longer,
//! so that there are fewer of them. `cargo test figures -- --nocapture` prints all figures.

use super::model::{Figures, Random, Sizes, Tree};
use crate::compaction::Policy::{Leveled, Tiered};

/// Records of a flush.
const FLUSH: u32 = 360;

/// A flush is 45 MiB, a deletion about a sixth of a put: 256 bytes with their key, and the key.
const SMALL: Sizes = Sizes {
    put: 128 << 10,
    deletion: 20 << 10,
    value: 0,
};

fn report(what: &str, tree: &Tree) {
    let figures = &tree.figures;
    eprintln!(
        "{}, {what}: written {:.2} x, space {:.2} x (at most {:.2}), runs {} (at most {}), {} merges \
         (longest {} MiB), {} moves;{}",
        tree.policy,
        figures.amplification(),
        tree.space(),
        figures.space_max,
        tree.runs(),
        figures.settled_runs_max,
        figures.merges,
        figures.longest >> 20,
        figures.moves,
        tree.picture(),
    );
}

#[test]
fn a_random_fill() {
    // Flushes, and what may have been written for each byte until then.
    let leveled: &[(u32, f64)] = &[
        (40, 2.4),
        (50, 2.4),
        (60, 2.4),
        (70, 2.4),
        (120, 2.9),
        (240, 3.6),
    ];
    let tiered: &[(u32, f64)] = &[(60, 2.05), (120, 2.05), (240, 3.0)];
    for (policy, limits) in [(Leveled, leveled), (Tiered, tiered)] {
        let mut tree = Tree::new(policy, SMALL);
        let mut random = Random(7);
        let mut done = 0;
        for (flushes, amplification_max) in limits {
            while done < *flushes {
                tree.flush((0..FLUSH).map(|_| (random.below(u32::MAX), false)));
                tree.settle();
                done += 1;
            }
            report(&format!("random fill of {flushes} flushes"), &tree);
            assert!(tree.figures.amplification() <= *amplification_max);
        }
        let runs_max = match policy {
            Leveled => tree.options.leveled_runs_max,
            Tiered => tree.options.tiered_runs_max,
        };
        assert!(tree.figures.settled_runs_max <= runs_max);
        tree.check();
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
        report("fill in order of 300 flushes", &tree);
        assert_eq!(tree.figures.rewritten, 0);
        assert!(tree.runs() <= 3);
    }
}

/// Flushes keys drawn from 0 to `keys`, `flushes` times.
fn overwrite(tree: &mut Tree, random: &mut Random, keys: u32, flushes: u32) {
    for _ in 0..flushes {
        tree.flush((0..FLUSH).map(|_| (random.below(keys), false)));
        tree.settle();
    }
}

#[test]
fn a_fixed_set_overwritten() {
    // Flushes of the set, bytes written for each byte, bytes of tables for each that is live.
    let leveled: &[(u32, f64, f64)] = &[(10, 4.5, 1.35), (60, 5.5, 1.3), (200, 7.0, 1.3)];
    let tiered: &[(u32, f64, f64)] = &[(10, 3.0, 2.8), (60, 2.8, 2.5), (200, 3.2, 2.3)];
    for (policy, limits) in [(Leveled, leveled), (Tiered, tiered)] {
        for (flushes, amplification_max, space_max) in limits {
            let keys = flushes * FLUSH;
            let mut random = Random(11);
            let mut tree = Tree::new(policy, SMALL);
            overwrite(&mut tree, &mut random, keys, 2 * flushes);
            tree.figures = Figures::default();
            overwrite(&mut tree, &mut random, keys, 2 * flushes);
            report(&format!("overwriting {flushes} flushes twice"), &tree);
            assert!(tree.figures.amplification() <= *amplification_max);
            assert!(tree.figures.space_max <= *space_max);
            tree.check();
        }
    }
}

#[test]
fn everything_deleted() {
    for policy in [Leveled, Tiered] {
        for flushes in [5, 60] {
            let keys = flushes * FLUSH;
            let mut tree = Tree::new(policy, SMALL);
            overwrite(&mut tree, &mut Random(13), keys, flushes);
            let data = tree.table_bytes();
            tree.figures = Figures::default();
            // Every key once, in no order.
            for flush in 0..flushes {
                tree.flush((0..FLUSH).map(|n| {
                    let key = u64::from(flush * FLUSH + n) * 2_654_435_761 % u64::from(keys);
                    (key as u32, true)
                }));
                tree.settle();
            }
            let rewritten = tree.figures.rewritten as f64 / data as f64;
            report(
                &format!("deleting {flushes} flushes, {rewritten:.2} x rewritten"),
                &tree,
            );
            assert_eq!(tree.table_bytes(), 0);
            // A merge that pays drops a fifth of what it reads.
            assert!(rewritten <= 5.5);
        }
    }
}

#[test]
fn the_other_policy() {
    for (from, to, rewritten_max) in [(Leveled, Tiered, 0.0), (Tiered, Leveled, 2.0)] {
        let mut tree = Tree::new(from, SMALL);
        overwrite(&mut tree, &mut Random(17), u32::MAX, 120);
        report("before the change", &tree);
        tree.figures = Figures::default();
        tree.policy = to;
        let tasks = tree.settle();
        let rewritten = tree.figures.rewritten as f64 / tree.table_bytes() as f64;
        report(
            &format!("after {tasks} tasks, {rewritten:.2} x rewritten"),
            &tree,
        );
        tree.check();
        assert!(rewritten <= rewritten_max);
    }
}

#[test]
fn separated_values() {
    // Keys, bytes of a value; hidden values for each live one, table bytes for each of values.
    let cases: [(u32, u64, f64, f64); 3] = [
        (32 << 10, 64 << 10, 0.001, 0.011),
        (200_000, 64 << 10, 0.045, 0.014),
        (32 << 10, 4 << 10, 0.27, 0.05),
    ];
    for policy in [Leveled, Tiered] {
        for (keys, value, hidden_max, tables_max) in cases {
            let sizes = Sizes {
                put: 40,
                deletion: 24,
                value,
            };
            let mut random = Random(3);
            let mut tree = Tree::new(policy, sizes);
            tree.flush((0..keys).map(|key| (key, false)));
            tree.settle();
            tree.figures = Figures::default();
            let (mut sum, mut most) = (0.0, 0.0_f64);
            for _ in 0..64 {
                tree.flush((0..2048).map(|_| (random.below(keys), false)));
                tree.settle();
                sum += tree.hidden();
                most = most.max(tree.hidden());
            }
            let figures = tree.figures;
            let tables = (figures.flushed + figures.rewritten) as f64 / figures.values as f64;
            let mean = sum / 64.0;
            report(
                &format!(
                    "{keys} values of {value}: hidden {mean:.3} (at most {most:.3}), tables {tables:.4}"
                ),
                &tree,
            );
            assert!(most <= hidden_max && tables <= tables_max);
        }
    }
}
