//! What a disk keeps, and how it fails.

use crate::{BLOCK, block_of, create, create_durable, for_seeds, ms};
use corelith_io::sim::{IoKind, Sim};
use corelith_io::{
    BLOCK_SIZE, Buf, ErrorKind, File, OpenOptions, lock_dir, now, remove_file, rename, sync_dir,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// What a block holds, told from its sectors.
fn classify(block: &[u8]) -> &'static str {
    let sectors: BTreeSet<&[u8]> = block.chunks(512).collect();
    assert!(
        sectors
            .iter()
            .all(|sector| sector.iter().all(|byte| *byte == sector[0]))
    );
    match (sectors.len(), block[0]) {
        (1, 0) => "old",
        (1, _) => "new",
        _ => "torn",
    }
}

#[test]
fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
    let mut seen = BTreeSet::new();
    for_seeds(60, |sim, node| {
        let seed = sim.seed();
        sim.block_on(node, async {
            let file = create_durable("/f", 3).await;
            file.write_at(0, block_of(1)).await.unwrap();
            file.sync().await.unwrap();
            file.write_at(BLOCK, block_of(1)).await.unwrap();
        });
        sim.crash(node);
        let bytes = sim.disk(node).read("/f").unwrap();
        assert_eq!(classify(&bytes[..BLOCK_SIZE]), "new", "seed {seed}");
        seen.insert(classify(&bytes[BLOCK_SIZE..2 * BLOCK_SIZE]));
        assert_eq!(classify(&bytes[2 * BLOCK_SIZE..]), "old", "seed {seed}");
    });
    assert_eq!(seen, BTreeSet::from(["old", "new", "torn"]));
}

#[test]
fn durable_writes_survive_and_those_in_flight_may_be_torn() {
    let mut seen = BTreeSet::new();
    for_seeds(60, |sim, node| {
        let seed = sim.seed();
        sim.block_on(node, async {
            create_durable("/f", 8).await;
        });
        let acknowledged = Rc::new(Cell::new(0));
        let counter = Rc::clone(&acknowledged);
        sim.start(node, 0, move || async move {
            let file = OpenOptions::new()
                .write()
                .dsync()
                .open(Path::new("/f"))
                .await
                .unwrap();
            for at in 0..8 {
                file.write_at(at * BLOCK, block_of(1)).await.unwrap();
                counter.set(at + 1);
            }
        });
        // The first I/O opens the file.
        sim.crash_at_io(node, 2 + seed % 8);
        assert!(sim.run_until(|| !sim.is_up(node), ms(1000)));
        let bytes = sim.disk(node).read("/f").unwrap();
        for (at, block) in bytes.chunks(BLOCK_SIZE).enumerate() {
            let state = classify(block);
            match (at as u64).cmp(&acknowledged.get()) {
                std::cmp::Ordering::Less => assert_eq!(state, "new", "seed {seed} block {at}"),
                std::cmp::Ordering::Equal => _ = seen.insert(state),
                std::cmp::Ordering::Greater => assert_eq!(state, "old", "seed {seed}"),
            }
        }
    });
    assert_eq!(seen, BTreeSet::from(["old", "new", "torn"]));
}

#[test]
fn writes_in_flight_at_once_are_lost_in_any_combination() {
    let mut kept = BTreeSet::new();
    for_seeds(200, |sim, node| {
        sim.block_on(node, async {
            create_durable("/f", 3).await;
        });
        let before = sim.io_count(node);
        sim.start(node, 0, || async {
            let options = OpenOptions::new().write().dsync();
            let file = options.open(Path::new("/f")).await.unwrap();
            let write = |at| file.write_at(at * BLOCK, block_of(1));
            futures_util::future::join_all((0..3).map(write)).await;
        });
        assert!(sim.run_until(|| sim.io_count(node) == before + 4, ms(1000)));
        sim.crash(node);
        let bytes = sim.disk(node).read("/f").unwrap();
        let new = |block| classify(block) == "new";
        kept.insert(bytes.chunks(BLOCK_SIZE).map(new).collect::<Vec<_>>());
    });
    assert_eq!(kept.len(), 8, "{kept:?}");
}

