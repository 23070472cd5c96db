//! Uploads and reads of large values by one SDK client, several at a time.

use super::{LargeError, LargeLoad, failed};
use crate::driver::RunTarget;
use bytes::Bytes;
use corelith_bench::latencies::Latencies;
use corelith_bench::random::Random;
use corelith_client::{Client, Error, ReadFrom, ShardRole};
use futures_util::StreamExt as _;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// What is written at a time; a chunk has at most as many bytes.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces from which values are made.
const POOL_PIECES: usize = 8;
/// Reads of ranges in flight for each stream.
const RANGES_IN_FLIGHT: usize = 4;

/// See the module.
pub(super) struct LargeTransfers {
    runtime: Runtime,
    client: Client,
    bytes: u64,
    pool: Arc<[Bytes]>,
    seed: u64,
}

/// Ranges that were read.
#[derive(Default)]
pub(super) struct RangesRead {
    pub(super) bytes: u64,
    pub(super) latencies: Latencies,
}

impl LargeTransfers {
    pub(super) fn new(target: &RunTarget, load: &LargeLoad) -> Result<Self, LargeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(target.lanes)
            .enable_all()
            .build()
            .map_err(|source| LargeError::Io {
                what: "start a thread",
                source,
            })?;
        let connecting = Client::builder()
            .seeds(target.seeds.iter().cloned())
            .deadline(target.deadline)
            .connect();
        let client = runtime.block_on(connecting).map_err(failed("connect"))?;
        let mut random = Random::new(load.seed);
        let pool = (0..POOL_PIECES).map(|_| piece(&mut random)).collect();
        Ok(Self {
            runtime,
            client,
            bytes: load.bytes,
            pool,
            seed: load.seed,
        })
    }

    /// Does `work` for each of the values at once.
    fn each<T: Send + 'static, F: Future<Output = Result<T, LargeError>> + Send + 'static>(
        &self,
        values: Range<usize>,
        work: impl Fn(usize) -> F,
    ) -> Result<Vec<T>, LargeError> {
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for value in values {
                tasks.spawn(work(value));
            }
            let mut results = Vec::new();
            while let Some(joined) = tasks.join_next().await {
                results.push(joined.map_err(|_| LargeError::Panicked)??);
            }
            Ok(results)
        })
    }

    /// Uploads these values at once.
    pub(super) fn upload(&self, values: Range<usize>) -> Result<(), LargeError> {
        let work = |value| {
            let uploading = upload(self.client.clone(), value, self.bytes, self.pool.clone());
            async move { uploading.await.map_err(failed("upload a value")) }
        };
        self.each(values, work).map(drop)
    }

    /// Reads these values at once, each as a whole.
    pub(super) fn read(&self, values: Range<usize>, from: ReadFrom) -> Result<(), LargeError> {
        let bytes = self.bytes;
        let work = |value| {
            let reading = read(self.client.clone(), value, None, from);
            async move {
                match reading.await.map_err(failed("read a value"))? {
                    len if len == bytes => Ok(()),
                    len => Err(LargeError::Length(len)),
                }
            }
        };
        self.each(values, work).map(drop)
    }

    /// Reads random ranges of `len` bytes of the first `values` values, for so long.
    pub(super) fn ranges(
        &self,
        values: usize,
        len: u64,
        duration: Duration,
    ) -> Result<RangesRead, LargeError> {
        let len = len.min(self.bytes);
        let starts = self.bytes - len + 1;
        let end = Instant::now() + duration;
        let work = |index: usize| {
            let client = self.client.clone();
            let mut random = Random::new(self.seed.wrapping_add(index as u64));
            async move {
                let mut done = RangesRead::default();
                while Instant::now() < end {
                    let start = random.below(starts);
                    let range = start..start + len;
                    let begun = Instant::now();
                    let reading = read(client.clone(), index % values, Some(range), ReadFrom::Any);
                    match reading.await.map_err(failed("read a range"))? {
                        came if came == len => {}
                        came => return Err(LargeError::Length(came)),
                    }
                    done.latencies.record(begun.elapsed());
                    done.bytes += len;
                }
                Ok(done)
            }
        };
        let mut all = RangesRead::default();
        for done in self.each(0..values * RANGES_IN_FLIGHT, work)? {
            all.bytes += done.bytes;
            all.latencies.add(&done.latencies);
        }
        Ok(all)
    }

    /// Deletes the first `values` values.
    pub(super) fn delete(&self, values: usize) -> Result<(), LargeError> {
        let work = |value| {
            let client = self.client.clone();
            async move {
                let deleted = client.delete(key(value)).await;
                deleted.map(drop).map_err(failed("delete a value"))
            }
        };
        self.each(0..values, work).map(drop)
    }

    /// How many shards each node leads, in the order of the map.
    pub(super) fn leads(&self) -> Result<Vec<usize>, LargeError> {
        let status = self.runtime.block_on(self.client.status());
        let status = status.map_err(failed("ask for the leads"))?;
        let leads = status.nodes.iter().map(|node| {
            let shards = node.reply.iter().flat_map(|reply| &reply.shards);
            let led = shards.filter(|shard| shard.role == ShardRole::Leader);
            led.count()
        });
        Ok(leads.collect())
    }

    /// The newest term of each shard: as long as it is the same, so is the leader.
    pub(super) fn terms(&self) -> Result<BTreeMap<u32, u64>, LargeError> {
        let status = self.runtime.block_on(self.client.status());
        let status = status.map_err(failed("ask for the terms"))?;
        let mut terms = BTreeMap::new();
        for reply in status.nodes.iter().flat_map(|node| &node.reply) {
            for shard in &reply.shards {
                let term: &mut u64 = terms.entry(shard.shard).or_default();
                *term = shard.term.max(*term);
            }
        }
        Ok(terms)
    }
}

fn key(value: usize) -> String {
    format!("large-{value}")
}

/// One piece of content that does not compress.
fn piece(random: &mut Random) -> Bytes {
    let words = (0..PIECE_BYTES / 8).map(|_| random.next_u64().to_le_bytes());
    Bytes::from_owner(words.flatten().collect::<Vec<u8>>())
}

async fn upload(client: Client, value: usize, bytes: u64, pool: Arc<[Bytes]>) -> Result<(), Error> {
    let mut upload = client.upload(key(value)).length(bytes).start().await?;
    let mut left = bytes;
    for piece in pool.iter().cycle() {
        let len = left.min(PIECE_BYTES as u64);
        if len == 0 {
            break;
        }
        upload.write(piece.slice(..len as usize)).await?;
        left -= len;
    }
    upload.commit().await.map(drop)
}

/// Reads a value, or a range of it. Returns how many bytes came.
async fn read(
    client: Client,
    value: usize,
    range: Option<Range<u64>>,
    from: ReadFrom,
) -> Result<u64, Error> {
    let get = client.get(key(value)).from(from);
    let get = match range {
        Some(range) => get.range(range),
        None => get,
    };
    let Some(mut download) = get.stream().await? else {
        return Ok(0);
    };
    let mut came = 0;
    while let Some(bytes) = download.next().await {
        came += bytes?.len() as u64;
    }
    Ok(came)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_and_differ() {
        let mut random = Random::new(1);
        let (one, other) = (piece(&mut random), piece(&mut random));
        assert_eq!((one.len(), other.len()), (PIECE_BYTES, PIECE_BYTES));
        assert_ne!(one, other);
    }
}
