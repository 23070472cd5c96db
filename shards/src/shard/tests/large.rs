//! Large values and the shard's own rows: over crashes, restarts, merges and collections, copied to another replica and
//! healed, beside ordinary keys.

use crate::check::check_shard;
use crate::compaction::Policy;
use crate::engine::tests::crash::seeds;
use crate::engine::tests::{log_id, settle};
use crate::engine::{Engine, FileList, Lookup, Remedy};
use crate::error::{Error, Result};
use crate::ids::{LogIndex, ShardId};
use crate::key::Space;
use crate::large::LargeRef;
use crate::limits::PINNED_BYTES_MIN;
use crate::shard::{Shard, ShardOptions};
use crate::wal::{Entry, ValuePart};
use crate::{ItemValue, ScanRange};
use bytes::Bytes;
use corelith_io::sim::{Sim, SimNode};
use corelith_wire::ids::{ChunkId, UploadId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const DIR: &str = "/data/shard";
const COPY: &str = "/data/copy";

fn options() -> ShardOptions {
    ShardOptions {
        memtable_bytes: 16 << 10,
        segment_bytes: 64 << 10,
        value_threshold: 300,
        value_segment_bytes: 64 << 10,
        reserve_bytes: 64 << 10,
        ..ShardOptions::new(7, ShardId(1))
    }
}

/// What an entry does.
#[derive(Clone, Debug)]
struct Op {
    space: Space,
    key: Vec<u8>,
    /// `None`: it deletes.
    value: Option<ItemValue>,
}

/// What is there, by space and key.
type Model = BTreeMap<(Space, Vec<u8>), (u64, ItemValue)>;

fn model_of(ops: &[Op]) -> Model {
    let mut model = Model::new();
    for (index, op) in (1..).zip(ops) {
        let key = (op.space, op.key.clone());
        match &op.value {
            Some(value) => model.insert(key, (index, value.clone())),
            None => model.remove(&key),
        };
    }
    model
}

/// `space | what | key length | key | value`
fn entry_of(index: u64, op: &Op) -> Entry {
    let (what, value) = match &op.value {
        None => (0, Bytes::new()),
        Some(ItemValue::Bytes(bytes)) => (1, bytes.clone()),
        Some(ItemValue::Large(large)) => (2, Bytes::copy_from_slice(&large.encode())),
    };
    let head = [op.space.tag(), what, op.key.len() as u8];
    let body = [&head[..], &op.key, &value].concat();
    let mut entry = Entry::new(log_id(index), 1, body.into());
    entry.value = (what == 1).then_some(ValuePart {
        start: 3 + op.key.len() as u32,
        len: value.len() as u32,
        key_start: 3,
        key_len: op.key.len() as u32,
        space: op.space,
    });
    entry.value = entry.value.filter(|_| op.space.is_separable());
    entry
}

/// Applies an entry, whole or its head.
fn apply(engine: &Engine, entry: &Entry) {
    let at = entry.id.index;
    let space = Space::of_tag(entry.body[0]).unwrap();
    let (key, value) = entry.body[3..].split_at(entry.body[2] as usize);
    match (space, entry.body[1], entry.place) {
        (Space::User, 0, _) => engine.delete(at, key),
        (Space::User, 1, Some(place)) => engine.put_separated(at, key, place),
        (Space::User, 1, None) => engine.put(at, key, Bytes::copy_from_slice(value)),
        (Space::User, _, _) => engine.put_large(at, key, LargeRef::decode(value).unwrap()),
        (_, 0, _) => engine.delete_row(at, space, key),
        (_, _, Some(place)) => engine.put_row_separated(at, space, key, place),
        (_, _, None) => engine.put_row(at, space, key, Bytes::copy_from_slice(value)),
    }
    engine.set_applied(entry.id, None);
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn bytes(seed: u64, len: usize) -> Bytes {
    (0..len).map(|at| (at as u64 * 31 + seed) as u8).collect()
}

fn chunk(upload: u64, chunk: u64) -> Vec<u8> {
    let id = ChunkId {
        upload: UploadId(u128::from(upload) << 64),
        part: 0,
        chunk: chunk as u32,
    };
    id.key().to_vec()
}

fn large(upload: u64, len: u64) -> LargeRef {
    LargeRef {
        upload: UploadId(u128::from(upload) << 64),
        len,
        committed_us: upload,
    }
}

fn draw(random: &mut Random) -> Op {
    let upload = random.below(6);
    let seed = random.below(1 << 32);
    let (space, key) = match random.below(10) {
        0..5 => (
            Space::User,
            format!("key/{}", random.below(30)).into_bytes(),
        ),
        5..8 => (Space::Chunk, chunk(upload, random.below(8))),
        8 => (Space::Staged, chunk(upload, random.below(8))),
        _ => {
            let id = large(upload, 0).upload;
            (Space::Upload, id.key().to_vec())
        }
    };
    let value = match (space, random.below(5)) {
        (_, 0) => None,
        (Space::User, 1) => Some(ItemValue::Large(large(upload, seed))),
        (Space::User | Space::Chunk, 2 | 3) => {
            let len = 300 + random.below(9000) as usize;
            Some(ItemValue::Bytes(bytes(seed, len)))
        }
        _ => Some(ItemValue::Bytes(bytes(seed, 8))),
    };
    Op { space, key, value }
}

async fn open(dir: &str) -> Result<Shard> {
    open_as(dir, Policy::Leveled).await
}

async fn open_as(dir: &str, policy: Policy) -> Result<Shard> {
    let options = ShardOptions {
        policy,
        ..options()
    };
    let shard = Shard::open(Path::new(dir), options).await?;
    let from = shard.engine.applied().0.map_or(0, |id| id.index.0) + 1;
    let end = shard.log.range().last.map_or(0, |id| id.index.0) + 1;
    for index in from..end {
        let (at, next) = (LogIndex(index), LogIndex(index + 1));
        let entries = shard.log.read_heads(at, next, u64::MAX).await?;
        shard.engine.wait_for_room().await?;
        apply(&shard.engine, &entries[0]);
    }
    Ok(shard)
}

async fn write(shard: &Shard, index: u64, op: &Op) -> Result<()> {
    shard.log.wait_for_room().await?;
    shard.engine.wait_for_room().await?;
    shard.log.append(vec![entry_of(index, op)], |_| {});
    let entry = shard.log.head_in_memory(LogIndex(index)).unwrap();
    apply(&shard.engine, &entry);
    Ok(())
}

/// Everything that an engine gives out is what the model has.
async fn check(engine: &Engine, model: &Model) -> Result<()> {
    let all = ScanRange::default();
    let page = engine.scan(&all, None, 1000, 1 << 30);
    let users = page.await?.items.into_iter();
    let users: Vec<_> = users
        .map(|item| (item.key.to_vec(), item.version.0, item.value))
        .collect();
    let of = |space: Space| {
        let model = model.iter().filter(move |((of, _), _)| *of == space);
        model.map(|((_, key), (at, value))| (key.clone(), *at, value.clone()))
    };
    assert!(users.iter().cloned().eq(of(Space::User)), "users' keys");
    let heads = engine.scan_heads(&all, None, 1000, 1 << 30);
    for (head, (_, _, value)) in heads.await?.items.iter().zip(of(Space::User)) {
        assert_eq!(head.found.len, value.value_len());
    }
    for (key, at, value) in of(Space::User) {
        assert_eq!(engine.version_of(&key).await?, Some(LogIndex(at)));
        match (engine.get(&key).await, value) {
            (Ok(Some(found)), ItemValue::Bytes(value)) => assert!(found.value == value),
            (Err(Error::IsLarge { len }), ItemValue::Large(large)) => assert_eq!(len, large.len),
            (found, _) => panic!("{found:?}"),
        }
    }
    for space in [Space::Upload, Space::Staged, Space::Chunk] {
        let mut rows = Vec::new();
        let mut after = Vec::new();
        loop {
            let page = engine.rows(space, b"", &after, 5, 20_000).await?;
            rows.extend(page.rows);
            match rows.last() {
                Some(last) if page.more => after = last.key.to_vec(),
                _ => break,
            }
        }
        let found = rows.iter().map(|row| {
            let value = ItemValue::Bytes(row.value.clone());
            (row.key.to_vec(), row.at.0, value)
        });
        assert!(found.eq(of(space)), "rows of {space:?}");
        let (keys, _) = engine.row_keys(space, b"", b"", 1000).await?;
        assert!(keys.iter().eq(rows.iter().map(|row| &row.key)));
        for row in rows {
            let range = engine.row_range(space, &row.key, 5..400).await?.unwrap();
            let end = row.value.len().min(400);
            assert!(range.bytes == row.value[5.min(end)..end]);
            assert_eq!(range.len, row.value.len() as u64);
        }
    }
    Ok(())
}

/// Brings the state over, file by file.
async fn copy(source: &Engine, target: &Engine) -> Result<()> {
    source.checkpoint().await?;
    let pinned = source.pin_files()?;
    let list = FileList::decode(ShardId(1), &pinned.encoded())?;
    let incoming = target.receive_files(list).await?;
    while let Some(piece) = incoming.next_missing() {
        let bytes = pinned.read(piece.file, piece.offset).await?.unwrap();
        let crc = crc32c::crc32c(&bytes);
        incoming.write_piece(piece, &bytes, crc).await?;
    }
    incoming.finish().await?;
    target.install_files(&incoming).await
}

/// Brings the state over, record by record.
async fn stream(source: &Engine, target: &Engine) -> Result<()> {
    let mut received = target.receive_snapshot().await?;
    let mut snapshot = source.snapshot();
    while let Some(piece) = snapshot.next_piece().await? {
        received.piece(piece).await?;
    }
    received.finish().await?;
    target.install(received).await
}

/// Everything that happens to a shard without a power cut.
async fn live(ops: Rc<RefCell<Vec<Op>>>, seed: u64) -> Result<()> {
    let random = &mut Random(seed * 77 + 5);
    // It may change at any start.
    let policy = [Policy::Leveled, Policy::Tiered];
    let shard = open_as(DIR, policy[random.below(2) as usize]).await?;
    let last = shard.engine.applied().0.map_or(0, |id| id.index.0);
    ops.borrow_mut().truncate(last as usize);
    let model = model_of(&ops.borrow());
    check(&shard.engine, &model).await?;
    for _ in 0..150 {
        let op = draw(random);
        ops.borrow_mut().push(op.clone());
        let index = ops.borrow().len() as u64;
        write(&shard, index, &op).await?;
        if random.below(40) == 0 {
            let checkpoint = shard.engine.checkpoint().await?;
            shard.log.purge(checkpoint.unwrap()).await?;
        }
        if random.below(60) == 0 {
            settle(&shard.engine).await;
            let model = model_of(&ops.borrow());
            check(&shard.engine, &model).await?;
        }
    }
    shard.close().await
}

async fn is_whole(dir: &str) {
    let summary = check_shard(Path::new(dir), None, |problem| {
        // What this writes at random says of uploads what is not so.
        assert!(problem.what.contains("upload"), "{problem}");
    });
    summary.await.unwrap();
}

#[test]
fn large_values_and_rows_outlive_crashes_merges_and_copies() {
    for seed in 1..seeds().end.max(25) {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        let ops: Rc<RefCell<Vec<Op>>> = Rc::default();
        for life in 0..4 {
            let (one, seed) = (Rc::clone(&ops), seed * 10 + life);
            sim.crash_at_io(node, 30 + seed * 37 % 400);
            sim.start(node, 0, move || async move {
                let _ = live(one, seed).await;
            });
            sim.run_until(|| !sim.is_up(node), Duration::from_secs(300));
            sim.crash(node);
        }
        finish(&sim, node, ops, seed);
    }
}

/// Reads what is left, and what other replicas get of it.
fn finish(sim: &Sim, node: SimNode, ops: Rc<RefCell<Vec<Op>>>, seed: u64) {
    sim.block_on(node, async move {
        live(Rc::clone(&ops), seed).await.unwrap();
        is_whole(DIR).await;
        let shard = open(DIR).await.unwrap();
        let model = model_of(&ops.borrow());
        check(&shard.engine, &model).await.unwrap();
        for way in 0..2 {
            let dir = format!("{COPY}-{way}");
            let other = open(&dir).await.unwrap();
            match way {
                0 => copy(&shard.engine, &other.engine).await.unwrap(),
                _ => stream(&shard.engine, &other.engine).await.unwrap(),
            }
            check(&other.engine, &model).await.unwrap();
            settle(&other.engine).await;
            check(&other.engine, &model).await.unwrap();
            other.close().await.unwrap();
            is_whole(&dir).await;
        }
        shard.close().await.unwrap();
    });
}

/// A shard with a large value of `chunks` chunks, and keys beside it, in tables.
async fn with_large(dir: &str, chunks: u64, len: usize) -> Shard {
    let shard = open(dir).await.unwrap();
    let mut index = 0;
    let mut put = async |space, key: Vec<u8>, value| {
        index += 1;
        let value = Some(value);
        write(&shard, index, &Op { space, key, value })
            .await
            .unwrap();
    };
    for number in 0..chunks {
        let value = ItemValue::Bytes(bytes(number, len));
        put(Space::Chunk, chunk(1, number), value).await;
        let value = ItemValue::Bytes(bytes(number, 400));
        put(Space::User, format!("key/{number:03}").into_bytes(), value).await;
    }
    let upload = large(1, chunks * len as u64);
    let row = ItemValue::Bytes("manifest".into());
    put(Space::Upload, upload.upload.key().to_vec(), row).await;
    put(Space::User, b"large".to_vec(), ItemValue::Large(upload)).await;
    shard.engine.checkpoint().await.unwrap();
    shard
}

#[test]
fn a_check_tells_of_large_values_that_are_not_whole() {
    let sim = Sim::new(1);
    let node = sim.add_node();
    sim.block_on(node, async {
        let problems = async || {
            let mut problems = Vec::new();
            let summary = check_shard(Path::new(DIR), None, |problem| {
                problems.push(problem.to_string());
            });
            assert_eq!(summary.await.unwrap().large_values, 1);
            problems
        };
        let shard = with_large(DIR, 3, 1000).await;
        shard.close().await.unwrap();
        assert_eq!(problems().await, [""; 0]);
        for (space, key, what) in [
            (Space::Chunk, chunk(1, 1), "2000 bytes of chunks"),
            (
                Space::Upload,
                large(1, 0).upload.key().to_vec(),
                "is missing",
            ),
        ] {
            let shard = open(DIR).await.unwrap();
            let next = shard.log.range().last.unwrap().index.0 + 1;
            let value = None;
            write(&shard, next, &Op { space, key, value })
                .await
                .unwrap();
            shard.close().await.unwrap();
            let problems = problems().await;
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(what), "{problems:?}");
            assert!(problems[0].contains("key \"large\""), "{problems:?}");
        }
    });
}

#[test]
fn a_damaged_chunk_and_a_damaged_table_are_healed() {
    let sim = Sim::new(2);
    let node = sim.add_node();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let peer = with_large(COPY, 20, 5000).await;
        for kind in [".vlog", ".sst"] {
            let dir = format!("{DIR}{kind}");
            let local = with_large(&dir, 20, 5000).await;
            local.close().await.unwrap();
            for (path, len) in disk.files() {
                let is_wanted = path.starts_with(&dir) && path.ends_with(kind);
                // Within the first value, and within the first data block.
                let at = if kind == ".vlog" {
                    4096 + 2000
                } else {
                    4096 + 40
                };
                if is_wanted && len > at {
                    disk.flip_bit(&path, at);
                }
            }
            let local = open(&dir).await.unwrap();
            let model = {
                let mut ops = Vec::new();
                for index in 1..=42 {
                    let entry = peer
                        .log
                        .read(LogIndex(index), LogIndex(index + 1), 1 << 20)
                        .await;
                    ops.push(op_of(&entry.unwrap()[0]));
                }
                model_of(&ops)
            };
            let mut rounds = 0;
            while let Err(error) = check(&local.engine, &model).await {
                assert!(error.is_corrupt(), "{error}");
                heal(&local.engine, &peer.engine).await;
                rounds += 1;
                assert!(rounds < 60, "{:?}", local.engine.damages());
            }
            assert!(rounds > 0, "{kind} was damaged");
            let Lookup::Large(found) = local.engine.look_up(b"large") else {
                panic!("it is large");
            };
            assert_eq!(found.large, large(1, 100_000));
            local.close().await.unwrap();
        }
        peer.close().await.unwrap();
    });
}

