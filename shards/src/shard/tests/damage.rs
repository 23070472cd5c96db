//! The exam scenarios "damaged sstable block, value-log record", "damaged manifest", "log damaged in the
//! middle" and "misdirected write and read", for whole shards: damage is named or does not matter, and is
//! never served.

use super::crash::{DIR, LAST, Source, life, source};
use super::model::Random;
use super::replica::{Config, Ledger, Replica, SharedLedger, Write};
use crate::check::check_shard;
use crate::engine::tests::crash::seeds;
use crate::error::{Error, Result};
use crate::ids::{LogIndex, Owner};
use bytes::Bytes;
use corelith_io::sim::{IoKind, Sim, SimDisk, SimNode};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(900);

/// A closed shard with tables, value segments of several generations, and a log that holds entries
/// beyond the checkpoint.
fn fill(sim: &Sim, node: SimNode, seed: u64) -> SharedLedger {
    let ledger = Ledger::new();
    let filled = Rc::clone(&ledger);
    sim.block_on(node, async move {
        let opened = Replica::open(Path::new(DIR), &Config::default(), &filled).await;
        let replica = opened.unwrap();
        let random = Random::new(seed);
        for round in 0..40 {
            replica.write(random.writes(5)).await.unwrap();
            if round % 10 == 9 {
                replica.checkpoint().await.unwrap();
                replica.purge(10).await.unwrap();
                crate::engine::tests::settle(&replica.shard.engine).await;
            }
        }
        replica.write(random.writes(9)).await.unwrap();
        // The log alone is closed, so its last entries are proven and in no table.
        replica.note();
        replica.shard.log.close().await.unwrap();
    });
    sim.kill(node);
    ledger
}

/// A shard whose tables refer to a missing segment of the value log does not open: its values would be missed
/// one by one, and its id given to another file. The manifest does not name the segment that was in use.
#[test]
fn a_missing_value_segment_is_found_at_once() {
    for seed in seeds() {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        let ledger = Ledger::new();
        let filled = Rc::clone(&ledger);
        sim.block_on(node, async move {
            let opened = Replica::open(Path::new(DIR), &Config::default(), &filled).await;
            let replica = opened.unwrap();
            let random = Random::new(seed);
            for _ in 0..20 {
                replica.write(random.writes(5)).await.unwrap();
            }
            let key = b"in the segment in use".to_vec();
            let len = Some(3000);
            replica.write(vec![Write { key, len }]).await.unwrap();
            replica.checkpoint().await.unwrap();
            replica.purge(0).await.unwrap();
            replica.note();
        });
        sim.kill(node);
        let image = sim.disk(node).image();
        let files = sim.disk(node).files().into_iter();
        let values = files
            .filter(|(path, len)| path.ends_with(".vlog") && *len > 0)
            .map(|(path, _)| path);
        for path in values.collect::<Vec<_>>() {
            let content = content(&sim.disk(node).read(&path).unwrap());
            // The last one is prepared: nothing but its header is in it.
            let is_used = content.last() > Some(&(4 << 10));
            sim.disk(node).remove(&path);
            // The opening alone: whoever then reads the values would find it out too.
            let opened = sim.block_on(node, async {
                let options = crate::ShardOptions {
                    segment_bytes: 64 << 10,
                    value_segment_bytes: 64 << 10,
                    ..crate::ShardOptions::new(7, crate::ShardId(1))
                };
                let opened = crate::Shard::open(Path::new(DIR), options).await;
                opened.map(|_| ())
            });
            let is_refused = opened.is_err_and(|error| error.is_corrupt());
            sim.kill(node);
            assert_eq!(is_refused, is_used, "seed {seed}: {path}");
            sim.disk(node).restore(&image);
        }
    }
}

/// Opens the shard and reads all of it.
fn open_and_check(sim: &Sim, node: SimNode, ledger: &SharedLedger) -> Result<()> {
    let copy = ledger.borrow().copy();
    let result = sim.block_on(node, async move {
        let replica = Replica::open(Path::new(DIR), &Config::default(), &copy).await?;
        replica.check().await
    });
    sim.kill(node);
    result
}

