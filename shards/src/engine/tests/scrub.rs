//! Damage found by the scrubber and by reads, in the Sim world.

use super::{log_id, open_with, settle};
use crate::cache::BlockCache;
use crate::engine::{Damage, DamageHook, Engine, ScrubOptions};
use crate::error::Error;
use crate::ids::LogIndex;
use crate::key::Space;
use bytes::Bytes;
use corelith_io::sim::{IoKind, Sim, SimDisk, SimNode};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

const QUICK: ScrubOptions = ScrubOptions {
    bytes_per_second: 64 << 20,
    cycle_min: Duration::from_millis(200),
};

/// An engine without a cache, what is in it, and what its hook was told.
struct Case {
    engine: Engine,
    disk: SimDisk,
    dir: PathBuf,
    state: BTreeMap<Vec<u8>, Bytes>,
    told: Rc<RefCell<Vec<Damage>>>,
}

fn run<Fut: Future<Output = ()> + 'static>(
    scrub: ScrubOptions,
    test: impl FnOnce(Case) -> Fut + 'static,
) {
    let sim = Sim::new(11);
    let node: SimNode = sim.add_node();
    let disk = sim.disk(node);
    sim.block_on(node, async move {
        let case = Case::open(disk, scrub).await;
        test(case).await;
    });
}