fn op_of(entry: &Entry) -> Op {
    let (key, value) = entry.body[3..].split_at(entry.body[2] as usize);
    Op {
        space: Space::of_tag(entry.body[0]).unwrap(),
        key: key.to_vec(),
        value: match entry.body[1] {
            0 => None,
            1 => Some(ItemValue::Bytes(Bytes::copy_from_slice(value))),
            _ => LargeRef::decode(value).map(ItemValue::Large),
        },
    }
}

/// Puts every damaged range in anew.
async fn heal(engine: &Engine, peer: &Engine) {
    for damage in engine.damages() {
        match engine.remedy(&damage) {
            Some(Remedy::Range) => {
                let ranges = vec![(damage.first_key.clone(), damage.last_key.clone())];
                let mut heal = engine.begin_heal(ranges).await.unwrap();
                while let Some((first, last, after)) = heal.wanted() {
                    let fetched = peer.fetch((&first, &last), &after, None, 12_000);
                    heal.add(fetched.await.unwrap()).await.unwrap();
                }
                let _ = heal.finish().await;
            }
            Some(Remedy::Table(id)) => drop(engine.rewrite_table(id).await),
            Some(Remedy::Segment(id)) => drop(engine.evacuate_segment(id).await),
            Some(Remedy::Log(_)) | None => {}
        }
    }
}

