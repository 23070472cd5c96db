//! Damaged ranges put in anew from another replica, in the Sim world.

use super::{log_id, open_with, range, settle};
use crate::cache::BlockCache;
use crate::engine::{Engine, FetchedEnd, Remedy};
use crate::error::Error;
use crate::filename::FileName;
use crate::ids::LogIndex;
use crate::key::Space;
use crate::planted::{Bug, plant};
use bytes::Bytes;
use corelith_io::sim::{Sim, SimDisk};
use std::path::PathBuf;
use std::rc::Rc;

/// Two replicas of a shard, which apply the same.
struct Twins {
    local: Engine,
    peer: Engine,
    disk: SimDisk,
    /// What was written: key and value, `None` for a deletion.
    log: Vec<(Vec<u8>, Option<Bytes>)>,
    applied: usize,
    seed: u64,
}

fn run<Fut: Future<Output = ()> + 'static>(seed: u64, test: impl FnOnce(Twins) -> Fut + 'static) {
    let sim = Sim::new(seed);
    let node = sim.add_node();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let twins = Twins {
            local: Twins::open("/data/local").await,
            peer: Twins::open("/data/peer").await,
            disk,
            log: Vec::new(),
            applied: 0,
            seed,
        };
        test(twins).await;
    });
}

impl Twins {
    async fn open(dir: &str) -> Engine {
        let dir = PathBuf::from(dir);
        let engine = open_with(&dir, 96 << 10, |parts| {
            parts.cache = BlockCache::new(0);
            parts.options.value_threshold = 4000;
            parts.options.compaction.table_bytes = 24 << 10;
            parts.options.compaction.base_bytes = 48 << 10;
        });
        engine.await.unwrap()
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.seed >> 33) % below
    }

    /// Writes something to the peer, and to the local one if it is not to lag.
    async fn write(&mut self, lags: bool) {
        let key = format!("key/{:03}", self.draw(120)).into_bytes();
        let value = match self.draw(10) {
            0..=3 => None,
            4 => Some(Bytes::from(vec![self.draw(256) as u8; 5000])),
            5 => Some(Bytes::from(vec![self.draw(256) as u8; 18_000])),
            _ => Some(Bytes::from(vec![self.draw(256) as u8; 300])),
        };
        self.log.push((key, value));
        let index = self.log.len() as u64;
        apply(&self.peer, index, &self.log[index as usize - 1]).await;
        if !lags {
            self.catch_up().await;
        }
    }

    async fn catch_up(&mut self) {
        self.catch_up_by(usize::MAX).await;
    }

    async fn catch_up_by(&mut self, most: usize) {
        let end = self.applied.saturating_add(most).min(self.log.len());
        while self.applied < end {
            self.applied += 1;
            let index = self.applied;
            apply(&self.local, index as u64, &self.log[index - 1]).await;
        }
    }

    /// Reads everything, so that damage is noted.
    async fn read_all(&self) {
        for number in 0..120 {
            let key = format!("key/{number:03}");
            let _ = self.local.get(key.as_bytes()).await;
        }
    }

    /// Nothing is there that is not applied yet.
    async fn check_versions(&self) {
        let all = range(b"", b"");
        if let Ok(page) = self.local.scan_heads(&all, None, 1000, 1 << 30).await {
            let newest = page.items.iter().map(|item| item.found.version.0).max();
            assert!(newest.unwrap_or(0) <= self.applied as u64, "{newest:?}");
        }
    }

    async fn check(&self) {
        assert_eq!(self.local.damages(), []);
        let all = range(b"", b"");
        let local = self.local.scan(&all, None, 1000, 1 << 30).await.unwrap();
        let peer = self.peer.scan(&all, None, 1000, 1 << 30).await.unwrap();
        assert_eq!(local.items, peer.items);
        for number in 0..120 {
            let key = format!("key/{number:03}");
            let found = self.local.get(key.as_bytes()).await.unwrap();
            assert_eq!(found, self.peer.get(key.as_bytes()).await.unwrap(), "{key}");
        }
    }

    /// Heals all damage, also of versions that no get asks for.
    async fn heal(&mut self) {
        for _ in 0..50 {
            let damages = self.local.damages();
            let Some(damage) = damages.first() else {
                let all = range(b"", b"");
                match self.local.scan(&all, None, 1000, 1 << 30).await {
                    Ok(_) => return,
                    Err(error) => assert!(error.is_corrupt(), "{error}"),
                }
                continue;
            };
            match self.local.remedy(damage) {
                None | Some(Remedy::Log(_)) => panic!("{damage}"),
                Some(Remedy::Table(id)) => drop(self.local.rewrite_table(id).await.unwrap()),
                Some(Remedy::Segment(id)) => drop(self.local.evacuate_segment(id).await),
                Some(Remedy::Range) => {
                    let ranges = damages.iter();
                    let is_range = |damage: &&crate::engine::Damage| {
                        self.local.remedy(damage) == Some(Remedy::Range)
                    };
                    let ranges = ranges.filter(is_range);
                    let ranges =
                        ranges.map(|damage| (damage.first_key.clone(), damage.last_key.clone()));
                    let mut heal = self.local.begin_heal(ranges.collect()).await.unwrap();
                    while let Some((first, last, after)) = heal.wanted() {
                        let fetched = self.peer.fetch((&first, &last), &after, None, 3000);
                        heal.add(fetched.await.unwrap()).await.unwrap();
                        for _ in 0..4 {
                            self.write(true).await;
                        }
                    }
                    while (self.applied as u64) < heal.most().0 {
                        self.catch_up_by(1).await;
                    }
                    // A range may turn out to lie beside more damage.
                    let _ = heal.finish().await;
                    self.check_versions().await;
                }
            }
        }
        panic!("still damaged: {:?}", self.local.damages());
    }

    fn tables(&self) -> Vec<String> {
        let state = self.local.inner.state.borrow();
        state.version.tables().map(|table| table.name()).collect()
    }
}

