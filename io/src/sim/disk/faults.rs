//! What can go wrong with a simulated disk, and when.

use super::super::world::Rng;

/// The kinds of operations that faults are chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    /// Reading from a file.
    Read,
    /// Writing to a file, and reserving space for it.
    Write,
    /// Setting the length of a file.
    SetLen,
    /// Syncing a file.
    Sync,
    /// Syncing a directory.
    SyncDir,
    /// Renaming a file.
    Rename,
    /// Opening, listing, removing and locking.
    Name,
}

impl IoKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::Write,
        Self::SetLen,
        Self::Sync,
        Self::SyncDir,
        Self::Rename,
        Self::Name,
    ];

    /// Those that change what a file holds, or make it durable.
    pub const WRITES_AND_SYNCS: [Self; 4] = [Self::Write, Self::SetLen, Self::Sync, Self::SyncDir];
}

/// How an operation will end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum IoVerdict {
    Ok,
    /// With an I/O error.
    Fail,
    /// With an error that says the device is full.
    NoSpace,
    /// After a part of its bytes.
    Short,
    /// Well, as it seems, but without effect.
    Drop,
    /// At another place of its file.
    Misdirect,
    /// In another file.
    MisdirectAcross,
}

/// A fault in wait for its operation.
#[derive(Clone, Debug)]
struct Trap {
    kind: IoKind,
    path_part: String,
    /// How many such operations pass before.
    pass: u64,
    verdict: IoVerdict,
}

/// The faults of one disk.
#[derive(Default)]
pub(in super::super) struct Faults {
    traps: Vec<Trap>,
    failing_rates: [f64; IoKind::ALL.len()],
    /// Chance that a read or write is cut short.
    pub(in super::super) short_rate: f64,
    /// Latencies are multiplied by this (0 counts as 1).
    pub(in super::super) slowness: u32,
    /// Kinds of which nothing completes until they are released.
    held: [bool; IoKind::ALL.len()],
    /// True time until which nothing completes.
    pub(in super::super) stalled_until: u64,
}

impl Faults {
    pub(in super::super) fn new(short_rate: f64) -> Self {
        Self {
            short_rate,
            ..Self::default()
        }
    }

    pub(in super::super) fn add(
        &mut self,
        kind: IoKind,
        path_part: &str,
        pass: u64,
        verdict: IoVerdict,
    ) {
        self.traps.push(Trap {
            kind,
            path_part: path_part.to_owned(),
            pass,
            verdict,
        });
    }

    pub(in super::super) fn pending(&self) -> usize {
        self.traps.len()
    }

    pub(in super::super) fn set_failing_rate(&mut self, kind: IoKind, rate: f64) {
        assert!((0.0..=1.0).contains(&rate), "a rate is a probability");
        self.failing_rates[kind as usize] = rate;
    }

    pub(in super::super) fn hold(&mut self, kinds: &[IoKind]) {
        for kind in kinds {
            self.held[*kind as usize] = true;
        }
    }

    pub(in super::super) fn release(&mut self) {
        self.held = Default::default();
    }

    pub(in super::super) fn holds(&self, kind: IoKind) -> bool {
        self.held[kind as usize]
    }

    pub(in super::super) fn clear(&mut self) {
        *self = Self::new(self.short_rate);
    }

    /// Whether the verdict depends on the path of an operation.
    pub(in super::super) fn goes_by_path(&self) -> bool {
        !self.traps.is_empty()
    }

    /// Decides about one operation. The path may be anything unless it matters.
    pub(in super::super) fn judge(&mut self, kind: IoKind, path: &str, rng: &Rng) -> IoVerdict {
        if self.goes_by_path() {
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
        let may_be_short = matches!(kind, IoKind::Read | IoKind::Write);
        if rng.chance(self.failing_rates[kind as usize]) {
            IoVerdict::Fail
        } else if may_be_short && rng.chance(self.short_rate) {
            IoVerdict::Short
        } else {
            IoVerdict::Ok
        }
    }
}
