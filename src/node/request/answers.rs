//! Where the answer to a request goes, room for it, and the answers that no shard decides.

use super::budget::Claim;
use super::connection::{Connection, WithoutRoom};
use crate::node::limits::{self, ANSWER_HEAD_BYTES};
use crate::node::mesh::{Mesh, Message, Origin};
use corelith_wire::Head;
use corelith_wire::response::{Answer, Failure, ReplyMeta};
use std::net::SocketAddr;
use std::rc::Rc;

/// Where the answer to a request goes. Dropped unsent, the request stays without an answer until
/// its connection closes: only a stopping core does that, and one whose client is gone.
pub(crate) struct Reply {
    target: Target,
    /// While it waits for room.
    without_room: Option<WithoutRoom>,
}

enum Target {
    Local {
        connection: Rc<Connection>,
        head: Head,
        claim: Claim,
    },
    Remote {
        mesh: Rc<Mesh>,
        origin: Origin,
    },
}

impl Reply {
    /// To a connection of this core, for a request that it has admitted and that holds `claim`.
    pub(super) fn local(connection: Rc<Connection>, head: Head, claim: Claim) -> Self {
        Self {
            target: Target::Local {
                connection,
                head,
                claim,
            },
            without_room: None,
        }
    }

    /// To the core that a forwarded request came from.
    pub(crate) fn remote(mesh: Rc<Mesh>, origin: Origin) -> Self {
        Self {
            target: Target::Remote { mesh, origin },
            without_room: None,
        }
    }

    /// The address of the client that asks.
    pub(super) fn client(&self) -> SocketAddr {
        match &self.target {
            Target::Local { connection, .. } => connection.peer,
            Target::Remote { origin, .. } => origin.client,
        }
    }

    /// Takes room for an answer with `len` bytes of values if it is there at once. If not, the connection waits
    /// with further requests until [`Reply::reserve`] has it.
    pub(super) fn try_reserve(&mut self, len: usize) -> bool {
        let len = len + ANSWER_HEAD_BYTES;
        match &mut self.target {
            Target::Local { claim, .. } if claim.covered >= len => true,
            Target::Local {
                connection, claim, ..
            } => match connection.grant_now(len) {
                Some(grant) => {
                    claim.cover(grant, len);
                    true
                }
                None => {
                    if self.without_room.is_none() {
                        self.without_room = Some(connection.without_room());
                    }
                    false
                }
            },
            Target::Remote { origin, .. } => origin.covered >= len,
        }
    }

    /// Takes room for an answer with `len` bytes of values, waiting for it with nothing of that kind in hand.
    /// `false`: the client is gone, and nothing needs to be answered.
    pub(super) async fn reserve(&mut self, len: usize) -> bool {
        if self.try_reserve(len) {
            return true;
        }
        let len = len + ANSWER_HEAD_BYTES;
        let granted = match &mut self.target {
            Target::Local {
                connection, claim, ..
            } => {
                claim.uncover();
                let grant = connection.grant(len).await;
                grant.map(|grant| claim.cover(grant, len)).is_some()
            }
            Target::Remote { mesh, origin } => {
                let (granted, answered) = corelith_io::channel(1);
                let message = Message::Reserve {
                    request: origin.request,
                    len,
                    granted,
                };
                mesh.push(origin.core, message);
                // An error means that the other core has ended.
                let is_granted = answered.recv().await.is_ok();
                if is_granted {
                    origin.covered = len;
                }
                is_granted
            }
        };
        self.without_room = None;
        granted
    }

    /// Sends the answer on its way. Does not wait.
    pub(crate) fn send(self, answer: &Answer) {
        match self.target {
            Target::Local {
                connection,
                head,
                claim,
            } => connection.answer(head, claim, answer),
            Target::Remote { mesh, origin } => {
                let answer = answer.clone();
                let request = origin.request;
                mesh.push(origin.core, Message::Answer { request, answer });
            }
        }
    }

    /// Makes an answer with at most `len` bytes of values once there is room for it, and sends it.
    pub(super) fn send_with(mut self, len: usize, answer: impl FnOnce() -> Answer + 'static) {
        if self.try_reserve(len) {
            return self.send(&answer());
        }
        corelith_io::spawn(async move {
            if self.reserve(len).await {
                self.send(&answer());
            }
        });
    }
}

/// A failure that no shard has decided.
pub(crate) fn failed(failure: Failure) -> Answer {
    let meta = ReplyMeta::default();
    Answer::Failure { meta, failure }
}

/// The answer when a queue is full; nothing was done.
pub(crate) fn throttled() -> Answer {
    let wait = limits::THROTTLED_RETRY_AFTER.as_millis();
    failed(Failure::Throttled {
        retry_after_ms: u32::try_from(wait).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::{failed, throttled};
    use crate::node::limits;
    use bytes::Bytes;
    use corelith_wire::response::{self, Answer, Failure, Reason, ReplyMeta};
    use corelith_wire::{Epoch, Head, Kind, Outbox, RequestId, ShardId};

    #[test]
    fn small_answers_are_covered_by_their_requests() {
        let meta = ReplyMeta { term: 1, index: 2 };
        let value = |len| Answer::Value {
            meta,
            version: 1,
            value: Bytes::from(vec![0; len]),
        };
        let unavailable = Failure::Unavailable {
            reason: Reason::NoQuorum,
            nothing_done: true,
        };
        let table = [
            (throttled(), 0),
            (failed(Failure::TooLarge { limit: 9 }), 0),
            (failed(unavailable), 0),
            (Answer::NotFound { meta }, 0),
            (Answer::Written { meta, version: 1 }, 0),
            (Answer::Conflict { meta, current: 1 }, 0),
            (Answer::SessionOpened { meta, session: 1 }, 0),
            (value(0), 0),
            (value(100_000), 100_000),
        ];
        let head = Head {
            kind: Kind::GET,
            request_id: RequestId(1),
            shard: ShardId(1),
            epoch: Epoch(1),
        };
        for (answer, values) in table {
            let mut out = Outbox::default();
            response::encode(&mut out, head, &answer);
            let overhead = out.len() - values;
            assert!(
                overhead <= limits::ANSWER_HEAD_BYTES,
                "{overhead}: {answer:?}"
            );
        }
    }
}
