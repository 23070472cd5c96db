//! One operation of the application, from call to result, over any number of attempts.

use crate::error::{Cause, Error, Field};
use crate::limits::{
    ATTEMPT_TIMEOUT, ATTEMPT_TIMEOUT_PER_MIB, CHUNK_ATTEMPT_TIMEOUT, REPLICA_ATTEMPT_TIMEOUT,
};
use crate::replicas::{ReadFrom, Source};
use crate::route::Target;
use crate::upload_ask::UploadAsk;
use bytes::Bytes;
use corelith_wire::request::{
    self, Condition, GetRequest, OpenSession, Operation as WriteKind, ScanRequest, WriteRequest,
};
use corelith_wire::response::Answer;
use corelith_wire::{Epoch, Flags, Head, Kind, NodeId, Outbox, RequestId, ShardId, version};
use std::time::Duration;

/// The request of an operation to one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Puts or deletes a key.
    Write {
        /// The key.
        key: Bytes,
        /// The value of a put, empty for a delete.
        value: Bytes,
        /// When it applies.
        condition: Condition,
        /// Which of the two.
        kind: WriteKind,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Reads the version and length of a key's value.
    Head {
        /// The key.
        key: Bytes,
    },
    /// Reads a page of keys `start <= key < end` of one shard.
    Scan {
        /// The shard.
        shard: ShardId,
        /// First key.
        start: Bytes,
        /// End of the range, exclusive; empty for no end.
        end: Bytes,
        /// Most items in the page.
        limit_items: u32,
        /// Most bytes of keys and values in the page.
        max_bytes: u32,
        /// Log index to read at, 0 for the latest.
        at_version: u64,
        /// Whether versions and lengths are enough.
        keys_only: bool,
    },
    /// Asks something of an upload or a large value of one shard.
    Upload {
        /// The shard.
        shard: ShardId,
        /// What.
        ask: UploadAsk,
    },
}

/// The number of a write within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteTicket {
    pub(crate) session: u64,
    pub(crate) number: u64,
    /// The session's lowest unsettled number, as of the last attempt.
    pub(crate) answered_below: u64,
}

/// An operation in flight. [`Session::operation`](crate::session::Session::operation) makes it and the
/// session's other functions advance it. Times count from the session's start.
#[derive(Debug)]
pub struct Operation {
    pub(crate) request: Request,
    pub(crate) shard: ShardId,
    pub(crate) deadline: Duration,
    /// Set once a write has its number.
    pub(crate) ticket: Option<WriteTicket>,
    /// This operation opens the shard's session before it sends its own request.
    pub(crate) opening: bool,
    /// An attempt of the write was sent whose outcome is not known.
    pub(crate) doubt: bool,
    /// The node that was asked last.
    pub(crate) asked: Option<NodeId>,
    /// Where a read goes.
    pub(crate) source: Source,
    /// Whether the last attempt was one that a follower may answer.
    pub(crate) at_replica: bool,
    /// The highest log index of the shard that the client had seen when it began.
    pub(crate) floor: u64,
    /// The node asked last in the round over the replicas, not as a supposed leader. The round
    /// continues after it if the supposed leader turns out wrong.
    pub(crate) turn: Option<NodeId>,
    /// Nodes that reported that they are full or damaged. At most the shard's replicas.
    pub(crate) unable: Vec<NodeId>,
    /// Replicas that could not give the chunk that it reads. At most the shard's replicas.
    pub(crate) without: Vec<NodeId>,
    /// When a node first reported to this read that its data is damaged.
    pub(crate) damaged_since: Option<Duration>,
    /// Redirects followed since the last pause.
    pub(crate) redirects: u32,
    /// Pauses made so far.
    pub(crate) pauses: u32,
    /// When an attempt first met no leader.
    pub(crate) leaderless_since: Option<Duration>,
    /// Until when it waits for a leader.
    pub(crate) seeks_until: Option<Duration>,
    /// Why the last attempt failed.
    pub(crate) cause: Cause,
    /// The pause that a throttling server asked for, if the last attempt was throttled.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) epoch: Epoch,
    pub(crate) client: u64,
    pub(crate) done: bool,
}

