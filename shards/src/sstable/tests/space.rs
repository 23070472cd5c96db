//! How well blocks fill what they take in the file.

use super::*;
use crate::limits::TABLE_BLOCK_SPAN;

/// Bytes of the file for each byte that was to be stored, in percent.
async fn overhead(dir: &Path, options: TableOptions, entries: &[Entry], used: u64) -> u64 {
    let table = table_of(dir, options, entries).await;
    let bytes = table.meta().file_bytes;
    remove(dir, table).await;
    bytes * 100 / used
}

fn key(number: u64) -> Vec<u8> {
    format!("user/{:012}", number * 7919).into_bytes()
}

#[test]
fn little_is_left_empty() {
    on_core(|dir| async move {
        for (len, limit) in [(0, 106), (20, 105), (100, 104), (256, 105), (700, 112)] {
            let entries: Vec<Entry> = (0..20_000)
                .map(|number| entry(&key(number), number + 1, Kept::Bytes(noise(number, len))))
                .collect();
            // A key takes 6 bytes when most of it is shared, an entry 6 more, a filter 1.5.
            let used = 20_000 * (len as u64 + 17);
            let overhead = overhead(&dir, ALL_OPTIONS[0], &entries, used).await;
            println!("{len}: {overhead}");
            assert!(overhead <= limit, "{overhead} % with values of {len} bytes");
        }
    });
}

#[test]
fn compressed_blocks_fill_what_they_take() {
    on_core(|dir| async move {
        // Half of each value is noise.
        let value = |number| {
            let mut value = noise(number, 128);
            value.resize(256, b' ');
            value
        };
        let entries: Vec<Entry> = (0..20_000)
            .map(|number| entry(&key(number), number + 1, Kept::Bytes(value(number))))
            .collect();
        let used = 20_000 * (128 + 30);
        let overhead = overhead(&dir, ALL_OPTIONS[2], &entries, used).await;
        assert!(overhead <= 110, "{overhead} %");
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
        let (mut walk, first) = super::super::cursor::Walk::seek(&table, &[], NEWEST, false)
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
