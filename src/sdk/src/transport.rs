//! The connections of a client: one per core that it talks to, opened on first use and reopened after a
//! pause when they break.

use crate::error::Cause;
use crate::limits::{CONNECT_PATIENCE, CONNECT_TIMEOUT};
use crate::link::{Clock, Link};
use crate::operation::Event;
use crate::phase::{Phase, Ready};
use crate::resolve::Resolver;
use crate::route::Target;
use corelith_wire::{ClusterId, NodeId, Outbox, RequestId, ShardId, version};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Called with a node that leaves requests without an answer, again and again while it does.
#[derive(Clone)]
pub(crate) struct Alarm(Arc<dyn Fn(NodeId) + Send + Sync>);

impl Alarm {
    pub(crate) fn new(alarm: impl Fn(NodeId) + Send + Sync + 'static) -> Self {
        Self(Arc::new(alarm))
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alarm")
    }
}

/// All connections of one client.
#[derive(Debug)]
pub(crate) struct Transport {
    connections: Mutex<BTreeMap<Target, Arc<CoreConnection>>>,
    cluster: ClusterId,
    clock: Clock,
    resolver: Resolver,
    alarm: Alarm,
}

impl Transport {
    pub(crate) fn new(cluster: ClusterId, clock: Clock, resolver: Resolver, alarm: Alarm) -> Self {
        Self {
            connections: Mutex::default(),
            cluster,
            clock,
            resolver,
            alarm,
        }
    }

    pub(crate) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// The connection to `target`; `None` if it is new and `address` returns none.
    pub(crate) fn connection(
        &self,
        target: Target,
        address: impl FnOnce() -> Option<(String, u16)>,
    ) -> Option<Arc<CoreConnection>> {
        if let Some(known) = self.connections().get(&target) {
            return Some(Arc::clone(known));
        }
        let (host, port) = address()?;
        let connection = Arc::new(CoreConnection {
            node: target.node,
            alarm: self.alarm.clone(),
            host,
            port,
            cluster: self.cluster,
            clock: self.clock,
            resolver: self.resolver.clone(),
            phase: Mutex::new(Phase::Idle),
            changed: Notify::new(),
        });
        let mut connections = self.connections();
        Some(Arc::clone(connections.entry(target).or_insert(connection)))
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<Target, Arc<CoreConnection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The links to all cores of `node` that are up.
    fn links(&self, node: NodeId) -> Vec<Arc<Link>> {
        let cores = Target { node, core: 0 }..=Target {
            node,
            core: u16::MAX,
        };
        let connections = self.connections();
        let known = connections.range(cores).map(|(_, known)| known.link());
        known.flatten().collect()
    }

    /// Shards with requests at `node` that have no answer for long.
    pub(crate) fn in_doubt(&self, node: NodeId) -> BTreeSet<ShardId> {
        let links = self.links(node);
        links.iter().flat_map(|link| link.in_doubt()).collect()
    }

    /// Ends the requests to these shards at `node`, since another node leads them.
    pub(crate) fn moved(&self, node: NodeId, shards: &[ShardId]) {
        self.links(node).iter().for_each(|link| link.moved(shards));
    }

    /// Closes the connections whose address a new map has changed.
    pub(crate) fn keep(&self, address: impl Fn(Target) -> Option<(String, u16)>) {
        self.connections().retain(|target, connection| {
            let keep = address(*target)
                .is_some_and(|(host, port)| host == connection.host && port == connection.port);
            if !keep {
                connection.close();
            }
            keep
        });
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        for connection in self.connections().values() {
            connection.close();
        }
    }
}

/// The connection to one core.
#[derive(Debug)]
pub(crate) struct CoreConnection {
    node: NodeId,
    alarm: Alarm,
    host: String,
    port: u16,
    cluster: ClusterId,
    clock: Clock,
    resolver: Resolver,
    phase: Mutex<Phase<Arc<Link>>>,
    /// Notified when an attempt to connect has ended.
    changed: Notify,
}

impl CoreConnection {
    fn phase(&self) -> MutexGuard<'_, Phase<Arc<Link>>> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> Option<Arc<Link>> {
        match &*self.phase() {
            Phase::Up(link) => Some(Arc::clone(link)),
            _ => None,
        }
    }

    /// Sends a request and waits for its answer, at most until `until`. `shard` is the one that it is about.
    pub(crate) async fn call(
        self: Arc<Self>,
        encode: impl FnOnce(&mut Outbox, RequestId),
        shard: Option<ShardId>,
        until: Duration,
    ) -> Event {
        let end = Duration::ZERO;
        self.call_in(version::OLDEST, encode, shard, until, end)
            .await
    }

    /// As [`CoreConnection::call`], of a request that the node has from version `least` of the protocol on, and longer while
    /// its bytes travel, but for that not beyond `end`.
    pub(crate) async fn call_in(
        self: Arc<Self>,
        least: u16,
        encode: impl FnOnce(&mut Outbox, RequestId),
        shard: Option<ShardId>,
        until: Duration,
        end: Duration,
    ) -> Event {
        let patience = until.min(self.clock.now() + CONNECT_PATIENCE);
        loop {
            let changed = self.changed.notified();
            let ready = self
                .phase()
                .ready(self.clock.now(), |link| link.closed().is_some());
            match ready {
                Ready::Up(link) if link.welcome().version < least => {
                    return Event::NotSent(Cause::OlderNode);
                }
                Ready::Up(link) => return link.call(encode, shard, until, end).await,
                Ready::Failed(cause) => return Event::NotSent(cause),
                Ready::Connect => drop(tokio::spawn(Arc::clone(&self).establish())),
                Ready::Wait => {}
            }
            let waiting = tokio::time::timeout_at(self.clock.instant(patience), changed);
            if Box::pin(waiting).await.is_err() {
                return Event::NotSent(Cause::Timeout);
            }
        }
    }

    /// Connects, then serves the connection until it ends.
    async fn establish(self: Arc<Self>) {
        let (host, port) = (&self.host, self.port);
        let connecting = Link::connect(host, port, self.cluster, self.clock, &self.resolver);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or(Err(Cause::Connect(std::io::ErrorKind::TimedOut)));
        let (link, stream) = match connected {
            Ok((link, stream)) => (Ok(link), Some(stream)),
            Err(cause) => {
                tracing::debug!(host = %self.host, port = self.port, %cause, "cannot connect");
                (Err(cause), None)
            }
        };
        let is_wanted = self.phase().connected(link.clone(), self.clock.now());
        self.changed.notify_waiters();
        if let (true, Ok(link), Some(stream)) = (is_wanted, link, stream) {
            let doubt = || (self.alarm.0)(self.node);
            let cause = link.run(stream, doubt).await;
            tracing::debug!(host = %self.host, port = self.port, %cause, "connection ended");
        }
    }

    fn close(&self) {
        let before = std::mem::replace(&mut *self.phase(), Phase::Closed);
        if let Phase::Up(link) = before {
            link.close(Cause::Closed);
        }
        self.changed.notify_waiters();
    }
}