impl Operation {
    /// The shard that the request goes to.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Lets a read go to other replicas than the leader. Does nothing to a write, and to what is asked of an upload.
    #[must_use]
    pub fn read_from(mut self, source: Source) -> Self {
        let is_for_leaders = match &self.request {
            Request::Write { .. } => true,
            Request::Upload { .. } => !self.reads_chunk(),
            Request::Get { .. } | Request::Head { .. } | Request::Scan { .. } => false,
        };
        if !is_for_leaders {
            self.source = source;
        }
        self
    }

    /// The node that was asked last.
    pub fn asked(&self) -> Option<NodeId> {
        self.asked
    }

    /// Time at which it must have ended.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Which of key and value exceeds a server's `limit` in bytes, and its length.
    pub(crate) fn largest(&self, limit: u64) -> (Field, u64) {
        match &self.request {
            Request::Write { key, value, .. } if key.len() as u64 <= limit => {
                (Field::Value, value.len() as u64)
            }
            Request::Write { key, .. } | Request::Get { key } | Request::Head { key } => {
                (Field::Key, key.len() as u64)
            }
            Request::Scan { start, end, .. } => (Field::Key, start.len().max(end.len()) as u64),
            Request::Upload { ask, .. } if ask.key_len() as u64 > limit => {
                (Field::Key, ask.key_len() as u64)
            }
            Request::Upload { ask, .. } => (Field::Value, ask.content_len() as u64),
        }
    }

    /// Whether it has a number in a session.
    pub(crate) fn is_write(&self) -> bool {
        matches!(self.request, Request::Write { .. })
    }

    /// Whether it matters to the caller that an attempt without an answer may have had an effect. Other requests of
    /// uploads have none that can be seen.
    pub(crate) fn leaves_doubt(&self) -> bool {
        let is_commit = |ask: &UploadAsk| matches!(ask, UploadAsk::Commit(_));
        match &self.request {
            Request::Write { .. } => !self.opening,
            Request::Upload { ask, .. } => is_commit(ask),
            Request::Get { .. } | Request::Head { .. } | Request::Scan { .. } => false,
        }
    }

    /// Whether it reads a chunk, which any replica may answer that has it.
    pub(crate) fn reads_chunk(&self) -> bool {
        let ask = match &self.request {
            Request::Upload { ask, .. } => Some(ask),
            _ => None,
        };
        matches!(ask, Some(UploadAsk::Read(_)))
    }

    /// Whether it changes something, so that a damaged node cannot do it.
    pub(crate) fn changes(&self) -> bool {
        let is_read = |ask: &UploadAsk| {
            matches!(
                ask,
                UploadAsk::Read(_) | UploadAsk::List(_) | UploadAsk::Status(_)
            )
        };
        match &self.request {
            Request::Write { .. } => true,
            Request::Upload { ask, .. } => !is_read(ask),
            Request::Get { .. } | Request::Head { .. } | Request::Scan { .. } => false,
        }
    }

    /// The oldest version of the protocol that has it.
    pub(crate) fn version_needed(&self) -> u16 {
        match self.request {
            Request::Upload { .. } => version::LARGE_VALUES,
            _ => version::OLDEST,
        }
    }

    /// How long an attempt waits for its answer: longer if a large value must travel first.
    pub(crate) fn attempt_timeout(&self) -> Duration {
        let value_len = match &self.request {
            Request::Write { value, .. } => value.len(),
            // The length of the answer is not known in advance.
            Request::Get { .. } | Request::Head { .. } | Request::Scan { .. } => 1 << 20,
            Request::Upload { ask, .. } => ask.content_len(),
        };
        let least = match &self.request {
            Request::Upload {
                ask: UploadAsk::Chunk { .. },
                ..
            } => CHUNK_ATTEMPT_TIMEOUT,
            // A disk may have much to read.
            Request::Upload { .. } => ATTEMPT_TIMEOUT,
            _ if self.at_replica => REPLICA_ATTEMPT_TIMEOUT,
            _ => ATTEMPT_TIMEOUT,
        };
        // Values have at most a few MiB.
        least + ATTEMPT_TIMEOUT_PER_MIB * (value_len >> 20) as u32
    }

    /// Up to when its bytes may travel, if an attempt without an answer is waited for longer while they may. A chunk is
    /// waited for beyond the deadline: it would only be sent again. Reads are not: another replica may answer sooner.
    pub(crate) fn travels_until(&self) -> Duration {
        match &self.request {
            Request::Upload {
                ask: UploadAsk::Chunk { .. },
                ..
            } => Duration::MAX,
            Request::Write { .. } if !self.opening => self.deadline,
            _ => Duration::ZERO,
        }
    }

