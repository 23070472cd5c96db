//! What the shards of a core look at once a second, all of them in one task: a shard to which nothing happens has no
//! timer of its own, and each device is asked for its space once for all shards on it.

use crate::limits::SPACE_PERIOD;
use corelith_io::{Space, spawn_background};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

/// The rounds of one core; clones share them.
#[derive(Clone, Default)]
pub struct Rounds {
    inner: Rc<RoundsInner>,
}

#[derive(Default)]
struct RoundsInner {
    visited: RefCell<Vec<Visited>>,
    is_running: Cell<bool>,
}

/// A shard that is looked at.
struct Visited {
    dir: PathBuf,
    /// The device on which it is, once that is known.
    device: Option<u64>,
    /// Looks at it, with the space of its device if that is known; `false` once it is closed.
    visit: Visit,
}

type Visit = Rc<dyn Fn(Option<Space>) -> bool>;

impl Rounds {
    /// Has the shard in `dir` visited in each round, with the space of its device if that is known, until `visit`
    /// returns `false`.
    pub(crate) fn join(&self, dir: PathBuf, visit: impl Fn(Option<Space>) -> bool + 'static) {
        self.inner.visited.borrow_mut().push(Visited {
            dir,
            device: None,
            visit: Rc::new(visit),
        });
        if !self.inner.is_running.replace(true) {
            let weak = Rc::downgrade(&self.inner);
            drop(spawn_background(async move {
                loop {
                    corelith_io::sleep(SPACE_PERIOD).await;
                    match weak.upgrade() {
                        Some(inner) if inner.round().await => {}
                        _ => return,
                    }
                }
            }));
        }
    }
}

impl RoundsInner {
    /// Looks at all devices and shards; `false` if there is no shard.
    async fn round(&self) -> bool {
        let spaces = self.spaces().await;
        let visits: Vec<(Option<u64>, Visit)> = {
            let visited = self.visited.borrow();
            let visits = visited.iter();
            visits
                .map(|shard| (shard.device, Rc::clone(&shard.visit)))
                .collect()
        };
        let mut closed: Vec<Visit> = Vec::new();
        for (device, visit) in visits {
            let space = device.and_then(|device| spaces.get(&device).copied().flatten());
            if !visit(space) {
                closed.push(visit);
            }
            corelith_io::yield_if_needed().await;
        }
        let mut visited = self.visited.borrow_mut();
        visited.retain(|shard| !closed.iter().any(|closed| Rc::ptr_eq(closed, &shard.visit)));
        let goes_on = !visited.is_empty();
        self.is_running.set(goes_on);
        goes_on
    }

    /// The space of each device, of those that answer.
    async fn spaces(&self) -> BTreeMap<u64, Option<Space>> {
        let mut spaces = BTreeMap::new();
        let dirs: Vec<(usize, Option<u64>, PathBuf)> = {
            let visited = self.visited.borrow();
            let all = visited.iter().enumerate();
            let mut asked = BTreeSet::new();
            all.filter(|(_, shard)| shard.device.is_none_or(|device| asked.insert(device)))
                .map(|(at, shard)| (at, shard.device, shard.dir.clone()))
                .collect()
        };
        for (at, device, dir) in dirs {
            // A device that does not answer holds up the others for one round at most.
            let asked = corelith_io::timeout(SPACE_PERIOD, corelith_io::space(&dir)).await;
            let space = asked.ok().and_then(Result::ok);
            let found = space.map(|space| space.device).or(device);
            if let Some(device) = found {
                spaces.entry(device).or_insert(space);
            }
            if let Some(shard) = self.visited.borrow_mut().get_mut(at)
                && shard.dir == dir
            {
                shard.device = found;
            }
        }
        spaces
    }
}

impl fmt::Debug for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = self.inner.visited.borrow().len();
        f.debug_struct("Rounds").field("shards", &shards).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelith_io::sim::Sim;

    #[test]
    fn each_shard_is_visited_once_a_second_until_it_is_closed() {
        let sim = Sim::new(1);
        let node = sim.add_node();
        sim.block_on(node, async move {
            let rounds = Rounds::default();
            let visits: Rc<[Cell<u32>; 3]> = Rc::default();
            let join = |at: usize, closed_after: u32| {
                let visits = Rc::clone(&visits);
                rounds.join(PathBuf::from("/data"), move |space| {
                    assert!(space.is_some(), "the device is known");
                    visits[at].set(visits[at].get() + 1);
                    visits[at].get() < closed_after
                });
            };
            join(0, 3);
            join(1, 10);
            corelith_io::sleep(SPACE_PERIOD * 12 + SPACE_PERIOD / 2).await;
            assert_eq!([0, 1].map(|at: usize| visits[at].get()), [3, 10]);
            assert!(!rounds.inner.is_running.get(), "nothing is left to visit");
            join(2, 2);
            corelith_io::sleep(SPACE_PERIOD * 4).await;
            assert_eq!(visits[2].get(), 2);
        });
    }
}
