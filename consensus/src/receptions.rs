//! The files that a core receives: one reception of a shard at a time, all of them within one rate.

use crate::limits::{COPY_LATE_MAX, COPY_RATE_LOOK_EVERY};
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

/// Spreads what is asked for over time. Nothing is charged before it may be asked for: who leaves while it waits owes
/// nothing.
pub(crate) struct CopyPacer {
    /// Held by who is next; the others wait in the order in which they came.
    turn: Semaphore,
    /// From when on the last bytes are paid for, and how many.
    last: Cell<Option<(Instant, u64)>>,
}

impl Default for CopyPacer {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            last: Cell::new(None),
        }
    }
}

impl CopyPacer {
    /// Waits until `bytes` may be asked for, of which `rate` may come in a second; 0: any number.
    pub(crate) async fn pay(&self, bytes: u64, rate: impl Fn() -> u64) {
        let _turn = self.turn.acquire(1).await;
        loop {
            let (now, rate) = (corelith_io::now(), rate());
            let wait = self.left(now, rate);
            if wait == Duration::ZERO {
                return self.charge(now, bytes, rate);
            }
            // The rate may change meanwhile.
            corelith_io::sleep(wait.min(COPY_RATE_LOOK_EVERY)).await;
        }
    }

    /// When all that was asked for is paid for.
    fn due(&self, rate: u64) -> Option<Instant> {
        let (began, bytes) = self.last.get()?;
        let nanos = bytes.saturating_mul(1_000_000_000).checked_div(rate)?;
        Some(began + Duration::from_nanos(nanos))
    }

    /// How long it takes from `now` on until that.
    fn left(&self, now: Instant, rate: u64) -> Duration {
        let due = self.due(rate);
        due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }

    fn charge(&self, now: Instant, bytes: u64, rate: u64) {
        let begins = match self.due(rate) {
            Some(due) => due.max(now - COPY_LATE_MAX),
            None => now,
        };
        assert!(begins <= now, "nothing is asked for before it may be");
        self.last.set((rate > 0).then_some((begins, bytes)));
    }
}

impl FileReceptions {
    /// That of a shard.
    pub(crate) fn of(&self, shard: ShardId) -> Rc<FileReception> {
        Rc::clone(self.of.borrow_mut().entry(shard).or_default())
    }

    /// Whether one runs.
    pub(crate) fn is_any(&self) -> bool {
        let of = self.of.borrow();
        of.values().any(|reception| reception.turn.available() == 0)
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
    use futures_util::FutureExt;
    use futures_util::future::join;

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
                (0, 200, 50, 2),
                (1, 200, 100, 0),
                (2, 100, 100, 1),
                (2, 100, 50, 3),
                (2, 100, 0, 0),
                (2, 100, 100, 0),
                (9, 100, 100, 0),
                (9, 100, 100, 1),
            ] {
                let at = now + second * at;
                let wait = pacer.left(at, rate);
                let late = wait + COPY_LATE_MAX;
                let expected = second * expected;
                assert!(
                    wait <= expected && expected <= late,
                    "{bytes} at {at:?}: {wait:?}"
                );
                if wait == Duration::ZERO {
                    pacer.charge(at, bytes, rate);
                }
            }
        });
    }

    #[test]
    fn who_leaves_owes_nothing_and_who_stays_keeps_the_order() {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async {
            let (pacer, began) = (CopyPacer::default(), corelith_io::now());
            let pay = || pacer.pay(100, || 100);
            pay().await;
            // The one whose turn it is leaves, then one that waits for its turn.
            let (mut first, mut second) = (Box::pin(pay()), Box::pin(pay()));
            assert!(first.as_mut().now_or_never().is_none());
            assert!(second.as_mut().now_or_never().is_none());
            drop(first);
            drop(second);
            let order = RefCell::new(Vec::new());
            let paid = |name: u32| {
                let (order, paying) = (&order, pay());
                async move {
                    paying.await;
                    order.borrow_mut().push((name, began.elapsed().as_secs()));
                }
            };
            let one = async {
                paid(1).await;
                paid(3).await;
            };
            let other = async {
                paid(2).await;
                paid(4).await;
            };
            join(one, other).await;
            assert_eq!(*order.borrow(), [(1, 1), (2, 2), (3, 3), (4, 4)]);
        });
    }

    #[test]
    fn a_rate_that_rises_counts_for_who_waits() {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async {
            let (pacer, began) = (CopyPacer::default(), corelith_io::now());
            let rate = Cell::new(1);
            pacer.pay(1 << 20, || rate.get()).await;
            let paying = pacer.pay(1 << 20, || rate.get());
            let raising = async {
                corelith_io::sleep(Duration::from_secs(5)).await;
                rate.set(1 << 20);
            };
            join(paying, raising).await;
            assert!(began.elapsed() <= Duration::from_secs(5) + COPY_RATE_LOOK_EVERY);
        });
    }
}
