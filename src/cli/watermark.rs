//! The key up to which an import has tried every key, although keys end out of order.
//!
//! Invariants: every place before `next` is done; `next` never passes a place that must be tried again.

use std::collections::BTreeMap;

/// Places count from 0 in the order of the keys.
#[derive(Debug, Default)]
pub(super) struct Watermark {
    next: u64,
    key: Option<Vec<u8>>,
    /// Places done out of order; at most as many as are in flight.
    beyond: BTreeMap<u64, Vec<u8>>,
    /// The first place that must be tried again.
    held_at: Option<u64>,
}

impl Watermark {
    /// Everything up to `key` was done before.
    pub(super) fn after(key: Option<Vec<u8>>) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// The key at `place` is done.
    pub(super) fn done(&mut self, place: u64, key: Vec<u8>) {
        assert!(place >= self.next, "a place is done once");
        if self.held_at.is_some_and(|held| place > held) {
            return;
        }
        self.beyond.insert(place, key);
        while let Some(key) = self.beyond.remove(&self.next) {
            self.key = Some(key);
            self.next += 1;
        }
    }

    /// The key at `place` must be tried again.
    pub(super) fn hold(&mut self, place: u64) {
        assert!(place >= self.next, "what is done is not tried again");
        let held = self.held_at.map_or(place, |held| held.min(place));
        self.held_at = Some(held);
        self.beyond.retain(|beyond, _| *beyond < held);
    }

    /// The last key up to which everything is done, `None` if nothing is.
    pub(super) fn key(self) -> Option<Vec<u8>> {
        self.key
    }
}

#[cfg(test)]
mod tests {
    use super::Watermark;

    /// `+3` is done, `-3` is to be tried again.
    fn after(steps: &str) -> Option<u8> {
        let mut mark = Watermark::default();
        for step in steps.split_whitespace() {
            let (sign, place) = step.split_at(1);
            let place: u64 = place.parse().unwrap();
            match sign {
                "+" => mark.done(place, vec![place as u8]),
                _ => mark.hold(place),
            }
        }
        mark.key().map(|key| key[0])
    }

    #[test]
    fn it_stands_before_the_first_key_that_is_not_done() {
        for (steps, expected) in [
            ("", None),
            ("+0", Some(0)),
            ("+1 +2", None),
            ("+1 +2 +0", Some(2)),
            ("+0 +2 +1 +4", Some(2)),
            ("-0 +1 +2", None),
            ("+0 +2 -1 +3", Some(0)),
            ("+2 -3 +4 +1 +0", Some(2)),
            ("-3 -1 +0 +2", Some(0)),
        ] {
            assert_eq!(after(steps), expected, "{steps}");
        }
        assert_eq!(Watermark::after(Some(vec![7])).key(), Some(vec![7]));
    }
}
