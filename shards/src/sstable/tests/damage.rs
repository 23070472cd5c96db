//! Damaged, misplaced and false blocks.

#![expect(
    clippy::disallowed_methods,
    reason = "the tests damage files behind the tables' backs"
)]

use super::super::format::{BLOCK_HEADER_BYTES, BlockKind, encode_block_header};
use super::*;
use crate::filename::FileName;
use crate::ids::FileId;
use std::path::PathBuf;

/// Some of everything: two partitions, a long value, compressed blocks.
fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    for number in 0..4000_u64 {
        let key = format!("{number:06}");
        let mut value = noise(number, 250);
        value.extend([0; 100]);
        entries.push(entry(key.as_bytes(), number + 1, Kept::Bytes(value)));
    }
    entries.push(entry(b"long", 7, Kept::Bytes(noise(1, 20_000))));
    entries.push(entry(b"value", 8, Kept::Separated(pointer(5))));
    entries
}

/// Gives a block another payload of the same length, and the checksum of that.
fn rewrite(file: &mut [u8], found: Found, kind: BlockKind, change: impl FnOnce(&mut [u8])) {
    assert_eq!(kind as u32, found.kind);
    let start = found.handle.offset as usize;
    let end = start + BLOCK_HEADER_BYTES + found.handle.len as usize;
    let (header, payload) = file[start..end].split_at_mut(BLOCK_HEADER_BYTES);
    change(payload);
    let tag = u64::from_le_bytes(header[16..24].try_into().unwrap());
    let new = encode_block_header(tag, found.handle, kind, found.whole, payload);
    header.copy_from_slice(&new);
}

struct Case {
    dir: PathBuf,
    path: PathBuf,
    meta: TableMeta,
    whole: Vec<u8>,
    blocks: Vec<Found>,
}

impl Case {
    async fn new(dir: &Path, options: TableOptions, entries: &[Entry]) -> Self {
        let meta = write_as(dir, options, entries).await;
        let path = FileName::Table(meta.id).path(dir);
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len() as u64, meta.file_bytes);
        Self {
            dir: dir.to_path_buf(),
            path,
            meta,
            blocks: blocks(&whole),
            whole,
        }
    }

    fn of(&self, kind: BlockKind) -> Vec<Found> {
        let blocks = self.blocks.iter().copied();
        blocks.filter(|found| found.kind == kind as u32).collect()
    }

    /// Opens the file with `change` made.
    async fn with(&self, change: impl FnOnce(&mut Vec<u8>)) -> Result<Rc<Table>> {
        let mut file = self.whole.clone();
        change(&mut file);
        std::fs::write(&self.path, file).unwrap();
        open(&self.dir, self.meta.clone()).await.map(Rc::new)
    }

    /// The error of a verification with `change` made, of the table as it says it is.
    async fn verified(&self, change: impl FnOnce(&mut Vec<u8>)) -> (u64, &'static str) {
        let mut file = self.whole.clone();
        change(&mut file);
        std::fs::write(&self.path, file).unwrap();
        let cache = BlockCache::new(1 << 20);
        let result = match Table::open_path(self.path.clone(), &cache).await {
            Ok(table) => verify(&Rc::new(table)).await,
            Err(error) => Err(error),
        };
        match result {
            Err(Error::Corrupt { offset, what, .. }) => (offset, what),
            other => panic!("{other:?}"),
        }
    }
}

/// Reads everything by keys.
async fn get_all(table: &Table, entries: &[Entry]) -> Result<()> {
    for (key, at, _) in entries {
        let found = table.get(key, hash_of(key), *at).await?;
        let (found_at, value) = found.expect("nothing is ever lost silently");
        assert_eq!(found_at, *at);
        if let Value::Stored(handle) = value {
            table.stored(handle).await?;
        }
    }
    Ok(())
}

