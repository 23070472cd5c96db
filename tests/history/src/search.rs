//! The check that looks for an order.
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of Lowe
//! ("Testing for linearizability", 2017): from each state it tries every operation that may come next, which
//! is one that no other pending operation ended before, and never visits a set of operations with a state
//! twice. Each key is searched for itself. What the rest of its shard says about it is one number: the index
//! below which an operation cannot be, since others with that index had ended when it began.
//!
//! A write whose outcome is unknown may come at any time after it began, or never. It is tried only where an
//! operation that may come next is refused without it: in an order in which nothing is refused, it can be
//! left out or come later.

use crate::shards::{Past, by_key, by_shard};
use crate::{Observation, ValueId, What, WriteCondition};
use std::collections::{BTreeMap, BTreeSet};

/// What the search says of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchVerdict {
    /// There is an order.
    Explained,
    /// There is none: how far one goes, and what cannot follow.
    Impossible(String),
    /// The search was given up.
    Undecided,
}

/// The verdict for each key of a history. Keys with more than `len_max` observations are not searched, and a search ends
/// after `steps_max` steps.
pub fn check_keys(
    history: &[Observation],
    len_max: usize,
    steps_max: usize,
) -> impl Iterator<Item = SearchVerdict> + '_ {
    let shards = by_shard(history).into_values();
    shards.flat_map(move |shard| {
        let past = Past::new(&shard);
        let keys = by_key(&shard).into_values();
        let verdicts = keys.map(|key| match key.len() > len_max {
            true => SearchVerdict::Undecided,
            false => OrderSearch::new(&key, &past).run(steps_max),
        });
        verdicts.collect::<Vec<_>>()
    })
}

/// A key as far as its clients can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KeyState {
    /// No later operation is below this index.
    last: u64,
    /// Of the value, 0 if there is none.
    version: u64,
    value: ValueId,
}

/// An operation that may be put into the order.
struct Candidate<'a> {
    observation: &'a Observation,
    /// It has an index above this one, a read at least this one.
    floor: u64,
    /// Of a write: the versions that it may have made. Empty: any that nobody saw.
    versions: Vec<u64>,
    /// Whether an order without it explains nothing.
    is_certain: bool,
}

struct OrderSearch<'a> {
    /// By begin, the certain ones first.
    ops: Vec<Candidate<'a>>,
    certain: usize,
    past: &'a Past<'a>,
}

/// The operations that the order has so far, and how it goes on.
struct Branch {
    state: KeyState,
    done: Vec<u64>,
    /// The certain ones below are done.
    front: usize,
    left: usize,
    choices: Vec<(usize, KeyState)>,
}

