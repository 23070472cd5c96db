//! Places for connections of one kind: the newest ones have them.

use corelith_io::sync::notify::Notify;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The places that are taken, oldest first. Belongs to one core.
#[derive(Clone, Default)]
pub(super) struct Places {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    next: Cell<u64>,
    taken: RefCell<BTreeMap<u64, Rc<Notify>>>,
}

/// A place, given back when dropped.
pub(super) struct Place {
    places: Rc<Shared>,
    number: u64,
    lost: Rc<Notify>,
}

impl Places {
    /// Takes a place. Beyond `max` the oldest one is lost for it.
    pub(super) fn take(&self, max: usize) -> Place {
        let shared = &self.shared;
        let number = shared.next.get();
        shared.next.set(number + 1);
        let lost = Rc::new(Notify::new());
        let mut taken = shared.taken.borrow_mut();
        taken.insert(number, Rc::clone(&lost));
        if taken.len() > max.max(1)
            && let Some((_, oldest)) = taken.pop_first()
        {
            oldest.notify_one();
        }
        assert!(taken.len() <= max.max(1), "one comes, one goes");
        assert!(taken.contains_key(&number), "the newest has its place");
        Place {
            places: Rc::clone(shared),
            number,
            lost,
        }
    }
}

impl Place {
    /// Waits until the place is lost to a newer one.
    pub(super) async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::Places;
    use futures_util::FutureExt;

    #[test]
    fn the_oldest_goes_for_the_newest() {
        let places = Places::default();
        let first = places.take(2);
        let second = places.take(2);
        assert!(first.lost().now_or_never().is_none());
        let third = places.take(2);
        assert!(first.lost().now_or_never().is_some());
        assert!(second.lost().now_or_never().is_none());
        drop(second);
        let _fourth = places.take(2);
        assert!(third.lost().now_or_never().is_none());
    }

    #[test]
    fn as_many_as_there_are_places_stay_and_one_more_costs_the_oldest() {
        for max in [1, 2, 16] {
            let places = Places::default();
            let mut taken: Vec<_> = (0..max).map(|_| places.take(max)).collect();
            let lost = |place: &super::Place| place.lost().now_or_never().is_some();
            assert_eq!(taken.iter().filter(|place| lost(place)).count(), 0);
            taken.push(places.take(max));
            let lost: Vec<bool> = taken.iter().map(lost).collect();
            let oldest_only: Vec<bool> = (0..=max).map(|at| at == 0).collect();
            assert_eq!(lost, oldest_only, "of {max}");
        }
    }
}
