//! What was read and is not yet done with: who may go next, and how far the position may move. Pure.
//!
//! Events of one key go one after the other, in the order they were read; keys do not wait for each
//! other. The position of a partition moves over what is done, in the order it was read, up to the
//! first that is not.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use hashbrown::{HashMap, hash_map::Entry};

use crate::consume::Place;

/// The events between reading and being done, `T` each.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    /// What waits behind an event of its key that is ready or at work, by key. A key is here from its
    /// first event to the end of its last.
    waiting: HashMap<Arc<str>, VecDeque<(Place, T)>>,
    /// The first event of each key nobody is at work on.
    ready: VecDeque<(Arc<str>, Place, T)>,
    /// Everything not yet passed by the position, by partition.
    open: BTreeMap<i32, Open>,
    count: usize,
}

/// What was read of a partition and is not yet passed by its position.
#[derive(Debug, Default)]
struct Open {
    /// In the order it was read; and whether it is done.
    places: VecDeque<(Place, bool)>,
    /// By position, which of all places ever read it is.
    numbers: HashMap<(u32, u64), u64>,
    /// The number of the first of `places`.
    first: u64,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), ready: VecDeque::new(), open: BTreeMap::new(), count: 0 }
    }
}

impl<T> Lanes<T> {
    /// How many places are not yet passed by the position.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// How many keys could go now.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes in what was read. A place that is here already is left alone: after a change of owner a
    /// broker gives again what was not yet committed.
    pub(super) fn push(&mut self, key: Arc<str>, place: Place, item: T) {
        if !self.enter(place.clone(), false) {
            return;
        }
        match self.waiting.entry(key) {
            Entry::Occupied(mut lane) => lane.get_mut().push_back((place, item)),
            Entry::Vacant(lane) => {
                self.ready.push_back((lane.key().clone(), place, item));
                lane.insert(VecDeque::new());
            }
        }
    }

    /// Takes in what needs nothing to be done.
    pub(super) fn pass(&mut self, place: Place) {
        self.enter(place, true);
    }

    fn enter(&mut self, place: Place, done: bool) -> bool {
        let open = self.open.entry(place.partition).or_default();
        let number = open.first + open.places.len() as u64;
        match open.numbers.entry(place.number()) {
            Entry::Occupied(_) => return false,
            Entry::Vacant(new) => new.insert(number),
        };
        open.places.push_back((place, done));
        self.count += 1;
        true
    }

