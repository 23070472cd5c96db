//! Copies a shard to another one as files, and says how fast: `copy_files DIR GIGABYTES [VALUE_BYTES]`.
//!
//! Both shards are on one core and the pieces do not go through a network, so this is what disks and checks allow.

use corelith_io::Instant;
use corelith_shards::{
    Entry, LogId, LogIndex, ReplicaId, Shard, ShardId, ShardOptions, Space, Term, ValuePart,
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::path::PathBuf;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

const IN_FLIGHT: usize = 8;
const BATCH: u64 = 64;
const KEY_BYTES: usize = 16;

fn main() -> Result<(), AnyError> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("a directory is missing")?);
    let gigabytes: u64 = arguments.next().ok_or("gigabytes are missing")?.parse()?;
    let value_bytes = arguments.next().map_or(Ok(16_384), |bytes| bytes.parse())?;
    corelith_io::core::run(move || run(dir, gigabytes << 30, value_bytes))
}

async fn run(dir: PathBuf, bytes: u64, value_bytes: usize) -> Result<(), AnyError> {
    let source = Shard::open(&dir.join("source"), ShardOptions::new(1, ShardId(0))).await?;
    let begun = corelith_io::now();
    fill(&source, bytes, value_bytes).await?;
    say("filled", bytes, begun);
    let target = Shard::open(&dir.join("target"), ShardOptions::new(2, ShardId(0))).await?;

    let begun = corelith_io::now();
    let pinned = source.engine.pin_files()?;
    let all = pinned.list().bytes();
    let incoming = target.engine.receive_files(pinned.list().clone()).await?;
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < IN_FLIGHT
            && let Some(piece) = incoming.next_missing()
        {
            let (pinned, incoming) = (&pinned, &incoming);
            running.push(async move {
                let bytes = pinned.read(piece.file, piece.offset).await?;
                let bytes = bytes.unwrap_or_default();
                let crc = crc32c::crc32c(&bytes);
                incoming.write_piece(piece, &bytes, crc).await
            });
        }
        match running.next().await {
            Some(written) => written?,
            None => break,
        }
    }
    incoming.finish().await?;
    say("received", all, begun);
    target.engine.install_files(&incoming).await?;
    say("received and installed", all, begun);
    drop(running);
    drop((pinned, incoming));
    source.close().await?;
    target.close().await?;
    Ok(())
}

fn say(what: &str, bytes: u64, begun: Instant) {
    let seconds = (corelith_io::now() - begun).as_secs_f64();
    let mib = bytes as f64 / f64::from(1 << 20);
    println!(
        "{what}: {mib:.0} MiB in {seconds:.1} s, {:.0} MiB/s",
        mib / seconds
    );
}

/// Writes until the shard has about so many bytes, and makes a checkpoint of it.
async fn fill(shard: &Shard, bytes: u64, value_bytes: usize) -> Result<(), AnyError> {
    let mut next = 1;
    while (next - 1) * (value_bytes as u64) < bytes {
        let entries: Vec<Entry> = (next..next + BATCH)
            .map(|index| entry(index, value_bytes))
            .collect::<Result<_, AnyError>>()?;
        let (durable, is_durable) = corelith_io::channel(1);
        shard.log.wait_for_room().await?;
        shard.engine.wait_for_room().await?;
        shard.log.append(entries, move |result| {
            let _ = durable.try_send(result);
        });
        is_durable.recv().await.map_err(|_| "the log is gone")??;
        let (from, to) = (LogIndex(next), LogIndex(next + BATCH));
        for entry in shard.log.read(from, to, u64::MAX).await? {
            let key = entry.body.slice(..KEY_BYTES);
            match entry.place {
                Some(place) => shard.engine.put_separated(entry.id.index, &key, place),
                None => shard
                    .engine
                    .put(entry.id.index, &key, entry.body.slice(KEY_BYTES..)),
            }
            shard.engine.set_applied(entry.id, None);
        }
        next += BATCH;
        if next % 4096 == 1
            && let Some(covered) = shard.engine.checkpointed()
        {
            shard.log.purge(covered).await?;
        }
    }
    shard.engine.checkpoint().await?;
    Ok(())
}

/// A write of noise under a key in no order.
fn entry(index: u64, value_bytes: usize) -> Result<Entry, AnyError> {
    let noise = |seed: u64| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    let mut body = format!("{:0KEY_BYTES$x}", noise(index)).into_bytes();
    let mut at = index << 20;
    while body.len() < KEY_BYTES + value_bytes {
        at += 1;
        body.extend_from_slice(&noise(at).to_le_bytes());
    }
    body.truncate(KEY_BYTES + value_bytes);
    Ok(Entry {
        id: LogId {
            term: Term(1),
            node: ReplicaId(1),
            index: LogIndex(index),
        },
        kind: 1,
        body: body.into(),
        value: Some(ValuePart {
            space: Space::User,
            start: u32::try_from(KEY_BYTES)?,
            len: u32::try_from(value_bytes)?,
            key_start: 0,
            key_len: u32::try_from(KEY_BYTES)?,
        }),
        place: None,
    })
}
