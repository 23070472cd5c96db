//! Resolves host names to addresses.
//!
//! A system lookup cannot be interrupted. It runs on a thread of its own, since a lookup that hangs on
//! a thread of the runtime would delay the runtime's end. Invariant: at most one lookup per name runs at
//! a time, for all callers, so that a name server that does not answer costs one thread.

use crate::error::Cause;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

type Found = Result<Vec<IpAddr>, Cause>;
type SystemLookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Resolves names. Clones share the running lookups.
#[derive(Clone)]
pub(crate) struct Resolver {
    lookup: Arc<SystemLookup>,
    under_way: Arc<Mutex<BTreeMap<String, Shared<BoxFuture<'static, Found>>>>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver that uses the system's lookup.
    pub(crate) fn system() -> Self {
        Self::new(|host| {
            let addresses = (host, 0).to_socket_addrs()?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }

    pub(crate) fn new(
        lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            lookup: Arc::new(lookup),
            under_way: Arc::default(),
        }
    }

    /// The addresses of `host`, at least one. Waits until the lookup ends, without a time limit.
    pub(crate) async fn resolve(&self, host: &str) -> Found {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let shared = {
            let mut under_way = self
                .under_way
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match under_way.get(host) {
                Some(known) => known.clone(),
                None => {
                    let begun = self.begin(host)?;
                    under_way.insert(host.to_owned(), begun.clone());
                    begun
                }
            }
        };
        shared.await
    }

    /// Starts a lookup.
    fn begin(&self, host: &str) -> Result<Shared<BoxFuture<'static, Found>>, Cause> {
        let (tell, told) = oneshot::channel();
        let (lookup, name) = (Arc::clone(&self.lookup), host.to_owned());
        let under_way = Arc::clone(&self.under_way);
        let look = move || {
            let found = match lookup(&name) {
                Ok(found) if found.is_empty() => Err(unresolved(&name, "it has no address")),
                Ok(found) => Ok(found),
                Err(error) => Err(unresolved(&name, &error.to_string())),
            };
            // Later callers start a new lookup.
            let mut under_way = under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.remove(&name);
            drop(under_way);
            // All callers may have gone.
            let _ = tell.send(found);
        };
        std::thread::Builder::new()
            .name("corelith-resolve".into())
            .spawn(look)
            .map_err(|error| unresolved(host, &error.to_string()))?;
        let lost = unresolved(host, "the lookup ended without a result");
        Ok(told
            .map(|found| found.unwrap_or(Err(lost)))
            .boxed()
            .shared())
    }
}

fn unresolved(host: &str, reason: &str) -> Cause {
    Cause::Resolve {
        host: host.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[tokio::test]
    async fn one_lookup_serves_all_who_wait_and_the_next_begins_anew() {
        let (go, gone) = mpsc::channel::<()>();
        let (count, gone) = (Arc::new(AtomicUsize::new(0)), Mutex::new(gone));
        let resolver = Resolver::new({
            let count = Arc::clone(&count);
            move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                gone.lock().unwrap().recv().unwrap();
                Ok(vec![Ipv4Addr::LOCALHOST.into()])
            }
        });
        let wait = |resolver: Resolver| async move { resolver.resolve("name").await };
        let waiting: Vec<_> = (0..3)
            .map(|_| tokio::spawn(wait(resolver.clone())))
            .collect();
        tokio::task::yield_now().await;
        go.send(()).unwrap();
        for waiting in waiting {
            let found = waiting.await.unwrap();
            assert_eq!(found, Ok(vec![Ipv4Addr::LOCALHOST.into()]));
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);
        go.send(()).unwrap();
        assert!(resolver.resolve("name").await.is_ok());
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_lookup_that_nobody_waited_for_is_not_kept() {
        let (told, tell) = mpsc::channel();
        let resolver = Resolver::new(move |_| {
            told.send(()).unwrap();
            Err(io::Error::other("not yet"))
        });
        let waiting = resolver.resolve("name");
        drop(std::pin::pin!(waiting).as_mut().now_or_never());
        tell.recv().unwrap();
        while !resolver.under_way.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(resolver.resolve("name").await.is_err());
        tell.recv().unwrap();
    }

    #[tokio::test]
    async fn what_does_not_resolve_is_named_with_its_reason() {
        let resolver = Resolver::new(|host| match host {
            "empty" => Ok(Vec::new()),
            _ => Err(io::Error::other("no such name")),
        });
        let error = resolver.resolve("wrong").await.unwrap_err().to_string();
        assert!(
            error.contains("wrong") && error.contains("no such name"),
            "{error}"
        );
        let error = resolver.resolve("empty").await.unwrap_err().to_string();
        assert!(error.contains("has no address"), "{error}");
        assert_eq!(
            resolver.resolve("::1").await.unwrap(),
            [IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]
        );
    }
}
