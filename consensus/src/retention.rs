//! How much of the applied log to keep for followers that lag.

/// Up to which index the log may be purged, given that entries up to `checkpointed` are in sstables,
/// `last` is the last entry, `before_kept` the last one before the bytes that are kept, and that no
/// more than `keep_entries` are.
pub(crate) fn purge_upto(
    checkpointed: u64,
    last: u64,
    before_kept: Option<u64>,
    keep_entries: u64,
) -> Option<u64> {
    let by_entries = last.checked_sub(keep_entries);
    let upto = before_kept.max(by_entries)?.min(checkpointed);
    assert!(upto <= checkpointed, "{upto} is in no sstable");
    Some(upto)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_little_enough_in_bytes_and_in_entries() {
        let table = [
            ("few bytes, few entries", (99, 99, None, 100), None),
            ("many bytes", (99, 99, Some(89), 1000), Some(89)),
            ("many entries", (99, 99, None, 30), Some(69)),
            ("many of both", (99, 99, Some(40), 30), Some(69)),
            ("not in sstables", (5, 99, Some(89), 30), Some(5)),
        ];
        for (what, (checkpointed, last, before_kept, keep_entries), expected) in table {
            let upto = purge_upto(checkpointed, last, before_kept, keep_entries);
            assert_eq!(upto, expected, "{what}");
        }
    }
}
