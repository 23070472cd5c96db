//! Reads of single keys.

use crate::client::{Client, own};
use crate::error::{Error, Result};
use crate::operation::Request;
use crate::replicas::{ReadFrom, Source};
use crate::write::check_key;
use bytes::Bytes;
use corelith_wire::response::{Answer, ReplyMeta};
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

/// A key with its value.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// Its version, the log index of the write. Pass it to `if_version` to write only if no other
    /// client has changed the key.
    pub version: u64,
}

impl fmt::Debug for Entry {
    /// Shows the beginning of the value only: it may have millions of bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 64;
        let shown = self.value.slice(..self.value.len().min(SHOWN_BYTES));
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("version", &self.version)
            .field("value_len", &self.value.len())
            .field("value", &shown)
            .finish()
    }
}

/// A key with the version and length of its value, without the value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryHead {
    /// The key.
    pub key: Bytes,
    /// Version of its value, as in [`Entry`].
    pub version: u64,
    /// Length of its value, in bytes.
    pub value_len: u64,
}

/// The result of a read, and the point in the shard's history at which it was true.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lookup<T = Entry> {
    /// The key with its value or its value's head; `None` if the key has no value.
    pub entry: Option<T>,
    /// The shard that holds the key.
    pub shard: u32,
    /// Term of the last entry that it saw: of the leader that answered, or that a follower asked.
    pub term: u64,
    /// Log index of the read: it saw every write of the shard up to this one.
    pub index: u64,
}

/// A read, made by [`Client::get`]. Awaiting it returns the [`Entry`]. Cancel safe.
///
/// # Errors
/// `NotFound` if the key has no value; `Unavailable` or `Throttled` if the deadline passes first;
/// `Corrupt` if the stored value is damaged and for some seconds no replica with a good copy takes the lead;
/// `TooLarge` or `Invalid` for a key that is too long or empty.
#[derive(Clone, Debug)]
#[must_use = "a get does nothing until it is awaited"]
pub struct Get {
    client: Client,
    key: Bytes,
    deadline: Option<Duration>,
    from: ReadFrom,
}

impl Client {
    /// Reads `key`. The read is linearizable: it sees every write acknowledged before it began. Await
    /// it for the [`Entry`], or call [`lookup`](Get::lookup) or [`head`](Get::head).
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get {
        Get::new(self.clone(), own(key))
    }
}

impl Get {
    pub(crate) fn new(client: Client, key: Bytes) -> Self {
        let from = client.read_from();
        Self {
            client,
            key,
            deadline: None,
            from,
        }
    }

    /// Sets how long the read may take, including retries. Default: the client's deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Says which replicas may answer. Default: as the client's builder says.
    pub fn from(mut self, from: ReadFrom) -> Self {
        self.from = from;
        self
    }

    /// Lowers its deadline to `deadline`.
    pub(crate) fn within(mut self, deadline: Duration) -> Self {
        let own = self.deadline.unwrap_or(self.client.deadline());
        self.deadline = Some(own.min(deadline));
        self
    }

    /// Reads the key. Returns the entry, or `None` if the key has no value, and the point in the shard's
    /// history that the read saw. Cancel safe.
    ///
    /// # Errors
    /// As awaiting the [`Get`], but never `NotFound`.
    pub async fn lookup(self) -> Result<Lookup> {
        let key = self.key.clone();
        let request = |key| Request::Get { key };
        self.run(request, |answer| match answer {
            Answer::Value {
                meta,
                version,
                value,
            } => Some((
                meta,
                Some(Entry {
                    key,
                    value,
                    version,
                }),
            )),
            Answer::NotFound { meta } => Some((meta, None)),
            _ => None,
        })
        .await
    }

    /// Reads the version and the length in bytes of the key's value. The value is neither read from disk
    /// nor sent. Returns `None` for a key that has no value. Cancel safe.
    ///
    /// # Errors
    /// As awaiting the [`Get`], but never `NotFound`.
    pub async fn head(self) -> Result<Lookup<EntryHead>> {
        let key = self.key.clone();
        let request = |key| Request::Head { key };
        let found = |meta, version, value_len| {
            let head = EntryHead {
                key,
                version,
                value_len,
            };
            Some((meta, Some(head)))
        };
        self.run(request, |answer| match answer {
            Answer::Head {
                meta,
                version,
                value_len,
            } => found(meta, version, value_len),
            Answer::Value {
                meta,
                version,
                value,
            } => found(meta, version, value.len() as u64),
            Answer::NotFound { meta } => Some((meta, None)),
            _ => None,
        })
        .await
    }

    async fn run<T>(
        self,
        request: impl FnOnce(Bytes) -> Request,
        take: impl FnOnce(Answer) -> Option<(ReplyMeta, Option<T>)>,
    ) -> Result<Lookup<T>> {
        let Self {
            client,
            key,
            deadline,
            from,
        } = self;
        check_key(&client, &key)?;
        let shard = client.shard_of(&key).0;
        let source = Source::From(from);
        let (answer, _) = client.run_from(request(key), deadline, source).await?;
        let (ReplyMeta { term, index }, entry) = take(answer).ok_or(Error::Protocol {
            what: "an answer of the wrong kind",
        })?;
        Ok(Lookup {
            entry,
            shard,
            term,
            index,
        })
    }
}

impl IntoFuture for Get {
    type Output = Result<Entry>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.lookup().await?.entry.ok_or(Error::NotFound) })
    }
}
