//! What the cores of a node say to each other: requests that arrived at the wrong core, their answers, and
//! questions to all cores.
//!
//! Invariants:
//! * A core's inbox is always drained without waiting, so two cores can never wait for each other.
//! * What waits for room in a channel is bounded: requests by `MESH_WAITING_MAX` (further ones are answered
//!   `Throttled`), answers and reservations for them by the requests that were admitted, questions by who may ask
//!   them.

use super::cluster::placement::Placement;
use super::limits;
use super::local::LocalGroups;
use super::shards::ShardOrder;
use corelith_io::sync::notify::Notify;
use corelith_io::{Receiver, Sender};
use corelith_wire::Frame;
use corelith_wire::peer::NodeReply;
use corelith_wire::response::Answer;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Names a connection on its core, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// Where a forwarded request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) core: u16,
    /// Its number there, never reused.
    pub(crate) request: u64,
    /// The address of the client that asks.
    pub(crate) client: SocketAddr,
    /// Length of an answer that there is room for already.
    pub(crate) covered: usize,
}

/// What a core is to find out about its groups. It carries the way back with it.
pub(crate) type Question = Box<dyn FnOnce(u16, &LocalGroups) + Send>;

/// What one core tells another.
pub(crate) enum Message {
    /// Handle this request and answer to `origin`.
    Request { origin: Origin, frame: Frame },
    /// Make room for an answer of `len` bytes to that request of yours, and say when it is there.
    Reserve {
        request: u64,
        len: usize,
        granted: Sender<()>,
    },
    /// The answer to that request of yours.
    Answer { request: u64, answer: Answer },
    /// Answer this.
    Question(Question),
    /// There is a newer map.
    Map(Arc<Placement>),
    /// Do this to a shard of yours.
    Order {
        order: ShardOrder,
        told: Sender<NodeReply>,
    },
}

/// Batches of messages for one core.
pub(crate) type MeshSender = Sender<Vec<Message>>;
/// See [`MeshSender`].
pub(crate) type MeshReceiver = Receiver<Vec<Message>>;

struct MeshOutgoing {
    waiting: RefCell<Vec<Message>>,
    pushed: Notify,
}

/// The ways from one core to all others of its node. Belongs to one core.
pub(crate) struct Mesh {
    core: u16,
    outgoing: Vec<MeshOutgoing>,
}

impl Mesh {
    pub(crate) fn new(core: u16, cores: u16) -> Rc<Self> {
        let outgoing = (0..cores).map(|_| MeshOutgoing {
            waiting: RefCell::default(),
            pushed: Notify::new(),
        });
        Rc::new(Self {
            core,
            outgoing: outgoing.collect(),
        })
    }

    /// The core that this end belongs to.
    pub(crate) fn core(&self) -> u16 {
        self.core
    }

    /// Starts the tasks that send what was pushed; `senders` are one for each core, in order.
    pub(crate) fn start(self: &Rc<Self>, senders: Vec<MeshSender>) {
        assert_eq!(senders.len(), self.outgoing.len(), "one way to each core");
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

    /// How many messages wait for room on the way to `to`; `None` if there is no such core.
    pub(crate) fn waiting(&self, to: u16) -> Option<usize> {
        let outgoing = self.outgoing.get(usize::from(to))?;
        Some(outgoing.waiting.borrow().len())
    }

    /// Sends a message on its way. Does not wait.
    pub(crate) fn push(&self, to: u16, message: Message) {
        assert_ne!(to, self.core, "a core says nothing to itself");
        if let Some(outgoing) = self.outgoing.get(usize::from(to)) {
            outgoing.waiting.borrow_mut().push(message);
            outgoing.pushed.notify_one();
        }
    }

    /// Tells all other cores.
    pub(crate) fn tell_others(&self, message: impl Fn() -> Message) {
        for (core, _) in (0u16..).zip(&self.outgoing) {
            if core != self.core {
                self.push(core, message());
            }
        }
    }

    /// What every core of the node answers to `question`, this one first. Cores that do not answer within
    /// `STATUS_DEADLINE` are left out.
    pub(crate) async fn ask_all<T: Send + 'static>(
        &self,
        groups: &LocalGroups,
        question: impl Fn(u16, &LocalGroups) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let mut answers = vec![question(self.core, groups)];
        let (answer, answered) = corelith_io::channel(self.outgoing.len().max(1));
        for (core, _) in (0u16..).zip(&self.outgoing) {
            if core != self.core {
                let (answer, question) = (answer.clone(), question.clone());
                let question: Question = Box::new(move |core, groups| {
                    // The channel has room for all; the asker may have given up.
                    let _ = answer.try_send(question(core, groups));
                });
                self.push(core, Message::Question(question));
            }
        }
        drop(answer);
        let all = async {
            // An error means that all have answered or ended.
            while let Ok(more) = answered.recv().await {
                answers.push(more);
            }
        };
        let in_time = corelith_io::timeout(limits::STATUS_DEADLINE, all).await;
        if in_time.is_err() {
            tracing::warn!("a core does not tell the state of its shards in time");
        }
        assert!(
            answers.len() <= self.outgoing.len().max(1),
            "a core has answered twice"
        );
        answers
    }
}
