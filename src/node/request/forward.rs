//! Requests that arrived at the wrong core: sent to the core that owns the shard, answered where
//! their connection lives.
//!
//! Invariant: the answer is accounted for where the connection lives, once, from before the other core reads it
//! until it is written.

use super::answers::throttled;
use super::budget::Claim;
use super::connection::Connection;
use crate::node::limits;
use crate::node::mesh::{Mesh, Message, Origin};
use corelith_io::Sender;
use corelith_wire::response::Answer;
use corelith_wire::{Frame, Head, Kind};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A request that another core answers.
struct Forwarded {
    connection: Rc<Connection>,
    head: Head,
    claim: Claim,
}

/// The forwarded requests of one core's connections. Belongs to that core.
pub(crate) struct Forwards {
    mesh: Rc<Mesh>,
    requests: RefCell<BTreeMap<u64, Forwarded>>,
    next: Cell<u64>,
}

impl Forwards {
    pub(crate) fn new(mesh: Rc<Mesh>) -> Self {
        Self {
            mesh,
            requests: RefCell::default(),
            next: Cell::new(0),
        }
    }

    /// Sends a request, which `connection` has admitted, to the core `to`.
    pub(super) fn forward(
        &self,
        to: u16,
        frame: Frame,
        connection: Rc<Connection>,
        mut claim: Claim,
    ) {
        assert_ne!(to, self.mesh.core(), "its own requests stay on a core");
        let head = frame.header.head;
        if self
            .mesh
            .waiting(to)
            .is_none_or(|waiting| waiting >= limits::MESH_WAITING_MAX)
        {
            return connection.answer(head, claim, &throttled());
        }
        // Most values need no word about their length then.
        let len = limits::FORWARDED_ANSWER_BYTES;
        if head.kind == Kind::GET
            && let Some(grant) = connection.grant_now(len)
        {
            claim.cover(grant, len);
        }
        let request = self.next.get();
        self.next.set(request + 1);
        let origin = Origin {
            core: self.mesh.core(),
            request,
            client: connection.peer,
            covered: claim.covered,
        };
        let forwarded = Forwarded {
            connection,
            head,
            claim,
        };
        let former = self.requests.borrow_mut().insert(request, forwarded);
        assert!(former.is_none(), "the number {request} was used twice");
        let frame = frame.into_owned();
        self.mesh.push(to, Message::Request { origin, frame });
    }

    /// Takes the answer to a request that was forwarded.
    pub(crate) fn answered(&self, request: u64, answer: &Answer) {
        let forwarded = self.requests.borrow_mut().remove(&request);
        if let Some(forwarded) = forwarded {
            let Forwarded {
                connection,
                head,
                claim,
            } = forwarded;
            connection.answer(head, claim, answer);
        }
    }

    /// Takes room for an answer of `len` bytes to a forwarded request, and tells when it is there. Without a
    /// word (the sender is dropped) nobody wants the answer.
    pub(crate) fn reserve(self: &Rc<Self>, request: u64, len: usize, granted: Sender<()>) {
        let connection = match self.requests.borrow_mut().get_mut(&request) {
            Some(forwarded) => {
                forwarded.claim.uncover();
                Rc::clone(&forwarded.connection)
            }
            None => return,
        };
        let waiting = connection.without_room();
        let forwards = Rc::clone(self);
        corelith_io::spawn(async move {
            let grant = connection.grant(len).await;
            drop(waiting);
            let mut requests = forwards.requests.borrow_mut();
            match (grant, requests.get_mut(&request)) {
                (Some(grant), Some(forwarded)) => {
                    forwarded.claim.cover(grant, len);
                    // The channel has room for the one answer.
                    let _ = granted.try_send(());
                }
                _ => drop(requests.remove(&request)),
            }
        });
    }
}
