//! Where an append goes in the log of a replica, and what its leader has shown of its own.
//!
//! Invariants:
//! * The line of a leader only grows while it leads, and what lies on it is not cut. It ends with the first
//!   append that contradicts it, which is refused.
//! * What an append may commit lies within the line after it, or within what was purged.

use super::{Refusal, leader_of, leader_of_vote};
use corelith_shards::{LogId, LogIndex};
use corelith_wire::peer::{AppendHead, PeerEntry, PeerVote};

/// The log of this replica.
pub(crate) struct HeldLog<'a> {
    pub(crate) purged: Option<LogId>,
    /// Up to here it is for good: what is committed, and, for an append of the leader that it goes by,
    /// what that leader has shown.
    pub(crate) settled: Option<LogIndex>,
    pub(crate) id_at: &'a dyn Fn(LogIndex) -> Option<LogId>,
}

impl HeldLog<'_> {
    /// Whether the log holds that entry, or ends its purged part with it.
    fn has(&self, id: LogId) -> bool {
        self.purged == Some(id) || (!self.is_purged(id.index) && (self.id_at)(id.index) == Some(id))
    }

    fn is_purged(&self, index: LogIndex) -> bool {
        self.purged.is_some_and(|purged| index <= purged.index)
    }

    /// Of what is purged only the order of leaders is known.
    fn fits_purged(&self, id: LogId) -> bool {
        match self.purged {
            Some(purged) if id.index == purged.index => id == purged,
            Some(purged) => leader_of(id) <= leader_of(purged),
            None => false,
        }
    }

    /// Whether what is settled here agrees with `id`.
    fn agrees(&self, id: LogId) -> Result<(), Refusal> {
        let agrees = match self.is_purged(id.index) {
            true => self.fits_purged(id),
            false => Some(id.index) > self.settled || self.has(id),
        };
        match agrees {
            true => Ok(()),
            false => Err(Refusal::Contradicts(id)),
        }
    }
}

/// What one leader has shown of its log: appends that follow it extend the log and cut nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaderLine {
    /// The leader.
    pub(super) vote: PeerVote,
    /// The last entry that it has shown.
    pub(super) tail: Option<LogId>,
    /// From here on the entries up to the tail are of the leader's own term.
    pub(super) own_from: Option<LogIndex>,
}

/// Where an append goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AppendPlace {
    /// What it may commit.
    pub(crate) committed: Option<LogId>,
    /// The line after it; `None` if it is refused by what Raft demands of every append.
    pub(crate) line: Option<LeaderLine>,
}

impl AppendPlace {
    /// Of an append that goes on to `line`.
    fn on(line: LeaderLine, committed: Option<LogId>) -> Self {
        assert!(
            committed.is_none_or(|committed| !is_beyond(committed, line.tail)),
            "{committed:?} is committed beyond {line:?}"
        );
        Self {
            committed,
            line: Some(line),
        }
    }

    /// The line of a replica that had `line`: a leader of old ends no newer one's, and an append that is
    /// refused shows nothing, and takes nothing back.
    pub(crate) fn line_after(
        &self,
        line: Option<LeaderLine>,
        head: &AppendHead,
    ) -> Option<LeaderLine> {
        let stays = |line: &LeaderLine| leader_of_vote(&line.vote) >= leader_of_vote(&head.vote);
        self.line.or(line.filter(stays))
    }
}

impl LeaderLine {
    fn after(
        vote: PeerVote,
        before: Option<Self>,
        tail: Option<LogId>,
        entries: &[PeerEntry],
    ) -> Self {
        let own = |id: LogId| leader_of(id) == leader_of_vote(&vote);
        let own_from = before
            .and_then(|line| line.own_from)
            .or_else(|| {
                entries
                    .iter()
                    .map(|entry| entry.id)
                    .find(|id| own(*id))
                    .map(|id| id.index)
            })
            .or_else(|| tail.filter(|id| own(*id)).map(|id| id.index));
        assert!(
            own_from.is_none_or(|from| tail.is_some_and(|tail| from <= tail.index)),
            "own entries from {own_from:?} on end at {tail:?}"
        );
        Self {
            vote,
            tail,
            own_from,
        }
    }

    /// Whether it is the line of the leader with that vote.
    pub(crate) fn is_of(&self, vote: &PeerVote) -> bool {
        self.vote == *vote
    }

