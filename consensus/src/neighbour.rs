//! Questions to another node itself, and the answers to its own: they share the connections between first cores
//! with the groups.
//!
//! Invariant: the answers that a peer waits for are bounded, beyond that it is told to come back.

use crate::groups::Groups;
use crate::route::{AnswerNode, Target};
use corelith_wire::peer::{self, NodeAsk, NodeReply, kinds};
use corelith_wire::{NodeId, ShardId};
use std::time::Duration;

/// What the head of such a frame says: it is about no shard.
const NO_SHARD: Target = Target {
    shard: ShardId(0),
    generation: 0,
};

impl Groups {
    /// Has what other nodes ask this one answered by `answer`. Of the first core; until then they are refused.
    pub fn answer_nodes(&self, answer: AnswerNode) {
        self.neighbours().replace(Some(answer));
    }

    /// Answers what other nodes ask no more: what answers them may hold these groups.
    pub fn answer_no_nodes(&self) {
        self.neighbours().replace(None);
    }

    /// Asks another node. On the first core. `None` if no answer comes within `limit`.
    pub async fn ask_node(
        &self,
        node: NodeId,
        ask: &NodeAsk,
        limit: Duration,
    ) -> Option<NodeReply> {
        let until = corelith_io::now() + limit;
        let link = self.link_to(node, 0);
        link.wait_up(limit).await.ok()?;
        let rest = until.saturating_duration_since(corelith_io::now());
        let asked = link.ask(NO_SHARD, rest, kinds::NODE_REPLY, |out, head| {
            peer::encode_node(out, head, ask);
        });
        let reply = corelith_io::timeout(rest, asked.ok()?).await.ok()?.ok()?;
        if reply.header.head.kind != kinds::NODE_REPLY {
            return None;
        }
        peer::parse_node_reply(&reply).ok()
    }
}
