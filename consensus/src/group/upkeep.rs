//! What a group does by itself: end its embargo, form a new group, purge its log, hand the lead
//! back, step aside when its files are damaged, notice that openraft has stopped.

use super::{Group, GroupInner};
use crate::retention;
use crate::types::{LeaderId, LogId, Types};
use corelith_io::sleep;
use corelith_shards::NodeId;
use futures_util::future::select;
use openraft::LogIdOptionExt;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftDataMetrics;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How often the leader looks whether the preferred one could lead again.
const LEAD_BACK_EVERY: Duration = Duration::from_millis(500);
/// How often a leader looks whether its files are damaged and another node could lead.
const STEP_ASIDE_EVERY: Duration = Duration::from_millis(500);
/// How far behind a node may be when it gets the lead, in entries: few enough that it catches up at
/// once.
const LEAD_LAG_MAX: u64 = 1000;
/// How often it is looked whether the log may be purged, beside after each checkpoint: the device may
/// have become full since.
const PURGE_EVERY: Duration = Duration::from_secs(1);
/// Least number of entries worth purging at once.
const PURGE_ENTRIES_MIN: u64 = 256;

impl Group {
    pub(super) fn start_upkeep(&self, brand_new: bool) {
        let inner = &self.inner;
        self.tend(|inner| async move { inner.stand_when_allowed().await });
        if brand_new {
            self.tend(|inner| async move { inner.form().await });
        }
        self.tend(|inner| async move { inner.bind_stores().await });
        self.tend(|inner| async move { inner.watch_openraft().await });
        self.tend(|inner| async move { inner.purge_behind_checkpoints().await });
        self.tend(|inner| async move { inner.say_what_it_waits_for().await });
        if inner.members.len() > 1 {
            self.tend(|inner| async move { inner.step_aside().await });
        }
        if inner.options.lead_back_after.is_some() && inner.me != inner.preferred {
            self.tend(|inner| async move { inner.hand_lead_back().await });
        }
    }

    /// Hands the lead over, if this replica has it and another can take it, and waits until it is gone, for
    /// at most the shortest time after which others would stand anyway.
    pub(crate) async fn give_lead_away(&self) {
        let inner = &self.inner;
        let Some(leading) = inner.leading() else {
            return;
        };
        let Some(to) = inner.successor() else {
            return;
        };
        let mut server = inner.server.clone();
        inner.hand_over(leading, to).await;
        let gone = async {
            while inner.leading() == Some(leading) && server.changed().await.is_ok() {
                server.borrow_and_update();
            }
        };
        if corelith_io::timeout(inner.options.election_timeout_min, gone)
            .await
            .is_err()
        {
            tracing::info!(shard = %inner.shard_id, %to, "the lead was not taken before the stop");
        }
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
        self.readers.fail(&self.why_stopped());
        self.follower_reads.fail(&self.why_stopped());
    }

    /// Purges the log behind the engine's checkpoints, except for what lagging followers may need.
    async fn purge_behind_checkpoints(&self) {
        loop {
            let known = self.engine.checkpointed();
            let checkpoint = self.engine.wait_checkpoint(known);
            // It has come, or it is time to look.
            let _ = corelith_io::timeout(PURGE_EVERY, checkpoint).await;
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
        let answering = replication.filter(|(node, _)| self.has_answered(&data, **node));
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

    /// Gives the lead to the preferred leader once it has been able to take it for a while.
    async fn hand_lead_back(&self) {
        let Some(wanted) = self.options.lead_back_after else {
            return;
        };
        let mut able_since = None;
        loop {
            sleep(LEAD_BACK_EVERY).await;
            let now = corelith_io::now();
            if !self.could_lead(self.preferred) {
                able_since = None;
                continue;
            }
            let since = *able_since.get_or_insert(now);
            if now - since < wanted {
                continue;
            }
            able_since = None;
            let Some(leading) = self.leading() else {
                continue;
            };
            tracing::info!(shard = %self.shard_id, to = %self.preferred, "handing the lead back");
            self.hand_over(leading, self.preferred).await;
        }
    }

    /// Gives the lead to a node that is well when this one has met damage in its files: there may be keys
    /// that it cannot answer for, and entries that it cannot send.
    async fn step_aside(&self) {
        loop {
            sleep(STEP_ASIDE_EVERY).await;
            if !self.health().is_damaged {
                continue;
            }
            let Some(leading) = self.leading() else {
                continue;
            };
            let Some(to) = self.successor() else {
                continue;
            };
            tracing::warn!(shard = %self.shard_id, %to, "stepping aside: files are damaged here");
            self.hand_over(leading, to).await;
            // It stands at once; only if it fails is one asked again.
            sleep(2 * self.options.election_timeout_max).await;
        }
    }

    /// The node that could lead and is furthest. One that lacks a committed entry would not be elected,
    /// and may wait for the very entry that is damaged.
    fn successor(&self) -> Option<NodeId> {
        let others = self.members.iter().copied();
        let others = others.filter(|node| *node != self.me && self.could_lead(*node));
        let data = self.data.borrow_watched();
        let matching = |node: NodeId| self.matching(&data, node).index();
        let best = others.max_by_key(|node| matching(*node))?;
        (matching(best) >= data.local_committed.index()).then_some(best)
    }

    /// The last entry that a follower is known to have.
    fn matching(&self, data: &RaftDataMetrics<Types>, node: NodeId) -> Option<LogId> {
        let replication = data.replication.as_ref()?;
        replication.get(&node.0).copied().flatten()
    }

    /// Hands the lead over, after the lease was given up.
    pub(super) async fn hand_over(&self, leading: LeaderId, to: NodeId) {
        assert!(to != self.me, "{to} hands the lead to itself");
        assert!(self.members.contains(&to), "{to} is no member");
        self.lease.give_up(leading);
        assert!(
            self.lease.is_given_up(leading),
            "{leading} leaves with its lease"
        );
        drop(self.raft.trigger().transfer_leader(to.0).await);
    }

    /// Whether this node leads, and `node` answers, is well and nearly caught up.
    fn could_lead(&self, node: NodeId) -> bool {
        if self.leading().is_none() || !self.healths.is_well(node) {
            return false;
        }
        let data = self.data.borrow_watched();
        let matching = self.matching(&data, node);
        let lag =
            data.last_log.next_index() - matching.next_index().min(data.last_log.next_index());
        matching.is_some() && lag <= LEAD_LAG_MAX && self.has_answered(&data, node.0)
    }

    /// Whether `node` has answered this leader lately.
    fn has_answered(&self, data: &RaftDataMetrics<Types>, node: u64) -> bool {
        let heartbeat = data.heartbeat.as_ref();
        let answered = heartbeat.and_then(|heartbeat| heartbeat.get(&node).copied().flatten());
        answered.is_some_and(|answered| {
            corelith_io::now() - answered.into_inner().0 < self.options.election_timeout_max
        })
    }
}