/// Where a file does not hold zeros, which fill much of it.
fn content(file: &[u8]) -> Vec<u64> {
    let bytes = (0..).zip(file);
    let content = bytes.filter(|(_, byte)| **byte != 0);
    content.map(|(offset, _)| offset).collect()
}

/// What kind of file it is.
fn kind(path: &str) -> &str {
    path.rsplit(['.', '/']).next().unwrap_or_default()
}

#[test]
fn every_damaged_file_is_noticed_and_named() {
    for seed in seeds() {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        let ledger = fill(&sim, node, seed);
        let image = sim.disk(node).image();
        open_and_check(&sim, node, &ledger).unwrap();
        sim.disk(node).restore(&image);
        let manifest = sim.block_on(node, async {
            crate::inspect::inspect(&Path::new(DIR).join("MANIFEST")).await
        });
        let manifest = manifest.unwrap().unwrap();
        sim.kill(node);
        // A table that was being written when the shard ended is removed by the next start, which
        // gives its number to another.
        let is_orphan = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or_default();
            let id = name.trim_end_matches(".sst").trim_start_matches('0');
            let id = if id.is_empty() { "0" } else { id };
            name.ends_with(".sst") && !manifest.contains(&format!(": {id}, "))
        };
        let mut noticed = std::collections::BTreeMap::<String, (u32, u32)>::new();
        for (path, _) in sim.disk(node).files() {
            if is_orphan(&path) {
                continue;
            }
            let content = content(&sim.disk(node).read(&path).unwrap());
            for _ in 0..24.min(content.len()) {
                let offset = content[sim.random_below(content.len() as u64) as usize];
                sim.disk(node).flip_bit(&path, offset);
                let result = open_and_check(&sim, node, &ledger);
                let (all, found) = noticed.entry(kind(&path).to_owned()).or_default();
                *all += 1;
                match result {
                    // Nothing needed the damaged place. A check of the whole file finds it.
                    Ok(()) if kind(&path) == "sst" => {
                        let damaged = path.clone();
                        let checked = sim.block_on(node, async move {
                            crate::inspect::inspect(Path::new(&damaged)).await
                        });
                        sim.kill(node);
                        assert!(checked.is_err(), "{path} at {offset} is not noticed");
                    }
                    Ok(()) => {}
                    Err(Error::Corrupt { file, .. }) => {
                        assert!(
                            path.ends_with(&file) || file == path || kind(&path) == "log",
                            "{path} at {offset}, but {file}"
                        );
                        *found += 1;
                    }
                    // The damaged field says so.
                    Err(Error::NewerFormat { file, .. } | Error::OtherStore { file, .. }) => {
                        assert_eq!(file, path);
                        *found += 1;
                    }
                    Err(error) => panic!("{path} at {offset}: {error}"),
                }
                sim.disk(node).restore(&image);
            }
        }
        // Of a log, what was purged does not matter; of a value segment, what is garbage.
        for (kind, least) in [("sst", 80), ("vlog", 30), ("log", 10), ("MANIFEST", 100)] {
            let (all, found) = noticed[kind];
            assert!(found * 100 >= all * least, "{noticed:?}");
        }
    }
}

#[test]
fn a_damaged_manifest_never_opens() {
    let sim = Sim::new(5);
    let node = sim.add_node();
    let ledger = fill(&sim, node, 5);
    let image = sim.disk(node).image();
    let path = format!("{DIR}/MANIFEST");
    let content = content(&sim.disk(node).read(&path).unwrap());
    for offset in content {
        sim.disk(node).flip_bit(&path, offset);
        let error = open_and_check(&sim, node, &ledger).unwrap_err();
        let refused = matches!(
            error,
            Error::Corrupt { .. } | Error::NewerFormat { .. } | Error::OtherStore { .. }
        );
        assert!(refused, "at {offset}: {error}");
        sim.disk(node).restore(&image);
    }
    sim.disk(node).remove(&path);
    assert!(
        open_and_check(&sim, node, &ledger)
            .unwrap_err()
            .is_corrupt()
    );
}

