//! Whether a connection goes on as fast as it must: when a frame that has begun must be complete, when answers
//! must have been taken, and who has to go when others wait for the memory that it holds.
//!
//! Invariants:
//! * Nobody goes for being slow while nobody waits for what it holds, but for the deadline.
//! * While somebody waits for the share of starts or of uploads, every holder of it is fast, is complete, has a part
//!   of the share for slow ones, or goes within `UPLOAD_SLOW_LOOKS_MAX` full looks.

use super::budget::Wanted;
use crate::node::limits::{
    SLOW_LOOKS_MAX, STILL_LOOKS, TRANSFER_BYTES_PER_LOOK_MIN, TRANSFER_BYTES_PER_SECOND_MIN,
    TRANSFER_DEADLINE, UPLOAD_BYTES_PER_LOOK_MIN, UPLOAD_SLOW_LOOKS_MAX, WRITE_PIECE_BYTES,
};
use corelith_io::Instant;
use std::cell::Cell;
use std::time::Duration;

/// How far the frame that comes is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is short, or nothing of it is there.
    #[default]
    Short,
    /// It is long and shows how fast its sender is.
    Start,
    /// Its start came slowly, and it waits for the share of slow ones.
    Waiting,
    /// It has memory for all of it.
    Whole,
    /// So it has, of the part for slow ones.
    Slow,
}

/// What is asked of a way at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransferPace {
    /// Nobody waits for what it holds.
    Any,
    /// Others wait: that it does not stand still, or nearly so.
    Moving,
    /// Others' uploads wait: that it is fast.
    Fast,
}

fn pace_of(stage: Stage, wanted: Wanted) -> TransferPace {
    let (is_wanted, pace) = match stage {
        Stage::Short => (wanted.frames, TransferPace::Moving),
        Stage::Start => (wanted.starts, TransferPace::Fast),
        Stage::Waiting => (false, TransferPace::Any),
        Stage::Whole => (wanted.uploads, TransferPace::Fast),
        Stage::Slow => (wanted.uploads, TransferPace::Moving),
    };
    if is_wanted { pace } else { TransferPace::Any }
}

/// Why a connection must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TooSlow {
    /// It does not complete a request.
    Sends,
    /// It sends a long request so slowly that others would wait for it.
    Uploads,
    /// It does not take its answers.
    Takes,
}

impl TooSlow {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Sends => "it does not complete a request",
            Self::Uploads => "its upload is too slow while others wait",
            Self::Takes => "it does not take its answers",
        }
    }
}

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

    /// Looks at it, every `DEADLINE_SWEEP`; returns whether it is too slow.
    fn look(&self, now: Instant, pace: TransferPace) -> bool {
        let moved = self.moved.take();
        let Some(deadline) = self.deadline.get() else {
            return false;
        };
        let slow = slow_looks(self.slow.get(), moved, pace);
        self.slow.set(slow);
        let slow_max = match pace {
            TransferPace::Any | TransferPace::Moving => SLOW_LOOKS_MAX,
            TransferPace::Fast => UPLOAD_SLOW_LOOKS_MAX,
        };
        deadline < now || slow >= slow_max
    }
}

/// How many looks in a row have found a transfer slower than `pace`; one that only has to move and stands still
/// counts more.
fn slow_looks(before: u32, moved: u64, pace: TransferPace) -> u32 {
    match (pace, moved) {
        (TransferPace::Moving, 0) => before + STILL_LOOKS,
        (TransferPace::Moving, moved) if moved < TRANSFER_BYTES_PER_LOOK_MIN => before + 1,
        (TransferPace::Fast, moved) if moved < UPLOAD_BYTES_PER_LOOK_MIN => before + 1,
        _ => 0,
    }
}

/// See the module. Belongs to one connection.
#[derive(Debug)]
pub(super) struct ConnectionProgress {
    receiving: Way,
    writing: Way,
    /// When the frame that is half there began, and its length as far as it was known then.
    frame: Cell<Option<(Instant, usize)>>,
    stage: Cell<Stage>,
    last: Cell<Instant>,
}

