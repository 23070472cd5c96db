//! Printing a table.

use super::reader::Table;
use crate::cache::BlockCache;
use crate::error::Result;
use crate::ids::LogIndex;
use crate::key::Space;
use crate::text::Text;
use std::path::Path;
use std::rc::Rc;

use super::{TableCursor, Value, Verifier};

/// Describes the table at `path`: its properties and, up to a limit, its entries. Checks every block of it.
pub(crate) async fn inspect(path: &Path, entries_max: usize) -> Result<Text> {
    let cache = BlockCache::new(0);
    let table = Rc::new(Table::open_path(path.to_path_buf(), &cache).await?);
    let meta = table.meta();
    let mut text = Text::default();
    text.line("kind", "sstable");
    if table.format_version() > 1 {
        text.line("format version", table.format_version());
    }
    match table.named() {
        Some((owner, id)) => {
            text.line("owner", owner);
            text.line("table", id);
        }
        None => text.line("file id", meta.file),
    }
    text.line("file bytes", meta.file_bytes);
    text.line("entries", meta.entries);
    text.line("deletions", meta.deletions);
    text.line("value bytes", meta.value_bytes);
    text.line("lowest sequence number", meta.lowest);
    text.line("highest sequence number", meta.highest);
    text.line("first key", meta.first_key.escape_ascii());
    text.line("last key", meta.last_key.escape_ascii());
    for reference in meta.referenced() {
        text.line("values", reference);
    }

    let mut cursor = TableCursor::seek(&table, &[], LogIndex(u64::MAX)).await?;
    let mut count = 0;
    while let Some(cursor) = &mut cursor {
        let (stored_key, at, value) = cursor.current();
        if count < entries_max {
            let (space, key) = Space::of_stored(stored_key).unwrap_or((Space::System, stored_key));
            let name = match space.is_of_rows() {
                // Uploads and chunks, by their ids.
                true => space.key(key).to_string(),
                false => format!("{space:?} {}", key.escape_ascii()),
            };
            let value = match value {
                Value::Deleted => "deleted".to_owned(),
                Value::Inline(bytes) => format!("{} bytes", bytes.len()),
                Value::Stored(handle) => format!("{} bytes at {}", handle.len, handle.offset),
                Value::Separated(at) => format!(
                    "{} bytes in value segment {}, slot {}",
                    at.len, at.segment, at.slot
                ),
                Value::Large(large) => {
                    let large = large.get();
                    format!("large, {} bytes of upload {}", large.len, large.upload)
                }
            };
            text.line("entry", format_args!("{name} @ {at}: {value}"));
        }
        count += 1;
        if !cursor.advance(&table).await? {
            break;
        }
    }
    text.line("entries read", count);
    let mut verifier = Verifier::new(table);
    while verifier.step().await?.is_some() {}
    Ok(text)
}
