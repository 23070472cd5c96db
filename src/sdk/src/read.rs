//! Reads of single keys.

use crate::client::{Client, own};
use crate::download::{Download, DownloadOptions, WantedBytes};
use crate::error::{Error, Result};
use crate::head::EntryHead;
use crate::keys::check_key;
use crate::limits::{DOWNLOAD_AHEAD, DOWNLOAD_AHEAD_MAX, LARGE_READS_MAX};
use crate::operation::Request;
use crate::replicas::{ReadFrom, Source};
use bytes::Bytes;
use corelith_wire::response::{Answer, ReplyMeta};
use std::fmt;
use std::future::{Future, IntoFuture};
use std::ops::{Range, RangeBounds};
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
/// A large value, of up to 2 GiB, is gathered in memory as a whole, or as much of it as [`range`](Self::range) says; at
/// most 4 MiB more are needed meanwhile. [`stream`](Self::stream) reads it piece by piece.
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
    from: Option<ReadFrom>,
    wanted: WantedBytes,
    ahead: usize,
}

/// What the answer to a read brings of a value.
enum ReadValue {
    /// All of it.
    Whole { version: u64, value: Bytes },
    /// What it is made of.
    Large(Box<Download>),
}

impl Client {
    /// Reads `key`. The read is linearizable: it sees every write acknowledged before it began. Await
    /// it for the [`Entry`], or call [`lookup`](Get::lookup), [`head`](Get::head) or [`stream`](Get::stream).
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get {
        Get::new(self.clone(), own(key))
    }

    /// Reads version and length of the value of `key`, and what was told of it when it was uploaded. The value is neither
    /// read from disk nor sent. Cancel safe.
    ///
    /// # Errors
    /// As awaiting a [`Get`].
    pub async fn head(&self, key: impl AsRef<[u8]>) -> Result<EntryHead> {
        let lookup = self.get(key).head().await?;
        lookup.entry.ok_or(Error::NotFound)
    }
}

impl Get {
    pub(crate) fn new(client: Client, key: Bytes) -> Self {
        Self {
            client,
            key,
            deadline: None,
            from: None,
            wanted: WantedBytes::All,
            ahead: DOWNLOAD_AHEAD,
        }
    }

    /// Sets how long the read may take, including retries; of a large value, how long each of its requests may take.
    /// Default: the client's deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Says which replicas may answer. Default: as the client's builder says; the bytes of a large value come from
    /// all replicas in turn.
    pub fn from(mut self, from: ReadFrom) -> Self {
        self.from = Some(from);
        self
    }

    /// Reads only these bytes of the value, clipped to its length: `..100`, `100..`, `100..200`.
    pub fn range(mut self, range: impl RangeBounds<u64>) -> Self {
        self.wanted = WantedBytes::of(range);
        self
    }

    /// Reads only the last bytes of the value, at most so many.
    pub fn last(mut self, bytes: u64) -> Self {
        self.wanted = WantedBytes::Last(bytes);
        self
    }

    /// How many chunks of a large value, of at most 512 KiB, are read ahead. Default: 4; at most 64.
    pub fn ahead(mut self, chunks: usize) -> Self {
        self.ahead = chunks.clamp(1, DOWNLOAD_AHEAD_MAX);
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
        let mut found = self.found().await?;
        match found.entry.take() {
            // Apart, or the future of each read were as long as that of a large one, and moved as such.
            Some(ReadValue::Large(download)) => Box::pin(self.gathered(*download, found)).await,
            Some(ReadValue::Whole { version, value }) => {
                Ok(found.with(Some(self.entry(version, value))))
            }
            None => Ok(found.with(None)),
        }
    }

    /// The entry of a large value that was found at a point in the shard's history, or what has taken its place.
    async fn gathered(
        self,
        mut download: Download,
        mut found: Lookup<ReadValue>,
    ) -> Result<Lookup> {
        for _ in 0..LARGE_READS_MAX {
            let version = download.head().version;
            match download.collect().await {
                // It was overwritten since: the key has another value now, or none.
                Err(Error::ValueGone) => found = self.found().await?,
                value => {
                    let (key, value) = (self.key, value?);
                    return Ok(found.with(Some(Entry {
                        key,
                        value,
                        version,
                    })));
                }
            }
            download = match found.entry.take() {
                Some(ReadValue::Large(download)) => *download,
                Some(ReadValue::Whole { version, value }) => {
                    return Ok(found.with(Some(self.entry(version, value))));
                }
                None => return Ok(found.with(None)),
            };
        }
        Err(Error::ValueGone)
    }

    /// An entry of as much as is wanted of a value that came as a whole.
    fn entry(&self, version: u64, value: Bytes) -> Entry {
        let Range { start, end } = self.wanted.within(value.len() as u64);
        Entry {
            key: self.key.clone(),
            value: value.slice(start as usize..end as usize),
            version,
        }
    }