impl ConnectionProgress {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            receiving: Way::default(),
            writing: Way::default(),
            frame: Cell::new(None),
            stage: Cell::default(),
            last: Cell::new(now),
        }
    }

    /// When something happened last.
    pub(super) fn last(&self) -> Instant {
        self.last.get()
    }

    /// Notes that `part` bytes of a frame are there, which is `whole` bytes long if that is known.
    pub(super) fn expect_frame(&self, part: usize, whole: Option<usize>, now: Instant) {
        assert!(
            whole.is_none_or(|whole| part < whole),
            "the frame is complete"
        );
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

    /// Notes how far the frame is that comes.
    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.set(stage);
        self.receiving.slow.set(0);
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
        self.stage.set(Stage::Short);
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
    pub(super) fn check(&self, now: Instant, wanted: Wanted) -> Option<TooSlow> {
        let stage = self.stage.get();
        assert!(
            stage != Stage::Waiting || self.receiving.deadline.get().is_none(),
            "who waits for memory has no deadline"
        );
        // Both ways are looked at in any case.
        let sends = self.receiving.look(now, pace_of(stage, wanted));
        let takes_pace = if wanted.readers {
            TransferPace::Moving
        } else {
            TransferPace::Any
        };
        let takes = self.writing.look(now, takes_pace);
        let waits = stage == Stage::Waiting && wanted.starts;
        match (sends || waits, takes) {
            (true, _) if stage == Stage::Short => Some(TooSlow::Sends),
            (true, _) => Some(TooSlow::Uploads),
            (false, true) => Some(TooSlow::Takes),
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
    use super::{Stage, TransferPace, Wanted, pace_of, slow_looks};
    use crate::node::limits::{
        STILL_LOOKS, TRANSFER_BYTES_PER_LOOK_MIN as RATE, UPLOAD_BYTES_PER_LOOK_MIN as FAST,
    };

    #[test]
    fn only_holders_of_what_others_wait_for_are_asked_for_a_pace() {
        let nothing = Wanted::default();
        let all = Wanted {
            frames: true,
            starts: true,
            uploads: true,
            readers: true,
        };
        let starts = Wanted {
            starts: true,
            ..nothing
        };
        let table = [
            (Stage::Short, nothing, TransferPace::Any),
            (Stage::Short, starts, TransferPace::Any),
            (Stage::Short, all, TransferPace::Moving),
            (Stage::Start, nothing, TransferPace::Any),
            (Stage::Start, starts, TransferPace::Fast),
            (Stage::Waiting, all, TransferPace::Any),
            (Stage::Whole, starts, TransferPace::Any),
            (Stage::Whole, all, TransferPace::Fast),
            (Stage::Slow, nothing, TransferPace::Any),
            (Stage::Slow, all, TransferPace::Moving),
        ];
        for (stage, wanted, expected) in table {
            assert_eq!(pace_of(stage, wanted), expected, "{stage:?} {wanted:?}");
        }
    }

    #[test]
    fn slow_is_who_others_wait_for() {
        let table = [
            // (looks before, bytes, pace that is asked for, looks now)
            (0, 0, TransferPace::Any, 0),
            (2, 0, TransferPace::Any, 0),
            (0, 0, TransferPace::Moving, STILL_LOOKS),
            (0, 1, TransferPace::Moving, 1),
            (2, RATE - 1, TransferPace::Moving, 3),
            (2, RATE, TransferPace::Moving, 0),
            (0, 0, TransferPace::Fast, 1),
            (1, FAST - 1, TransferPace::Fast, 2),
            (1, FAST, TransferPace::Fast, 0),
        ];
        for (before, moved, pace, expected) in table {
            assert_eq!(
                slow_looks(before, moved, pace),
                expected,
                "{before} {moved} {pace:?}"
            );
        }
    }
}