#[test]
fn damage_of_every_kind_of_block_is_named() {
    on_core(|dir| async move {
        let entries = entries();
        for options in [ALL_OPTIONS[0], ALL_OPTIONS[3]] {
            let case = Case::new(&dir, options, &entries).await;
            let kinds = [1, 2, 3, 4, 5, 6, 7];
            for kind in kinds {
                let of_kind = case.blocks.iter().filter(|found| found.kind == kind);
                let of_kind: Vec<_> = of_kind.collect();
                assert!(!of_kind.is_empty(), "kind {kind}");
                for found in of_kind.iter().step_by((of_kind.len() / 3).max(1)) {
                    let at = found.handle.offset;
                    let place = at as usize + BLOCK_HEADER_BYTES + found.handle.len as usize / 2;
                    let damaged = |file: &mut Vec<u8>| file[place] ^= 4;
                    let what = "a block's checksum does not match";
                    assert_eq!(case.verified(damaged).await, (at, what));
                    let Ok(table) = case.with(damaged).await else {
                        assert!([3, 6, 7].contains(&kind));
                        continue;
                    };
                    for error in [
                        get_all(&table, &entries).await.err(),
                        // What compaction does not look at does not hold it up.
                        read_on(&table, &[])
                            .await
                            .err()
                            .or_else(|| (kind == 5).then(|| table.damaged(at, what))),
                    ] {
                        match error {
                            Some(Error::Corrupt { offset, .. }) => assert_eq!(offset, at),
                            other => panic!("kind {kind}: {other:?}"),
                        }
                    }
                    let (first, last) = table.key_range_at(at).await;
                    assert!(case.meta.first_key <= first && last <= case.meta.last_key);
                    let narrow = entries
                        .iter()
                        .filter(|entry| first <= entry.0 && entry.0.as_slice() <= &last[..]);
                    let limit = if kind == 1 || kind == 4 { 60 } else { 3500 };
                    let narrow = narrow.count();
                    assert!((1..limit).contains(&narrow), "kind {kind}: {narrow}");
                }
            }
            remove_case(&case);
        }
    });
}

fn remove_case(case: &Case) {
    std::fs::remove_file(&case.path).unwrap();
}

#[test]
fn the_keys_of_a_damaged_block_are_those_it_has() {
    on_core(|dir| async move {
        let entries = entries();
        let case = Case::new(&dir, ALL_OPTIONS[0], &entries).await;
        for found in case.of(BlockKind::Data).iter().step_by(20) {
            let at = found.handle.offset;
            let place = at as usize + BLOCK_HEADER_BYTES + 3;
            let table = case.with(|file| file[place] ^= 1).await.unwrap();
            let (first, last) = table.key_range_at(at).await;
            for (key, version, _) in &entries {
                let lost = table.get(key, hash_of(key), *version).await.is_err();
                let named = first <= *key && key.as_slice() <= &last[..];
                assert!(named || !lost, "{}", key.escape_ascii());
            }
        }
        let table = case.with(|_| {}).await.unwrap();
        let all = (case.meta.first_key.clone(), case.meta.last_key.clone());
        for offset in [0, case.meta.file_bytes - 4096, u64::MAX] {
            assert_eq!(table.key_range_at(offset).await, all);
        }
    });
}

#[test]
fn a_misdirected_block_is_noticed() {
    on_core(|dir| async move {
        let entries = entries();
        let case = Case::new(&dir, ALL_OPTIONS[0], &entries).await;
        for kind in [BlockKind::Data, BlockKind::Leaf, BlockKind::Filter] {
            let of_kind = case.of(kind);
            // Two blocks of one length, so that only their places tell them apart.
            let pair = of_kind.iter().enumerate().find_map(|(index, first)| {
                let mut others = of_kind[index + 1..].iter();
                let second = others.find(|other| other.handle.len == first.handle.len)?;
                Some((first.handle, second.handle))
            });
            let Some((first, second)) = pair else {
                assert!(kind != BlockKind::Data);
                continue;
            };
            let (from, to) = (first.offset as usize, second.offset as usize);
            let found = case
                .verified(|file| file.copy_within(from..from + first.span(), to))
                .await;
            let what = "another block is in this place";
            assert_eq!(found, (second.offset, what));
        }
    });
}

