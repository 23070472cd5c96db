//! What the cores of two nodes say to each other about the Raft groups of the shards they share.
//!
//! A node asks over connections that it opened itself; answers come back on the same connection,
//! in any order. Lists of small records are raw little-endian bytes in the value part of a frame,
//! since their lengths are plain:
//!
//! ```text
//! entries of an APPEND, count in its head        records of HEARTBEATS (85 bytes each)
//!   8  term                                        8  beat     pairs the answer
//!   8  node                                        4  shard
//!   8  index                                      17  vote
//!   1  kind                                       24  log id before (optional)
//!   4  length of the body                         24  commit log id (optional)
//!   n  body                                        8  zero
//! records of HEARTBEATS_REPLY (65 bytes each)
//!   8  beat
//!   4  shard
//!  53  append result
//! vote:           8 term, 8 node, 1 committed
//! log id:         8 term, 8 node, 8 index; index 2^64-1 stands for "none"
//! append result:  1 tag, 24 log id, 17 vote, 1 tag again, 2 zero, 8 epoch of the promise
//! ```

mod append;
mod beat;
mod fetch;
mod formation;
mod introduce;
mod liveness;
mod node;
mod read_point;
mod snapshot;
#[cfg(test)]
mod tests;
mod vote;

pub use append::{
    AppendHead, AppendResult, ENTRY_HEAD_BYTES, PeerEntry, encode_append, encode_append_reply,
    parse_append, parse_append_reply,
};
pub use beat::{
    Heartbeat, HeartbeatReply, encode_heartbeats, encode_heartbeats_reply, parse_heartbeats,
    parse_heartbeats_reply,
};
pub use fetch::{
    FetchAnswer, FetchAsk, FetchEnd, FetchedKind, FetchedRecord, encode_fetch, encode_fetch_reply,
    parse_fetch, parse_fetch_reply,
};
pub use formation::{
    Ballot, Charter, FormationAnswer, FormationAsk, FormationReply, FormationStep, JoinPlace,
    LastStarts, encode_formation, encode_formation_reply, parse_formation, parse_formation_reply,
};
pub use introduce::{
    Difference, Introduction, Reception, Settings, Verdict, encode_introduction, encode_reception,
    parse_introduction, parse_reception,
};
pub use liveness::{
    Beat, BeatReply, CORES_MAX, CoreSet, DAMAGED_NAMED_MAX, Health, NodeHealth, PROMISE_MAX,
    PromiseEpoch, encode_beat, encode_beat_reply, parse_beat, parse_beat_reply,
};
pub use node::{
    HoldReport, LeadReport, MemberStep, NodeAsk, NodeReply, NodeReport, Registration, ReplicaMatch,
    ToldMembership, encode_node, encode_node_reply, parse_node, parse_node_reply,
};
pub use read_point::{
    GivenPoint, encode_read_point, encode_read_point_reply, parse_read_point_reply,
};
pub use snapshot::{
    FileAsk, FileBytes, encode_file_ask, encode_file_bytes, encode_snapshot_offer,
    encode_snapshot_reply, parse_file_ask, parse_file_bytes, parse_snapshot_offer,
    parse_snapshot_reply,
};
pub use vote::{
    Transfer, VoteAnswer, VoteAsk, encode_lead, encode_lead_reply, encode_transfer, encode_vote,
    encode_vote_reply, parse_lead, parse_lead_reply, parse_transfer, parse_vote, parse_vote_reply,
};

use crate::error::DecodeError;
use crate::fields::Fields;
use crate::frame::{FrameBuilder, Head, Kind};
use crate::ids::{LogId, LogIndex, ReplicaId, Term};
use crate::outbox::Outbox;
use bytes::{BufMut, BytesMut};

/// The kinds of frames between nodes.
pub mod kinds {
    use crate::frame::Kind;

    /// Take these entries; also says up to where entries are committed.
    pub const APPEND: Kind = Kind(0x100);
    /// Heartbeats of any number of shards.
    pub const HEARTBEATS: Kind = Kind(0x101);
    /// A request for a vote.
    pub const VOTE: Kind = Kind(0x102);
    /// Would a vote be granted?
    pub const PRE_VOTE: Kind = Kind(0x103);
    /// Take over the lead, or stop relying on the lease of the leader who hands it over.
    pub const TRANSFER: Kind = Kind(0x104);
    // 0x105 to 0x107 were snapshots as streams, up to version 4.

