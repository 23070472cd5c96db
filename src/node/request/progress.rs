//! Whether a connection goes on as fast as it must: when a frame that has begun must be complete, when answers
//! must have been taken, and who has to go when others wait for the memory that it holds.

use crate::node::limits::{
    SLOW_LOOKS_MAX, STILL_LOOKS, TRANSFER_BYTES_PER_LOOK_MIN, TRANSFER_BYTES_PER_SECOND_MIN,
    TRANSFER_DEADLINE, WRITE_PIECE_BYTES,
};
use corelith_io::Instant;
use std::cell::Cell;
use std::time::Duration;

/// The bytes that go one way. Belongs to one connection.
#[derive(Debug, Default)]
struct Way {
    /// When what is under way must have gone through.
    deadline: Cell<Option<Instant>>,
    /// Bytes since the last look.
    moved: Cell<u64>,
    /// Looks in a row that found it slow.
    slow: Cell<u32>,
}

impl Way {
    fn end(&self) {
        self.deadline.set(None);
        self.slow.set(0);
    }

    fn note(&self, len: usize) {
        self.moved.set(self.moved.get().saturating_add(len as u64));
    }

    /// Looks at it, every `DEADLINE_SWEEP`. `is_wanted`: others wait for what it holds.
    fn look(&self, now: Instant, is_wanted: bool) -> bool {
        let moved = self.moved.take();
        let Some(deadline) = self.deadline.get() else {
            return false;
        };
        let slow = slow_looks(self.slow.get(), moved, is_wanted);
        self.slow.set(slow);
        deadline < now || slow >= SLOW_LOOKS_MAX
    }
}

/// How many looks in a row have found a transfer slow that others wait for; one that stands still
/// counts more.
fn slow_looks(before: u32, moved: u64, is_wanted: bool) -> u32 {
    match moved {
        0 if is_wanted => before + STILL_LOOKS,
        moved if is_wanted && moved < TRANSFER_BYTES_PER_LOOK_MIN => before + 1,
        _ => 0,
    }
}

/// See the module. Belongs to one connection.
#[derive(Debug)]
pub(super) struct Progress {
    receiving: Way,
    writing: Way,
    /// When the frame that is half there began, and its length as far as it was known then.
    frame: Cell<Option<(Instant, usize)>>,
    last: Cell<Instant>,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            receiving: Way::default(),
            writing: Way::default(),
            frame: Cell::new(None),
            last: Cell::new(now),
        }
    }

    /// When something happened last.
    pub(super) fn last(&self) -> Instant {
        self.last.get()
    }

    /// Notes that `part` bytes of a frame are there, which is `whole` bytes long if that is known.
    pub(super) fn expect_frame(&self, part: usize, whole: Option<usize>, now: Instant) {
        if part == 0 {
            self.frame.set(None);
            return self.receiving.end();
        }
        let known = whole.unwrap_or(0);
        let began = match self.frame.get() {
            Some((_, len)) if len == known => return,
            Some((began, 0)) => began,
            _ => now,
        };
        self.frame.set(Some((began, known)));
        self.receiving.deadline.set(Some(began + time_for(known)));
    }

    /// Notes that bytes came.
    pub(super) fn received(&self, len: usize, now: Instant) {
        self.last.set(now);
        self.receiving.note(len);
    }

    /// Notes whether a frame waits for memory: that is not its sender's fault.
    pub(super) fn hold_up(&self, is_held_up: bool, now: Instant) {
        let way = &self.receiving;
        way.slow.set(0);
        let known = self.frame.get().map_or(0, |(_, known)| known);
        let deadline = (!is_held_up).then(|| now + time_for(known));
        way.deadline.set(deadline);
    }

    /// Notes that frames were completed: what follows is another one.
    pub(super) fn completed(&self) {
        self.frame.set(None);
        self.receiving.end();
    }

    /// Notes that a piece of answers is being written.
    pub(super) fn write_begins(&self, now: Instant) {
        let deadline = now + time_for(WRITE_PIECE_BYTES);
        self.writing.deadline.set(Some(deadline));
    }

    /// Notes that bytes were taken.
    pub(super) fn taken(&self, len: usize) {
        self.writing.note(len);
    }

    /// Notes that all answers were taken.
    pub(super) fn write_ends(&self, now: Instant) {
        self.last.set(now);
        self.writing.end();
    }

    /// Looks at both ways, every `DEADLINE_SWEEP`; says why the connection must go.
    pub(super) fn check(
        &self,
        now: Instant,
        senders_wanted: bool,
        readers_wanted: bool,
    ) -> Option<&'static str> {
        // Both ways are looked at in any case.
        let sends = self.receiving.look(now, senders_wanted);
        let takes = self.writing.look(now, readers_wanted);
        match (sends, takes) {
            (true, _) => Some("it does not complete a request"),
            (false, true) => Some("it does not take its answers"),
            (false, false) => None,
        }
    }
}

/// How long `len` bytes may take through the socket.
fn time_for(len: usize) -> Duration {
    TRANSFER_DEADLINE + Duration::from_secs(len as u64 / TRANSFER_BYTES_PER_SECOND_MIN)
}

#[cfg(test)]
mod tests {
    use super::slow_looks;
    use crate::node::limits::{STILL_LOOKS, TRANSFER_BYTES_PER_LOOK_MIN as RATE};

    #[test]
    fn slow_is_who_others_wait_for() {
        let table = [
            // (looks before, bytes, whether others wait, looks now)
            (0, 0, false, 0),
            (2, 0, false, 0),
            (0, 0, true, STILL_LOOKS),
            (0, 1, true, 1),
            (2, RATE - 1, true, 3),
            (2, RATE, true, 0),
        ];
        for (before, moved, wanted, expected) in table {
            assert_eq!(
                slow_looks(before, moved, wanted),
                expected,
                "{before} {moved}"
            );
        }
    }
}
