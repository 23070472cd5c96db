//! Uploads of parts that come in any order.

use super::handle::{UploadHandle, Uploaded};
use super::plan::{ChunkPlace, PlannedChunk, WholeContent, combined};
use super::token::{UploadToken, UploadedPart};
use crate::client::Client;
use crate::error::{Error, Field, Result};
use crate::limits::UPLOAD_IN_FLIGHT;
use crate::upload::builder::UploadBuilder;
use crate::value::IntoValue;
use bytes::Bytes;
use corelith_wire::limits::UPLOAD_PARTS_MAX;
use corelith_wire::upload::{Digest, DigestKind, PartLength, StagedChunk};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

impl UploadBuilder {
    /// Begins an upload whose parts come in any order, numbered by the caller. Cancel safe; an upload that has begun all the
    /// same is given up by the cluster after its [`ttl`](Self::ttl).
    ///
    /// # Errors
    /// As [`start`](Self::start). A digest is refused, since parts do not come in order.
    pub async fn multipart(self) -> Result<Multipart> {
        self.check()?;
        if self.digest != DigestKind::None {
            return Err(Error::Invalid {
                what: "digest: a multipart upload cannot compute one",
            });
        }
        let handle = self.begin().await?;
        Ok(Multipart::new(handle, self.concurrency))
    }
}

/// An upload of parts that the caller numbers. Parts have any length, come in any order and at once, and may be put again:
/// the same content is not sent twice, other content is refused. Made by [`UploadBuilder::multipart`] and
/// [`Multipart::resume`]. Cheap to clone; clones are the same upload.
///
/// Nothing of it can be read before [`commit`](Self::commit). An upload that is not committed stays in the cluster until
/// its time to live passes, so that its [`token`](Self::token) can resume it.
///
/// **Memory**: parts are not copied. All parts together have [`concurrency`](UploadBuilder::concurrency) chunks of at most
/// 512 KiB in flight; a part that finds no room waits.
#[derive(Clone, Debug)]
pub struct Multipart {
    shared: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    handle: UploadHandle,
    /// Parts that are durable.
    whole: Mutex<BTreeMap<u32, UploadedPart>>,
    /// Chunks that an earlier process left.
    known: BTreeMap<ChunkPlace, StagedChunk>,
    room: Semaphore,
    concurrency: usize,
}

impl Multipart {
    pub(crate) fn new(handle: UploadHandle, concurrency: usize) -> Self {
        Self::with(handle, concurrency, BTreeMap::new())
    }

    fn with(
        handle: UploadHandle,
        concurrency: usize,
        known: BTreeMap<ChunkPlace, StagedChunk>,
    ) -> Self {
        let shared = Arc::new(Parts {
            handle,
            whole: Mutex::default(),
            known,
            room: Semaphore::new(concurrency),
            concurrency,
        });
        Self { shared }
    }

    /// Goes on with an upload that another process may have begun. The parts of the token are durable and need not be put
    /// again. Of others the chunks that are durable are not sent again when they are. Cancel safe.
    ///
    /// # Errors
    /// `UploadEnded` if it has ended; `Invalid` if the token is of another cluster; `Unavailable` or `Throttled` if the
    /// deadline passes first.
    pub async fn resume(client: &Client, token: &UploadToken) -> Result<Self> {
        token.check(client.cluster_id(), &token.key)?;
        let builder = UploadBuilder::new(client.clone(), token.key.clone());
        let handle = builder.handle_of(token);
        let staged = handle.staged().await?;
        let place = |chunk: &StagedChunk| ChunkPlace {
            part: chunk.part,
            chunk: chunk.chunk,
        };
        let known = staged.iter().map(|chunk| (place(chunk), *chunk));
        let upload = Self::with(handle, UPLOAD_IN_FLIGHT, known.collect());
        let mut whole = upload.shared.whole();
        for part in &token.parts {
            if upload.shared.has(part) {
                whole.insert(part.part, *part);
            }
        }
        drop(whole);
        Ok(upload)
    }

    /// As [`resume`](Self::resume), without asking the cluster anything: for those who keep the [`UploadedPart`]s
    /// themselves and commit with [`commit_uploaded`](Self::commit_uploaded).
    ///
    /// # Errors
    /// `Invalid` if the token is of another cluster.
    pub fn attach(client: &Client, token: &UploadToken) -> Result<Self> {
        token.check(client.cluster_id(), &token.key)?;
        let builder = UploadBuilder::new(client.clone(), token.key.clone());
        Ok(Self::new(builder.handle_of(token), UPLOAD_IN_FLIGHT))
    }