#[test]
fn a_read_that_races_a_write_sees_any_mix_of_sectors() {
    let mut seen = BTreeSet::new();
    for_seeds(60, |sim, node| {
        let racing = sim.block_on(node, async {
            let file = create_durable("/f", 1).await;
            let before = file.read_at(0, BLOCK_SIZE).await.unwrap();
            assert_eq!(classify(&before), "old");
            let (racing, written) = futures_util::future::join(
                file.read_at(0, BLOCK_SIZE),
                file.write_at(0, block_of(1)),
            )
            .await;
            written.unwrap();
            let after = file.read_at(0, BLOCK_SIZE).await.unwrap();
            assert_eq!(classify(&after), "new");
            classify(&racing.unwrap())
        });
        seen.insert(racing);
    });
    assert_eq!(seen, BTreeSet::from(["old", "new", "torn"]));
}

#[test]
fn a_sector_that_was_read_as_new_stays_new() {
    let mut seen = BTreeSet::new();
    for_seeds(40, |sim, node| {
        let states = sim.block_on(node, async {
            let blocks = 256;
            let file = Rc::new(create_durable("/f", blocks).await);
            let writing = Rc::clone(&file);
            let done = Rc::new(Cell::new(false));
            let is_written = Rc::clone(&done);
            let write = corelith_io::spawn(async move {
                // Long enough for many reads.
                let mut long = Buf::alloc(BLOCK_SIZE * blocks as usize);
                long.fill(1);
                writing.write_at(0, long).await.unwrap();
                is_written.set(true);
            });
            let (mut new, mut states) = (BTreeSet::new(), BTreeSet::new());
            while !done.get() {
                let block = file.read_at(0, BLOCK_SIZE).await.unwrap();
                states.insert(classify(&block));
                let sectors = (0..).zip(block.chunks(512));
                let now: BTreeSet<usize> = sectors
                    .filter(|(_, sector)| sector[0] == 1)
                    .map(|(at, _)| at)
                    .collect();
                assert!(now.is_superset(&new), "{new:?} before {now:?}");
                new = now;
            }
            write.await.unwrap();
            states
        });
        seen.extend(states);
    });
    assert_eq!(seen, BTreeSet::from(["old", "new", "torn"]));
}

#[test]
fn a_name_lasts_after_its_directory_is_synced() {
    let mut unsynced_kept = BTreeSet::new();
    for_seeds(40, |sim, node| {
        let seed = sim.seed();
        sim.block_on(node, async {
            create("/synced").await;
            create("/removed").await;
            sync_dir(Path::new("/")).await.unwrap();
            create("/unsynced").await;
            remove_file(Path::new("/removed")).await.unwrap();
        });
        sim.crash(node);
        let names: Vec<String> = sim
            .disk(node)
            .files()
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        assert!(names.contains(&"/synced".to_owned()), "seed {seed}");
        let kept = |name: &str| names.iter().any(|path| path == name);
        unsynced_kept.insert((kept("/unsynced"), kept("/removed")));
    });
    assert_eq!(unsynced_kept.len(), 4, "{unsynced_kept:?}");
}

#[test]
fn a_rename_is_whole_or_has_not_happened() {
    let mut seen = BTreeSet::new();
    for_seeds(40, |sim, node| {
        let seed = sim.seed();
        sim.block_on(node, async {
            let old = create("/current").await;
            old.write_at(0, block_of(1)).await.unwrap();
            old.sync().await.unwrap();
            sync_dir(Path::new("/")).await.unwrap();
            let new = create("/current.new").await;
            new.write_at(0, block_of(2)).await.unwrap();
            new.sync().await.unwrap();
            sync_dir(Path::new("/")).await.unwrap();
            rename(Path::new("/current.new"), Path::new("/current"))
                .await
                .unwrap();
        });
        sim.crash(node);
        let content = sim.disk(node).read("/current").unwrap();
        assert_eq!(content.len(), BLOCK_SIZE);
        let remains = sim.disk(node).read("/current.new").is_some();
        assert_eq!(content[0] == 1, remains, "seed {seed}");
        seen.insert(remains);
    });
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_failed_sync_loses_the_data_though_the_next_one_succeeds() {
    for_seeds(20, |sim, node| {
        sim.disk(node).fail(IoKind::Sync, "/f", 1);
        sim.block_on(node, async {
            let file = create_durable("/f", 2).await;
            file.write_at(0, block_of(1)).await.unwrap();
            let error = file.sync().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Device);
            assert_eq!(
                file.read_at(0, 1).await.unwrap()[0],
                1,
                "the cache still has it"
            );
            file.sync().await.unwrap();
            file.write_at(BLOCK, block_of(2)).await.unwrap();
            file.sync().await.unwrap();
        });
        sim.crash(node);
        let bytes = sim.disk(node).read("/f").unwrap();
        assert_eq!((bytes[0], bytes[BLOCK_SIZE]), (0, 2));
    });
}

