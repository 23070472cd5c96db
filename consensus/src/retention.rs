//! How much of the applied log to keep for followers that lag.

use std::collections::VecDeque;

/// Bytes between two samples.
const SAMPLE_BYTES: u64 = 1 << 20;
/// Samples kept; with more, two become one.
const SAMPLES_MAX: usize = 4096;

/// Remembers roughly how many bytes of entries lie after an index.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    /// Bytes of all entries noted so far.
    total: u64,
    /// (index, bytes of all entries up to and including it), ascending.
    samples: VecDeque<(u64, u64)>,
}

impl Retention {
    /// Notes an applied entry.
    pub(crate) fn note(&mut self, index: u64, bytes: u64) {
        self.total += bytes;
        let last = self.samples.back().map_or(0, |(_, total)| *total);
        if self.total - last < SAMPLE_BYTES {
            return;
        }
        if self.samples.len() == SAMPLES_MAX {
            let mut odd = false;
            self.samples.retain(|_| {
                odd = !odd;
                odd
            });
        }
        self.samples.push_back((index, self.total));
    }

    /// Up to which index the log may be purged, given that entries up to `checkpointed` are in
    /// sstables, `last` is the last entry, and the last `keep_bytes` of entries are kept (the last
    /// `keep_entries` if those are fewer bytes). Forgets what was before.
    pub(crate) fn purge_upto(
        &mut self,
        checkpointed: u64,
        last: u64,
        keep_bytes: u64,
        keep_entries: u64,
    ) -> Option<u64> {
        let kept_from_total = self.total.saturating_sub(keep_bytes);
        let by_bytes = self
            .samples
            .iter()
            .take_while(|(_, total)| *total <= kept_from_total)
            .last()
            .map(|(index, _)| *index);
        let by_entries = last.checked_sub(keep_entries);
        let upto = by_bytes.max(by_entries)?.min(checkpointed);
        while self.samples.get(1).is_some_and(|(index, _)| *index <= upto) {
            self.samples.pop_front();
        }
        Some(upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn noted(count: u64, bytes: u64) -> Retention {
        let mut retention = Retention::default();
        for index in 0..count {
            retention.note(index, bytes);
        }
        retention
    }

    #[test]
    fn keeps_the_bytes_asked_for() {
        let mut retention = noted(100, MIB);
        assert_eq!(
            retention.purge_upto(99, 99, 10 * MIB, 1000),
            Some(89),
            "ten entries of 1 MiB stay"
        );
        assert_eq!(retention.purge_upto(99, 99, 200 * MIB, 1000), None);
    }

    #[test]
    fn keeps_the_entries_asked_for() {
        assert_eq!(noted(100, 1).purge_upto(99, 99, u64::MAX, 30), Some(69));
        assert_eq!(noted(100, 1).purge_upto(99, 99, u64::MAX, 100), None);
    }

    #[test]
    fn never_goes_beyond_the_checkpoint() {
        assert_eq!(noted(100, MIB).purge_upto(5, 99, 0, 0), Some(5));
    }

    #[test]
    fn its_memory_is_bounded() {
        let retention = noted(10 * SAMPLES_MAX as u64, MIB);
        assert!(retention.samples.len() <= SAMPLES_MAX);
    }
}