    /// With what another process can resume it; it names the parts that are durable now.
    pub fn token(&self) -> UploadToken {
        let parts = self.shared.whole().values().copied().collect();
        self.shared.handle.token_with(parts)
    }

    /// Puts a part of any length. When it returns, the part is durable on a majority. Cancel safe: chunks that were sent may
    /// be durable, and the part can be put again.
    ///
    /// # Errors
    /// `ContentDiffers` if the part was put before with other content; `UploadEnded` if the upload was committed, aborted
    /// or has expired; `UploadRefused` if it has too many parts or chunks; `TooLarge`, `DiskFull`, `ShardFull`,
    /// `Unavailable` or `Throttled`.
    pub async fn put_part(&self, part: u32, bytes: impl IntoValue) -> Result<UploadedPart> {
        let (shared, bytes) = (&*self.shared, bytes.into_value());
        shared.check_part(part, &bytes)?;
        let chunk_bytes = shared.handle.token.chunk_bytes.max(1) as usize;
        let count = bytes.len().div_ceil(chunk_bytes);
        let chunk = |at: usize| {
            let begins = at * chunk_bytes;
            let ends = bytes.len().min(begins + chunk_bytes);
            // No part has more chunks than fit.
            let place = ChunkPlace {
                part,
                chunk: at as u32,
            };
            shared.send(place, bytes.slice(begins..ends))
        };
        let sends = stream::iter(0..count).map(chunk);
        let crcs = sends.buffered(shared.concurrency);
        let fold = |crc, (more, len)| async move { Ok(combined(crc, more, len)) };
        let crc32c = crcs.try_fold(0, fold).await?;
        let uploaded = UploadedPart {
            part,
            len: bytes.len() as u64,
            crc32c,
        };
        shared.whole().insert(part, uploaded);
        Ok(uploaded)
    }

    /// Makes these parts, in this order, the value of the key. Parts that are not named are given back. Without parts the
    /// value is empty. Cancel safe: it may be committed or may still be; calling it again with the same parts tells.
    ///
    /// # Errors
    /// `Invalid` if a part was not put, or is named twice; `Conflict` if the condition does not hold; `UploadRefused` if
    /// somebody has committed it as another value; `Indeterminate` if the outcome is not known: then call it again, or read
    /// the key. Those of [`put_part`](Self::put_part).
    pub async fn commit(&self, parts: &[u32]) -> Result<Uploaded> {
        let named: Option<Vec<UploadedPart>> = {
            let whole = self.shared.whole();
            parts.iter().map(|part| whole.get(part).copied()).collect()
        };
        let named = named.ok_or(Error::Invalid {
            what: "parts: one of them was not put",
        })?;
        self.commit_uploaded(&named).await
    }

    /// As [`commit`](Self::commit), of parts as [`put_part`](Self::put_part) returned them, here or in another process.
    /// Cancel safe in the same way.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); `UploadRefused` if a part is not there as it says.
    pub async fn commit_uploaded(&self, parts: &[UploadedPart]) -> Result<Uploaded> {
        let limit = self.shared.handle.client.limits().value_bytes_max;
        let content = content_of(parts, limit)?;
        self.shared.handle.commit(content).await
    }

    /// Gives the upload up: nothing is left of it. Parts that are on their way are refused. Retried until the deadline of a
    /// request. Cancel safe: it may be given up or not, and can be again.
    ///
    /// # Errors
    /// `UploadEnded` if it is committed; `Unavailable` or `Throttled` if the deadline passes first.
    pub async fn abort(&self) -> Result<()> {
        self.shared.handle.abort().await
    }

    /// As [`Multipart::abort`], in the background.
    #[cfg(any(feature = "object-store", feature = "object-store-0-13"))]
    pub(crate) fn abort_later(&self) {
        self.shared.handle.clone().abort_later();
    }
}