#[test]
fn dropped_chunks_give_their_space_back_soon() {
    for policy in [Policy::Leveled, Policy::Tiered] {
        drop_chunks(policy);
    }
}

fn drop_chunks(policy: Policy) {
    const CHUNKS: u64 = 300;
    let sim = Sim::new(3);
    let node = sim.add_node();
    sim.block_on(node, async move {
        let options = ShardOptions {
            policy,
            memtable_bytes: 64 << 20,
            value_segment_bytes: 1 << 20,
            ..options()
        };
        let shard = Shard::open(Path::new(DIR), options).await.unwrap();
        let mut index = 0;
        for number in 0..CHUNKS {
            index += 1;
            let value = Some(ItemValue::Bytes(bytes(number, 60_000)));
            let (space, key) = (Space::Chunk, chunk(1, number));
            write(&shard, index, &Op { space, key, value })
                .await
                .unwrap();
            // Many keys whose values are short: they make no average of what a deletion frees.
            for other in 0..60 {
                index += 1;
                let key = format!("key/{number}/{other}").into_bytes();
                let value = Some(ItemValue::Bytes("short".into()));
                let space = Space::User;
                write(&shard, index, &Op { space, key, value })
                    .await
                    .unwrap();
            }
        }
        shard.engine.checkpoint().await.unwrap();
        let before = shard.engine.statistics();
        assert!(before.value_bytes > CHUNKS * 60_000);
        for number in 0..CHUNKS {
            index += 1;
            let (space, key, value) = (Space::Chunk, chunk(1, number), None);
            write(&shard, index, &Op { space, key, value })
                .await
                .unwrap();
        }
        let begun = corelith_io::now();
        // What is left in the segment that is written to is not worth a purge.
        while shard.engine.statistics().value_bytes >= PINNED_BYTES_MIN {
            let statistics = shard.engine.statistics();
            assert!(begun.elapsed() < Duration::from_secs(20), "{statistics:?}");
            corelith_io::sleep(Duration::from_millis(500)).await;
            // As a group does it.
            if shard.engine.is_log_in_the_way() {
                let checkpointed = shard.engine.checkpointed().unwrap();
                shard.log.purge(checkpointed).await.unwrap();
            }
        }
        let collection = shard.engine.statistics().collection;
        assert_eq!(collection.jobs, 0, "nothing was rewritten");
        shard.close().await.unwrap();
    });
}
