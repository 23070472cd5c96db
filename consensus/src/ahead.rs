//! What was parsed when an entry came in, until the entry is applied: a write is parsed once.

use crate::command::Parsed;
use crate::limits::PARSED_AHEAD_MAX;
use corelith_shards::LogId;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Filled by the log's side, emptied by the state machine's; both on the same core.
///
/// Invariant: ids ascend. What is missing (there were too many, or the node restarted) is parsed again.
#[derive(Debug, Default)]
pub(crate) struct ParsedAhead {
    writes: RefCell<VecDeque<(LogId, Parsed)>>,
}

impl ParsedAhead {
    /// Notes an entry that is appended to the log.
    pub(crate) fn note(&self, id: LogId, parsed: Parsed) {
        let mut writes = self.writes.borrow_mut();
        while writes
            .back()
            .is_some_and(|(last, _)| last.index >= id.index)
        {
            // Entries were cut, and others take their places.
            writes.pop_back();
        }
        let ascends = writes.back().is_none_or(|(last, _)| last.index < id.index);
        assert!(ascends, "{id} does not follow what was parsed before it");
        if writes.len() < PARSED_AHEAD_MAX {
            writes.push_back((id, parsed));
        }
    }

    /// Takes what is known of an entry that is applied, and forgets those before it.
    pub(crate) fn take(&self, id: LogId) -> Option<Parsed> {
        let mut writes = self.writes.borrow_mut();
        while writes
            .front()
            .is_some_and(|(first, _)| first.index < id.index)
        {
            writes.pop_front();
        }
        let is_in_order = writes
            .front()
            .is_none_or(|(first, _)| first.index >= id.index);
        assert!(is_in_order, "{id} is applied, and older ones are kept");
        let (_, parsed) = writes.pop_front_if(|(first, _)| *first == id)?;
        Some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_shards::{LogIndex, ReplicaId, Term};

    fn id(term: u64, index: u64) -> LogId {
        LogId {
            term: Term(term),
            node: ReplicaId(1),
            index: LogIndex(index),
        }
    }

    #[test]
    fn each_entry_is_taken_once_and_cut_ones_never() {
        let ahead = ParsedAhead::default();
        for index in 1..5 {
            ahead.note(id(1, index), Parsed::default());
        }
        // Entry 3 is replaced, 4 is gone.
        ahead.note(id(2, 3), Parsed::default());
        assert!(ahead.take(id(1, 2)).is_some());
        assert!(ahead.take(id(1, 2)).is_none());
        assert!(ahead.take(id(1, 3)).is_none());
        assert!(ahead.take(id(2, 3)).is_some());
        assert!(ahead.take(id(1, 4)).is_none());
    }

    #[test]
    fn its_memory_is_bounded() {
        let ahead = ParsedAhead::default();
        for index in 0..2 * PARSED_AHEAD_MAX as u64 {
            ahead.note(id(1, index), Parsed::default());
        }
        assert_eq!(ahead.writes.borrow().len(), PARSED_AHEAD_MAX);
    }
}
