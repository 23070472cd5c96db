//! Requests that arrived at the wrong core: sent to the core that owns the shard, answered where
//! their connection lives.
//!
//! Invariants:
//! * A core's inbox is always drained without waiting, so two cores can never wait for each other.
//! * What waits for room in a channel is bounded: requests by `MESH_WAITING_MAX` (beyond, they are
//!   answered `Throttled`), answers by the requests that were admitted.

use crate::connection::{Connection, ConnectionId};
use crate::handler::Handler;
use crate::limits;
use crate::router::throttled;
use corelith_io::sync::notify::Notify;
use corelith_io::{Receiver, Sender};
use corelith_wire::response::Answer;
use corelith_wire::status::ShardStatus;
use corelith_wire::storage::ShardStorage;
use corelith_wire::{Frame, Head};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What one core tells another.
pub(crate) enum Message {
    /// Handle this request and answer to `origin`.
    Request { origin: Origin, frame: Frame },
    /// The answer to a request of one of your connections.
    Answer { origin: Origin, answer: Answer },
    /// Tell the state of your shards to `core`.
    StatusWanted { core: u16, ticket: u64 },
    /// The state of my shards.
    Status {
        ticket: u64,
        shards: Vec<ShardStatus>,
    },
    /// Tell the state of your shards' storage to `core`.
    StorageWanted { core: u16, ticket: u64 },
    /// The state of my shards' storage.
    Storage {
        ticket: u64,
        shards: Vec<ShardStorage>,
    },
}

/// Where a forwarded request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    core: u16,
    connection: ConnectionId,
    head: Head,
    len: usize,
}

/// Batches of messages for one core.
pub(crate) type MeshSender = Sender<Vec<Message>>;
/// See [`MeshSender`].
pub(crate) type MeshReceiver = Receiver<Vec<Message>>;

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

struct Outgoing {
    waiting: RefCell<Vec<Message>>,
    pushed: Notify,
}

/// The ways from one core to all others of its node. Belongs to one core.
pub(crate) struct Mesh {
    core: u16,
    outgoing: Vec<Outgoing>,
    /// Connections whose requests were forwarded.
    connections: RefCell<BTreeMap<ConnectionId, Rc<Connection>>>,
}

impl Mesh {
    pub(crate) fn new(core: u16, cores: u16) -> Rc<Self> {
        let outgoing = (0..cores).map(|_| Outgoing {
            waiting: RefCell::default(),
            pushed: Notify::new(),
        });
        Rc::new(Self {
            core,
            outgoing: outgoing.collect(),
            connections: RefCell::default(),
        })
    }

    /// Starts the tasks that send what was pushed; `senders` are one for each core, in order.
    pub(crate) fn start(self: &Rc<Self>, senders: Vec<MeshSender>) {
        for (to, sender) in senders.into_iter().enumerate() {
            if to != usize::from(self.core) {
                corelith_io::spawn(Rc::clone(self).send_pushed(to, sender));
            }
        }
    }

    async fn send_pushed(self: Rc<Self>, to: usize, sender: MeshSender) {
        let Some(outgoing) = self.outgoing.get(to) else {
            return;
        };
        loop {
            let batch = std::mem::take(&mut *outgoing.waiting.borrow_mut());
            if batch.is_empty() {
                outgoing.pushed.notified().await;
            } else if sender.send(batch).await.is_err() {
                // The other core has ended: the node is stopping.
                return;
            }
        }
    }

    /// All cores but this one.
    pub(crate) fn others(&self) -> impl Iterator<Item = u16> + '_ {
        (0..u16::try_from(self.outgoing.len()).unwrap_or(u16::MAX))
            .filter(|core| *core != self.core)
    }

    pub(crate) fn push(&self, to: u16, message: Message) {
        if let Some(outgoing) = self.outgoing.get(usize::from(to)) {
            outgoing.waiting.borrow_mut().push(message);
            outgoing.pushed.notify_one();
        }
    }

    /// Sends a request to the core `to`.
    pub(crate) fn forward(&self, to: u16, frame: Frame, reply: Reply) {
        let waiting = self
            .outgoing
            .get(usize::from(to))
            .map_or(usize::MAX, |outgoing| outgoing.waiting.borrow().len());
        let Target::Local {
            connection,
            head,
            len,
        } = reply.target
        else {
            unreachable!("a forwarded request is not forwarded again");
        };
        if waiting >= limits::MESH_WAITING_MAX {
            return connection.answer(head, len, &throttled());
        }
        let origin = Origin {
            core: self.core,
            connection: connection.id(),
            head,
            len,
        };
        let id = connection.id();
        self.connections
            .borrow_mut()
            .entry(id)
            .or_insert(connection);
        self.push(to, Message::Request { origin, frame });
    }

    /// Handles a request that another core has sent.
    pub(crate) fn handle(self: &Rc<Self>, handler: &Rc<Handler>, origin: Origin, frame: Frame) {
        let mesh = Rc::clone(self);
        let reply = Reply {
            target: Target::Remote { mesh, origin },
        };
        handler.handle(frame, reply);
    }

    /// Takes the answer to a request that was forwarded.
    pub(crate) fn answered(&self, origin: Origin, answer: &Answer) {
        let connection = self.connections.borrow().get(&origin.connection).cloned();
        if let Some(connection) = connection {
            connection.answer(origin.head, origin.len, answer);
        }
    }

    /// Forgets a connection that has closed.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        self.connections.borrow_mut().remove(&connection);
    }
}
