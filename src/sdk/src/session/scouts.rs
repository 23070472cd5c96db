//! Who asks again while a shard has no leader.
//!
//! Of the operations that wait for a leader of a shard one asks again soon: its scout. The others ask at long pauses.
//!
//! Invariant: a scout that waits no more, since it was woken or given up, leaves its place to the next one.

use super::{Session, Step};
use crate::doubt::pause_after;
use crate::limits::{REFRESH_EVERY, RETRY_PAUSE_MAX};
use crate::operation::Operation;
use corelith_wire::ShardId;
use std::time::Duration;

/// Per shard: when its scout asks again. From then on the place is free.
#[derive(Debug)]
pub(super) struct Scouts(Vec<Duration>);

impl Scouts {
    pub(super) fn new(shards: usize) -> Self {
        Self(vec![Duration::ZERO; shards])
    }

    /// Makes an operation the scout, which asks again at `soon`; `false` if there is one.
    fn take(&mut self, shard: ShardId, soon: Duration, now: Duration) -> bool {
        match self.0.get_mut(shard.0 as usize) {
            Some(next) if *next <= now => {
                *next = soon;
                true
            }
            _ => false,
        }
    }

    /// An operation that was to wait until then does so no more; whether it was the scout.
    fn leave(&mut self, shard: ShardId, until: Duration) -> bool {
        let place = self.0.get_mut(shard.0 as usize);
        let place = place.filter(|next| **next == until);
        place.map(|next| *next = Duration::ZERO).is_some()
    }
}

impl Session {
    /// Waits for a leader. The first operation that does so asks again soon, the others leave it to that one.
    pub(super) fn seek(&mut self, operation: &mut Operation, now: Duration) -> Step {
        let shard = operation.shard;
        if let Some(asked) = operation.asked {
            // Or it would not wait.
            self.routes.does_not_lead(shard, asked);
        }
        let since = *operation.leaderless_since.get_or_insert(now);
        if now.saturating_sub(since) >= REFRESH_EVERY && self.refresh_at <= now {
            // All that the client knows may be gone, or elsewhere. Nothing waits for that.
            self.refresh_at = now + REFRESH_EVERY;
            self.wants_map = true;
        }
        let until = match self.scout(operation, now) {
            Some(soon) => soon,
            None => now + RETRY_PAUSE_MAX / 2 + self.up_to(RETRY_PAUSE_MAX / 2),
        };
        match self.pause_until(operation, until, now) {
            Step::Pause { until } => {
                operation.seeks_until = Some(until);
                Step::Seek { shard, until }
            }
            other => other,
        }
    }

    /// The next step of an operation whose driver has begun to wait for [`Step::Seek`].
    pub fn sought(&mut self, operation: &mut Operation, now: Duration) -> Step {
        let shard = operation.shard;
        let leader = self.routes.leader(shard);
        let is_found = leader.is_some_and(|leader| !self.routes.suspected(leader, now));
        let Some(until) = operation
            .seeks_until
            .filter(|until| !is_found && now < *until)
        else {
            return self.proceed(operation, now);
        };
        // The scout may have gone.
        let until = self
            .scout(operation, now)
            .map_or(until, |soon| soon.min(until));
        operation.seeks_until = Some(until);
        Step::Seek { shard, until }
    }

    /// Makes an operation the scout of its shard, unless there is one; returns when it asks again.
    fn scout(&mut self, operation: &Operation, now: Duration) -> Option<Duration> {
        let since = operation.leaderless_since.unwrap_or(now);
        let soon = now + pause_after(now.saturating_sub(since), self.next_random());
        let soon = soon.min(operation.deadline);
        self.scouts.take(operation.shard, soon, now).then_some(soon)
    }

    /// The operation waits for a leader no more, if it did; whether it was the scout.
    pub(super) fn end_search(&mut self, operation: &mut Operation) -> bool {
        let until = operation.seeks_until.take();
        until.is_some_and(|until| self.scouts.leave(operation.shard, until))
    }
}
