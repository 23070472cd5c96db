//! What can go wrong with a simulated disk, and when.

use super::super::world::Rng;

/// The kinds of operations that faults are chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    /// Reading from a file.
    Read,
    /// Writing to a file, and changing its length.
    Write,
    /// Syncing a file or a directory.
    Sync,
    /// Opening, listing, renaming, removing and locking.
    Name,
}

/// How an operation will end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    Ok,
    Fail,
    Misdirect,
}

/// A fault in wait for its operation.
#[derive(Clone, Debug)]
struct Trap {
    kind: IoKind,
    path_part: String,
    /// How many such operations pass before.
    pass: u64,
    verdict: Verdict,
}

/// The faults of one disk.
#[derive(Default)]
pub(in super::super) struct Faults {
    traps: Vec<Trap>,
    failing_rates: [f64; 4],
    /// Latencies are multiplied by this (0 counts as 1).
    pub(in super::super) slowness: u32,
    /// True time until which nothing completes.
    pub(in super::super) stalled_until: u64,
}

impl Faults {
    pub(in super::super) fn add(
        &mut self,
        kind: IoKind,
        path_part: &str,
        pass: u64,
        verdict: Verdict,
    ) {
        self.traps.push(Trap {
            kind,
            path_part: path_part.to_owned(),
            pass,
            verdict,
        });
    }

    pub(in super::super) fn set_failing_rate(&mut self, kind: IoKind, rate: f64) {
        self.failing_rates[kind as usize] = rate;
    }

    pub(in super::super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Decides about one operation. The path is only asked for when it matters.
    pub(in super::super) fn judge(
        &mut self,
        kind: IoKind,
        path: impl FnOnce() -> String,
        rng: &Rng,
    ) -> Verdict {
        if !self.traps.is_empty() {
            let path = path();
            let caught = self.traps.iter_mut().position(|trap| {
                let concerned = trap.kind == kind && path.contains(&trap.path_part);
                let sprung = concerned && trap.pass == 0;
                trap.pass -= u64::from(concerned && !sprung);
                sprung
            });
            if let Some(at) = caught {
                return self.traps.swap_remove(at).verdict;
            }
        }
        match rng.chance(self.failing_rates[kind as usize]) {
            true => Verdict::Fail,
            false => Verdict::Ok,
        }
    }
}
