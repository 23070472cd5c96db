//! The shards that a store has, or had, and what is noted of them, in which order.
//!
//! Invariants:
//! * Of a shard a store has one replica at a time, and none with a generation that it has had before.
//! * A replica's directory is there only while it is listed, and gone before another one is.

use super::Identity;
use corelith_shards::ShardId;
use std::collections::BTreeMap;

/// A shard of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldShard {
    /// Generation of the node's replica: the last one that it had.
    pub generation: u16,
    /// Whether it is there.
    pub state: HeldState,
}

/// See [`HeldShard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldState {
    /// Its directory is made next, or was and is not listed as made yet: nothing was taken.
    ToBeMade,
    /// It is there.
    Made,
    /// Its directory goes.
    Dropped,
    /// It was there.
    Gone,
}

impl HeldShard {
    /// One of the founding.
    pub fn first(state: HeldState) -> Self {
        Self {
            generation: 0,
            state,
        }
    }

    /// Whether a start opens it.
    pub fn is_there(self) -> bool {
        matches!(self.state, HeldState::ToBeMade | HeldState::Made)
    }
}

/// What is to be noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardNote {
    /// A replica of this generation is made.
    ToBeMade {
        /// The shard.
        shard: ShardId,
        /// The generation.
        generation: u16,
    },
    /// These are made.
    Made(Vec<ShardId>),
    /// The replica is dropped: its directory goes.
    Dropped(ShardId),
    /// Its directory is gone.
    Gone(ShardId),
}

impl Identity {
    /// Lists the replicas of the founding, once.
    pub fn found(&mut self, shards: impl IntoIterator<Item = ShardId>) {
        if !self.is_founded {
            self.is_founded = true;
            for shard in shards {
                let new = HeldShard::first(HeldState::ToBeMade);
                self.held.entry(shard).or_insert(new);
            }
        }
    }

    /// Whether the store may have a replica of that generation anew.
    pub fn may_make(&self, shard: ShardId, generation: u16) -> bool {
        may_make(&self.held, shard, generation)
    }

    /// Notes it.
    pub fn note(&mut self, note: &ShardNote) {
        note.apply(&mut self.held);
    }
}

impl ShardNote {
    /// Changes what is listed.
    pub(crate) fn apply(&self, held: &mut BTreeMap<ShardId, HeldShard>) {
        match self {
            Self::ToBeMade { shard, generation } => {
                assert!(
                    may_make(held, *shard, *generation),
                    "{shard} comes back with generation {generation}, or is there"
                );
                let new = HeldShard {
                    generation: *generation,
                    state: HeldState::ToBeMade,
                };
                held.insert(*shard, new);
            }
            Self::Made(shards) => {
                let from = [HeldState::ToBeMade, HeldState::Made];
                shards
                    .iter()
                    .for_each(|shard| turn(held, *shard, &from, HeldState::Made));
            }
            Self::Dropped(shard) => {
                let from = [HeldState::ToBeMade, HeldState::Made, HeldState::Dropped];
                turn(held, *shard, &from, HeldState::Dropped);
            }
            Self::Gone(shard) => {
                let from = [HeldState::Dropped, HeldState::Gone];
                turn(held, *shard, &from, HeldState::Gone);
            }
        }
    }
}

fn turn(
    held: &mut BTreeMap<ShardId, HeldShard>,
    shard: ShardId,
    from: &[HeldState],
    to: HeldState,
) {
    let listed = held.get_mut(&shard);
    let listed = listed.filter(|held| from.contains(&held.state));
    assert!(listed.is_some(), "{shard} is not in a state to be {to:?}");
    if let Some(listed) = listed {
        listed.state = to;
    }
}

/// See [`Identity::may_make`].
pub(crate) fn may_make(
    held: &BTreeMap<ShardId, HeldShard>,
    shard: ShardId,
    generation: u16,
) -> bool {
    match held.get(&shard) {
        None => true,
        Some(held) => held.state == HeldState::Gone && held.generation < generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: ShardId = ShardId(3);

    fn noted(notes: &[ShardNote]) -> Identity {
        let mut identity = Identity::default();
        identity.found([S]);
        notes.iter().for_each(|note| identity.note(note));
        identity
    }

    #[test]
    fn a_shard_goes_and_comes_back_as_another_replica() {
        let made = ShardNote::Made(vec![S]);
        let (dropped, gone) = (ShardNote::Dropped(S), ShardNote::Gone(S));
        let again = ShardNote::ToBeMade {
            shard: S,
            generation: 4,
        };
        // (notes, generation, state, whether generation 0, and 4, may be made then)
        let table: [(&[ShardNote], u16, HeldState, bool); 6] = [
            (&[], 0, HeldState::ToBeMade, false),
            (std::slice::from_ref(&made), 0, HeldState::Made, false),
            (
                &[made.clone(), dropped.clone()],
                0,
                HeldState::Dropped,
                false,
            ),
            (&[dropped.clone(), gone.clone()], 0, HeldState::Gone, true),
            (
                &[dropped.clone(), gone.clone(), again.clone()],
                4,
                HeldState::ToBeMade,
                false,
            ),
            (
                &[dropped.clone(), gone.clone(), again, dropped, gone],
                4,
                HeldState::Gone,
                false,
            ),
        ];
        for (notes, generation, state, may) in table {
            let mut identity = noted(notes);
            assert_eq!(identity.held[&S], HeldShard { generation, state });
            assert_eq!(identity.may_make(S, 4), may, "{notes:?}");
            assert!(!identity.may_make(S, 0), "{notes:?}");
            // The founding is over.
            identity.found([ShardId(9)]);
            assert!(!identity.held.contains_key(&ShardId(9)));
            assert!(identity.may_make(ShardId(9), 0));
        }
    }

    #[test]
    #[should_panic = "comes back with generation 0"]
    fn a_dropped_replica_never_comes_back() {
        noted(&[
            ShardNote::Dropped(S),
            ShardNote::Gone(S),
            ShardNote::ToBeMade {
                shard: S,
                generation: 0,
            },
        ]);
    }
}