    /// Appends the frame of the attempt that the last [`Step::Send`] asked for.
    pub fn encode(&self, out: &mut Outbox, request_id: RequestId) {
        let head = Head {
            kind: Kind::GET,
            request_id,
            shard: self.shard,
            epoch: self.epoch,
        };
        if self.opening {
            request::encode_open_session(
                out,
                head,
                OpenSession {
                    client: self.client,
                },
            );
            return;
        }
        match &self.request {
            Request::Write {
                key,
                value,
                condition,
                kind,
            } => {
                debug_assert!(
                    self.ticket.is_some(),
                    "a write is sent only with its number"
                );
                let ticket = self.ticket.unwrap_or(WriteTicket {
                    session: 0,
                    number: 0,
                    answered_below: 0,
                });
                let body = WriteRequest {
                    session: ticket.session,
                    number: ticket.number,
                    answered_below: ticket.answered_below,
                    condition: *condition,
                    operation: *kind,
                    key,
                };
                request::encode_write(out, head, &body, value);
            }
            Request::Get { key } => {
                request::encode_get_with(out, head, self.flags(false), &GetRequest { key });
            }
            Request::Head { key } => {
                let flags = self.flags(true).with(Flags::DESCRIBED);
                request::encode_get_with(out, head, flags, &GetRequest { key });
            }
            Request::Upload { shard: _, ask } => ask.encode(out, head),
            Request::Scan {
                shard: _,
                start,
                end,
                limit_items,
                max_bytes,
                at_version,
                keys_only,
            } => {
                let body = ScanRequest {
                    start,
                    end,
                    limit_items: *limit_items,
                    max_bytes: *max_bytes,
                    at_version: *at_version,
                };
                let flags = match keys_only {
                    true => self.flags(true).with(Flags::DESCRIBED),
                    false => self.flags(false),
                };
                request::encode_scan_with(out, head, flags, &body);
            }
        }
    }

    /// The wishes of a read.
    fn flags(&self, without_values: bool) -> Flags {
        let follower = match self.at_replica {
            true => Flags::FOLLOWER_MAY_ANSWER,
            false => Flags::default(),
        };
        match without_values {
            true => follower.with(Flags::WITHOUT_VALUES),
            false => follower,
        }
    }

    /// Whether its answer shows the newest state, not that of an earlier page.
    pub(crate) fn reads_latest(&self) -> bool {
        match &self.request {
            Request::Get { .. } | Request::Head { .. } => true,
            Request::Scan { at_version, .. } => *at_version == 0,
            Request::Write { .. } | Request::Upload { .. } => false,
        }
    }

    /// Has it go to the leader from here on.
    pub(crate) fn leave_replicas(&mut self) {
        self.source = Source::From(ReadFrom::Leader);
        self.at_replica = false;
    }
}

/// The next step for the driver of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send [`Operation::encode`]'s frame and report the outcome.
    Send {
        /// The core to send to.
        target: Target,
        /// When to stop waiting for the answer.
        until: Duration,
    },
    /// Wait, then ask again.
    Pause {
        /// When the pause ends.
        until: Duration,
    },
    /// Wait until [`Session::take_stirred`](crate::session::Session::take_stirred) names this shard, since a leader
    /// is known then, or until the pause ends; then ask again. A driver that has begun to wait asks
    /// [`Session::sought`](crate::session::Session::sought) first, so that it misses no leader.
    Seek {
        /// The shard.
        shard: ShardId,
        /// When the pause ends.
        until: Duration,
    },
    /// Wait until [`Session::take_stirred`](crate::session::Session::take_stirred) names this
    /// shard, or the deadline passes; then ask again.
    Park {
        /// The shard.
        shard: ShardId,
    },
    /// Fetch the cluster map from any node, give it to the session, then ask again.
    Refresh {
        /// When to ask again, with or without a newer map.
        until: Duration,
    },
    /// The operation has ended, with a result or an error.
    Done(Result<Answer, Error>),
}

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An answer.
    Answer(Answer),
    /// It was certainly not sent.
    NotSent(Cause),
    /// It may have been received, but no answer will come.
    Lost(Cause),
    /// It may have been received, but another node leads the shard now.
    Moved,
}