    /// Reads the value as a stream, which begins with its version: see [`Download`]. Returns `None` if the key has no value.
    /// Values of all sizes are read so; of [`range`](Self::range) and [`last`](Self::last) only what is asked for, if the
    /// value is large.
    ///
    /// # Errors
    /// As awaiting the [`Get`], but never `NotFound`.
    pub async fn stream(self) -> Result<Option<Download>> {
        for _ in 0..LARGE_READS_MAX {
            let Some(mut download) = self.clone().open().await? else {
                return Ok(None);
            };
            if download.hold().await? {
                return Ok(Some(download));
            }
            // It was overwritten since: the key has another value now, or none.
        }
        Err(Error::ValueGone)
    }

    /// The value to read; its bytes may not be held yet.
    pub(crate) async fn open(self) -> Result<Option<Download>> {
        Ok(match self.found().await?.entry {
            Some(ReadValue::Whole { version, value }) => {
                let head = EntryHead::new(self.key.clone(), version, value.len() as u64);
                Some(Download::of_bytes(head, value, &self.options()))
            }
            Some(ReadValue::Large(download)) => Some(*download),
            None => None,
        })
    }

    fn options(&self) -> DownloadOptions {
        DownloadOptions {
            wanted: self.wanted,
            ahead: self.ahead,
            from: self.from,
            deadline: self.deadline,
        }
    }

    async fn found(&self) -> Result<Lookup<ReadValue>> {
        let request = |key| Request::Get { key };
        self.run(request, |answer| match answer {
            Answer::Value {
                meta,
                version,
                value,
            } => Ok((meta, Some(ReadValue::Whole { version, value }))),
            Answer::Large(reply) => {
                let (meta, head) = EntryHead::of_large(self.key.clone(), reply)?;
                let download = Download::of_chunks(&self.client, head, &self.options())?;
                Ok((meta, Some(ReadValue::Large(Box::new(download)))))
            }
            Answer::NotFound { meta } => Ok((meta, None)),
            _ => Err(WRONG_KIND),
        })
        .await
    }

    /// Reads the version and the length in bytes of the key's value, and what was told of it when it was uploaded. The value
    /// is neither read from disk nor sent. Returns `None` for a key that has no value. Cancel safe.
    ///
    /// # Errors
    /// As awaiting the [`Get`], but never `NotFound`.
    pub async fn head(self) -> Result<Lookup<EntryHead>> {
        let key = self.key.clone();
        let request = |key| Request::Head { key };
        self.run(request, |answer| match answer {
            Answer::Head {
                meta,
                version,
                value_len,
            } => Ok((meta, Some(EntryHead::new(key, version, value_len)))),
            Answer::Value {
                meta,
                version,
                value,
            } => {
                let value_len = value.len() as u64;
                Ok((meta, Some(EntryHead::new(key, version, value_len))))
            }
            Answer::Large(reply) => {
                let (meta, head) = EntryHead::of_large(key, reply)?;
                Ok((meta, Some(head)))
            }
            Answer::NotFound { meta } => Ok((meta, None)),
            _ => Err(WRONG_KIND),
        })
        .await
    }

    async fn run<T>(
        &self,
        request: impl FnOnce(Bytes) -> Request,
        take: impl FnOnce(Answer) -> Result<(ReplyMeta, Option<T>)>,
    ) -> Result<Lookup<T>> {
        let client = &self.client;
        check_key(client, &self.key)?;
        let shard = client.shard_of(&self.key).0;
        let source = Source::From(self.from.unwrap_or(client.read_from()));
        let request = request(self.key.clone());
        let (answer, _) = client.run_from(request, self.deadline, source).await?;
        let (ReplyMeta { term, index }, entry) = take(answer)?;
        Ok(Lookup {
            entry,
            shard,
            term,
            index,
        })
    }
}

const WRONG_KIND: Error = Error::Protocol {
    what: "an answer of the wrong kind",
};

impl<T> Lookup<T> {
    fn with<U>(self, entry: Option<U>) -> Lookup<U> {
        Lookup {
            entry,
            shard: self.shard,
            term: self.term,
            index: self.index,
        }
    }
}

impl IntoFuture for Get {
    type Output = Result<Entry>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.lookup().await?.entry.ok_or(Error::NotFound) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<F: Future>(_: impl Fn(Get) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_read_is_short() {
        // It is moved several times before it runs: with that of a large value inside it had 4 KiB, and reads cost half
        // as much again.
        let bytes = future_bytes(Get::lookup);
        assert!(bytes <= 1536, "{bytes} bytes");
    }
}
