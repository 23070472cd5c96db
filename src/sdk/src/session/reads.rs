//! Reads that any replica may answer: when they go on to the leader, and that no client sees less than it has
//! seen.

use super::Session;
use crate::operation::{Event, Operation};
use crate::replicas::Probe;
use corelith_wire::NodeId;
use corelith_wire::response::{Answer, Failure};
use std::time::Duration;

impl Session {
    /// Has the read of a chunk go on to the next replica if this one cannot give it; whether that is so.
    pub(super) fn goes_to_next_holder(
        &mut self,
        operation: &mut Operation,
        event: &Event,
        now: Duration,
    ) -> bool {
        if !operation.reads_chunk() {
            return false;
        }
        let (shard, asked) = (operation.shard, operation.asked.unwrap_or_default());
        match event {
            Event::Answer(Answer::NotFound { .. }) => self.routes.trust(asked),
            Event::Answer(Answer::Failure { failure, .. }) => match failure {
                Failure::WrongEpoch { .. } | Failure::Malformed | Failure::TooLarge { .. } => {
                    return false;
                }
                _ => {
                    self.routes.trust(asked);
                    self.replicas.pass_over(shard, asked, now);
                }
            },
            Event::Answer(_) => return false,
            Event::NotSent(cause) | Event::Lost(cause) => {
                self.unreachable(operation, cause.clone(), now);
                self.replicas.pass_over(shard, asked, now);
            }
            Event::Moved => {}
        }
        if operation.without.contains(&asked) {
            operation.leave_replicas();
        } else {
            operation.without.push(asked);
        }
        true
    }

    /// Has a read go to the leader that a replica failed, refused or left without an answer; whether it can be sent
    /// there at once.
    pub(super) fn leaves_replicas(
        &mut self,
        operation: &mut Operation,
        event: &Event,
        now: Duration,
    ) -> bool {
        let (shard, asked) = (operation.shard, operation.asked.unwrap_or_default());
        let failure = match event {
            Event::Answer(Answer::Failure { failure, .. }) => Some(failure),
            Event::Answer(_) => return false,
            Event::NotSent(_) | Event::Lost(_) | Event::Moved => None,
        };
        if let Some(Failure::WrongEpoch { .. } | Failure::VersionGone) = failure {
            return false;
        }
        operation.leave_replicas();
        if let Some(Failure::TooLarge { .. } | Failure::Malformed | Failure::WrongNode) = failure {
            return false;
        }
        self.replicas.pass_over(shard, asked, now);
        if self.routes.leader(shard) == Some(asked) {
            return false;
        }
        match event {
            Event::NotSent(cause) | Event::Lost(cause) => {
                self.unreachable(operation, cause.clone(), now);
            }
            Event::Answer(_) => self.routes.trust(asked),
            Event::Moved => {}
        }
        if let Some(Failure::NotLeader { leader }) = failure
            && self.routes.leader(shard).is_none()
            && self.map().replicas(shard).any(|node| node.0 == *leader)
        {
            self.routes.named(shard, NodeId(*leader));
        }
        true
    }

    /// The next probe to send, whose outcome [`Session::probed`] wants to know. Asked for after each step.
    pub fn take_probe(&mut self) -> Option<Probe> {
        self.replicas.take_probe()
    }

    /// Notes how long a probe took until its answer; `None` if there was none.
    pub fn probed(&mut self, probe: &Probe, took: Option<Duration>) {
        self.replicas.probed(probe.target.node, took);
    }

    /// Notes what an answer says of its shard; whether it is no older than what the client had seen when `operation`
    /// began.
    pub(super) fn is_fresh(&mut self, operation: &Operation, answer: &Answer) -> bool {
        let Some(meta) = answer.meta() else {
            return true;
        };
        if let Some(seen) = self.seen.get_mut(operation.shard.0 as usize) {
            *seen = (*seen).max(meta.index);
            assert!(operation.floor <= *seen, "what was seen stays seen");
        }
        !operation.reads_latest() || meta.index >= operation.floor
    }
}
