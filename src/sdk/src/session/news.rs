//! What a session learns of the map, and of leaders that its map may not show.

use super::Session;
use crate::error::Cause;
use crate::operation::{Operation, Step};
use corelith_wire::NodeId;
use corelith_wire::map::ClusterMap;
use std::time::Duration;

impl Session {
    /// Adopts a map from a node. Returns whether it is newer than the current one.
    pub fn adopt(&mut self, map: ClusterMap) -> bool {
        let before = self.map().epoch;
        let is_newer = self.routes.adopt(map);
        assert!(
            self.map().epoch >= before && is_newer == (self.map().epoch > before),
            "a map gives way to a newer one"
        );
        assert_eq!(
            self.map().shards.len(),
            self.shards.len(),
            "the number of shards is for ever"
        );
        self.has_newer_map |= is_newer;
        is_newer
    }

    /// Whether the nodes, and the seeds, are to be asked for a newer map now.
    pub fn take_wish_for_map(&mut self) -> bool {
        std::mem::take(&mut self.wants_map)
    }

    /// Whether a newer map was adopted since the last call.
    pub fn take_map_news(&mut self) -> bool {
        std::mem::take(&mut self.has_newer_map)
    }

    /// One of so many, at random.
    pub fn next_of(&mut self, count: usize) -> usize {
        let random = self.next_random() >> 33;
        usize::try_from(random).unwrap_or_default() % count.max(1)
    }

    /// A node says that `leader` leads, or that it knows none.
    pub(super) fn redirected(
        &mut self,
        operation: &mut Operation,
        leader: NodeId,
        now: Duration,
    ) -> Step {
        let asked = operation.asked.unwrap_or_default();
        operation.cause = Cause::NoLeader;
        self.routes.does_not_lead(operation.shard, asked);
        if leader != NodeId(0) && !self.routes.has(leader) {
            // The map is old.
            return match self.pause(operation, now) {
                Step::Pause { until } => Step::Refresh { until },
                other => other,
            };
        }
        // One without a replica may have got it since.
        let known = leader != NodeId(0);
        if !known || leader == asked || self.routes.suspected(leader, now) {
            return self.seek(operation, now);
        }
        // The others go on when it has answered: it may have no majority.
        self.routes.named(operation.shard, leader);
        self.go_on(operation, now)
    }
}
