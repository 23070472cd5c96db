//! What a group does by itself: form a new group, stand, bind stores, purge its log, notice that openraft has
//! stopped. What needs looking at from time to time is looked at for all groups of a core at once
//! (`groups/pulse.rs`).

use super::{Group, GroupInner};
use crate::retention;
use crate::types::LogId;
use corelith_shards::ReplicaId;
use futures_util::future::select;
use openraft::LogIdOptionExt;
use openraft::async_runtime::WatchReceiver;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;

/// Least number of entries worth purging at once.
const PURGE_ENTRIES_MIN: u64 = 256;

impl Group {
    pub(super) fn start_upkeep(&self, brand_new: bool) {
        self.tend(|inner| async move { inner.stand_when_needed().await });
        if brand_new && self.inner.founding.is_some() {
            self.tend(|inner| async move { inner.form().await });
        }
        self.tend(|inner| async move { inner.bind_stores().await });
        self.tend(|inner| async move { inner.watch_openraft().await });
        self.tend(|inner| async move { inner.purge_behind_checkpoints().await });
        self.tend(|inner| async move { inner.heal_damage().await });
    }

    /// Runs `work` until it is done or the group closes.
    pub(super) fn tend<Fut: Future<Output = ()> + 'static>(
        &self,
        work: impl FnOnce(Rc<GroupInner>) -> Fut,
    ) {
        let mut closing = self.inner.closing.subscribe();
        let work = work(Rc::clone(&self.inner));
        drop(corelith_io::spawn(async move {
            let closed = pin!(closing.wait_for(|closing| *closing));
            drop(select(pin!(work), closed).await);
        }));
    }
}

impl GroupInner {
    /// Notices when openraft stops by itself, which it does when the storage fails.
    async fn watch_openraft(&self) {
        let mut metrics = self.raft.metrics();
        loop {
            let stopped = metrics.borrow_and_update().running_state.clone();
            if let Err(fatal) = stopped {
                if !*self.closing.borrow() {
                    tracing::error!(shard = %self.shard_id, %fatal, "the replica has stopped");
                }
                break;
            }
            if metrics.changed().await.is_err() {
                break;
            }
        }
        self.stopped.set(true);
        self.activity.note();
        self.readers.fail(&self.why_stopped());
        self.follower_reads.fail(&self.why_stopped());
        self.lane.fail(&self.why_stopped());
    }

    /// Purges the log behind the engine's checkpoints, except for what lagging followers may need.
    async fn purge_behind_checkpoints(&self) {
        loop {
            let known = self.engine.checkpointed();
            let checkpoint = pin!(self.engine.wait_checkpoint(known));
            // It has come, or there is a reason to look.
            select(checkpoint, pin!(self.purge_wanted.notified())).await;
            let Some(checkpointed) = self.engine.checkpointed() else {
                continue;
            };
            let Some(upto) = self.purge_target(checkpointed.index.0) else {
                continue;
            };
            assert!(
                upto <= checkpointed.index.0,
                "the log is purged up to {upto}, and {checkpointed} is the checkpoint"
            );
            // openraft purges no entry beyond its last snapshot, which is the engine itself.
            if self.raft.trigger().snapshot().await.is_err() {
                return;
            }
            let mut data = self.raft.data_metrics();
            loop {
                let snapshot: Option<LogId> = data.borrow_and_update().snapshot;
                if snapshot.index() >= Some(upto) {
                    break;
                }
                if data.changed().await.is_err() {
                    return;
                }
            }
            if self.raft.trigger().purge_log(upto).await.is_err() {
                return;
            }
        }
    }

    fn purge_target(&self, checkpointed: u64) -> Option<u64> {
        let held = self.log.range();
        let last = held.last?.index.0;
        let purged = held.purged.map_or(0, |id| id.index.0);
        let lowest_transfer = self.transfers.lowest().unwrap_or(u64::MAX);
        if self.engine.is_log_damaged() {
            // Whoever still needs the entries gets a snapshot.
            let upto = checkpointed.min(lowest_transfer);
            return (upto > purged).then_some(upto);
        }
        if self.engine.is_disk_full() {
            // What entries refer to is not collected, and no space is as bad for a follower that is
            // far behind as it is for all others: that one gets a snapshot.
            let upto = checkpointed.min(lowest_transfer).min(self.lowest_heard());
            return (upto > purged).then_some(upto);
        }
        if self.engine.is_log_in_the_way() {
            // Nobody writes, so that more bytes would never come and have it purged. Whoever has its
            // entries needs them no more; a follower does not know who has, and goes by time alone.
            let upto = checkpointed.min(lowest_transfer).min(self.lowest_held());
            if upto > purged {
                return Some(upto);
            }
        }
        let before_kept = self.log.before_last_bytes(self.options.catch_up_bytes);
        let upto = retention::purge_upto(
            checkpointed,
            last,
            before_kept.map(|index| index.0),
            self.options.catch_up_entries,
        )?;
        let upto = upto.min(lowest_transfer);
        let least = PURGE_ENTRIES_MIN.min(self.options.catch_up_entries);
        (upto >= purged + least).then_some(upto)
    }

    /// The last index that all followers have which answer, if this node leads.
    fn lowest_heard(&self) -> u64 {
        let data = self.data.borrow_watched();
        let replication = data.replication.iter().flatten();
        let answering = replication.filter(|(node, _)| self.has_answered(ReplicaId(**node)));
        let matching = answering.map(|(_, matching)| matching.index().unwrap_or(0));
        matching.min().unwrap_or(u64::MAX)
    }

    /// The last index that all followers have, whether they answer or not, if this node leads.
    fn lowest_held(&self) -> u64 {
        let data = self.data.borrow_watched();
        let replication = data.replication.iter().flatten();
        let matching = replication.map(|(_, matching)| matching.index().unwrap_or(0));
        matching.min().unwrap_or(u64::MAX)
    }
}
