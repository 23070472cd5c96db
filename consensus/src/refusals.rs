//! Saying that messages of peers were refused, without filling the log.

use crate::admission::Refusal;
use crate::limits::STRANGE_STORES_MAX;
use corelith_io::Instant;
use corelith_wire::{NodeId, ReplicaId, ShardId, StoreId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// Least time between two lines.
const QUIET: Duration = Duration::from_secs(1);

/// The refusals of one core: one line a second, with how many were passed over. That a store is not the
/// group's is said once of each store.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    said: Cell<Option<Instant>>,
    passed_over: Cell<u64>,
    /// The stores of which it was said.
    stores: RefCell<BTreeSet<(ReplicaId, StoreId)>>,
    #[cfg(test)]
    total: Cell<u64>,
    /// Of these, how many name a replica that is not known.
    #[cfg(test)]
    nobodies: Cell<u64>,
    /// What was refused last, for tests that say why none should be.
    #[cfg(test)]
    last: RefCell<String>,
}

impl Refusals {
    /// Says that a message about `shard` was refused, or counts it.
    pub(crate) fn note(
        &self,
        shard: ShardId,
        peer: NodeId,
        address: Option<SocketAddr>,
        refusal: &Refusal,
    ) {
        #[cfg(test)]
        {
            self.total.set(self.total.get() + 1);
            let names_nobody = matches!(refusal, Refusal::NoReplica(_));
            self.nobodies
                .set(self.nobodies.get() + u64::from(names_nobody));
            let last = format!("{peer} about {shard}: {refusal}");
            self.last.replace(last);
        }
        if let Refusal::NotTheStore(replica, store) = *refusal {
            return self.note_store(shard, replica, store, address);
        }
        let now = corelith_io::now();
        if self.said.get().is_some_and(|said| now - said < QUIET) {
            self.passed_over.set(self.passed_over.get() + 1);
            return;
        }
        self.said.set(Some(now));
        let more = self.passed_over.replace(0);
        let address = address.map(tracing::field::display);
        tracing::warn!(%shard, %peer, address, %refusal, more, "refused a peer's message");
    }

    fn note_store(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        store: StoreId,
        address: Option<SocketAddr>,
    ) {
        let mut stores = self.stores.borrow_mut();
        if stores.len() < STRANGE_STORES_MAX && stores.insert((replica, store)) {
            let address = address.map(tracing::field::display);
            let refusal = Refusal::NotTheStore(replica, store);
            tracing::warn!(%shard, address, %refusal, "a store takes no part");
        }
    }

    /// What was refused last.
    #[cfg(test)]
    pub(crate) fn last(&self) -> String {
        self.last.borrow().clone()
    }

    /// How many of them named a replica that is not known.
    #[cfg(test)]
    pub(crate) fn nobodies(&self) -> u64 {
        self.nobodies.get()
    }

    /// How many were refused.
    #[cfg(test)]
    pub(crate) fn total(&self) -> u64 {
        self.total.get()
    }
}
