//! Damage of this replica, put right from the others, one piece after the other.
//!
//! What is damaged tells the engine, which also says what can be done ([`Remedy`]): a range of keys is fetched and put
//! in anew; what holds no entries is written anew; a segment of the value log is emptied; a segment of the log is
//! forgotten once a checkpoint covers it. Followers that still lack its entries get a snapshot.

use super::{Group, GroupInner};
use crate::admission::Refusal;
use crate::command::{Parsed, WriteReply};
use crate::error::GroupError;
use crate::fetch::{self, WantedRange};
use crate::limits::{
    FETCH_BYTES, HEAL_LIMIT, HEAL_PAUSE, HEAL_RETRY, HEAL_RETRY_MAX, HEAL_WAIT_APPLIED,
};
use crate::relief::ApplyWait;
use crate::route::NodeStore;
use crate::stores::Standing;
use crate::types::Payload;
use bytes::Bytes;
use corelith_io::timeout;
use corelith_shards::limits::KEY_BYTES_MAX;
use corelith_shards::{self as shards, Damage, Fetched, LogIndex, NodeId, Remedy, ReplicaId};
use corelith_wire::peer::{FetchAnswer, FetchAsk};
use corelith_wire::request::Condition;

/// Why damage is still there.
#[derive(Debug, thiserror::Error)]
enum NotHealed {
    #[error("no other replica that answers has it whole")]
    NobodyHasIt,
    #[error("it takes too long")]
    TooLong,
    #[error("other work has changed the files meanwhile")]
    Overtaken,
    #[error(transparent)]
    Storage(#[from] shards::Error),
}

impl Group {
    /// What applying waits for, if it waits for something that is damaged.
    pub fn waits_to_apply(&self) -> Option<ApplyWait> {
        self.inner.decisions.waits()
    }

    /// What another replica holds of the stored keys from `first` to `last`, both included, after the key `after` if that is
    /// not empty: as of `at`, or as of `least` or later. `None`: none that answers has any of it.
    pub async fn fetch_elsewhere(
        &self,
        (first, last, after): (Bytes, Bytes, Bytes),
        at: Option<LogIndex>,
        least: LogIndex,
        bytes: usize,
    ) -> Option<Fetched> {
        let wanted = WantedRange {
            first,
            last,
            after,
            least,
            at,
            bytes,
        };
        self.inner.fetch(&wanted).await
    }

    /// Answers what another replica asks; `None`: this one cannot.
    pub(crate) async fn give_fetched(
        &self,
        peer: NodeStore,
        ask: FetchAsk,
    ) -> Result<Option<FetchAnswer>, Refusal> {
        self.listen_to(peer)?;
        let inner = &*self.inner;
        if inner.stores.standing_of(peer) != Standing::Member || *inner.closing.borrow() {
            return Ok(None);
        }
        let (first, last, after, least, at, bytes) = match ask {
            FetchAsk::Outcome { index } => {
                return Ok(inner.decisions.at(index).map(FetchAnswer::Decided));
            }
            FetchAsk::Range {
                least,
                at,
                bytes,
                first,
                last,
                after,
            } => (first, last, after, least, at, bytes),
        };
        let is_short = |key: &Bytes| key.len() <= KEY_BYTES_MAX + 1;
        if first.is_empty() || first > last || ![&first, &last, &after].into_iter().all(is_short) {
            return Ok(None);
        }
        let least = at.unwrap_or(least);
        if inner.applied_index() < Some(least) {
            let applied = inner.applied.wait(least);
            if timeout(inner.options.peer_timeout / 2, applied).await != Ok(true) {
                return Ok(None);
            }
        }
        let bytes = bytes as usize;
        let fetched = inner.engine.fetch((&first, &last), &after, at, bytes).await;
        match fetched {
            Ok(fetched) => {
                assert!(
                    fetched.as_of >= least,
                    "an answer as of {} where {} is asked for",
                    fetched.as_of.0,
                    least.0
                );
                Ok(Some(fetch::sent(fetched)))
            }
            Err(error) => {
                let shard = inner.shard_id;
                tracing::debug!(%shard, %error, "a range cannot be read for another replica");
                Ok(None)
            }
        }
    }
}

impl Group {
    /// Proposes a conditional write unless its check meets damage: in the log no replica could decide it. It may be proposed
    /// after writes that came later.
    pub(super) async fn propose_if_decidable(
        self,
        payload: Bytes,
        parsed: Parsed,
        reply: impl FnOnce(Result<WriteReply, GroupError>) + 'static,
    ) {
        match self.inner.engine.version_of(parsed.key(&payload)).await {
            Err(error) if error.is_corrupt() => reply(Err(GroupError::Corrupt)),
            // Another error ends the replica when the write is applied.
            _ => self.propose(Payload::write(payload, parsed), parsed.is_put, reply),
        }
    }
}

impl GroupInner {
    /// Whether the check of a write may meet damage that is known, and no other replica can be asked: there is none, or
    /// all are damaged too. A guess that costs nothing where nothing is damaged.
    pub(super) fn may_be_undecidable(&self, payload: &Bytes, parsed: &Parsed) -> bool {
        self.may_be_undecidable_of(parsed.key(payload), parsed.condition)
    }