async fn apply(engine: &Engine, index: u64, (key, value): &(Vec<u8>, Option<Bytes>)) {
    engine.wait_for_memory().await.unwrap();
    let at = LogIndex(index);
    match value {
        None => engine.delete(at, key),
        Some(value) if value.len() == 5000 => {
            let values = &engine.inner.values;
            let (pointer, ticket) = values.stage(at, Space::User.key(key), value).unwrap();
            values.wait_durable(ticket).await.unwrap();
            engine.put_separated(at, key, pointer);
        }
        Some(value) => engine.put(at, key, value.clone()),
    }
    engine.set_applied(log_id(index), None);
}

#[test]
fn every_page_of_every_table_is_healed_from_another_replica() {
    for seed in 0..4 {
        run(seed, |mut twins| async move {
            for _ in 0..400 {
                twins.write(false).await;
            }
            twins.local.checkpoint().await.unwrap();
            twins.peer.checkpoint().await.unwrap();
            settle(&twins.local).await;
            for round in 0..60 {
                let tables = twins.tables();
                let path = &tables[round % tables.len()];
                let pages = twins.disk.read(path).unwrap().len() as u64 / 4096;
                let page = (round as u64 * 7) % pages;
                twins.disk.flip_bit(path, page * 4096 + 20);
                twins.read_all().await;
                twins.heal().await;
                twins.catch_up().await;
                twins.check().await;
                for _ in 0..3 {
                    twins.write(false).await;
                }
            }
            assert!(twins.local.is_settled() || !twins.tables().is_empty());
        });
    }
}