#[test]
fn blocks_that_are_whole_but_false_are_noticed() {
    on_core(|dir| async move {
        let entries = entries();
        let case = Case::new(&dir, ALL_OPTIONS[0], &entries).await;
        let filter = case.of(BlockKind::Filter)[1];
        let found = case
            .verified(|file| {
                rewrite(file, filter, BlockKind::Filter, |payload| {
                    payload[1..].fill(0)
                })
            })
            .await;
        assert_eq!(found.1, "a key that its filter does not have");

        // The second byte of the first entry of a block: how long its key is.
        let data = case.of(BlockKind::Data)[5];
        let found = case
            .verified(|file| rewrite(file, data, BlockKind::Data, |payload| payload[1] += 1))
            .await;
        assert_eq!(found.0, data.handle.offset);

        let properties = case.of(BlockKind::Properties)[0];
        for place in [0, 8, 16, 24, 32] {
            let change = |payload: &mut [u8]| payload[place] ^= 1;
            let found = case
                .verified(|file| rewrite(file, properties, BlockKind::Properties, change))
                .await;
            let what = "the properties are not those of the entries";
            assert_eq!(found, (properties.handle.offset, what), "{place}");
        }

        // A kind that no filter has.
        let table = case.with(|file| {
            rewrite(file, filter, BlockKind::Filter, |payload| payload[0] = 9);
        });
        let error = get_all(&table.await.unwrap(), &entries).await.unwrap_err();
        assert!(error.is_corrupt());
    });
}

#[test]
fn every_flipped_byte_gives_an_error_or_changes_nothing() {
    on_core(|dir| async move {
        let entries = vec![
            entry(b"apple", 3, Kept::Bytes(vec![1; 6000])),
            entry(b"apple", 2, Kept::Deleted),
            entry(b"banana", 7, Kept::Bytes(noise(3, 17_000))),
            entry(b"cherry", 9, Kept::Separated(pointer(7))),
        ];
        for options in [ALL_OPTIONS[0], ALL_OPTIONS[3]] {
            let case = Case::new(&dir, options, &entries).await;
            let mut errors = 0;
            for place in 0..case.whole.len() {
                // Every byte of headers and short payloads, and some of the rest.
                if place % 4096 >= 200 && place % 97 != 0 {
                    continue;
                }
                let result = match case.with(|file| file[place] ^= 0x20).await {
                    Ok(table) => read_on(&table, &[]).await,
                    Err(error) => Err(error),
                };
                match result {
                    Ok(found) => assert!(found == entries, "byte {place}"),
                    Err(Error::Corrupt { .. } | Error::NewerFormat { .. }) => errors += 1,
                    Err(error) => panic!("byte {place}: {error}"),
                }
            }
            assert!(errors > 400, "{errors}");
            for len in (0..case.whole.len()).step_by(509) {
                let cut = case.with(|file| file.truncate(len)).await;
                assert!(cut.is_err(), "cut at {len}");
            }
            remove_case(&case);
        }
    });
}

#[test]
fn a_file_is_a_table_under_any_number_and_no_other_table() {
    on_core(|dir| async move {
        let case = Case::new(&dir, ALL_OPTIONS[0], &entries()).await;
        let other = TableMeta {
            id: TableId(4),
            ..case.meta.clone()
        };
        std::fs::write(FileName::Table(TableId(4)).path(&dir), &case.whole).unwrap();
        assert_eq!(open(&dir, other.clone()).await.unwrap().meta(), &other);
        let file = FileId(other.file.0 + 1);
        let error = open(
            &dir,
            TableMeta {
                file,
                ..other.clone()
            },
        )
        .await
        .err();
        assert!(error.unwrap().is_corrupt());
        let entries = other.entries + 1;
        let error = open(&dir, TableMeta { entries, ..other }).await.err();
        assert!(error.unwrap().is_corrupt());
    });
}

#[test]
fn a_sequential_cursor_never_takes_damage_for_the_end() {
    on_core(|dir| async move {
        let entries = entries();
        let case = Case::new(&dir, ALL_OPTIONS[0], &entries).await;
        let found = case.of(BlockKind::Data)[50];
        let place = found.handle.offset as usize + 40;
        let table = case.with(|file| file[place] ^= 1).await.unwrap();
        let cursor = SequentialCursor::start(Rc::clone(&table), &[]).await;
        let mut cursor = cursor.unwrap().unwrap();
        while matches!(cursor.advance().await, Ok(true)) {}
        for _ in 0..3 {
            assert!(cursor.advance().await.unwrap_err().is_corrupt());
        }
    });
}