#[test]
fn a_sync_covers_only_what_was_written_before_it() {
    let mut lost = false;
    for_seeds(40, |sim, node| {
        sim.block_on(node, async {
            let file = Rc::new(create_durable("/f", 1).await);
            let syncing = Rc::clone(&file);
            let sync = corelith_io::spawn(async move { syncing.sync().await });
            corelith_io::yield_now().await;
            file.write_at(0, block_of(1)).await.unwrap();
            sync.await.unwrap().unwrap();
        });
        sim.crash(node);
        lost |= sim.disk(node).read("/f").unwrap()[0] == 0;
    });
    assert!(lost);
}

#[test]
fn a_full_disk_says_so_and_clears() {
    for_seeds(5, |sim, node| {
        sim.disk(node).set_capacity(4 * BLOCK);
        sim.block_on(node, async {
            let file = create_durable("/f", 3).await;
            let other = create("/g").await;
            other.write_at(0, block_of(1)).await.unwrap();
            let error = other.write_at(BLOCK, block_of(1)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            file.write_at(0, block_of(7)).await.unwrap();
            drop(file);
            remove_file(Path::new("/f")).await.unwrap();
            sync_dir(Path::new("/")).await.unwrap();
            other.write_at(BLOCK, block_of(1)).await.unwrap();
            assert_eq!(
                corelith_io::free_bytes(Path::new("/")).await.unwrap(),
                2 * BLOCK
            );
        });
    });
}

#[test]
fn reads_and_writes_fail_where_asked() {
    for_seeds(5, |sim, node| {
        sim.disk(node).fail(IoKind::Read, "/f", 1);
        sim.disk(node).fail(IoKind::Write, "/f", 2);
        sim.block_on(node, async {
            let file = create_durable("/f", 2).await;
            assert!(file.read_at(0, 1).await.is_ok());
            assert_eq!(
                file.read_at(0, 1).await.unwrap_err().kind(),
                ErrorKind::Device
            );
            assert!(file.read_at(0, 1).await.is_ok());
            let error = file.write_at(0, block_of(1)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Device);
            assert!(file.write_at(0, block_of(1)).await.is_ok());
        });
        sim.disk(node).set_failing_rate(IoKind::Read, 1.0);
        sim.block_on(node, async {
            let file = File::open(Path::new("/f")).await.unwrap();
            assert!(file.read_at(0, 1).await.is_err());
        });
        sim.disk(node).heal();
        sim.block_on(node, async {
            let file = File::open(Path::new("/f")).await.unwrap();
            assert!(file.read_at(0, 1).await.is_ok());
        });
    });
}

#[test]
fn bits_rot_and_writes_go_astray() {
    for_seeds(5, |sim, node| {
        sim.block_on(node, async {
            create_durable("/f", 4).await;
        });
        sim.disk(node).flip_bit("/f", 5000);
        sim.disk(node).misdirect(IoKind::Write, "/f", 0);
        let written = sim.block_on(node, async {
            let file = OpenOptions::new()
                .write()
                .open(Path::new("/f"))
                .await
                .unwrap();
            assert_ne!(file.read_at(5000, 1).await.unwrap()[0], 0);
            file.write_at(0, block_of(9)).await.unwrap();
            let bytes = file.read_at(0, 4 * BLOCK_SIZE).await.unwrap();
            bytes
                .chunks(BLOCK_SIZE)
                .position(|block| block.iter().all(|byte| *byte == 9))
        });
        assert_ne!(written.unwrap(), 0);
    });
}

#[test]
fn a_disk_is_full_where_asked() {
    for_seeds(5, |sim, node| {
        for kind in [
            IoKind::Write,
            IoKind::SetLen,
            IoKind::Sync,
            IoKind::SyncDir,
            IoKind::Rename,
        ] {
            sim.disk(node).fail_for_space(kind, "/", 0);
            let errors = sim.block_on(node, async {
                let options = OpenOptions::new().write().create_new();
                let file = options.open(Path::new("/new")).await.unwrap();
                let results = [
                    file.write_at(0, block_of(1)).await,
                    file.set_len(100).await,
                    file.sync().await,
                    rename(Path::new("/new"), Path::new("/renamed")).await,
                    sync_dir(Path::new("/")).await,
                ];
                let _ = remove_file(Path::new("/new")).await;
                let _ = remove_file(Path::new("/renamed")).await;
                let errors = results.into_iter().filter_map(Result::err);
                errors.map(|error| error.kind()).collect::<Vec<_>>()
            });
            assert_eq!(errors, [ErrorKind::NoSpace], "{kind:?}");
        }
    });
}

#[test]
fn a_failed_sync_of_a_directory_loses_names_though_the_next_one_succeeds() {
    let mut kept = BTreeSet::new();
    for_seeds(40, |sim, node| {
        sim.disk(node).fail(IoKind::SyncDir, "/", 0);
        sim.block_on(node, async {
            create("/one").await;
            create("/two").await;
            let error = sync_dir(Path::new("/")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Device);
            sync_dir(Path::new("/")).await.unwrap();
            create("/three").await;
            sync_dir(Path::new("/")).await.unwrap();
        });
        assert!(sim.disk(node).read("/one").is_some(), "lookups see it");
        sim.crash(node);
        let has = |path| sim.disk(node).read(path).is_some();
        assert!(has("/three"));
        kept.insert((has("/one"), has("/two")));
    });
    assert_eq!(kept.len(), 4, "{kept:?}");
}

#[test]
fn files_go_on_with_what_is_cut_short() {
    for_seeds(20, |sim, node| {
        sim.disk(node).set_short_rate(0.9);
        let before = sim.io_count(node);
        sim.block_on(node, async {
            let file = create("/f").await;
            let mut long = Buf::zeroed(8 * BLOCK_SIZE);
            for (at, byte) in long.iter_mut().enumerate() {
                *byte = (at % 251) as u8;
            }
            let expected = long.to_vec();
            file.write_at(0, long).await.unwrap();
            for (offset, len) in [(0, 8 * BLOCK_SIZE), (5000, 9000), (20_000, 100_000)] {
                let read = file.read_at(offset as u64, len).await.unwrap();
                let end = (offset + len).min(expected.len());
                assert_eq!(*read, expected[offset..end]);
            }
        });
        assert!(sim.io_count(node) > before + 6);
    });
}

#[test]
fn a_dropped_write_is_acknowledged_and_has_no_effect() {
    for_seeds(5, |sim, node| {
        sim.disk(node).drop_write("/f", 2);
        sim.block_on(node, async {
            let file = create_durable("/f", 2).await;
            file.write_at(0, block_of(1)).await.unwrap();
            file.write_at(BLOCK, block_of(1)).await.unwrap();
            let bytes = file.read_at(0, 2 * BLOCK_SIZE).await.unwrap();
            assert_eq!((bytes[0], bytes[BLOCK_SIZE]), (0, 1));
        });
    });
}

#[test]
fn reads_and_writes_go_astray_to_other_files() {
    for_seeds(5, |sim, node| {
        sim.block_on(node, async {
            create_durable("/f", 2).await;
            create_durable("/g", 2).await;
        });
        sim.disk(node).misdirect_across(IoKind::Write, "/f", 0);
        sim.block_on(node, async {
            let options = OpenOptions::new().write();
            let file = options.open(Path::new("/f")).await.unwrap();
            file.write_at(BLOCK, block_of(9)).await.unwrap();
        });
        let first_of = |path: &str| sim.disk(node).read(path).unwrap()[BLOCK_SIZE];
        assert_eq!((first_of("/f"), first_of("/g")), (0, 9));
        sim.disk(node).misdirect_across(IoKind::Read, "/f", 0);
        sim.block_on(node, async {
            let file = File::open(Path::new("/f")).await.unwrap();
            let read = async || file.read_at(BLOCK, BLOCK_SIZE).await.unwrap()[0];
            assert_eq!((read().await, read().await), (9, 0));
        });
    });
}

#[test]
fn a_stalled_disk_answers_late() {
    for_seeds(5, |sim, node| {
        sim.block_on(node, async {
            create_durable("/f", 1).await;
        });
        let timed = |sim: &Sim| {
            sim.block_on(node, async {
                let file = File::open(Path::new("/f")).await.unwrap();
                let start = now();
                file.read_at(0, 1).await.unwrap();
                start.elapsed()
            })
        };
        assert!(timed(sim) < ms(10));
        sim.disk(node).set_slowness(1000);
        assert!(timed(sim) > ms(30));
        sim.disk(node).heal();
        sim.disk(node).stall(ms(500));
        let start = sim.now();
        timed(sim);
        assert!(sim.now() - start >= ms(500));
    });
}

#[test]
fn a_killed_process_leaves_what_it_completed() {
    for_seeds(20, |sim, node| {
        sim.block_on(node, async {
            let file = create("/f").await;
            file.write_at(0, block_of(1)).await.unwrap();
            let _lock = lock_dir(Path::new("/")).await.unwrap();
            let busy = lock_dir(Path::new("/")).await.err().unwrap();
            assert_eq!(busy.kind(), ErrorKind::Locked);
        });
        sim.start(node, 0, || async {
            let _lock = lock_dir(Path::new("/")).await.unwrap();
            std::future::pending::<()>().await;
        });
        sim.run_for(ms(10));
        sim.kill(node);
        sim.block_on(node, async {
            let _lock = lock_dir(Path::new("/")).await.unwrap();
            let file = File::open(Path::new("/f")).await.unwrap();
            assert_eq!(file.read_at(0, 1).await.unwrap()[0], 1);
        });
    });
}

#[test]
fn an_old_image_can_be_put_back() {
    for_seeds(3, |sim, node| {
        sim.disk(node).write("/dir/f", b"first");
        let image = sim.disk(node).image();
        sim.disk(node).write("/dir/f", b"second");
        sim.disk(node).write("/dir/g", b"");
        sim.crash(node);
        assert_eq!(sim.disk(node).read("/dir/f").unwrap(), b"second");
        sim.disk(node).restore(&image);
        assert_eq!(sim.disk(node).files(), [("/dir/f".to_owned(), 5)]);
        assert_eq!(sim.disk(node).read("/dir/f").unwrap(), b"first");
    });
}

type Performed = Pin<Box<dyn Future<Output = corelith_io::Result<()>>>>;
type Operation = (&'static str, fn(File) -> Performed);

#[test]
fn a_held_disk_completes_nothing_until_it_is_released() {
    for_seeds(20, |sim, node| {
        sim.block_on(node, async {
            create_durable("/f", 2).await;
        });
        let done = Rc::new(RefCell::new(Vec::new()));
        let operations: [Operation; 3] = [
            ("read", |file| {
                Box::pin(async move { file.read_at(0, 1).await.map(drop) })
            }),
            ("write", |file| {
                Box::pin(async move { file.write_at(BLOCK, block_of(7)).await })
            }),
            ("sync", |file| Box::pin(async move { file.sync().await })),
        ];
        let begin = || {
            for (name, operation) in operations {
                let done = Rc::clone(&done);
                sim.start(node, 0, move || async move {
                    let options = OpenOptions::new().write();
                    let file = options.open(Path::new("/f")).await.unwrap();
                    operation(file).await.unwrap();
                    done.borrow_mut().push(name);
                });
            }
        };
        let after = |time: Duration| {
            sim.run_for(time);
            let mut done = done.borrow_mut().clone();
            done.sort_unstable();
            done
        };
        let disk = sim.disk(node);
        // In flight, most of them, when it is held.
        begin();
        sim.run_for(Duration::from_micros(sim.random_below(100)));
        disk.hold(&IoKind::ALL);
        let before = done.borrow().len();
        assert_eq!(after(ms(5000)).len(), before);
        disk.release();
        assert_eq!(after(ms(50)), ["read", "sync", "write"]);

        done.borrow_mut().clear();
        disk.hold(&IoKind::WRITES_AND_SYNCS);
        begin();
        assert_eq!(after(ms(5000)), ["read"]);
        disk.heal();
        assert_eq!(after(ms(50)), ["read", "sync", "write"]);

        // What is held dies with its process.
        done.borrow_mut().clear();
        disk.hold(&IoKind::ALL);
        begin();
        sim.run_for(ms(50));
        sim.crash(node);
        disk.release();
        assert_eq!(after(ms(50)), [""; 0]);
    });
}
