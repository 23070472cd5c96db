//! Requests that arrived at the wrong core: sent to the core that owns the shard, answered where
//! their connection lives.

use super::answers::throttled;
use super::connection::Connection;
use crate::node::limits;
use crate::node::mesh::{ConnectionId, Mesh, Message, Origin};
use corelith_wire::response::Answer;
use corelith_wire::{Frame, Head};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The forwarded requests of one core's connections. Belongs to that core.
pub(crate) struct Forwards {
    mesh: Rc<Mesh>,
    /// Connections whose requests were forwarded.
    connections: RefCell<BTreeMap<ConnectionId, Rc<Connection>>>,
}

impl Forwards {
    pub(crate) fn new(mesh: Rc<Mesh>) -> Self {
        Self {
            mesh,
            connections: RefCell::default(),
        }
    }

    /// Sends a request of `len` bytes, which `connection` has admitted, to the core `to`.
    pub(crate) fn forward(
        &self,
        to: u16,
        frame: Frame,
        connection: Rc<Connection>,
        head: Head,
        len: usize,
    ) {
        if self
            .mesh
            .waiting(to)
            .is_none_or(|waiting| waiting >= limits::MESH_WAITING_MAX)
        {
            return connection.answer(head, len, &throttled());
        }
        let id = connection.id();
        let origin = Origin {
            core: self.mesh.core(),
            connection: id,
            head,
            len,
        };
        self.connections
            .borrow_mut()
            .entry(id)
            .or_insert(connection);
        self.mesh.push(to, Message::Request { origin, frame });
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
