//! The connections of a client: one per core that it talks to, made when first needed, and made
//! again after a pause when they break.

use crate::error::Cause;
use crate::limits::{CONNECT_TIMEOUT, RECONNECT_PAUSE_MAX, RECONNECT_PAUSE_MIN};
use crate::link::{Clock, Link};
use crate::operation::Event;
use crate::resolve::Resolver;
use crate::route::Target;
use corelith_wire::{ClusterId, Outbox, RequestId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// All connections of one client.
#[derive(Debug)]
pub(crate) struct Transport {
    connections: Mutex<BTreeMap<Target, Arc<Connection>>>,
    cluster: ClusterId,
    clock: Clock,
    resolver: Resolver,
}

impl Transport {
    pub(crate) fn new(cluster: ClusterId, clock: Clock, resolver: Resolver) -> Self {
        Self {
            connections: Mutex::default(),
            cluster,
            clock,
            resolver,
        }
    }

    pub(crate) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// The connection to `target`, whose address is asked for if it is new.
    pub(crate) fn connection(
        &self,
        target: Target,
        address: impl FnOnce() -> Option<(String, u16)>,
    ) -> Option<Arc<Connection>> {
        if let Some(known) = self.connections().get(&target) {
            return Some(Arc::clone(known));
        }
        let (host, port) = address()?;
        let connection = Arc::new(Connection {
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

    fn connections(&self) -> MutexGuard<'_, BTreeMap<Target, Arc<Connection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connections whose address is not what a new map says.
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

#[derive(Debug)]
enum Phase {
    /// Not asked for yet.
    Idle,
    /// Being established.
    Connecting { pause: Duration },
    /// In use; may have broken meanwhile.
    Up(Arc<Link>),
    /// Failed: not tried again before `until`, and the next pause after that is `pause`.
    Down {
        cause: Cause,
        until: Duration,
        pause: Duration,
    },
    /// The client is gone.
    Closed,
}

/// The connection to one core.
#[derive(Debug)]
pub(crate) struct Connection {
    host: String,
    port: u16,
    cluster: ClusterId,
    clock: Clock,
    resolver: Resolver,
    phase: Mutex<Phase>,
    /// Notified when connecting has ended.
    changed: Notify,
}

enum Ready {
    Up(Arc<Link>),
    Failed(Cause),
    Wait,
}

impl Connection {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and waits for its answer, at most until then.
    pub(crate) async fn call(
        self: Arc<Self>,
        encode: impl FnOnce(&mut Outbox, RequestId),
        until: Duration,
    ) -> Event {
        loop {
            let changed = self.changed.notified();
            match self.ready() {
                Ready::Up(link) => return link.call(encode, until).await,
                Ready::Failed(cause) => return Event::NotSent(cause),
                Ready::Wait => {}
            }
            if tokio::time::timeout_at(self.clock.instant(until), changed)
                .await
                .is_err()
            {
                return Event::NotSent(Cause::Timeout);
            }
        }
    }

    /// The link if there is one; otherwise sees to it that there will be one.
    fn ready(self: &Arc<Self>) -> Ready {
        let mut phase = self.phase();
        let pause = match &*phase {
            Phase::Up(link) => match link.closed() {
                None => return Ready::Up(Arc::clone(link)),
                Some(_) => RECONNECT_PAUSE_MIN,
            },
            Phase::Down { cause, until, .. } if self.clock.now() < *until => {
                return Ready::Failed(cause.clone());
            }
            Phase::Down { pause, .. } => *pause,
            Phase::Connecting { .. } => return Ready::Wait,
            Phase::Closed => return Ready::Failed(Cause::Closed),
            Phase::Idle => RECONNECT_PAUSE_MIN,
        };
        *phase = Phase::Connecting { pause };
        tokio::spawn(Arc::clone(self).establish());
        Ready::Wait
    }

    /// Connects, then serves the connection until it ends.
    async fn establish(self: Arc<Self>) {
        let (host, port) = (&self.host, self.port);
        let connecting = Link::connect(host, port, self.cluster, self.clock, &self.resolver);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or(Err(Cause::Connect(std::io::ErrorKind::TimedOut)));
        let established = {
            let mut phase = self.phase();
            let Phase::Connecting { pause } = *phase else {
                return;
            };
            match connected {
                Ok((link, stream)) => {
                    *phase = Phase::Up(Arc::clone(&link));
                    Some((link, stream))
                }
                Err(cause) => {
                    tracing::debug!(host = %self.host, port = self.port, %cause, "cannot connect");
                    let until = self.clock.now() + pause;
                    let pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
                    *phase = Phase::Down {
                        cause,
                        until,
                        pause,
                    };
                    None
                }
            }
        };
        self.changed.notify_waiters();
        if let Some((link, stream)) = established {
            let cause = link.run(stream).await;
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
