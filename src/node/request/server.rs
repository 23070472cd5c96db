//! The listening side of a core: accepts, shakes hands, hands on by role.

use super::budget::Budget;
use super::connection::Connection;
use super::router::Router;
use super::serve;
use crate::node::limits;
use crate::node::mesh::ConnectionId;
use bytes::BytesMut;
use corelith_consensus::Groups;
use corelith_io::{Instant, ReadHalf, TcpListener, TcpStream, WriteHalf};
use corelith_wire::handshake::{HELLO_BYTES, Hello, Role, Status, Welcome};
use corelith_wire::{ClusterId, Epoch, HandshakeError};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The connections of one core. Belongs to that core.
pub(crate) struct Server {
    router: Rc<Router>,
    groups: Groups,
    budget: Budget,
    next: Cell<u64>,
    /// Connections of any role, handshakes included.
    count: Cell<usize>,
    clients: RefCell<BTreeMap<ConnectionId, Rc<Connection>>>,
}

impl Server {
    pub(crate) fn new(router: Rc<Router>, groups: Groups, budget: Budget) -> Rc<Self> {
        Rc::new(Self {
            router,
            groups,
            budget,
            next: Cell::new(1),
            count: Cell::new(0),
            clients: RefCell::default(),
        })
    }

    /// Accepts connections; never returns.
    pub(crate) async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let server = Rc::clone(&self);
                    self.count.set(self.count.get() + 1);
                    corelith_io::spawn(async move {
                        server.serve(stream).await;
                        server.count.set(server.count.get() - 1);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    corelith_io::sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Closes connections that are past a deadline.
    pub(crate) fn sweep(&self, now: Instant) {
        for connection in self.clients.borrow().values() {
            connection.check_deadlines(now);
        }
    }

    /// Lets the clients' connections write what is ready, then closes them.
    pub(crate) async fn drain(&self) {
        for connection in self.clients.borrow().values() {
            connection.close();
        }
        let deadline = corelith_io::now() + limits::DRAIN_DEADLINE;
        while !self.clients.borrow().is_empty() && corelith_io::now() < deadline {
            corelith_io::sleep(limits::READY_POLL).await;
        }
        for connection in self.clients.borrow().values() {
            connection.cut();
        }
    }

    async fn serve(&self, stream: TcpStream) {
        let address = stream.peer_addr().ok();
        let (mut read, mut write) = stream.into_split();
        let hands = self.shake_hands(&mut read, &mut write);
        let (hello, buffer) = match corelith_io::timeout(limits::HANDSHAKE_DEADLINE, hands).await {
            Ok(Some(shaken)) => shaken,
            Ok(None) => return,
            Err(_) => {
                tracing::debug!("a connection did not introduce itself in time");
                return;
            }
        };
        match hello.role {
            Role::Peer => {
                let peer = hello.node;
                self.groups
                    .serve_peer(read, write, buffer, peer, address)
                    .await;
            }
            Role::Client | Role::Bulk => self.serve_client(read, write, buffer).await,
        }
    }

    async fn serve_client(&self, read: ReadHalf, write: WriteHalf, buffer: BytesMut) {
        let id = ConnectionId(self.next.get());
        self.next.set(id.0 + 1);
        let epoch = Epoch(self.router.placement.epoch);
        let connection = Connection::new(id, epoch, self.budget.clone());
        self.clients.borrow_mut().insert(id, Rc::clone(&connection));
        serve::serve(connection, Rc::clone(&self.router), read, write, buffer).await;
        self.router.forwards.forget(id);
        self.router.handler.closed(id);
        self.clients.borrow_mut().remove(&id);
    }

    /// Reads the hello and answers it; returns it with what was read beyond it, or `None` if the
    /// connection is not to be served.
    async fn shake_hands(
        &self,
        read: &mut ReadHalf,
        write: &mut WriteHalf,
    ) -> Option<(Hello, BytesMut)> {
        let mut buffer = BytesMut::with_capacity(limits::HANDSHAKE_BUFFER_BYTES);
        while buffer.len() < HELLO_BYTES {
            match read.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        let bytes = buffer.split_to(HELLO_BYTES);
        let hello = bytes
            .first_chunk::<HELLO_BYTES>()
            .ok_or(HandshakeError::NotCorelith)
            .and_then(Hello::parse);
        let hello = match hello {
            Ok(hello) => hello,
            Err(error) => {
                tracing::debug!(%error, "refusing a connection");
                return None;
            }
        };
        let welcome = self.answer(&hello);
        write.write_all(&welcome.encode()).await.ok()?;
        (welcome.status == Status::Welcome).then_some((hello, buffer))
    }

    fn answer(&self, hello: &Hello) -> Welcome {
        let placement = &self.router.placement;
        let mut welcome = Welcome::answer(
            hello,
            ClusterId(placement.cluster_id),
            Epoch(placement.epoch),
            placement.me,
            self.router.core,
        );
        if welcome.status == Status::Welcome {
            let other_node = hello.node != placement.me && placement.member(hello.node).is_some();
            welcome.status = match hello.role {
                Role::Client if self.count.get() > limits::CONNECTIONS_PER_CORE_MAX => Status::Busy,
                Role::Client => Status::Welcome,
                Role::Peer if other_node && hello.cluster.0 != 0 => Status::Welcome,
                Role::Peer | Role::Bulk => Status::RoleRefused,
            };
        }
        welcome
    }
}
