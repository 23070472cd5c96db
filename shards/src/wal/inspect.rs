//! A segment of the log printed.

use super::Vote;
use super::format::{
    BadHeader, BlockHeader, EntryHead, FLAG_RECOVERED, FLAG_START, Fragment, Fragments,
    MAGIC as FORMAT_MAGIC, Record, Separated, State,
};
use super::recovery;
use super::scan::{self, Evidence, Seen, Window};
use crate::error::{Error, Result};
use crate::ids::{LogId, Owner};
use crate::limits;
use crate::text::Text;
use crate::vlog::ValueState;
use corelith_io::{BLOCK_SIZE, ErrorKind, File};
use std::path::Path;

/// What a segment begins with.
pub(crate) const MAGIC: [u8; 4] = FORMAT_MAGIC.to_le_bytes();

/// Describes the segment at `path`: every block that continues the first one, and at most
/// `records_max` records. It stops at the first block that does not continue the one before, unless a
/// block further on, or in a file beside it, says that this one was acknowledged. While a node has the
/// log open, that would be said of blocks that it is just writing.
///
/// # Errors
/// `Corrupt` if not even the first block is intact, or an acknowledged one is not, `NewerFormat`, `Io`.
pub(crate) async fn inspect(path: &Path, records_max: usize) -> Result<Text> {
    let file = File::open(path).await?;
    let mut window = Window::default();
    let start = window.get(&file, 0, BLOCK_SIZE, BLOCK_SIZE).await?;
    let header = match BlockHeader::decode(start) {
        Ok((header, _)) => header,
        Err(BadHeader::Newer(version)) => return Err(scan::newer(path, version)),
        Err(BadHeader::Damaged) => return Err(Error::corrupt(path, 0, "a block is damaged")),
    };
    let owner = Owner {
        store_id: header.store_id,
        shard: header.shard,
    };
    let mut text = Text::default();
    text.line("kind", "log segment");
    text.line("owner", owner);
    text.line("segment", header.segment);
    let mut expected = (header.number, header.previous);
    let mut offset = 0;
    let mut records = 0;
    loop {
        let bytes = window
            .get(
                &file,
                offset,
                limits::LOG_BLOCK_BYTES_MAX,
                limits::IO_BYTES_MAX,
            )
            .await?;
        let Seen::Block(block, crc, payload) = scan::look(bytes, header.segment, owner) else {
            break;
        };
        if (block.number, block.previous) != expected {
            break;
        }
        describe_block(&mut text, offset, &block);
        records = describe_payload(&mut text, &block, payload, records, records_max);
        offset += block.used_len().next_multiple_of(BLOCK_SIZE) as u64;
        expected = (block.number + 1, crc);
    }
    if offset == 0 {
        return Err(Error::corrupt(path, 0, "a block is damaged"));
    }
    let _lock = match corelith_io::lock_dir_as_it_is(path.parent().unwrap_or(path)).await {
        Err(error) if error.kind() == ErrorKind::Locked => None,
        lock => {
            refuse_lost(&file, path, &header, offset, expected.0).await?;
            lock.ok()
        }
    };
    text.line("bytes of blocks", offset);
    text.line("file length", file.len().await?);
    text.line("records", records);
    Ok(text)
}

/// Refuses a segment whose blocks end at `offset`, before the block `number`, if that was acknowledged.
async fn refuse_lost(
    file: &File,
    path: &Path,
    header: &BlockHeader,
    offset: u64,
    number: u64,
) -> Result<()> {
    let owner = Owner {
        store_id: header.store_id,
        shard: header.shard,
    };
    let mut beyond = Evidence::default();
    let from = offset + BLOCK_SIZE as u64;
    let end = file.len().await?;
    scan::search(file, path, header.segment, owner, from, end, &mut beyond).await?;
    if beyond.flushed_up_to > number {
        let what = "an acknowledged block is damaged or missing";
        return Err(Error::corrupt(path, offset, what));
    }
    let dir = path.parent().unwrap_or(path);
    let name = path.display().to_string();
    match recovery::examine(dir, owner, async |_| Ok(ValueState::Whole)).await {
        Err(error @ Error::Corrupt { .. }) if error.is_in(&name) => Err(error),
        _ => Ok(()),
    }
}

fn describe_block(text: &mut Text, offset: u64, block: &BlockHeader) {
    let start = match (
        block.flags & FLAG_START != 0,
        block.flags & FLAG_RECOVERED != 0,
    ) {
        (true, true) => ", start of a segment after a recovery",
        (true, false) => ", start of a segment",
        _ => "",
    };
    let commit = block
        .commit
        .map_or_else(|| "none".to_owned(), |index| index.to_string());
    text.line(
        "block",
        format_args!(
            "{} at {offset}, {} bytes, flushed up to {}, commit index {commit}{start}",
            block.number, block.payload_len, block.flushed_up_to
        ),
    );
}

fn describe_payload(
    text: &mut Text,
    block: &BlockHeader,
    payload: &[u8],
    mut records: usize,
    records_max: usize,
) -> usize {
    if block.flags & FLAG_START != 0 {
        if let Some(state) = State::decode(payload) {
            text.line(
                "  vote",
                option(state.vote.map(|vote| describe_vote(&vote))),
            );
            text.line("  purged", log_id(state.purged));
            text.line("  last", log_id(state.last));
        }
        return records;
    }
    for fragment in Fragments::new(payload) {
        if let Some(Fragment::Begin(..)) | None = fragment {
            records += 1;
        }
        if records > records_max {
            continue;
        }
        match fragment {
            None => text.line("  unreadable", "the rest of the block"),
            Some(Fragment::More(body)) => {
                text.line("  more", format_args!("{} bytes", body.len()));
            }
            Some(Fragment::Begin(record, here)) => describe_record(text, &record, here.len()),
        }
    }
    records
}

fn describe_record(text: &mut Text, record: &Record, here: usize) {
    match *record {
        Record::Entry(EntryHead {
            id,
            kind,
            stored_len,
            separated,
        }) => match separated {
            None => text.line(
                "  entry",
                format_args!("{id}, kind {kind}, {stored_len} bytes ({here} here)"),
            ),
            Some(Separated { place, .. }) => text.line(
                "  separated entry",
                format_args!(
                    "{id}, kind {kind}, head of {stored_len} bytes ({here} here), \
                     value of {} bytes in slot {} of value segment {}",
                    place.len, place.slot, place.segment
                ),
            ),
        },
        Record::Vote(vote) => text.line("  vote", describe_vote(&vote)),
        Record::TruncateAfter(last) => text.line("  truncate after", log_id(last)),
        Record::Purge(upto) => text.line("  purge", upto),
    }
}

fn describe_vote(vote: &Vote) -> String {
    let committed = if vote.committed { ", committed" } else { "" };
    format!("{}-{}{committed}", vote.term, vote.node)
}

fn log_id(id: Option<LogId>) -> String {
    option(id.map(|id| id.to_string()))
}

fn option(text: Option<String>) -> String {
    text.unwrap_or_else(|| "none".to_owned())
}