/// What a file of the shard is called, in part.
const PARTS: [&str; 4] = [".sst", ".vlog", ".log", "MANIFEST"];

/// A write that goes elsewhere in its file damages two places; what the shard reads of them is refused,
/// now or after a restart.
#[test]
fn a_misdirected_write_is_never_served() {
    assert_refused(|disk, part, pass| disk.misdirect(IoKind::Write, part, pass));
}

#[test]
fn a_write_that_goes_to_another_file_is_never_served() {
    assert_refused(|disk, part, pass| disk.misdirect_across(IoKind::Write, part, pass));
}

#[test]
fn what_a_dropped_write_leaves_is_never_served() {
    assert_refused(|disk, part, pass| disk.drop_write(part, pass));
}

/// Runs a life on `node` for at most `limit`; returns how it ended, if it did.
fn lived(
    sim: &Sim,
    node: SimNode,
    ledger: &SharedLedger,
    source: &Rc<Source>,
    limit: Duration,
) -> Option<Result<()>> {
    let ended = Rc::new(RefCell::new(None));
    let (result, living) = (Rc::clone(&ended), Rc::clone(ledger));
    let source = Rc::clone(source);
    sim.start(node, 0, move || async move {
        let lived = life(living, source).await;
        *result.borrow_mut() = Some(lived);
    });
    sim.run_until(|| ended.borrow().is_some(), limit);
    ended.take()
}

/// What a write leaves that went wrong unnoticed is refused or harmless.
fn assert_refused(arm: impl Fn(&SimDisk, &str, u64)) {
    let source = source();
    for seed in seeds() {
        let mut detected = 0;
        for part in PARTS {
            for pass in (0..120).step_by(6) {
                let sim = Sim::new(seed << 20 | pass);
                let node = sim.add_node();
                let ledger = Ledger::new();
                arm(&sim.disk(node), part, pass);
                // Background work that meets damage waits.
                let ended = lived(&sim, node, &ledger, &source, Duration::from_secs(60));
                let is_whole = matches!(ended, Some(Ok(())));
                if let Some(Err(error)) = ended {
                    assert!(error.is_corrupt(), "{part} {pass}: {error}");
                }
                sim.kill(node);
                let reopened = open_and_check(&sim, node, &ledger);
                if let Err(error) = &reopened {
                    assert!(error.is_corrupt(), "{part} {pass}: {error}");
                }
                detected += u32::from(!is_whole || reopened.is_err());
            }
        }
        assert!(detected > 5, "{detected}");
    }
}

/// A read that comes from elsewhere is refused; the next one is right.
#[test]
fn a_misdirected_read_is_never_served() {
    assert_passing(|disk, part, pass| disk.misdirect(IoKind::Read, part, pass));
}

#[test]
fn a_read_that_comes_from_another_file_is_never_served() {
    assert_passing(|disk, part, pass| disk.misdirect_across(IoKind::Read, part, pass));
}

fn assert_passing(arm: impl Fn(&SimDisk, &str, u64)) {
    let source = source();
    for seed in seeds() {
        let mut detected = 0;
        for part in PARTS {
            for pass in (0..160).step_by(8) {
                let sim = Sim::new(seed << 20 | pass);
                let node = sim.add_node();
                let ledger = Ledger::new();
                arm(&sim.disk(node), part, pass);
                for life_number in 0..3 {
                    let ended = lived(&sim, node, &ledger, &source, LIMIT);
                    sim.kill(node);
                    match ended {
                        Some(Ok(())) => break,
                        Some(Err(error)) if error.is_corrupt() => detected += 1,
                        ended => panic!("{part} {pass}: {ended:?}"),
                    }
                    assert!(life_number < 2, "{part} {pass}: it stays");
                }
                assert_eq!(ledger.borrow().last(), LAST);
            }
        }
        assert!(detected > 5, "{detected}");
    }
}

