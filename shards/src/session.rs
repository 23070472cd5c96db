//! Client sessions: the replicated table that makes retries apply once.
//!
//! A session is named by the log index of the entry that opened it, so an id is never used twice.
//! A write carries (session, number, answered_below): `number` counts the session's writes to this
//! shard from 1, every number below `answered_below` has been answered and will not be asked again.
//!
//! Invariants:
//! * The table is a function of the log up to the applied entry: no clock, no randomness, no order
//!   of a hash map decides anything, so replicas agree on who expires.
//! * Sessions are linked in order of their last use; the oldest expires first.
//! * A window starts at the session's lowest unanswered number and ends with a recorded result.
//! * `results` is the sum of the windows' lengths; sessions and results are bounded.

mod record;
#[cfg(test)]
pub(crate) mod tests;

use crate::ids::LogIndex;
use crate::limits::{RESULT_BYTES_MAX, SESSION_RESULTS_MAX, SESSION_WINDOW, SESSIONS_MAX};
use crate::planted::{Bug, is_planted};
use std::collections::{BTreeMap, VecDeque};

/// What the table says of a write before it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Not seen before: apply it, then [`SessionTable::record`] its result.
    Fresh,
    /// Applied before: answer this recorded result, do not apply again.
    Repeated(Recorded),
    /// Answered before and forgotten: a stray duplicate, drop it.
    Stale,
    /// Further ahead of `answered_below` than the window allows.
    WindowFull,
    /// No such session (never opened, or expired): not applied, and it never will be.
    Unknown,
}

/// A recorded result, stored in place: at most [`RESULT_BYTES_MAX`] bytes, opaque here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// `NOTHING` for a number that has no result yet.
    len: u8,
    bytes: [u8; RESULT_BYTES_MAX],
}

const NOTHING: u8 = u8::MAX;
const _: () = assert!(RESULT_BYTES_MAX < NOTHING as usize);

impl Recorded {
    const NOTHING: Self = Self {
        len: NOTHING,
        bytes: [0; RESULT_BYTES_MAX],
    };

    /// Takes a copy of `result`; `None` if it is too long.
    pub fn new(result: &[u8]) -> Option<Self> {
        let mut bytes = [0; RESULT_BYTES_MAX];
        bytes.get_mut(..result.len())?.copy_from_slice(result);
        let len = u8::try_from(result.len()).ok()?;
        Some(Self { len, bytes })
    }

    fn is_nothing(&self) -> bool {
        self.len == NOTHING
    }
}

impl std::ops::Deref for Recorded {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Recorded").field(&&**self).finish()
    }
}

/// Index of a session in [`SessionTable::slots`].
type Slot = usize;

#[derive(Debug, PartialEq, Eq)]
struct SessionState {
    id: u64,
    /// Log index of the last entry that used it.
    last_used: LogIndex,
    /// Lowest number that may still be asked for.
    floor: u64,
    /// Results of the numbers from `floor` on.
    window: VecDeque<Recorded>,
    /// Neighbours in order of last use.
    older: Option<Slot>,
    newer: Option<Slot>,
    /// Changed since the last [`SessionTable::take_changes`].
    dirty: bool,
}

/// The sessions of one shard. Changed only by applying log entries, so it is equal on all replicas
/// at equal log index. Belongs to one core.
#[derive(Debug, Default)]
pub struct SessionTable {
    by_id: BTreeMap<u64, Slot>,
    slots: Vec<Option<SessionState>>,
    free: Vec<Slot>,
    oldest: Option<Slot>,
    newest: Option<Slot>,
    /// The session that was used last: a client's writes come in runs.
    recent: Option<(u64, Slot)>,
    /// Sum of all windows' lengths.
    results: usize,
    dirty: Vec<Slot>,
    /// Expired since the last [`SessionTable::take_changes`].
    expired: Vec<u64>,
}

impl SessionTable {
    /// Number of open sessions.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Opens the session named `at` (the index of the entry that opens it); the session used least
    /// recently expires if there are too many.
    pub fn open(&mut self, at: LogIndex) {
        assert!(
            !self.by_id.contains_key(&at.0),
            "a log index opens one session only"
        );
        if self.len() >= SESSIONS_MAX {
            self.expire_oldest();
        }
        let slot = self.insert(SessionState {
            id: at.0,
            last_used: at,
            floor: 1,
            window: VecDeque::new(),
            older: None,
            newer: None,
            dirty: true,
        });
        self.dirty.push(slot);
        assert!(self.len() <= SESSIONS_MAX, "sessions are bounded");
    }