    /// Who this is: the first frame of a peer's connection.
    pub const INTRODUCE: Kind = Kind(0x108);
    /// A question about who the cluster is.
    pub const FORM: Kind = Kind(0x109);
    /// A node lives, and asks for a promise.
    pub const BEAT: Kind = Kind(0x10a);
    /// Does the node still lead?
    pub const LEAD: Kind = Kind(0x10b);
    /// From where on may this follower answer the reads that wait at it?
    pub const READ_POINT: Kind = Kind(0x10c);
    /// A question to the node itself.
    pub const NODE: Kind = Kind(0x10d);

    /// The files of a snapshot can be had, and are to be installed.
    pub const SNAPSHOT_OFFER: Kind = Kind(0x10e);
    /// A piece of an offered file, or of the list of them, is wanted.
    pub const FILE_PIECE: Kind = Kind(0x10f);
    /// What does this replica hold, in the place of what is damaged at the other one?
    pub const FETCH: Kind = Kind(0x111);

    /// Answer to an `APPEND`.
    pub const APPEND_REPLY: Kind = Kind(0x180);
    /// Answers to some of the heartbeats of one or several frames.
    pub const HEARTBEATS_REPLY: Kind = Kind(0x181);
    /// Answer to a `VOTE` or `PRE_VOTE`.
    pub const VOTE_REPLY: Kind = Kind(0x182);
    /// Answer: done.
    pub const DONE: Kind = Kind(0x183);
    /// Answer to a `SNAPSHOT_OFFER` that was installed, with the vote of the follower.
    pub const SNAPSHOT_REPLY: Kind = Kind(0x184);
    /// Answer: not done, ask again later.
    pub const REFUSED: Kind = Kind(0x185);
    /// Answer to an `INTRODUCE`: whether more may follow, and who answers.
    pub const RECEPTION: Kind = Kind(0x186);
    /// Answer to a `FORM`.
    pub const FORM_REPLY: Kind = Kind(0x187);
    /// Answer to a `BEAT`: what is promised.
    pub const BEAT_REPLY: Kind = Kind(0x18a);
    /// Answer to a `LEAD`.
    pub const LEAD_REPLY: Kind = Kind(0x18b);
    /// Answer of a leader to a `READ_POINT`.
    pub const READ_POINT_REPLY: Kind = Kind(0x18c);
    /// Answer to a `NODE`.
    pub const NODE_REPLY: Kind = Kind(0x18d);
    /// Answer to a `FILE_PIECE`.
    pub const FILE_BYTES: Kind = Kind(0x18e);
    /// Answer to a `FETCH`.
    pub const FETCH_REPLY: Kind = Kind(0x191);
}

/// Who claims to lead, or did when an entry was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerVote {
    /// Term.
    pub term: Term,
    /// The replica.
    pub node: ReplicaId,
    /// Whether a majority granted it.
    pub committed: bool,
}

/// The index that stands for "no log id". No log reaches it.
const NO_INDEX: LogIndex = LogIndex(u64::MAX);

/// Bytes of a vote.
const VOTE_BYTES: usize = 17;
/// Bytes of a log id.
const LOG_ID_BYTES: usize = 24;

fn put_vote(out: &mut BytesMut, vote: &PeerVote) {
    out.put_u64_le(vote.term.0);
    out.put_u64_le(vote.node.0);
    out.put_u8(u8::from(vote.committed));
}

fn put_log_id(out: &mut BytesMut, id: Option<&LogId>) {
    let none = LogId {
        index: NO_INDEX,
        ..LogId::default()
    };
    let id = id.unwrap_or(&none);
    out.put_u64_le(id.term.0);
    out.put_u64_le(id.node.0);
    out.put_u64_le(id.index.0);
}

impl Fields<'_> {
    pub(super) fn vote(&mut self) -> Result<PeerVote, DecodeError> {
        Ok(PeerVote {
            term: Term(self.u64()?),
            node: ReplicaId(self.u64()?),
            committed: self.flag()?,
        })
    }

    pub(super) fn log_id(&mut self) -> Result<Option<LogId>, DecodeError> {
        let id = LogId {
            term: Term(self.u64()?),
            node: ReplicaId(self.u64()?),
            index: LogIndex(self.u64()?),
        };
        Ok((id.index != NO_INDEX).then_some(id))
    }
}

/// Appends an answer without content: `DONE` or `REFUSED`.
pub fn encode_plain(out: &mut Outbox, head: Head, kind: Kind) {
    sealed(out, head, kind, &[]);
}

fn sealed(out: &mut Outbox, head: Head, kind: Kind, body: &[u8]) {
    FrameBuilder::begin(out.buffer(), Head { kind, ..head })
        .raw(body)
        .seal();
}