    /// Up to `most` events that may go together: all of keys nobody is at work on, each key's in
    /// order. Their keys are taken until [`Lanes::free`].
    pub(super) fn take(&mut self, most: usize) -> Vec<(Arc<str>, Place, T)> {
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some((key, place, item)) = self.ready.pop_front() else { break };
            taken.push((key.clone(), place, item));
            let Some(lane) = self.waiting.get_mut(&key) else { continue };
            let count = lane.len().min(most - taken.len());
            taken.extend(lane.drain(..count).map(|(place, item)| (key.clone(), place, item)));
        }
        taken
    }

    /// This event is done.
    pub(super) fn done(&mut self, place: &Place) {
        let Some(open) = self.open.get_mut(&place.partition) else { return };
        let index = open.numbers.get(&place.number()).and_then(|n| usize::try_from(n - open.first).ok());
        if let Some((_, done)) = index.and_then(|index| open.places.get_mut(index)) {
            *done = true;
        }
    }

    /// Nobody is at work any more on what one [`Lanes::take`] gave, all of its events' keys.
    pub(super) fn free<'a>(&mut self, keys: impl IntoIterator<Item = &'a Arc<str>>) {
        let mut last = None;
        for key in keys {
            // A key's events stand side by side.
            if last == Some(key) {
                continue;
            }
            last = Some(key);
            let Entry::Occupied(mut lane) = self.waiting.entry(key.clone()) else { continue };
            match lane.get_mut().pop_front() {
                Some((place, item)) => self.ready.push_back((key.clone(), place, item)),
                None => drop(lane.remove()),
            }
        }
    }

    /// The newest place of each partition before which everything is done, where it has moved.
    pub(super) fn advance(&mut self) -> Vec<Place> {
        let mut moved = Vec::new();
        for open in self.open.values_mut() {
            let mut newest = None;
            while let Some((place, _)) = open.places.pop_front_if(|(_, done)| *done) {
                open.numbers.remove(&place.number());
                open.first += 1;
                self.count -= 1;
                newest = Some(place);
            }
            moved.extend(newest);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn read(events: &[(&'static str, u64)]) -> Lanes<u64> {
        let mut lanes = Lanes::<u64>::default();
        for (key, position) in events {
            lanes.push(Arc::from(*key), Place::of(0, *position), *position);
        }
        lanes
    }

    fn finish(lanes: &mut Lanes<u64>, taken: &[(Arc<str>, Place, u64)]) {
        for (_, place, _) in taken {
            lanes.done(place);
        }
        lanes.free(taken.iter().map(|(key, _, _)| key));
    }

    fn items(taken: &[(Arc<str>, Place, u64)]) -> Vec<u64> {
        taken.iter().map(|(_, _, item)| *item).collect()
    }

    #[test]
    fn a_key_waits_for_itself_and_for_nobody_else() {
        let mut lanes = read(&[("a", 1), ("a", 2), ("b", 3), ("a", 4)]);
        let first = lanes.take(1);
        let second = lanes.take(1);
        assert_eq!((items(&first), items(&second)), (vec![1], vec![3]));
        assert!(lanes.take(1).is_empty(), "a is at work");
        finish(&mut lanes, &first);
        assert_eq!(items(&lanes.take(1)), [2]);
    }

    #[test]
    fn a_batch_holds_all_of_a_key_in_order() {
        let mut lanes = read(&[("a", 1), ("b", 2), ("a", 3), ("c", 4)]);
        let batch = lanes.take(3);
        assert_eq!(items(&batch), [1, 3, 2]);
        lanes.push(Arc::from("a"), Place::of(0, 5), 5);
        assert_eq!(items(&lanes.take(3)), [4], "a and b are at work");
        finish(&mut lanes, &batch);
        assert_eq!(items(&lanes.take(3)), [5]);
    }

    #[test]
    fn the_position_stops_before_the_first_that_is_not_done() {
        let mut lanes = read(&[("a", 10), ("b", 20), ("c", 30)]);
        lanes.pass(Place::of(0, 40));
        lanes.push(Arc::from("d"), Place::of(1, 7), 7);
        let (a, b) = (lanes.take(1), lanes.take(1));
        finish(&mut lanes, &b);
        assert_eq!(lanes.advance(), []);
        finish(&mut lanes, &a);
        assert_eq!(lanes.advance(), [Place::of(0, 20)]);
        let rest = lanes.take(9);
        finish(&mut lanes, &rest);
        assert_eq!(lanes.advance(), [Place::of(0, 40), Place::of(1, 7)]);
        assert_eq!(lanes.len(), 0);
    }

    #[test]
    fn what_is_read_again_after_a_change_of_owner_goes_once_while_it_is_here() {
        let mut lanes = read(&[("a", 1), ("b", 2)]);
        lanes.push(Arc::from("a"), Place::of(0, 1), 1);
        lanes.push(Arc::from("b"), Place::of(0, 2), 2);
        assert_eq!((lanes.len(), items(&lanes.take(9))), (2, vec![1, 2]));
        // What was done before, and whose commit another owner did not see, comes once more.
        lanes.push(Arc::from("c"), Place::of(0, 0), 0);
        let again = lanes.take(9);
        assert_eq!(items(&again), [0]);
        finish(&mut lanes, &again);
        assert_eq!(lanes.advance(), [], "it was read last");
        lanes.done(&Place::of(0, 1));
        lanes.done(&Place::of(0, 2));
        assert_eq!(lanes.advance(), [Place::of(0, 0)]);
    }

    /// A rotated file has its lines counted anew, and the one before is perhaps not done with.
    #[test]
    fn a_line_of_the_next_file_is_another_one() {
        let mut lanes = Lanes::default();
        lanes.push(Arc::from("a"), Place::of_line(0, 1), 1);
        lanes.push(Arc::from("b"), Place::of_line(1, 1), 2);
        let (a, b) = (lanes.take(1), lanes.take(1));
        assert_eq!((items(&a), items(&b)), (vec![1], vec![2]));
        finish(&mut lanes, &b);
        assert_eq!(lanes.advance(), []);
        finish(&mut lanes, &a);
        assert_eq!(lanes.advance(), [Place::of_line(1, 1)]);
    }

    /// A key is always in one partition, as Kafka has it.
    fn place(key: usize, n: usize) -> Place {
        Place::of(i32::try_from(key % 3).unwrap(), n as u64)
    }

    proptest! {
        /// Whatever order work ends in: per key the order of the log, every event once, and never a
        /// position past something that is not done.
        #[test]
        fn order_and_position_hold(
            events in prop::collection::vec(0_usize..4, 1..80),
            most in 1_usize..5,
            choices in prop::collection::vec(any::<prop::sample::Index>(), 400),
        ) {
            const KEYS: [&str; 4] = ["a", "b", "c", "d"];
            let mut lanes = Lanes::<u64>::default();
            let mut unread = events.iter().enumerate();
            let mut at_work = Vec::new();
            let mut done = BTreeSet::new();
            let mut seen: HashMap<Arc<str>, Vec<u64>> = HashMap::new();
            let mut passed = HashMap::new();
            for choice in choices {
                match choice.index(3) {
                    0 => if let Some((n, key)) = unread.next() {
                        lanes.push(Arc::from(KEYS[*key]), place(*key, n), n as u64);
                    },
                    1 => {
                        let taken = lanes.take(most);
                        if !taken.is_empty() {
                            for (key, _, item) in &taken {
                                seen.entry(Arc::clone(key)).or_default().push(*item);
                            }
                            at_work.push(taken);
                        }
                    }
                    _ => if !at_work.is_empty() {
                        let taken = at_work.swap_remove(choice.index(at_work.len()));
                        done.extend(taken.iter().map(|(_, place, _)| (place.partition, place.position)));
                        finish(&mut lanes, &taken);
                        for place in lanes.advance() {
                            passed.insert(place.partition, place.position);
                        }
                    },
                }
                for (n, key) in events.iter().enumerate() {
                    let place = place(*key, n);
                    if passed.get(&place.partition).is_some_and(|passed| place.position <= *passed) {
                        prop_assert!(done.contains(&(place.partition, place.position)), "{place:?} is passed and not done");
                    }
                }
                for items in seen.values() {
                    prop_assert!(items.windows(2).all(|pair| pair[0] < pair[1]), "{items:?}");
                }
                let busy: Vec<_> = at_work.iter().flat_map(|taken| {
                    let keys: BTreeSet<_> = taken.iter().map(|(key, _, _)| key).collect();
                    keys
                }).collect();
                let distinct: BTreeSet<_> = busy.iter().collect();
                prop_assert_eq!(busy.len(), distinct.len(), "a key is at work twice");
            }
        }
    }
}
