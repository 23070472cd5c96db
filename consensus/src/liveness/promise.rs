//! What this node has promised one other node: that its replicas vote for nobody against the leaders there.
//!
//! Invariants:
//! * Nothing shortens a promise that runs.
//! * A replica turns from a leader that it follows only after the promise to the leader's core has run out, or
//!   the leader is known to lead no more; and only after the epoch was raised, unless the leader handed its
//!   lead over.
//! * The epoch in a reply to a beat is the one that holds when the promise in it begins: both happen under one
//!   lock.

use crate::planted::{Bug, is_planted};
use corelith_io::Instant;
use corelith_wire::StoreId;
use corelith_wire::peer::{CoreSet, PromiseEpoch};
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct GivenPromise {
    /// The other node's store to which it was given.
    store: StoreId,
    /// Until when it runs, for the leaders of each of the other node's cores.
    until: Vec<Option<Instant>>,
    epoch: PromiseEpoch,
}

/// No epoch is left: the node must start anew before it can vote against that peer's leaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UsedUp;

impl GivenPromise {
    pub(super) fn new(first: PromiseEpoch) -> Self {
        Self {
            store: StoreId::UNCLAIMED,
            until: Vec::new(),
            epoch: first,
        }
    }

    pub(super) fn epoch(&self) -> PromiseEpoch {
        self.epoch
    }

    /// Until when the promise for the leaders on `core` of that store runs, or ran.
    pub(super) fn until(&self, store: StoreId, core: u16) -> Option<Instant> {
        let until = self.until.get(usize::from(core)).copied().flatten();
        until.filter(|_| self.store == store)
    }

    /// All that were given, running or not.
    pub(super) fn all(&self) -> impl Iterator<Item = (u16, Instant)> + '_ {
        let slots = (0..).zip(&self.until);
        slots.filter_map(|(core, until)| until.map(|until| (core, until)))
    }

    /// Promises for `length` from `now`, for the leaders on `cores` of that store; returns for which cores, and
    /// the epoch to reply with. Another store is promised nothing while the promise to the one before runs.
    pub(super) fn give(
        &mut self,
        store: StoreId,
        cores: &CoreSet,
        now: Instant,
        length: Duration,
    ) -> (CoreSet, PromiseEpoch) {
        if self.store != store {
            if self.until.iter().flatten().any(|until| now < *until) {
                return (CoreSet::default(), self.epoch);
            }
            self.store = store;
        }
        let until = now + length;
        for core in (0..corelith_wire::peer::CORES_MAX).filter(|core| cores.contains(*core)) {
            let at = usize::from(core);
            if self.until.len() <= at {
                self.until.resize(at + 1, None);
            }
            if let Some(slot) = self.until.get_mut(at) {
                let before = *slot;
                *slot = before.max(Some(until));
                assert!(*slot >= before, "a promise becomes shorter");
            }
        }
        (*cores, self.epoch)
    }

    /// Raises the epoch if no promise to the leaders on `core` of that store runs.
    ///
    /// # Errors
    /// One runs until then.
    pub(super) fn turn(
        &mut self,
        store: StoreId,
        core: u16,
        now: Instant,
    ) -> Result<Result<(), UsedUp>, Instant> {
        match self.until(store, core) {
            Some(until) if now < until => Err(until),
            _ => Ok(self.raise()),
        }
    }

    /// Raises the epoch, whatever is promised: the leader in question leads no more.
    pub(super) fn raise(&mut self) -> Result<(), UsedUp> {
        if is_planted(Bug::KeepEpoch) {
            return Ok(());
        }
        let before = self.epoch;
        self.epoch = before.next().ok_or(UsedUp)?;
        assert_ne!(self.epoch, before, "an epoch comes again");
        Ok(())
    }

    /// A connection to the other node has ended.
    pub(super) fn connection_ended(&mut self) {
        if is_planted(Bug::ShortenPromise) {
            self.until.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_io::sim::Sim;
    use corelith_wire::Start;

    const STORE: StoreId = StoreId(5);
    const L: Duration = Duration::from_millis(300);

    fn promise() -> GivenPromise {
        GivenPromise::new(PromiseEpoch::first(Start {
            incarnation: 1,
            nonce: 7,
        }))
    }

    /// Runs `work` where there is a clock.
    fn at_some_time(work: impl FnOnce(Instant) + 'static) {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async move { work(corelith_io::now()) });
    }

    #[test]
    fn a_promise_binds_until_it_has_run_out_and_no_longer() {
        at_some_time(|now| {
            let mut promise = promise();
            let (_, epoch) = promise.give(STORE, &CoreSet::from_iter([1]), now, L);
            // (core, after, whether a replica may turn)
            let table = [
                (1, Duration::ZERO, false),
                (1, L - Duration::from_nanos(1), false),
                (0, Duration::ZERO, true),
                (2, Duration::ZERO, true),
                (1, L, true),
            ];
            for (core, after, may) in table {
                let turned = promise.turn(STORE, core, now + after);
                assert_eq!(turned.is_ok(), may, "{core} after {after:?}");
                if let Err(until) = turned {
                    assert_eq!(until, now + L);
                }
            }
            assert_ne!(promise.epoch(), epoch);
        });
    }

    #[test]
    fn a_later_beat_never_shortens_a_promise() {
        at_some_time(|now| {
            let mut promise = promise();
            promise.give(STORE, &CoreSet::from_iter([0]), now, L);
            promise.give(STORE, &CoreSet::from_iter([0]), now, L / 2);
            promise.connection_ended();
            assert_eq!(promise.until(STORE, 0), Some(now + L));
        });
    }

    #[test]
    fn each_turn_has_an_epoch_of_its_own_and_a_promise_that_lapses_needs_none() {
        at_some_time(|now| {
            let mut promise = promise();
            let (_, first) = promise.give(STORE, &CoreSet::from_iter([0]), now, L);
            let later = now + 3 * L;
            let again = promise.give(STORE, &CoreSet::from_iter([0]), later, L);
            assert_eq!(again.1, first);
            assert_eq!(promise.raise(), Ok(()));
            let second = promise.epoch();
            assert_eq!(promise.turn(STORE, 0, later + L), Ok(Ok(())));
            assert!(second != first && promise.epoch() != second && promise.epoch() != first);
        });
    }

    #[test]
    fn another_store_of_the_node_neither_lengthens_nor_shortens_a_promise() {
        at_some_time(|now| {
            let (mut promise, other) = (promise(), StoreId(6));
            let cores = CoreSet::from_iter([0]);
            promise.give(STORE, &cores, now, L);
            assert!(promise.give(other, &cores, now + L / 2, L).0.is_empty());
            assert_eq!(promise.until(STORE, 0), Some(now + L));
            assert_eq!(promise.until(other, 0), None);
            assert_eq!(promise.give(other, &cores, now + L, L).0, cores);
            assert_eq!(promise.until(STORE, 0), None);
            assert_eq!(promise.turn(other, 0, now + L), Err(now + 2 * L));
        });
    }

    #[test]
    fn epochs_end_and_do_not_come_again() {
        let mut epoch = PromiseEpoch::first(Start {
            incarnation: 3,
            nonce: u64::MAX,
        });
        let mut count = 0_u32;
        while let Some(next) = epoch.next() {
            assert!(next.0 > epoch.0);
            epoch = next;
            count += 1;
        }
        assert_eq!(count, (1 << 24) - 2);
    }
}