    /// Decides about write `number` of `session`, and forgets results below `answered_below`.
    pub fn admit(
        &mut self,
        at: LogIndex,
        session: u64,
        number: u64,
        answered_below: u64,
    ) -> Admission {
        let Some(slot) = self.find(session) else {
            return Admission::Unknown;
        };
        self.touch(slot, at);
        let Some(session) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return Admission::Unknown;
        };
        if answered_below > session.floor {
            let answered = usize::try_from(answered_below - session.floor).unwrap_or(usize::MAX);
            let forgotten = answered.min(session.window.len());
            session.window.drain(..forgotten);
            session.floor = answered_below;
            self.results -= forgotten;
        }
        let Some(ahead) = number.checked_sub(session.floor) else {
            if is_planted(Bug::ForgetFloor) {
                return Admission::Fresh;
            }
            return Admission::Stale;
        };
        if ahead >= SESSION_WINDOW {
            return Admission::WindowFull;
        }
        let recorded = usize::try_from(ahead)
            .ok()
            .and_then(|ahead| session.window.get(ahead));
        match recorded {
            Some(recorded) if !recorded.is_nothing() => Admission::Repeated(*recorded),
            _ => Admission::Fresh,
        }
    }

    /// Records the result of a write that was admitted as `Fresh` by the call before.
    ///
    /// # Panics
    /// If it was not, or if the result is longer than [`RESULT_BYTES_MAX`]: a bug in the caller.
    pub fn record(&mut self, session: u64, number: u64, result: &[u8]) {
        let Some(recorded) = Recorded::new(result) else {
            panic!("a result of {} bytes is too long to record", result.len());
        };
        let slot = self.find(session);
        let Some((slot, session)) =
            slot.and_then(|slot| Some((slot, self.slots.get_mut(slot)?.as_mut()?)))
        else {
            panic!("a result was recorded for session {session}, which is not open");
        };
        if number < session.floor && is_planted(Bug::ForgetFloor) {
            return;
        }
        assert!(
            number >= session.floor && number - session.floor < SESSION_WINDOW,
            "a result was recorded outside of the window"
        );
        let ahead = usize::try_from(number - session.floor).unwrap_or(usize::MAX);
        let len_before = session.window.len();
        if ahead >= len_before {
            session.window.resize(ahead + 1, Recorded::NOTHING);
        }
        if let Some(place) = session.window.get_mut(ahead) {
            assert!(place.is_nothing(), "a result is recorded once");
            *place = recorded;
        }
        debug_assert!(
            session.window.back().is_some_and(|last| !last.is_nothing()),
            "a window ends with a result"
        );
        self.results += session.window.len() - len_before;
        while self.results > SESSION_RESULTS_MAX && self.oldest != Some(slot) {
            self.expire_oldest();
        }
        assert!(self.results <= SESSION_RESULTS_MAX, "results are bounded");
    }

    /// Lets the session used least recently expire.
    fn expire_oldest(&mut self) {
        let Some(slot) = self.oldest else { return };
        self.unlink(slot);
        if let Some(session) = self.slots.get_mut(slot).and_then(Option::take) {
            assert!(
                self.results >= session.window.len(),
                "results that go were counted"
            );
            self.results -= session.window.len();
            let named = self.by_id.remove(&session.id);
            assert_eq!(named, Some(slot), "a session is found by its id");
            self.expired.push(session.id);
            // A slot that is listed as dirty must not be reused under another id with that mark.
            if session.dirty {
                self.dirty.retain(|dirty| *dirty != slot);
            }
            self.free.push(slot);
        }
        self.recent = None;
    }

    fn find(&mut self, session: u64) -> Option<Slot> {
        if let Some((id, slot)) = self.recent
            && id == session
        {
            debug_assert_eq!(self.by_id.get(&id), Some(&slot));
            return Some(slot);
        }
        let slot = *self.by_id.get(&session)?;
        self.recent = Some((session, slot));
        Some(slot)
    }

    /// Puts a session in as the one used last.
    fn insert(&mut self, session: SessionState) -> Slot {
        let id = session.id;
        self.results += session.window.len();
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(session);
        }
        self.by_id.insert(id, slot);
        self.link_newest(slot);
        slot
    }

    /// Marks a session as used by the entry `at`.
    fn touch(&mut self, slot: Slot, at: LogIndex) {
        if self.newest != Some(slot) {
            self.unlink(slot);
            self.link_newest(slot);
        }
        if let Some(session) = self.slot_mut(slot) {
            debug_assert!(session.last_used <= at, "entries are applied in order");
            session.last_used = at;
            if !session.dirty {
                session.dirty = true;
                self.dirty.push(slot);
            }
        }
    }

    fn slot_mut(&mut self, slot: Slot) -> Option<&mut SessionState> {
        self.slots.get_mut(slot)?.as_mut()
    }

    fn unlink(&mut self, slot: Slot) {
        let Some(session) = self.slot_mut(slot) else {
            return;
        };
        let (older, newer) = (session.older.take(), session.newer.take());
        match older.and_then(|slot| self.slot_mut(slot)) {
            Some(older) => {
                assert_eq!(older.newer, Some(slot), "neighbours know each other");
                older.newer = newer;
            }
            None => self.oldest = newer,
        }
        match newer.and_then(|slot| self.slot_mut(slot)) {
            Some(newer) => {
                assert_eq!(newer.older, Some(slot), "neighbours know each other");
                newer.older = older;
            }
            None => self.newest = older,
        }
    }

    fn link_newest(&mut self, slot: Slot) {
        let newest = self.newest.replace(slot);
        if let Some(session) = self.slot_mut(slot) {
            session.older = newest;
            session.newer = None;
        }
        match newest.and_then(|slot| self.slot_mut(slot)) {
            Some(session) => {
                assert_eq!(session.newer, None, "nothing is newer than the newest");
                session.newer = Some(slot);
            }
            None => self.oldest = Some(slot),
        }
    }
}