    /// The same of a condition on `key`.
    pub(super) fn may_be_undecidable_of(&self, key: &[u8], condition: Condition) -> bool {
        if condition == Condition::Any || !self.engine.has_damage() {
            return false;
        }
        let can_be_asked = |replica: ReplicaId| {
            let pair = self.pairs.with(replica.node());
            pair.is_some_and(|pair| !pair.health(self.shard_id).is_damaged)
        };
        self.current_leader() == Some(self.me)
            && self.engine.version_in_memory(key).is_none()
            && !self.stores.others().into_iter().any(can_be_asked)
    }

    /// Puts damage right, until the group closes.
    pub(super) async fn heal_damage(&self) {
        let mut retry = HEAL_RETRY;
        loop {
            let changed = self.engine.damage_changed();
            let mut is_left = false;
            for damage in self.engine.damages() {
                let Some(remedy) = self.engine.remedy(&damage) else {
                    continue;
                };
                match self.heal(&damage, &remedy).await {
                    Ok(()) => match self.engine.damages().contains(&damage) {
                        // It goes once the log refers to it no more.
                        true => is_left = true,
                        false => retry = HEAL_RETRY,
                    },
                    Err(error) => {
                        let shard = self.shard_id;
                        tracing::debug!(%shard, %damage, %error, "damage is not healed yet");
                        is_left = true;
                    }
                }
                corelith_io::sleep(HEAL_PAUSE).await;
            }
            if is_left {
                let _ = timeout(retry, changed).await;
                retry = (retry * 2).min(HEAL_RETRY_MAX);
            } else {
                changed.await;
            }
        }
    }

    async fn heal(&self, damage: &Damage, remedy: &Remedy) -> Result<(), NotHealed> {
        match remedy {
            Remedy::Range => {
                let in_time = async |damages: &[Damage]| {
                    let healing = timeout(HEAL_LIMIT, self.heal_ranges(damages));
                    healing.await.unwrap_or(Err(NotHealed::TooLong))
                };
                // All that is known, or if some of it is nowhere, what is damaged in that file.
                let mut damages = self.engine.damages();
                damages.retain(|other| self.engine.remedy(other) == Some(Remedy::Range));
                if in_time(&damages).await.is_err() {
                    damages.retain(|other| other.file == damage.file);
                    in_time(&damages).await?;
                }
            }
            Remedy::Table(id) => {
                self.engine.rewrite_table(*id).await?;
            }
            Remedy::Segment(id) => {
                self.engine.evacuate_segment(*id).await?;
                self.purge_wanted.notify_one();
            }
            Remedy::Log(id) => {
                self.engine.checkpoint().await?;
                self.log.end_segment(*id);
                self.purge_wanted.notify_one();
            }
        }
        if !self.engine.damages().contains(damage) {
            let (shard, keys) = (self.shard_id, damage.keys());
            tracing::warn!(%shard, file = damage.file, offset = damage.offset, keys, "damage healed");
        }
        Ok(())
    }

    /// Puts the ranges in anew that are damaged, all at once: what lies beside one is read.
    async fn heal_ranges(&self, damages: &[Damage]) -> Result<(), NotHealed> {
        if damages.is_empty() {
            // The files are gone.
            return Ok(());
        }
        let ranges = damages.iter();
        let ranges = ranges.map(|damage| (damage.first_key.clone(), damage.last_key.clone()));
        let mut heal = self.engine.begin_heal(ranges.collect()).await?;
        while let Some((first, last, after)) = heal.wanted() {
            let wanted = WantedRange {
                first,
                last,
                after,
                least: heal.least(),
                at: None,
                bytes: FETCH_BYTES,
            };
            let fetched = self.fetch(&wanted).await.ok_or(NotHealed::NobodyHasIt)?;
            heal.add(fetched).await?;
        }
        self.wait_applied_to(heal.most()).await?;
        match heal.finish().await? {
            true => Ok(()),
            false => Err(NotHealed::Overtaken),
        }
    }

    async fn wait_applied_to(&self, index: LogIndex) -> Result<(), NotHealed> {
        if self.applied_index() >= Some(index) {
            return Ok(());
        }
        match timeout(HEAL_WAIT_APPLIED, self.applied.wait(index)).await {
            Ok(true) => Ok(()),
            _ => Err(NotHealed::TooLong),
        }
    }

    async fn fetch(&self, wanted: &WantedRange) -> Option<Fetched> {
        let is_well = |node: NodeId| {
            let pair = self.pairs.with(node);
            pair.is_some_and(|pair| pair.health(self.shard_id).is_well())
        };
        self.elsewhere.fetch(wanted, is_well).await
    }
}
