//! Which large values readers hold, as a leader remembers it.
//!
//! Invariants:
//! * A value that somebody asked for is held for [`HOLD_VALUE`] from then on.
//! * Memory is bounded: the first [`HELD_VALUES_MAX`] are known each, of those beyond a bit is. A value that nobody asked for
//!   counts as held while it shares its bit with one of them. All get other bits with every [`HOLD_VALUE`], so that what
//!   is read all the time does not hold the same others forever.

use crate::limits::{HELD_BITS, HELD_VALUES_MAX, HOLD_VALUE};
use corelith_io::Instant;
use corelith_wire::UploadId;
use std::collections::BTreeMap;

/// See the module.
#[derive(Default)]
pub(super) struct ValueHolds {
    /// When somebody last asked for it.
    asked: BTreeMap<UploadId, Instant>,
    beyond: Option<HeldBits>,
}

/// Those beyond, of this time and of the one before, each as long as a hold.
struct HeldBits {
    began: Instant,
    /// Which time this is: it says which bit a value has.
    number: u64,
    now: BitSet,
    before: BitSet,
}

impl ValueHolds {
    /// Somebody asks for a value.
    pub(super) fn hold(&mut self, upload: UploadId, now: Instant) {
        if let Some(asked) = self.asked.get_mut(&upload) {
            *asked = now;
        } else if self.asked.len() < HELD_VALUES_MAX {
            self.asked.insert(upload, now);
        } else {
            let bits = self.beyond.get_or_insert_with(|| HeldBits::new(now));
            bits.hold(upload, now);
        }
        assert!(self.asked.len() <= HELD_VALUES_MAX, "holds are bounded");
    }

    /// Whether somebody may have asked for a value lately.
    pub(super) fn is_held(&self, upload: UploadId, now: Instant) -> bool {
        let asked = self.asked.get(&upload);
        let is_known = asked.is_some_and(|asked| now - *asked < HOLD_VALUE);
        // Also of one that is known: it may have been forgotten, and asked for again, when there were too many.
        is_known || self.beyond.as_ref().is_some_and(|bits| bits.has(upload))
    }

    /// Forgets what is not held any more.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.asked.retain(|_, asked| now - *asked < HOLD_VALUE);
        if let Some(bits) = &mut self.beyond {
            bits.go_on(now);
        }
        drop(self.beyond.take_if(|bits| bits.is_empty()));
    }
}

impl HeldBits {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            number: 0,
            now: BitSet::new(),
            before: BitSet::new(),
        }
    }

    fn hold(&mut self, upload: UploadId, now: Instant) {
        self.go_on(now);
        self.now.insert(place(upload, self.number));
    }

    fn has(&self, upload: UploadId) -> bool {
        let before = self.number.wrapping_sub(1);
        self.now.contains(place(upload, self.number)) || self.before.contains(place(upload, before))
    }

    /// Begins another time if this one is over.
    fn go_on(&mut self, now: Instant) {
        let lasted = now - self.began;
        if lasted < HOLD_VALUE {
            return;
        }
        std::mem::swap(&mut self.now, &mut self.before);
        self.now.clear();
        if lasted >= 2 * HOLD_VALUE {
            self.before.clear();
        }
        self.number = self.number.wrapping_add(1);
        self.began = now;
    }

    fn is_empty(&self) -> bool {
        self.now.count == 0 && self.before.count == 0
    }
}

/// The bit of a value at that time (SplitMix64's mixing).
fn place(upload: UploadId, number: u64) -> usize {
    let mut mixed = upload.0 as u64 ^ (upload.0 >> 64) as u64;
    mixed = mixed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as usize % HELD_BITS
}

struct BitSet {
    words: Vec<u64>,
    /// Bits that are set.
    count: usize,
}

impl BitSet {
    fn new() -> Self {
        Self {
            words: vec![0; HELD_BITS / 64],
            count: 0,
        }
    }

    fn insert(&mut self, bit: usize) {
        let Some(word) = self.words.get_mut(bit / 64) else {
            return;
        };
        let mask = 1 << (bit % 64);
        self.count += usize::from(*word & mask == 0);
        *word |= mask;
    }

    fn contains(&self, bit: usize) -> bool {
        let word = self.words.get(bit / 64);
        word.is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }

    fn clear(&mut self) {
        if self.count > 0 {
            self.words.fill(0);
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_io::sim::Sim;
    use std::time::Duration;

    /// Runs at a moment of a simulation.
    fn at_a_moment(run: impl FnOnce(Instant) + 'static) {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async move { run(corelith_io::now()) });
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_asks_again_holds_for_another_while() {
        at_a_moment(|start| {
            let mut holds = ValueHolds::default();
            holds.hold(UploadId(7), start);
            holds.hold(UploadId(7), start + 40 * SECOND);
            holds.forget_old(start + 99 * SECOND);
            assert!(holds.is_held(UploadId(7), start + 99 * SECOND));
            assert!(!holds.is_held(UploadId(8), start));
            assert!(!holds.is_held(UploadId(7), start + 100 * SECOND));
            holds.forget_old(start + 100 * SECOND);
            assert!(holds.asked.is_empty());
        });
    }

    #[test]
    fn many_readers_hold_what_they_read_and_little_else() {
        at_a_moment(|start| {
            let mut holds = ValueHolds::default();
            // Minutes in which so many values are read, each once a minute.
            let read = 2 * HELD_VALUES_MAX as u128;
            let unread = || (0..1000).map(|number| UploadId((1 << 64) + number));
            let mut kept: std::collections::BTreeSet<UploadId> = unread().collect();
            for minute in 0..5 {
                let now = start + 60 * minute * SECOND;
                holds.forget_old(now);
                (0..read).for_each(|number| holds.hold(UploadId(number), now));
                let later = now + 59 * SECOND;
                holds.forget_old(later);
                assert!((0..read).all(|number| holds.is_held(UploadId(number), later)));
                let held = unread().filter(|upload| holds.is_held(*upload, later));
                let held: std::collections::BTreeSet<UploadId> = held.collect();
                assert!(held.len() < 200, "{} of 1000 that nobody reads", held.len());
                kept.retain(|upload| held.contains(upload));
            }
            assert!(kept.len() < 5, "{kept:?} are held all the time");
            for minute in 5..8 {
                holds.forget_old(start + 60 * minute * SECOND);
            }
            assert!(holds.asked.is_empty() && holds.beyond.is_none());
        });
    }
}
