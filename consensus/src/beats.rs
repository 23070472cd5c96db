//! The task of a node's beats: tells each other node that this one lives, takes what it promises, and
//! promises in turn. It runs on a core of its own, where nothing waits for a disk.
//!
//! To each peer one connection is opened, on which a beat goes out every [`LivenessOptions::beat`], whatever
//! became of the one before; replies come back on it. The connections that peers open arrive at the node's
//! first core, which welcomes them and hands them over ([`InboundBeats`]).
//!
//! Invariants:
//! * A reply counts from when its own beat was sent, and only if it is of the start of the peer that was met
//!   last.
//! * A beat vouches only for cores that had a pulse in the time between two beats.
//! * For each peer there are at most one connection that was opened here, one that it opened and was
//!   introduced, and one that is being introduced; the beats under way on one are bounded.
//!
//! [`LivenessOptions::beat`]: crate::LivenessOptions::beat

mod clock;
mod incoming;
mod outgoing;
#[cfg(test)]
mod tests;

use crate::dial::Dialer;
use crate::introduction::{Acquaintances, Admit};
use crate::liveness::Liveness;
use crate::route::Resolve;
use bytes::BytesMut;
use corelith_io::sync::notify::Notify;
use corelith_io::{DetachedStream, JoinHandle, Receiver};
use corelith_wire::peer::Introduction;
use corelith_wire::{Epoch, Head, Kind, NodeId, RequestId, ShardId};
use incoming::IncomingBeats;
use outgoing::BeatsOpener;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// What the beats of a node need.
pub struct Beats {
    /// What the cores of the node share with them.
    pub liveness: Arc<Liveness>,
    /// Who this node is.
    pub me: Introduction,
    /// Generation of its cluster map.
    pub epoch: u32,
    /// The other nodes.
    pub peers: Vec<NodeId>,
    /// The same anew, whenever the cluster's nodes change.
    pub changes: Receiver<Vec<NodeId>>,
    /// Where they are; the address of the first core is asked for.
    pub resolve: Resolve,
    /// Judges whoever introduces itself.
    pub admit: Admit,
    /// Connections that peers have opened.
    pub inbound: Receiver<InboundBeats>,
}

/// A connection on which `peer` has said hello and was welcomed, on its way to the core of the beats.
pub struct InboundBeats {
    /// Who it says it is.
    pub peer: NodeId,
    /// Where it comes from.
    pub address: Option<SocketAddr>,
    /// The connection.
    pub stream: DetachedStream,
    /// What was read beyond the hello.
    pub leftover: BytesMut,
}

/// What all connections share.
struct BeatsShared {
    liveness: Arc<Liveness>,
    dialer: Dialer,
    /// Notified when a peer has come: it can be connected to.
    came: RefCell<BTreeMap<NodeId, Rc<Notify>>>,
}

impl BeatsShared {
    /// Whether `theirs` is the start of its node that was met last, here and on the node's other cores.
    fn is_last(&self, theirs: &Introduction) -> bool {
        let met = self.liveness.pair(theirs.node).who();
        self.dialer.acquaintances.hear(theirs) && met == Some((theirs.store, theirs.start))
    }

    /// Notified when `peer` has come.
    fn came(&self, peer: NodeId) -> Rc<Notify> {
        Rc::clone(self.came.borrow_mut().entry(peer).or_default())
    }

    fn head(&self) -> Head {
        Head {
            kind: Kind(0),
            request_id: RequestId(0),
            shard: ShardId(0),
            epoch: self.dialer.epoch,
        }
    }
}

impl Beats {
    /// Beats until all senders of `inbound` are gone.
    pub async fn run(self) {
        let Self {
            liveness,
            me,
            epoch,
            peers,
            changes,
            resolve,
            admit,
            inbound,
        } = self;
        let mine = me.node;
        let shared = Rc::new(BeatsShared {
            liveness,
            dialer: Dialer {
                // The cores that serve shards say aloud who is a stranger.
                acquaintances: Rc::new(Acquaintances::quiet(me, admit)),
                resolve,
                epoch: Epoch(epoch),
            },
            came: RefCell::default(),
        });
        let opened = Rc::new(OpenedBeats::default());
        opened.follow(&shared, mine, &peers);
        let following = {
            let (shared, opened) = (Rc::clone(&shared), Rc::clone(&opened));
            corelith_io::spawn(async move {
                while let Ok(peers) = changes.recv().await {
                    opened.follow(&shared, mine, &peers);
                }
            })
        };
        let incoming = Rc::new(IncomingBeats::new(shared));
        while let Ok(connection) = inbound.recv().await {
            Rc::clone(&incoming).take(connection);
        }
        incoming.end();
        following.abort();
        opened.end();
    }
}

/// The tasks that beat, one for each other node.
#[derive(Default)]
struct OpenedBeats(RefCell<BTreeMap<NodeId, JoinHandle<()>>>);

impl OpenedBeats {
    /// Beats to `peers`, and to nobody else. What was promised, and counts, is not touched by that.
    fn follow(&self, shared: &Rc<BeatsShared>, me: NodeId, peers: &[NodeId]) {
        let mut opened = self.0.borrow_mut();
        opened.retain(|node, task| {
            let stays = peers.contains(node);
            if !stays {
                task.abort();
                shared.liveness.connection_ended(*node);
            }
            stays
        });
        for peer in peers.iter().filter(|peer| **peer != me) {
            opened.entry(*peer).or_insert_with(|| {
                let opener = BeatsOpener::new(Rc::clone(shared), *peer);
                corelith_io::spawn(opener.keep_beating())
            });
        }
    }

    fn end(&self) {
        self.0.borrow().values().for_each(JoinHandle::abort);
    }
}
