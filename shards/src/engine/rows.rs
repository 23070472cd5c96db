//! Going over the rows of a space, as they are now.

use super::Engine;
use super::merge::{Merge, Merged, ScanSpan};
use crate::error::Result;
use crate::ids::LogIndex;
use crate::key::Space;
use bytes::Bytes;

/// A row of the shard's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Bytes,
    /// Log index of the write that put it there.
    pub at: LogIndex,
    /// Its value.
    pub value: Bytes,
}

/// Rows that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPage {
    /// In key order.
    pub rows: Vec<Row>,
    /// Whether more may follow; go on after the last one's key.
    pub more: bool,
}

/// The first key behind all those that begin with `prefix`; empty if there is none.
fn behind(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    assert!(end.is_empty() || *end > *prefix, "it is behind");
    end.into()
}

/// The part of a space whose keys begin with `prefix` and come after `after`, if that is not empty.
fn span_of(space: Space, prefix: &[u8], after: &[u8]) -> ScanSpan {
    let start = match after {
        [] => Bytes::copy_from_slice(prefix),
        after => [after, &[0]].concat().max(prefix.to_vec()).into(),
    };
    ScanSpan {
        space,
        start,
        end: behind(prefix),
        at: LogIndex(u64::MAX),
    }
}

impl Engine {
    /// The rows of a space whose keys begin with `prefix`, after the key `after` (empty: from the first on), until
    /// `items_max` rows or `bytes_max` bytes of keys and values are reached; at least one if there is one.
    ///
    /// # Errors
    /// `Io`, or `Corrupt` of a table or of the value log.
    pub async fn rows(
        &self,
        space: Space,
        prefix: &[u8],
        after: &[u8],
        items_max: usize,
        bytes_max: usize,
    ) -> Result<RowPage> {
        let mut rows = Vec::new();
        let mut bytes = 0_usize;
        let view = self.view();
        let mut merge = self.begin_rows(&view, space, prefix, after).await?;
        while let Some(merged) = self.next_row(&mut merge).await? {
            bytes = bytes.saturating_add(merged.key.len() + merged.value_len());
            let is_over = rows.len() >= items_max.max(1) || bytes > bytes_max;
            if is_over && !rows.is_empty() {
                return Ok(RowPage { rows, more: true });
            }
            let value = merged.bytes(&view).await;
            let value = self.noted(value, Some(merged.spaced())).await?;
            let at = merged.at;
            assert!(
                merged.key.starts_with(prefix),
                "a row of what was asked for"
            );
            rows.extend(value.map(|value| Row {
                key: merged.key,
                at,
                value,
            }));
        }
        Ok(RowPage { rows, more: false })
    }

    /// As [`Engine::rows`], but of each the key only: no value is read. Returns also whether more may follow.
    ///
    /// # Errors
    /// `Io`, or `Corrupt` of a table.
    pub async fn row_keys(
        &self,
        space: Space,
        prefix: &[u8],
        after: &[u8],
        items_max: usize,
    ) -> Result<(Vec<Bytes>, bool)> {
        let mut keys = Vec::new();
        let view = self.view();
        let mut merge = self.begin_rows(&view, space, prefix, after).await?;
        while let Some(merged) = self.next_row(&mut merge).await? {
            if keys.len() >= items_max.max(1) {
                return Ok((keys, true));
            }
            assert!(
                merged.key.starts_with(prefix),
                "a row of what was asked for"
            );
            assert!(merged.key > *after, "rows come after what was there");
            keys.push(merged.key);
        }
        Ok((keys, false))
    }

    async fn begin_rows(
        &self,
        view: &super::ReadView,
        space: Space,
        prefix: &[u8],
        after: &[u8],
    ) -> Result<Merge> {
        assert_ne!(space, Space::User, "keys of users are scanned");
        let merge = Merge::start(view, span_of(space, prefix, after)).await;
        self.noted(merge, None).await
    }

    /// The next one that is not deleted.
    async fn next_row(&self, merge: &mut Merge) -> Result<Option<Merged>> {
        loop {
            corelith_io::yield_if_needed().await;
            let next = merge.next().await;
            match self.noted(next, None).await? {
                Some(merged) if merged.is_deleted() => {}
                next => return Ok(next),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_with_a_prefix_ends_before_the_next_one() {
        let table: [(&[u8], &[u8]); 5] = [
            (b"", b""),
            (b"a", b"b"),
            (b"a\xff", b"b"),
            (b"\xff\xff", b""),
            (b"a\xff\x01", b"a\xff\x02"),
        ];
        for (prefix, end) in table {
            assert_eq!(behind(prefix), end, "{prefix:?}");
        }
        let span = span_of(Space::Chunk, b"p", b"p1");
        assert_eq!((&span.start[..], &span.end[..]), (&b"p1\0"[..], &b"q"[..]));
        assert_eq!(&span_of(Space::Chunk, b"p", b"a").start[..], b"p");
    }
}
