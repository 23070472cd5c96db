//! How well blocks fill what they take in the file.

use super::super::format::BLOCK_HEADER_BYTES;
use super::*;
use crate::limits::TABLE_BLOCK_SPAN;

/// Bytes that the blocks of partitions leave empty, in thousandths of the file.
async fn empty(dir: &Path, options: TableOptions, entries: &[Entry]) -> usize {
    let meta = write_as(dir, options, entries).await;
    let path = crate::filename::FileName::Table(meta.id).path(dir);
    let len = usize::try_from(meta.file_bytes).unwrap();
    let file = corelith_io::File::open(&path).await.unwrap();
    let file = file.read_at(0, len).await.unwrap();
    let partitions = [1, 2, 5];
    let blocks = blocks(&file).into_iter();
    let blocks = blocks.filter(|found| partitions.contains(&found.kind));
    let blocks = blocks.map(|found| found.handle);
    let empty = blocks.map(|handle| handle.span() - BLOCK_HEADER_BYTES - handle.len as usize);
    let empty = empty.sum::<usize>() * 1000 / len;
    corelith_io::remove_file(&path).await.unwrap();
    empty
}

fn key(number: u64) -> Vec<u8> {
    format!("user/{:012}", number * 7919).into_bytes()
}

fn filled(count: u64, value: impl Fn(u64) -> Kept) -> Vec<Entry> {
    let entry = |number| entry(&key(number), number + 1, value(number));
    (0..count).map(entry).collect()
}

#[test]
fn little_is_left_empty() {
    on_core(|dir| async move {
        let pointers = filled(60_000, |number| Kept::Separated(pointer(number)));
        for options in [ALL_OPTIONS[0], ALL_OPTIONS[1]] {
            let empty = empty(&dir, options, &pointers).await;
            assert!(empty < 50, "{empty} of pointers");
        }
        // Tiny entries leave most of each leaf empty: few blocks have as many keys as a filter takes.
        let limits = [
            (0, 70),
            (20, 50),
            (100, 50),
            (256, 50),
            (400, 50),
            (1000, 120),
        ];
        for (len, limit) in limits {
            let entries = filled(20_000, |number| Kept::Bytes(noise(number, len)));
            let empty = empty(&dir, ALL_OPTIONS[0], &entries).await;
            assert!(empty < limit, "{empty} of values of {len} bytes");
        }
        // Lengths from 0 to 599.
        let entries = filled(20_000, |number| {
            Kept::Bytes(noise(number, (number as usize * 37) % 600))
        });
        let empty = empty(&dir, ALL_OPTIONS[0], &entries).await;
        assert!(empty < 50, "{empty} of mixed values");
    });
}

#[test]
fn compressed_blocks_fill_what_they_take() {
    on_core(|dir| async move {
        // Half of each value is noise.
        let entries = filled(20_000, |number| {
            let mut value = noise(number, 128);
            value.resize(256, b' ');
            Kept::Bytes(value)
        });
        let meta = write_as(&dir, ALL_OPTIONS[2], &entries).await;
        assert!(meta.file_bytes < 20_000 * (128 + 50), "{}", meta.file_bytes);
        let path = crate::filename::FileName::Table(meta.id).path(&dir);
        corelith_io::remove_file(&path).await.unwrap();
        let empty = empty(&dir, ALL_OPTIONS[2], &entries).await;
        assert!(empty < 100, "{empty}");
    });
}

#[test]
fn a_data_block_is_one_short_read() {
    on_core(|dir| async move {
        let entries: Vec<Entry> = (0..5000)
            .map(|number| {
                let len = (number as usize * 37) % 3000;
                entry(&key(number), number + 1, Kept::Bytes(noise(number, len)))
            })
            .collect();
        let table = table_of(&dir, ALL_OPTIONS[0], &entries).await;
        let (mut walk, first) = super::super::cursor::TableWalk::seek(&table, &[], NEWEST, false)
            .await
            .unwrap();
        walk.put_back(first);
        let mut blocks = 0;
        loop {
            let run = walk.next_run(&table, 1 << 20, false).await.unwrap();
            if run.is_empty() {
                break;
            }
            blocks += run.len();
            assert!(run.iter().all(|handle| handle.span() <= TABLE_BLOCK_SPAN));
        }
        assert!(blocks > 900, "{blocks}");
    });
}