impl Case {
    async fn open(disk: SimDisk, scrub: ScrubOptions) -> Self {
        let dir = PathBuf::from("/data/shard-1");
        let told = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&told);
        let engine = open_with(&dir, 64 << 10, move |parts| {
            parts.cache = BlockCache::new(0);
            parts.options.scrub = scrub;
            parts.on_damage = Some(DamageHook::new(move |damage| {
                sink.borrow_mut().push(damage.clone());
            }));
        });
        let mut case = Self {
            engine: engine.await.unwrap(),
            disk,
            dir,
            state: BTreeMap::new(),
            told,
        };
        for index in 1..=200 {
            case.put(index).await;
        }
        case.engine.checkpoint().await.unwrap();
        settle(&case.engine).await;
        case
    }

    /// Every eighth value is in the value log.
    async fn put(&mut self, index: u64) {
        let key = format!("key/{index:04}").into_bytes();
        let at = LogIndex(index);
        let value = if index.is_multiple_of(8) {
            let value: Vec<u8> = (0..8000_u64)
                .map(|byte| (byte * index % 251) as u8)
                .collect();
            let values = &self.engine.inner.values;
            let (pointer, ticket) = values.stage(at, Space::User.key(&key), &value).unwrap();
            values.wait_durable(ticket).await.unwrap();
            self.engine.put_separated(at, &key, pointer);
            Bytes::from(value)
        } else {
            let value = Bytes::from(vec![index as u8; 300]);
            self.engine.put(at, &key, value.clone());
            value
        };
        self.engine.set_applied(log_id(index), None);
        self.state.insert(key, value);
    }

    /// Waits for the end of a cycle that begins after this moment.
    async fn cycle(&self) {
        let next = self.engine.report().scrub.cycle + 1;
        loop {
            let progress = self.engine.report().scrub;
            if progress.cycle > next || (progress.cycle == next && !progress.running) {
                return;
            }
            corelith_io::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads every key: those outside of `damage` are served, those inside may be, and if not, the
    /// error names the file and place. Returns how many were not.
    async fn check_reads(&self, damage: &Damage) -> usize {
        let mut refused = 0;
        for (key, value) in &self.state {
            let stored = Space::User.stored_key(key);
            match self.engine.get(key).await {
                Ok(found) => assert_eq!(&found.unwrap().value, value),
                Err(Error::Corrupt { file, offset, .. }) => {
                    let range = &damage.first_key[..]..=&damage.last_key[..];
                    assert!(
                        range.contains(&&stored[..]),
                        "{}: {damage}",
                        key.escape_ascii()
                    );
                    assert_eq!(file, damage.file);
                    let is_record = damage.first_key == damage.last_key;
                    assert!(offset == damage.offset || is_record && offset > damage.offset);
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        refused
    }

    /// The files of that kind.
    fn files(&self, extension: &str) -> Vec<String> {
        let files = self.disk.files().into_iter().map(|(path, _)| path);
        files.filter(|path| path.ends_with(extension)).collect()
    }

    /// A table of the current version.
    fn table(&self) -> String {
        let state = self.engine.inner.state.borrow();
        let first = state.version.tables().next().unwrap();
        first.name()
    }
}

#[test]
fn a_flipped_bit_in_any_block_of_a_table_is_found_within_a_cycle() {
    run(QUICK, |case| async move {
        let path = case.table();
        let pages = case.disk.read(&path).unwrap().len() as u64 / 4096;
        let mut refusals = 0;
        case.cycle().await;
        assert!(case.told.borrow().is_empty(), "{:?}", case.told);
        for page in 0..pages {
            let at = page * 4096 + 20;
            case.disk.flip_bit(&path, at);
            case.cycle().await;
            let damages = case.engine.damages();
            assert_eq!(
                *case.told.borrow(),
                damages,
                "the hook is told once of each"
            );
            let damage = damages.last().unwrap_or_else(|| panic!("page {page}"));
            assert_eq!(damage.file, path);
            assert!(
                damage.offset <= at && !damage.last_key.is_empty(),
                "{damage}"
            );
            refusals += case.check_reads(damage).await;
            case.cycle().await;
            assert!(case.engine.report().scrub.damaged > 0);
            case.disk.flip_bit(&path, at);
        }
        assert!(refusals > 0 && refusals < case.state.len() * pages as usize / 2);
        // The damage that was found once stays known for as long as the file is in use.
        assert!(!case.engine.damages().is_empty());
        case.engine.close().await.unwrap();
    });
}

#[test]
fn a_damaged_value_is_found_and_told_once_though_it_is_read_as_well() {
    run(QUICK, |case| async move {
        let key = b"key/0016";
        let value = &case.state[&key[..]];
        let place = |path: &String| {
            let bytes = case.disk.read(path).unwrap();
            let at = bytes
                .windows(64)
                .position(|part| part == &value[6000..6064]);
            at.map(|at| (path.clone(), at as u64))
        };
        let (path, at) = case.files(".vlog").iter().find_map(place).unwrap();
        case.disk.flip_bit(&path, at);
        case.cycle().await;
        let damages = case.engine.damages();
        assert_eq!(damages.len(), 1, "{damages:?}");
        let stored = Space::User.stored_key(key);
        assert_eq!(
            (&damages[0].first_key[..], &damages[0].last_key[..]),
            (&stored[..], &stored[..])
        );
        assert_eq!(case.check_reads(&damages[0]).await, 1);
        let found = case.engine.get_range(key, 0..10).await;
        assert!(matches!(found, Err(Error::Corrupt { .. })));
        case.cycle().await;
        assert_eq!(*case.told.borrow(), damages);
        assert_eq!(
            damages[0].to_string(),
            format!(
                "{path} is damaged at offset {} (a page of a value is damaged): key \"key/0016\"",
                damages[0].offset
            )
        );
    });
}

#[test]
fn a_damaged_record_that_nothing_refers_to_is_no_damage() {
    run(QUICK, |mut case| async move {
        let lost = [0x5a; 8000];
        let values = &case.engine.inner.values;
        values
            .stage(LogIndex(201), Space::User.key(b"lost"), &lost)
            .unwrap();
        for index in 202..=300 {
            case.put(index).await;
        }
        case.engine.checkpoint().await.unwrap();
        let place = |path: &String| {
            let bytes = case.disk.read(path).unwrap();
            let at = bytes.windows(64).position(|part| part == &lost[..64]);
            at.map(|at| (path.clone(), at as u64))
        };
        let (path, at) = case.files(".vlog").iter().find_map(place).unwrap();
        case.disk.flip_bit(&path, at + 100);
        case.cycle().await;
        assert!(case.told.borrow().is_empty(), "{:?}", case.told);
    });
}

#[test]
fn what_is_read_first_is_told_first_and_once() {
    run(ScrubOptions::default(), |case| async move {
        let path = case.table();
        case.disk.flip_bit(&path, 4096 + 20);
        let mut errors = 0;
        for _ in 0..2 {
            for key in case.state.keys() {
                errors += usize::from(case.engine.get(key).await.is_err());
            }
        }
        let page = case
            .engine
            .scan(&super::range(b"", b""), None, 1000, 1 << 30)
            .await;
        assert!(matches!(page, Err(Error::Corrupt { .. })));
        assert!(errors > 1 && errors < 2 * case.state.len());
        assert_eq!(case.told.borrow().len(), 1, "{:?}", case.told);
        assert_eq!(case.engine.report().damages, *case.told.borrow());
        assert_eq!(case.engine.report().scrub.cycle, 0, "it is off");
    });
}

#[test]
fn heads_are_read_without_values() {
    run(ScrubOptions::default(), |case| async move {
        case.disk.fail(IoKind::Read, ".vlog", 0);
        let all = super::range(b"", b"");
        let heads = case.engine.scan_heads(&all, None, 1000, 1 << 30);
        let heads = heads.await.unwrap().items;
        assert_eq!(heads.len(), case.state.len());
        for (head, (key, value)) in heads.iter().zip(&case.state) {
            assert_eq!(head.key, key);
            assert_eq!(head.found.len, value.len() as u64);
            assert_eq!(case.engine.head(key).await.unwrap(), Some(head.found));
        }
        assert_eq!(case.engine.head(b"nothing").await.unwrap(), None);
        // The fault is still there: nothing before this has read a value from the value log.
        let whole = case.engine.scan(&all, None, 1000, 1 << 30).await;
        assert!(matches!(whole, Err(Error::Io { .. })), "{whole:?}");
    });
}

#[test]
fn a_read_that_fails_is_no_damage() {
    run(QUICK, |case| async move {
        for part in [".sst", ".vlog"] {
            case.disk.fail(IoKind::Read, part, 0);
            case.cycle().await;
            case.cycle().await;
        }
        assert!(case.told.borrow().is_empty());
        let progress = case.engine.report().scrub;
        assert_eq!(
            (progress.damaged, progress.bytes_done),
            (0, progress.bytes_total)
        );
    });
}

#[test]
fn a_slow_cycle_sees_files_come_and_go_and_ends_with_the_engine() {
    let slow = ScrubOptions {
        bytes_per_second: 64 << 10,
        cycle_min: Duration::from_millis(1),
    };
    run(slow, |mut case| async move {
        for index in 201..=1200 {
            case.put(index).await;
            if index % 50 == 0 {
                case.engine.checkpoint().await.unwrap();
                corelith_io::sleep(Duration::from_millis(200)).await;
            }
        }
        let progress = case.engine.report().scrub;
        assert!(
            progress.cycle > 0 && progress.running && progress.bytes_done < progress.bytes_total
        );
        assert!(case.told.borrow().is_empty(), "{:?}", case.told);
        settle(&case.engine).await;
        let (tables, _) = case.engine.tables();
        assert!(
            case.files(".sst").len() <= tables + 1,
            "at most the one being checked is held"
        );
        let before = corelith_io::now();
        case.engine.close().await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(1));
        let Case { engine, dir, .. } = case;
        drop(engine);
        // The lock is free: nothing holds the engine any more.
        let engine = open_with(&dir, 64 << 10, |_| {}).await.unwrap();
        assert!(engine.get(b"key/1200").await.unwrap().is_some());
    });
}
