//! Puts and deletes.

use crate::client::{Client, own};
use crate::error::{Error, Field, Result};
use crate::keys::check_key;
use crate::operation::Request;
use crate::upload::builder::UploadBuilder;
use crate::value::IntoValue;
use bytes::Bytes;
use corelith_wire::request::{Condition, Operation as WriteKind};
use corelith_wire::response::{Answer, ReplyMeta};
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

/// A write that was applied and is durable on a majority of the shard's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The key's new version, the log index of the write (after a delete, the version of the deletion).
    pub version: u64,
    /// The shard that holds the key.
    pub shard: u32,
    /// Term of the leader that answered.
    pub term: u64,
    /// Log index at which the answer was true. It only rises within a shard, so it can serve as a
    /// fencing token.
    pub index: u64,
}

/// A put or a delete.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    client: Client,
    key: Bytes,
    value: Bytes,
    kind: WriteKind,
    condition: Condition,
    deadline: Option<Duration>,
}

impl Write {
    /// A write without a condition, with the client's deadline.
    fn new(client: Client, kind: WriteKind, key: Bytes, value: Bytes) -> Self {
        Self {
            client,
            key,
            value,
            kind,
            condition: Condition::Any,
            deadline: None,
        }
    }

    pub(crate) async fn run(self) -> Result<Written> {
        let Self {
            client,
            key,
            value,
            kind,
            condition,
            deadline,
        } = self;
        check_key(&client, &key)?;
        let (len, limit) = (value.len() as u64, client.limits().value_bytes_max);
        if len > limit {
            let what = Field::Value;
            return Err(Error::TooLarge { what, len, limit });
        }
        if len > client.frame_value_bytes_max() {
            // Apart, or the future of each write were as long as that of an upload, and moved as such.
            let putting = put_large(client, key, value, condition, deadline);
            return Box::pin(putting).await;
        }
        let shard = client.shard_of(&key).0;
        let request = Request::Write {
            key,
            value,
            condition,
            kind,
        };
        match client.run(request, deadline).await? {
            Answer::Written {
                meta: ReplyMeta { term, index },
                version,
            } => Ok(Written {
                version,
                shard,
                term,
                index,
            }),
            Answer::Conflict { current, .. } => Err(Error::Conflict {
                current: (current != 0).then_some(current),
            }),
            _ => Err(Error::Protocol {
                what: "an answer of the wrong kind",
            }),
        }
    }
}

/// Puts a value that does not fit in one frame, as an upload. Its bytes are not copied.
async fn put_large(
    client: Client,
    key: Bytes,
    value: Bytes,
    condition: Condition,
    deadline: Option<Duration>,
) -> Result<Written> {
    let mut builder = UploadBuilder::new(client, key).condition(condition);
    builder = builder.length(value.len() as u64);
    if let Some(deadline) = deadline {
        builder = builder.deadline(deadline);
    }
    let mut upload = builder.start().await?;
    upload.aborts_when_dropped();
    upload.write(value).await?;
    let uploaded = upload.commit().await?;
    Ok(Written {
        version: uploaded.version,
        shard: uploaded.shard,
        term: uploaded.term,
        index: uploaded.index,
    })
}

macro_rules! awaited {
    ($name:ident) => {
        impl $name {
            /// Applies only if the key has this version; otherwise the write fails with `Conflict` and
            /// changes nothing.
            pub fn if_version(mut self, version: u64) -> Self {
                self.0.condition = Condition::Version(version);
                self
            }

            /// Sets how long the write may take, including retries; of a value that does not fit in one frame, how long
            /// each of its requests may take. Default: the client's deadline.
            pub fn deadline(mut self, deadline: Duration) -> Self {
                self.0.deadline = Some(deadline);
                self
            }

            /// Lowers its deadline to `deadline`.
            pub(crate) fn within(mut self, deadline: Duration) -> Self {
                let own = self.0.deadline.unwrap_or(self.0.client.deadline());
                self.0.deadline = Some(own.min(deadline));
                self
            }
        }

        impl IntoFuture for $name {
            type Output = Result<Written>;
            type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.0.run())
            }
        }
    };
}

/// A put, made by [`Client::put`]. Awaiting it returns [`Written`] once the write is durable on a
/// majority of the shard's replicas.
///
/// A value that does not fit in one frame, of 8 MiB, goes as an upload by itself: its bytes are not copied, and the value
/// appears as a whole. See [`Client::upload`] for values that do not fit in memory.
///
/// Cancel safety: if the future is dropped early, the write may have been applied or may still be
/// applied, once. The client does not retry it.
///
/// # Errors
/// `Conflict` if its condition does not hold; `Indeterminate` if the outcome is unknown; `Unavailable`,
/// `Throttled`, `DiskFull` or `ShardFull` if it certainly was not and will not be applied; `TooLarge`
/// or `Invalid` for a key or value that the cluster does not allow.
#[derive(Clone, Debug)]
#[must_use = "a put does nothing until it is awaited"]
pub struct Put(pub(crate) Write);

/// A delete, made by [`Client::delete`]. Awaiting it returns [`Written`] once the deletion is durable
/// on a majority of the shard's replicas.
///
/// Cancel safety and errors are those of a [`Put`].
#[derive(Clone, Debug)]
#[must_use = "a delete does nothing until it is awaited"]
pub struct Delete(pub(crate) Write);

awaited!(Put);
awaited!(Delete);

impl Client {
    /// Sets the value of `key`, overwriting any it has. Add a condition or a deadline if needed, then
    /// await it.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl IntoValue) -> Put {
        Put::new(self.clone(), own(key), value.into_value())
    }

    /// Deletes `key`. Deleting a key that has no value succeeds.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Delete {
        Delete::new(self.clone(), own(key))
    }
}

impl Put {
    pub(crate) fn new(client: Client, key: Bytes, value: Bytes) -> Self {
        Self(Write::new(client, WriteKind::Put, key, value))
    }

    /// Applies only if the key has no value; otherwise the put fails with `Conflict` and changes
    /// nothing.
    pub fn if_absent(mut self) -> Self {
        self.0.condition = Condition::Absent;
        self
    }
}

impl Delete {
    pub(crate) fn new(client: Client, key: Bytes) -> Self {
        Self(Write::new(client, WriteKind::Delete, key, Bytes::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<F: Future>(_: impl Fn(Write) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_write_is_short() {
        // As that of a read.
        let bytes = future_bytes(Write::run);
        assert!(bytes <= 1792, "{bytes} bytes");
    }
}
