//! Where the answer to a request goes, and the answers that no shard decides.

use super::connection::Connection;
use super::scan_views::Owner;
use crate::node::limits;
use crate::node::mesh::{Mesh, Message, Origin};
use corelith_wire::Head;
use corelith_wire::response::{Answer, Failure, ReplyMeta};
use std::rc::Rc;

/// Where the answer to a request goes. Dropped unsent, the request stays without an answer until
/// its connection closes: only a stopping core does that.
pub(crate) struct Reply {
    target: Target,
}

enum Target {
    Local {
        connection: Rc<Connection>,
        head: Head,
        len: usize,
    },
    Remote {
        mesh: Rc<Mesh>,
        origin: Origin,
    },
}

impl Reply {
    /// To a connection of this core, for a request of `len` bytes that it has admitted.
    pub(crate) fn local(connection: Rc<Connection>, head: Head, len: usize) -> Self {
        Self {
            target: Target::Local {
                connection,
                head,
                len,
            },
        }
    }

    /// To the core that a forwarded request came from.
    pub(crate) fn remote(mesh: Rc<Mesh>, origin: Origin) -> Self {
        Self {
            target: Target::Remote { mesh, origin },
        }
    }

    /// The connection that asks, as seen from `core`.
    pub(super) fn owner(&self, core: u16) -> Owner {
        match &self.target {
            Target::Local { connection, .. } => Owner {
                core,
                connection: connection.id(),
            },
            Target::Remote { origin, .. } => Owner {
                core: origin.core,
                connection: origin.connection,
            },
        }
    }

    /// Sends the answer on its way. Does not wait.
    pub(crate) fn send(self, answer: &Answer) {
        match self.target {
            Target::Local {
                connection,
                head,
                len,
            } => connection.answer(head, len, answer),
            Target::Remote { mesh, origin } => {
                let answer = answer.clone();
                mesh.push(origin.core, Message::Answer { origin, answer });
            }
        }
    }
}

/// A failure that no shard has decided.
pub(crate) fn failed(failure: Failure) -> Answer {
    let meta = ReplyMeta::default();
    Answer::Failure { meta, failure }
}

/// The answer when a budget or queue is full; nothing was done.
pub(crate) fn throttled() -> Answer {
    let wait = limits::THROTTLED_RETRY_AFTER.as_millis();
    failed(Failure::Throttled {
        retry_after_ms: u32::try_from(wait).unwrap_or(u32::MAX),
    })
}