    /// The line after openraft has refused an append: `self` is as it was before that append came in, `now`
    /// as it is by now. What came behind it was refused too, and what the leader sends instead may be on the
    /// line already: the shorter one holds for certain.
    pub(crate) fn without(self, now: Self) -> Self {
        assert!(
            self.vote == now.vote,
            "{self:?} and {now:?} are of two leaders"
        );
        match self.tail() <= now.tail() {
            true => self,
            false => now,
        }
    }

    /// Up to where it goes.
    pub(crate) fn tail(&self) -> Option<LogIndex> {
        self.tail.map(|id| id.index)
    }

    fn shows_own(&self, id: LogId) -> bool {
        leader_of(id) == leader_of_vote(&self.vote)
            && self.own_from.is_some_and(|from| from <= id.index)
            && self.tail.is_some_and(|tail| id.index <= tail.index)
    }
}

/// Where an append goes that goes on where its leader stopped; `None` if it does not, or if that
/// cannot be told from the line alone. What is settled is not looked at: it may lag behind what
/// openraft knows.
pub(crate) fn in_line(
    line: &LeaderLine,
    head: &AppendHead,
    entries: &[PeerEntry],
    held: &HeldLog<'_>,
) -> Option<AppendPlace> {
    if line.vote != head.vote {
        return None;
    }
    let goes_on = head.before == line.tail
        || (entries.is_empty()
            && head
                .before
                .is_none_or(|before| !is_beyond(before, line.tail) && held.has(before)));
    // What lies behind the line is from before this leader, and may be committed.
    let cuts_nothing = entries.iter().all(|entry| {
        !held.is_purged(entry.id.index)
            && (held.id_at)(entry.id.index).is_none_or(|id| id == entry.id)
    });
    if !goes_on || !cuts_nothing {
        return None;
    }
    let tail = entries.last().map(|entry| entry.id).or(line.tail);
    let after = LeaderLine::after(head.vote, Some(*line), tail, entries);
    let committed = match head.committed {
        None => None,
        Some(committed) if is_beyond(committed, tail) => cut(committed, tail).ok()?,
        Some(committed) => {
            let shown = after.shows_own(committed)
                || entries.iter().any(|entry| entry.id == committed)
                || held.has(committed);
            Some(shown.then_some(committed)?)
        }
    };
    assert!(
        line.tail() <= after.tail(),
        "{line:?} grows, and is {after:?}"
    );
    Some(AppendPlace::on(after, committed))
}

fn is_beyond(id: LogId, tail: Option<LogId>) -> bool {
    tail.is_none_or(|tail| id.index > tail.index)
}

/// A commit index beyond `tail`, cut to it.
fn cut(committed: LogId, tail: Option<LogId>) -> Result<Option<LogId>, Refusal> {
    match tail {
        Some(tail) if leader_of(committed) < leader_of(tail) => Err(Refusal::Order(committed)),
        tail => Ok(tail),
    }
}

/// Where any append goes, if `held` and `ours` (this replica's vote) are exactly what openraft knows.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn place(
    ours: &PeerVote,
    head: &AppendHead,
    entries: &[PeerEntry],
    held: &HeldLog<'_>,
) -> Result<AppendPlace, Refusal> {
    // The answer says so; openraft would take the commit index all the same.
    let without_effect = AppendPlace {
        committed: None,
        line: None,
    };
    if leader_of_vote(&head.vote) < leader_of_vote(ours) {
        // A leader of old may have entries that others have replaced since.
        return Ok(without_effect);
    }
    let mut ids = entries.iter().map(|entry| entry.id);
    for id in head.before.into_iter().chain(ids.clone()) {
        held.agrees(id)?;
    }
    if let Some(committed) = head.committed {
        held.agrees(committed)?;
    }
    let reaches = head
        .before
        .is_none_or(|before| held.is_purged(before.index) || held.has(before));
    if !reaches {
        return Ok(without_effect);
    }
    let tail = entries.last().map(|entry| entry.id).or(head.before);
    let committed = match head.committed {
        None => None,
        Some(committed) if is_beyond(committed, tail) => cut(committed, tail)?,
        Some(committed) => {
            // The leader's log up to `before` is the own one.
            let shown = held.is_purged(committed.index)
                || held.has(committed)
                || ids.any(|id| id == committed);
            if !shown || is_replaced(committed, entries) {
                return Err(Refusal::Contradicts(committed));
            }
            Some(committed)
        }
    };
    let line = LeaderLine::after(head.vote, None, tail, entries);
    Ok(AppendPlace::on(line, committed))
}

/// Whether the append itself has another entry in that place.
fn is_replaced(id: LogId, entries: &[PeerEntry]) -> bool {
    entries
        .iter()
        .any(|entry| entry.id.index == id.index && entry.id != id)
}