/// A replica is healed while writes go on and it lags behind.
fn heals_at_random(seed: u64) {
    run(seed, |mut twins| async move {
        for _ in 0..8 {
            for _ in 0..60 {
                let lags = twins.draw(3) == 0;
                twins.write(lags).await;
            }
            twins.local.checkpoint().await.unwrap();
            settle(&twins.local).await;
            for _ in 0..=twins.draw(3) {
                let tables = twins.tables();
                if tables.is_empty() {
                    continue;
                }
                let path = tables[twins.draw(tables.len() as u64) as usize].clone();
                let pages = twins
                    .disk
                    .read(&path)
                    .map_or(1, |bytes| bytes.len() as u64 / 4096);
                let page = twins.draw(pages);
                twins.disk.flip_bit(&path, page * 4096 + 20);
            }
            twins.read_all().await;
            twins.heal().await;
            twins.catch_up().await;
            twins.check().await;
        }
        settle(&twins.local).await;
        twins.check().await;
        // What is read at an open alone may be damaged as well.
        let tables: Vec<_> = {
            let state = twins.local.inner.state.borrow();
            state
                .version
                .tables()
                .map(|table| table.meta().id)
                .collect()
        };
        for table in tables {
            // Some of it hid where no read had to look.
            if twins.local.rewrite_table(table).await.is_err() {
                twins.heal().await;
                twins.catch_up().await;
            }
        }
        twins.check().await;
        twins.local.close().await.unwrap();
        // The lock is free once nothing holds the engine.
        twins.local = twins.peer.clone();
        twins.local = Twins::open("/data/local").await;
        twins.check().await;
    });
}

#[test]
fn a_replica_that_lags_is_healed_while_it_is_written_to() {
    for seed in 10..22 {
        heals_at_random(seed);
    }
}

/// Whether a bug shows with some seed.
fn is_found(bug: Bug) -> bool {
    (10..40).any(|seed| {
        plant(Some(bug));
        let ended = std::panic::catch_unwind(|| heals_at_random(seed));
        plant(None);
        ended.is_err()
    })
}

#[test]
fn a_healed_range_that_keeps_an_old_version_is_found() {
    assert!(is_found(Bug::HealKeepsOldVersions));
}

#[test]
fn a_fetched_range_that_is_not_waited_for_is_found() {
    assert!(is_found(Bug::HealWithoutWaiting));
}

#[test]
fn a_damaged_value_is_put_elsewhere_and_a_segment_emptied() {
    run(7, |mut twins| async move {
        for _ in 0..300 {
            twins.write(false).await;
        }
        twins.local.checkpoint().await.unwrap();
        settle(&twins.local).await;
        let files = twins.disk.files().into_iter().map(|(path, _)| path);
        let files = files.filter(|path| path.contains("local") && path.ends_with(".vlog"));
        for path in files.collect::<Vec<_>>() {
            twins.disk.flip_bit(&path, 4096 + 3000);
            twins.disk.flip_bit(&path, 30_000);
        }
        twins.read_all().await;
        let damaged = twins.local.damages().len();
        assert!(damaged > 2, "{damaged}");
        twins.heal().await;
        twins.catch_up().await;
        twins.check().await;

        let path = {
            let state = twins.local.inner.state.borrow();
            let mut tables = state.version.tables();
            let reference = tables.find_map(|table| table.meta().references.first().cloned());
            let segments = twins.local.inner.values.segments();
            let segment = &segments[&reference.unwrap().segment];
            let name = FileName::ValueSegment(segment.id(), segment.generation());
            name.path(&PathBuf::from("/data/local"))
                .display()
                .to_string()
        };
        let whole = Error::corrupt(&PathBuf::from(path), 0, "the fence is damaged");
        twins.local.note_log_damage(&whole).await;
        let damage = twins.local.damages()[0].clone();
        let Some(Remedy::Segment(id)) = twins.local.remedy(&damage) else {
            panic!("{damage}");
        };
        while !twins.local.evacuate_segment(id).await.unwrap() {}
        let refers = {
            let state = twins.local.inner.state.borrow();
            let references = state.version.tables().map(|table| &table.meta().references);
            let mut references = references.flatten();
            references.any(|reference| reference.segment == id)
        };
        assert!(!refers, "nothing refers to it");
        let damaged = twins.local.damages();
        twins.local.damage_healed(|_| true);
        twins.check().await;
        assert_eq!(damaged.len(), 1, "until the log has purged its entries");
    });
}

