//! How a follower learns from where on it may answer reads.
//!
//! ```text
//! READ_POINT          no body: the question is of the shard in the head
//! READ_POINT_REPLY    17  vote of the leader
//!                     24  log id up to which the follower must have applied
//! ```
//! Who does not lead, or cannot tell whether it does, answers `REFUSED`.

use super::{Fields, PeerVote, kinds, put_log_id, put_vote, sealed};
use crate::error::DecodeError;
use crate::frame::{Frame, Head};
use crate::ids::LogId;
use crate::outbox::Outbox;
use bytes::BytesMut;

/// Where a follower may read, as a leader says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenPoint {
    /// The leader's vote.
    pub vote: PeerVote,
    /// Every write that was answered before the question came has an index up to this one, and it is
    /// committed.
    pub upto: LogId,
}

/// Appends a `READ_POINT`.
pub fn encode_read_point(out: &mut Outbox, head: Head) {
    sealed(out, head, kinds::READ_POINT, &[]);
}

/// Appends a `READ_POINT_REPLY`.
pub fn encode_read_point_reply(out: &mut Outbox, head: Head, given: &GivenPoint) {
    let mut body = BytesMut::with_capacity(48);
    put_vote(&mut body, &given.vote);
    put_log_id(&mut body, Some(&given.upto));
    sealed(out, head, kinds::READ_POINT_REPLY, &body);
}

/// Parses a `READ_POINT_REPLY`.
///
/// # Errors
/// It is malformed.
pub fn parse_read_point_reply(frame: &Frame) -> Result<GivenPoint, DecodeError> {
    let mut fields = Fields::of(frame.body(), "read point");
    let vote = fields.vote()?;
    let upto = fields.log_id()?;
    let upto = upto.ok_or_else(|| fields.malformed())?;
    fields.end()?;
    Ok(GivenPoint { vote, upto })
}