/// A life of three entries that a checkpoint covers; nothing in the log proves the last, whose value is
/// returned, to have been flushed.
fn unproven(sim: &Sim, node: SimNode) -> (SharedLedger, Bytes) {
    let ledger = Ledger::new();
    let lived = Rc::clone(&ledger);
    sim.block_on(node, async move {
        let opened = Replica::open(Path::new(DIR), &Config::default(), &lived).await;
        let replica = opened.unwrap();
        for number in 1..=3_u8 {
            let write = Write {
                key: vec![b'a' + number],
                len: Some(5000),
            };
            replica.write(vec![write]).await.unwrap();
            replica.shard.log.flush().await.unwrap();
        }
        replica.checkpoint().await.unwrap();
        replica.note();
    });
    sim.kill(node);
    let value = ledger.borrow().value_of(3);
    (ledger, value)
}

/// Flips a bit of a value in the value log.
fn damage_value(sim: &Sim, node: SimNode, value: &Bytes) {
    let place = sim.disk(node).files().into_iter().find_map(|(path, _)| {
        let bytes = sim
            .disk(node)
            .read(&path)
            .filter(|_| kind(&path) == "vlog")?;
        let at = bytes
            .windows(64)
            .position(|part| part == &value[1024..1088])?;
        Some((path, at as u64))
    });
    let (path, at) = place.expect("the value is in the value log");
    sim.disk(node).flip_bit(&path, at);
}

/// A damaged value that the log still refers to keeps no shard from opening if a checkpoint covers its
/// entry. A read of it gives the error, and everything else is there.
#[test]
fn a_damaged_value_that_a_checkpoint_covers_is_not_needed_to_open() {
    for seed in seeds() {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        let (ledger, covered) = unproven(&sim, node);
        damage_value(&sim, node, &covered);
        sim.block_on(node, async move {
            let options = crate::ShardOptions {
                segment_bytes: 64 << 10,
                value_segment_bytes: 64 << 10,
                ..crate::ShardOptions::new(7, crate::ShardId(1))
            };
            let shard = crate::Shard::open(Path::new(DIR), options).await.unwrap();
            assert_eq!(shard.log.range().last, Some(ledger.borrow().id(3)));
            let error = shard.engine.get(b"d").await.unwrap_err();
            assert!(matches!(&error, Error::Corrupt { file, .. } if file.ends_with(".vlog")));
            let all = shard.log.read(LogIndex(1), LogIndex(4), u64::MAX).await;
            assert!(all.unwrap_err().is_corrupt());
            let rest = shard.log.read(LogIndex(1), LogIndex(3), u64::MAX).await;
            assert_eq!(rest.unwrap().len(), 2);
            let heads = shard.log.read_heads(LogIndex(1), LogIndex(4), u64::MAX);
            assert_eq!(heads.await.unwrap().len(), 3);
            shard.close().await.unwrap();
        });
        sim.kill(node);
    }
}

/// The same of a block of the log: it is needed, and named.
#[test]
fn a_damaged_block_that_a_checkpoint_covers_is_named() {
    let sim = Sim::new(6);
    let node = sim.add_node();
    let (ledger, _) = unproven(&sim, node);
    let needle = [1, 1, 0, b'd'];
    let place = sim.disk(node).files().into_iter().find_map(|(path, _)| {
        let bytes = sim
            .disk(node)
            .read(&path)
            .filter(|_| kind(&path) == "log")?;
        let at = bytes.windows(4).position(|part| part == needle)?;
        Some((path, at as u64))
    });
    let (path, at) = place.expect("the head of the entry is in the log");
    sim.disk(node).flip_bit(&path, at);
    match open_and_check(&sim, node, &ledger).unwrap_err() {
        Error::Corrupt { file, offset, .. } => {
            assert_eq!(file, path);
            assert!(offset <= at && at < offset + (4 << 10), "{offset}, {at}");
        }
        error => panic!("{error}"),
    }
}

