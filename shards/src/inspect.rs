//! Printing any file of ours, told by its magic.

use crate::error::{Error, Result};
use crate::filename::FileName;
use crate::manifest::{self, Manifest};
use crate::sstable;
use crate::text::Text;
use crate::vlog::{self, SegmentMeta};
use crate::wal;
use corelith_io::{BLOCK_SIZE, File};
use std::path::Path;

/// Entries that are printed; all are read and checked.
const ENTRIES_PRINTED_MAX: usize = 1000;

/// Reads and checks the whole file at `path`, and describes it. `None` if neither its start nor its name
/// is that of a file of ours.
///
/// # Errors
/// `Corrupt` with the offset of the damage, `NewerFormat`, `Io`.
pub async fn inspect(path: &Path) -> Result<Option<String>> {
    let file = File::open(path).await?;
    let start = file.read_at(0, BLOCK_SIZE).await?;
    let name = path.file_name().and_then(|name| name.to_str());
    if let Some(kind) = name.and_then(|name| without_content(name, &start)) {
        let mut text = Text::default();
        text.line("kind", kind);
        text.line("file length", file.len().await?);
        return Ok(Some(text.into_string()));
    }
    if start.starts_with(&wal::inspect::MAGIC) {
        let text = wal::inspect::inspect(path, ENTRIES_PRINTED_MAX).await?;
        return Ok(Some(text.into_string()));
    }
    let text = match start.first_chunk::<8>() {
        Some(magic) if *magic == sstable::format::MAGIC => {
            sstable::inspect(path, ENTRIES_PRINTED_MAX).await?
        }
        Some(magic) if *magic == vlog::MAGIC => {
            vlog::inspect(path, ENTRIES_PRINTED_MAX, &sealed_beside(path).await).await?
        }
        Some(magic) if *magic == manifest::MAGIC => inspect_manifest(path).await?,
        _ if name.and_then(FileName::parse).is_none() => return Ok(None),
        _ => {
            let what = "it does not start with the magic of any file of Corelith";
            return Err(Error::corrupt(path, 0, what));
        }
    };
    Ok(Some(text.into_string()))
}

/// The segments of the value log that the manifest beside `path` names; none if there is no manifest to
/// read.
async fn sealed_beside(path: &Path) -> Vec<SegmentMeta> {
    let manifest = path.with_file_name(FileName::Manifest.to_string());
    match Manifest::load_path(&manifest).await {
        Ok((_, manifest)) => manifest.segments,
        Err(_) => Vec::new(),
    }
}

/// What a file is that holds nothing, by its name and its start.
fn without_content(name: &str, start: &[u8]) -> Option<&'static str> {
    let is_blank = start.iter().all(|byte| *byte == 0);
    match FileName::parse(name)? {
        FileName::Lock => Some("lock of a directory against other processes"),
        FileName::Reserve => Some("space held back for when the device is full"),
        FileName::Creating => Some("sign that the shard is being created, and was never opened"),
        FileName::Segment(_) if is_blank => Some("log segment, prepared and not yet used"),
        FileName::SegmentTemporary(_) => Some("log segment whose preparation was broken off"),
        FileName::ValueSegmentTemporary(_) => {
            Some("value log segment whose preparation was broken off")
        }
        _ => None,
    }
}

async fn inspect_manifest(path: &Path) -> Result<Text> {
    let (owner, manifest) = Manifest::load_path(path).await?;
    let mut text = Text::default();
    text.line("kind", "manifest");
    text.line("owner", owner);
    text.line("generation", manifest.generation);
    text.line("next table", manifest.next_table);
    let none = || "none".to_owned();
    let checkpoint = manifest.checkpoint;
    let applied = checkpoint.applied.map_or_else(none, |id| id.to_string());
    text.line("checkpoint", applied);
    let membership = checkpoint.membership;
    let membership = membership.map_or_else(none, |(id, record)| {
        format!("{id}, {}", record.escape_ascii())
    });
    text.line("membership", membership);
    let installed = manifest.installed.map_or_else(none, |id| id.to_string());
    text.line("installed snapshot", installed);
    text.line("policy", manifest.policy);
    for placed in &manifest.tables {
        let table = &placed.meta;
        text.line(
            "table",
            format_args!(
                "level {}, run {}: {}, {} bytes, {} entries ({} deletions), sequence numbers {} to {}, keys {} to {}",
                placed.level,
                placed.run,
                table.id,
                table.file_bytes,
                table.entries,
                table.deletions,
                table.lowest,
                table.highest,
                table.first_key.escape_ascii(),
                table.last_key.escape_ascii(),
            ),
        );
        for reference in table.referenced() {
            text.line("  refers to", reference);
        }
    }
    text.line("next value segment", manifest.next_segment);
    for segment in &manifest.segments {
        text.line(
            "value segment",
            format_args!(
                "{}, generation {}, {} bytes, {} records of {} bytes, up to log index {}",
                segment.id,
                segment.generation,
                segment.file_bytes,
                segment.records,
                segment.bytes,
                segment.highest,
            ),
        );
    }
    Ok(text)
}