impl<'a> OrderSearch<'a> {
    fn new(key: &[&'a Observation], past: &'a Past<'a>) -> Self {
        let mentioned = mentioned(key);
        let read = versions_read(key);
        let mut ops: Vec<Candidate<'_>> = key
            .iter()
            .map(|observation| {
                let (versions, is_certain) = match &observation.what {
                    What::Written { at, .. } => (vec![at.index], true),
                    What::Read { .. } | What::Refused { .. } => (Vec::new(), true),
                    What::Unknown { value: None, .. } => (Vec::new(), false),
                    What::Unknown {
                        value: Some(value), ..
                    } => match read.get(value) {
                        Some(version) => (vec![*version], true),
                        None => (mentioned.iter().copied().collect(), false),
                    },
                };
                Candidate {
                    observation,
                    floor: past.floor(observation.began),
                    versions,
                    is_certain,
                }
            })
            .collect();
        ops.sort_by_key(|op| (!op.is_certain, op.observation.began));
        let certain = ops.iter().filter(|op| op.is_certain).count();
        Self { ops, certain, past }
    }

    fn run(&self, steps_max: usize) -> SearchVerdict {
        let start = KeyState {
            last: 0,
            version: 0,
            value: None,
        };
        let words = self.ops.len().div_ceil(64);
        let mut seen = BTreeSet::new();
        let mut stack = vec![self.frame(start, vec![0; words], 0, self.certain)];
        let mut deepest: Option<(usize, KeyState)> = None;
        let mut steps = 0;
        while let Some(frame) = stack.last_mut() {
            if frame.left == 0 {
                return SearchVerdict::Explained;
            }
            if deepest.is_none_or(|(left, _)| frame.left < left) {
                deepest = Some((frame.left, frame.state));
            }
            let Some((op, state)) = frame.choices.pop() else {
                stack.pop();
                continue;
            };
            let mut done = frame.done.clone();
            done[op / 64] |= 1 << (op % 64);
            if !seen.insert((done.clone(), state)) {
                continue;
            }
            steps += 1;
            if steps > steps_max {
                return SearchVerdict::Undecided;
            }
            assert!(
                state.last >= frame.state.last,
                "an order goes back to index {}",
                state.last
            );
            let left = frame.left - usize::from(self.ops[op].is_certain);
            let front = frame.front;
            let next = self.frame(state, done, front, left);
            stack.push(next);
        }
        let (left, state) = deepest.unwrap_or((self.certain, start));
        let key = self.ops.first().map(|op| op.observation.key.as_str());
        let came = self.certain - left;
        SearchVerdict::Impossible(format!(
            "key {key:?}: after at most {came} of {} operations the key is at {state:?}, and nothing fits",
            self.certain
        ))
    }

    /// What may come next, the best last.
    fn frame(&self, state: KeyState, done: Vec<u64>, mut front: usize, left: usize) -> Branch {
        assert!(left <= self.certain, "more are left than there were");
        assert!(front <= self.certain, "what need not come is in front");
        let is_done = |op: usize| done[op / 64] & (1 << (op % 64)) != 0;
        while front < self.certain && is_done(front) {
            front += 1;
        }
        let mut earliest_end = u64::MAX;
        let mut candidates = Vec::new();
        for op in (front..self.certain).filter(|op| !is_done(*op)) {
            let observation = self.ops[op].observation;
            if observation.began > earliest_end {
                break;
            }
            earliest_end = earliest_end.min(observation.end());
            candidates.push(op);
        }
        candidates.retain(|op| self.ops[*op].observation.began <= earliest_end);
        let mut choices = Vec::new();
        let mut stuck = Vec::new();
        for op in candidates {
            match self.ops[op].step(state, self.past).first() {
                Some(next) => choices.push((op, *next)),
                None => stuck.push(op),
            }
        }
        // The lowest index last: the others can follow it, and it cannot follow them.
        choices.sort_by_key(|(op, next)| std::cmp::Reverse((next.last, *op)));
        if !stuck.is_empty() {
            let may_come =
                |op: &usize| !is_done(*op) && self.ops[*op].observation.began <= earliest_end;
            let open = (self.certain..self.ops.len()).filter(may_come);
            let steps = open.flat_map(|op| {
                let nexts = self.ops[op].step(state, self.past).into_iter();
                nexts.map(move |next| (op, next))
            });
            let frees = |next: KeyState| {
                let fits = |op: &usize| !self.ops[*op].step(next, self.past).is_empty();
                stuck.iter().any(fits)
            };
            let (good, poor): (Vec<_>, Vec<_>) = steps.partition(|(_, next)| frees(*next));
            choices.splice(0..0, poor.into_iter().chain(good));
        }
        Branch {
            state,
            done,
            front,
            left,
            choices,
        }
    }
}

impl Candidate<'_> {
    /// The states after it, if it may come in this one.
    fn step(&self, state: KeyState, past: &Past<'_>) -> Vec<KeyState> {
        let above = state.last.max(self.floor);
        assert_eq!(
            state.version == 0,
            state.value.is_none(),
            "a version without a value"
        );
        match &self.observation.what {
            What::Written {
                value, condition, ..
            }
            | What::Unknown { value, condition } => {
                if !condition.holds(state.version) {
                    return Vec::new();
                }
                let mut versions = self.versions.clone();
                if !self.is_certain {
                    versions.push(past.free_above(above));
                }
                versions.retain(|version| *version > above);
                let after = versions.into_iter().map(|version| KeyState {
                    last: version,
                    version: if value.is_some() { version } else { 0 },
                    value: *value,
                });
                after.collect()
            }
            What::Read { found, at } => {
                let is_there = found.is_some_and(|(version, value)| {
                    version == state.version && Some(value) == state.value
                });
                let fits = is_there || (found.is_none() && state.version == 0);
                state.reading(fits && at.index >= above, at.index)
            }
            What::Refused {
                condition,
                current,
                at,
            } => {
                let index = at.map_or(above, |at| at.index);
                let fits = *current == state.version && !condition.holds(*current);
                state.reading(fits && index >= above, index)
            }
        }
    }
}

impl KeyState {
    fn reading(self, fits: bool, index: u64) -> Vec<Self> {
        assert!(!fits || index >= self.last, "a read goes back to {index}");
        let after = Self {
            last: index,
            ..self
        };
        fits.then_some(after).into_iter().collect()
    }
}

/// The versions that answers and conditions name.
fn mentioned(key: &[&Observation]) -> BTreeSet<u64> {
    let mut versions = BTreeSet::new();
    for observation in key {
        if let What::Refused { current, .. } = observation.what {
            versions.insert(current);
        }
        if let What::Written { condition, .. } | What::Unknown { condition, .. } = observation.what
            && let WriteCondition::Version(named) = condition
        {
            versions.insert(named);
        }
    }
    for observation in key {
        if let What::Written { at, .. } = observation.what {
            versions.remove(&at.index);
        }
    }
    versions.remove(&0);
    versions
}

/// The version that each value was read with first.
fn versions_read(key: &[&Observation]) -> BTreeMap<u64, u64> {
    let mut versions = BTreeMap::new();
    for observation in key {
        if let What::Read {
            found: Some((version, value)),
            ..
        } = observation.what
        {
            versions.entry(value).or_insert(version);
        }
    }
    versions
}
