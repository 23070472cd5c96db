//! The files that a core receives: one reception of a shard at a time, all of them within one rate.

use corelith_io::Instant;
use corelith_io::sync::notify::Notify;
use corelith_io::sync::semaphore::Semaphore;
use corelith_shards::{Incoming, IncomingProgress, ShardId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// The receptions of a core.
#[derive(Default)]
pub(crate) struct FileReceptions {
    of: RefCell<BTreeMap<ShardId, Rc<FileReception>>>,
    pub(crate) pacer: CopyPacer,
}

/// The reception of one shard.
pub(crate) struct FileReception {
    /// Held by the one that runs.
    pub(crate) turn: Semaphore,
    /// Number of the newest offer.
    pub(crate) newest: Cell<u64>,
    pub(crate) replaced: Notify,
    pub(crate) incoming: RefCell<Option<Rc<Incoming>>>,
}

impl Default for FileReception {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            newest: Cell::new(0),
            replaced: Notify::new(),
            incoming: RefCell::default(),
        }
    }
}

/// Spreads what is asked for over time.
#[derive(Default)]
pub(crate) struct CopyPacer {
    /// When all that was asked for is paid for.
    due: Cell<Option<Instant>>,
}

impl CopyPacer {
    /// How long to wait at `now` before `bytes` are asked for, of which `rate` may come in a second; 0: any number.
    pub(crate) fn wait(&self, now: Instant, bytes: u64, rate: u64) -> Duration {
        if rate == 0 {
            self.due.set(None);
            return Duration::ZERO;
        }
        let begins = self.due.get().map_or(now, |due| due.max(now));
        let takes = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        assert!(begins >= now, "nothing is paid for in advance");
        self.due.set(Some(begins + takes));
        begins.saturating_duration_since(now)
    }
}

impl FileReceptions {
    /// That of a shard.
    pub(crate) fn of(&self, shard: ShardId) -> Rc<FileReception> {
        Rc::clone(self.of.borrow_mut().entry(shard).or_default())
    }

    /// How far the reception of a shard is, if one runs.
    pub(crate) fn progress(&self, shard: ShardId) -> Option<IncomingProgress> {
        let of = self.of.borrow();
        let incoming = of.get(&shard)?.incoming.borrow();
        incoming.as_ref().map(|incoming| incoming.progress())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_io::sim::Sim;

    #[test]
    fn pieces_are_spread_by_the_rate() {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async {
            let (pacer, now) = (CopyPacer::default(), corelith_io::now());
            let second = Duration::from_secs(1);
            for (at, bytes, rate, expected) in [
                (0, 100, 0, 0),
                (0, 100, 100, 0),
                (0, 200, 100, 1),
                (0, 100, 100, 3),
                (2, 100, 100, 2),
                (9, 100, 100, 0),
                (9, 100, 100, 1),
                (9, 100, 0, 0),
                (9, 100, 100, 0),
            ] {
                let wait = pacer.wait(now + second * at, bytes, rate);
                assert_eq!(wait, second * expected, "{bytes} at {at}");
            }
        });
    }
}