/// A damaged value of an entry that has yet to be applied is found when it is read: entries are applied
/// without their values.
#[test]
fn a_damaged_value_that_is_to_be_replayed_is_found_by_who_reads_it() {
    let sim = Sim::new(4);
    let node = sim.add_node();
    let ledger = fill(&sim, node, 4);
    let last = ledger.borrow().last();
    let checkpointed = ledger.borrow().checkpointed;
    let index =
        (checkpointed + 1..=last).find(|index| ledger.borrow().value_of(*index).len() > 1100);
    let value = ledger
        .borrow()
        .value_of(index.expect("a long value after the checkpoint"));
    damage_value(&sim, node, &value);
    sim.block_on(node, async move {
        let options = crate::ShardOptions {
            segment_bytes: 64 << 10,
            value_segment_bytes: 64 << 10,
            ..crate::ShardOptions::new(7, crate::ShardId(1))
        };
        let shard = crate::Shard::open(Path::new(DIR), options).await.unwrap();
        assert_eq!(shard.log.range().last, Some(ledger.borrow().id(last)));
        let all = (LogIndex(checkpointed + 1), LogIndex(last + 1));
        let heads = shard.log.read_heads(all.0, all.1, u64::MAX).await.unwrap();
        assert_eq!(heads.len() as u64, last - checkpointed);
        assert!(
            shard
                .log
                .read(all.0, all.1, u64::MAX)
                .await
                .unwrap_err()
                .is_corrupt()
        );
    });
    sim.kill(node);
}

/// What a check calls damaged, a look at the file alone does too, and what it calls well is described.
#[test]
fn a_look_at_a_file_says_damage_where_a_check_does() {
    let sim = Sim::new(8);
    let node = sim.add_node();
    let ledger = fill(&sim, node, 8);
    // Once opened, what a crash left is sorted out.
    open_and_check(&sim, node, &ledger).unwrap();
    let look = |path: &str| {
        let path = path.to_owned();
        let looked = sim.block_on(node, async move {
            let mut problems = Vec::new();
            let summary = check_shard(Path::new(DIR), None, |problem| problems.push(problem));
            let orphans = summary.await.unwrap().orphans;
            let looked = crate::inspect::inspect(Path::new(&path)).await;
            let is_orphan = orphans.iter().any(|name| path.ends_with(name));
            let is_damaged = problems.iter().any(|problem| problem.file == path);
            (is_orphan, is_damaged, looked)
        });
        sim.kill(node);
        looked
    };
    let image = sim.disk(node).image();
    let mut damaged = std::collections::BTreeMap::<String, u32>::new();
    for (path, _) in sim.disk(node).files() {
        let (is_orphan, is_damaged, looked) = look(&path);
        assert!(!is_damaged, "{path}");
        assert!(is_orphan || looked.is_ok(), "{path}: {looked:?}");
        let content = content(&sim.disk(node).read(&path).unwrap());
        for _ in 0..20.min(content.len()) {
            let offset = content[sim.random_below(content.len() as u64) as usize];
            sim.disk(node).flip_bit(&path, offset);
            let (_, is_damaged, looked) = look(&path);
            assert!(
                !is_damaged || looked.is_err(),
                "{path} at {offset}: {looked:?}"
            );
            *damaged.entry(kind(&path).to_owned()).or_default() += u32::from(is_damaged);
            sim.disk(node).restore(&image);
        }
    }
    for kind in ["sst", "vlog", "log", "MANIFEST"] {
        assert!(damaged[kind] > 0, "{damaged:?}");
    }
}