#[test]
fn damage_at_the_other_replica_ends_an_answer_and_sessions_come_along() {
    run(8, |twins| async move {
        let Twins {
            local, peer, disk, ..
        } = &twins;
        for engine in [local, peer] {
            for index in 1..=40_u64 {
                engine.sessions().open(LogIndex(index));
                let key = format!("key/{index:03}").into_bytes();
                engine.put(LogIndex(index), &key, Bytes::from(vec![index as u8; 3000]));
                engine.set_applied(log_id(index), None);
            }
        }
        let whole = [&[0][..], &[u8::MAX][..]];
        let first = peer
            .fetch((whole[0], whole[1]), &[], None, 4000)
            .await
            .unwrap();
        assert_eq!((first.keys.len(), first.end), (1, FetchedEnd::More));
        let all = peer
            .fetch((whole[0], whole[1]), &[], None, 1 << 20)
            .await
            .unwrap();
        assert_eq!((all.keys.len(), all.end), (80, FetchedEnd::Complete));
        assert_eq!(all.as_of, LogIndex(40));
        let key = &all.keys[20].stored_key;
        let rest = peer.fetch((whole[0], &[0, u8::MAX]), key, None, 1 << 20);
        assert_eq!(rest.await.unwrap().keys, all.keys[21..40]);
        let one = peer
            .fetch((key, key), &[], Some(LogIndex(21)), 0)
            .await
            .unwrap();
        assert_eq!(one.keys, all.keys[20..21]);
        peer.checkpoint().await.unwrap();
        let files = disk.files().into_iter().map(|(path, _)| path);
        for path in files.filter(|path| path.contains("peer") && path.ends_with(".sst")) {
            let bytes = disk.read(&path).unwrap();
            let at = bytes.windows(64).position(|part| part == [30; 64]);
            at.into_iter()
                .for_each(|at| disk.flip_bit(&path, at as u64));
        }
        let part = peer
            .fetch((whole[0], whole[1]), &[], None, 1 << 20)
            .await
            .unwrap();
        assert_eq!(part.end, FetchedEnd::Damaged);
        assert!(part.keys.len() < 30 && part.keys[..] == all.keys[..part.keys.len()]);
        assert_eq!(peer.damages().len(), 1);
    });
}

#[test]
fn an_earlier_moment_of_a_healed_range_can_no_longer_be_read() {
    run(9, |mut twins| async move {
        for number in 0..100 {
            let key = format!("key/{number:03}").into_bytes();
            twins.log.push((key, Some(Bytes::from(vec![1; 300]))));
            let index = twins.log.len() as u64;
            apply(&twins.peer, index, &twins.log[number]).await;
        }
        twins.catch_up().await;
        twins.local.checkpoint().await.unwrap();
        settle(&twins.local).await;
        let pin = twins.local.pin();
        twins.write(false).await;
        let path = twins.tables().pop().unwrap();
        twins.disk.flip_bit(&path, 2 * 4096 + 20);
        twins.read_all().await;
        let damage = twins.local.damages()[0].clone();
        twins.heal().await;
        let at = Some(pin.at());
        let local = Rc::new(twins.local.clone());
        let page = local.scan(&range(b"", b""), at, 1000, 1 << 20).await;
        assert!(matches!(page, Err(Error::SequenceGone { .. })), "{page:?}");
        let (_, key) = Space::of_stored(&damage.first_key).unwrap();
        let before = local.scan(&range(b"", key), at, 1000, 1 << 20).await;
        let beside = before.is_ok_and(|page| !page.items.is_empty());
        assert!(
            beside || key <= &b"key/001"[..],
            "what lies beside is as it was"
        );
        drop(pin);
        assert!(local.pin_at(LogIndex(100)).is_none());
        twins.catch_up().await;
        twins.check().await;
    });
}