impl Parts {
    fn whole(&self) -> MutexGuard<'_, BTreeMap<u32, UploadedPart>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_part(&self, part: u32, bytes: &Bytes) -> Result<()> {
        let limit = self.handle.client.limits().value_bytes_max;
        let len = bytes.len() as u64;
        if len > limit {
            let what = Field::Value;
            return Err(Error::TooLarge { what, len, limit });
        }
        let whole = self.whole();
        if whole.len() >= UPLOAD_PARTS_MAX && !whole.contains_key(&part) {
            return Err(Error::Invalid {
                what: "parts: there are more than 10,000",
            });
        }
        // What is shorter may begin with the same chunks; those behind would keep the part from being committed.
        let chunk_bytes = u64::from(self.handle.token.chunk_bytes.max(1));
        let end = len.div_ceil(chunk_bytes);
        let place = |chunk| ChunkPlace { part, chunk };
        let mut known = self.known.range(place(0)..=place(u32::MAX));
        let last = known.next_back().map(|(last, _)| u64::from(last.chunk));
        let had_other_length = whole.get(&part).is_some_and(|before| before.len != len);
        if had_other_length || last.is_some_and(|last| last >= end) {
            return Err(Error::ContentDiffers);
        }
        Ok(())
    }

    /// Whether all chunks of a part are known to be durable.
    fn has(&self, part: &UploadedPart) -> bool {
        let chunk_bytes = u64::from(self.handle.token.chunk_bytes.max(1));
        let range = |chunk| ChunkPlace {
            part: part.part,
            chunk,
        };
        let chunks = self.known.range(range(0)..=range(u32::MAX));
        let (mut count, mut len, mut crc) = (0u64, 0u64, 0);
        for (_, chunk) in chunks {
            count += 1;
            len += u64::from(chunk.len);
            crc = combined(crc, chunk.crc32c, chunk.len.into());
        }
        (count, len, crc) == (part.len.div_ceil(chunk_bytes), part.len, part.crc32c)
    }

    /// Sends a chunk unless it is durable already. Returns its checksum and length.
    async fn send(&self, place: ChunkPlace, bytes: Bytes) -> Result<(u32, u64)> {
        let Ok(_room) = self.room.acquire().await else {
            let cause = crate::error::Cause::Closed;
            return Err(Error::Unavailable { cause });
        };
        let (crc32c, len) = (crc32c::crc32c(&bytes), bytes.len());
        match self.known.get(&place) {
            Some(known) if (known.crc32c, known.len as usize) == (crc32c, len) => {}
            Some(_) => return Err(Error::ContentDiffers),
            None => {
                let chunk = PlannedChunk {
                    place,
                    crc32c,
                    bytes,
                };
                self.handle.send(chunk).await?;
            }
        }
        Ok((crc32c, len as u64))
    }
}

/// What a commit says of these parts.
fn content_of(parts: &[UploadedPart], limit: u64) -> Result<WholeContent> {
    let (mut len, mut crc32c) = (0u64, 0);
    let mut named = std::collections::BTreeSet::new();
    for part in parts {
        if !named.insert(part.part) {
            return Err(Error::Invalid {
                what: "parts: one of them is named twice",
            });
        }
        len = len.saturating_add(part.len);
        if len > limit {
            let what = Field::Value;
            return Err(Error::TooLarge { what, len, limit });
        }
        crc32c = combined(crc32c, part.crc32c, part.len);
    }
    if named.len() > UPLOAD_PARTS_MAX {
        return Err(Error::Invalid {
            what: "parts: there are more than 10,000",
        });
    }
    let length = |part: &UploadedPart| PartLength {
        part: part.part,
        len: part.len,
    };
    // An empty part has no chunks.
    let parts = parts.iter().filter(|part| part.len > 0).map(length);
    Ok(WholeContent {
        parts: parts.collect(),
        len,
        crc32c,
        digest: Digest::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(part: u32, bytes: &str) -> UploadedPart {
        UploadedPart {
            part,
            len: bytes.len() as u64,
            crc32c: crc32c::crc32c(bytes.as_bytes()),
        }
    }

    #[test]
    fn parts_make_a_value_in_the_order_in_which_they_are_named() {
        let content = content_of(&[part(7, "ab"), part(2, ""), part(1, "cde")], 5).unwrap();
        let parts: Vec<_> = content.parts.iter().map(|p| (p.part, p.len)).collect();
        assert_eq!(parts, [(7, 2), (1, 3)]);
        assert_eq!(content.len, 5);
        assert_eq!(content.crc32c, crc32c::crc32c(b"abcde"));
        let empty = content_of(&[], 5).unwrap();
        assert_eq!((empty.parts.len(), empty.len, empty.crc32c), (0, 0, 0));
        let twice = content_of(&[part(1, "a"), part(1, "a")], 5);
        assert!(matches!(twice, Err(Error::Invalid { .. })));
        let long = content_of(&[part(1, "abc"), part(2, "abc")], 5);
        assert!(matches!(long, Err(Error::TooLarge { len: 6, .. })));
        let mut endless = [part(1, "a"), part(2, "b")];
        endless.iter_mut().for_each(|part| part.len = u64::MAX);
        assert!(content_of(&endless, 5).is_err());
    }
}