/// A shard that is known to have been created is refused, and nothing is made, if it is not there or is
/// another one.
#[test]
fn a_known_shard_is_never_created_anew() {
    let sim = Sim::new(9);
    let node = sim.add_node();
    let owner = |shard| Owner {
        store_id: 7,
        shard: crate::ShardId(shard),
    };
    let check = |known| {
        sim.block_on(node, async move {
            let mut problems = Vec::new();
            let checked = check_shard(Path::new(DIR), known, |problem| problems.push(problem.what));
            checked.await.map(|_| problems)
        })
    };
    let open = |shard| {
        sim.block_on(node, async move {
            let options = crate::ShardOptions {
                segment_bytes: 64 << 10,
                value_segment_bytes: 64 << 10,
                is_known: true,
                ..crate::ShardOptions::new(7, crate::ShardId(shard))
            };
            crate::Shard::open(Path::new(DIR), options).await.err()
        })
    };
    assert!(open(1).unwrap().is_corrupt());
    assert!(sim.disk(node).files().is_empty());
    assert_eq!(check(Some(owner(1))).unwrap(), ["the shard is missing"]);
    assert!(check(None).is_err());

    fill(&sim, node, 9);
    assert_eq!(check(Some(owner(1))).unwrap(), Vec::<String>::new());
    let foreign = check(Some(owner(2))).unwrap();
    assert!(foreign[0].contains("it belongs to shard 1"), "{foreign:?}");
    assert!(matches!(open(2), Some(Error::OtherStore { .. })));
    sim.kill(node);

    // A sign of its creation beside its manifest has come back with the power; without one it is of
    // another shard.
    sim.disk(node).write(format!("{DIR}/CREATING"), &[]);
    assert!(open(1).is_none());
    sim.kill(node);
    sim.disk(node).write(format!("{DIR}/CREATING"), &[]);
    sim.disk(node).remove(format!("{DIR}/MANIFEST"));
    let files = sim.disk(node).files();
    assert!(open(1).unwrap().is_corrupt());
    sim.kill(node);
    assert_eq!(sim.disk(node).files(), files, "nothing is removed");
    let lost = check(Some(owner(1))).unwrap();
    assert!(lost[0].starts_with("the shard is missing"), "{lost:?}");
}

/// A segment of the log of which a checkpoint covers all entries is not needed, as long as a later one is intact. What
/// went on behind it opens again, also after a crash in between.
#[test]
fn a_log_damaged_where_a_checkpoint_covers_it_goes_on_behind() {
    let mut damaged = 0;
    for seed in seeds() {
        let sim = Sim::new(seed);
        let node = sim.add_node();
        let ledger = Ledger::new();
        let filled = Rc::clone(&ledger);
        sim.block_on(node, async move {
            let opened = Replica::open(Path::new(DIR), &Config::default(), &filled).await;
            let replica = opened.unwrap();
            let random = Random::new(seed);
            for _ in 0..60 {
                replica.write(random.writes(5)).await.unwrap();
            }
            replica.checkpoint().await.unwrap();
            replica.write(random.writes(5)).await.unwrap();
            replica.note();
            replica.shard.log.close().await.unwrap();
        });
        sim.kill(node);
        let image = sim.disk(node).image();
        let files = sim.disk(node).files().into_iter().map(|(path, _)| path);
        let logs = files.filter(|path| kind(path) == "log");
        let mut logs: Vec<String> = logs
            .filter(|path| !content(&sim.disk(node).read(path).unwrap()).is_empty())
            .collect();
        logs.sort();
        // The last ones hold entries beyond the checkpoint.
        logs.truncate(logs.len().saturating_sub(2));
        for path in logs {
            let content = content(&sim.disk(node).read(&path).unwrap());
            for _ in 0..4 {
                let offset = content[sim.random_below(content.len() as u64) as usize];
                sim.disk(node).flip_bit(&path, offset);
                for _ in 0..2 {
                    let opened = open_and_check(&sim, node, &ledger);
                    assert!(
                        opened.is_ok(),
                        "seed {seed}, {path} at {offset}: {opened:?}"
                    );
                }
                damaged += 1;
                sim.disk(node).restore(&image);
            }
        }
    }
    assert!(damaged > 0, "there are segments before the last ones");
}
