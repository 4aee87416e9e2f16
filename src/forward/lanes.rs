//! What was read and is not yet done with: who may go next, and how far the position may move. Pure.
//!
//! Events of one key go one after the other, in the order they were read; keys do not wait for each
//! other. The position of a partition moves over what is done, in the order it was read, up to the
//! first that is not.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::BuildHasher as _,
};

use hashbrown::{DefaultHashBuilder, HashMap, HashSet, hash_map::Entry};

use crate::consume::Place;

/// The events between reading and being done, `T` each.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    /// What waits behind an event of its key that is ready or at work, by key. A key is here from its
    /// first event to the end of its last.
    waiting: HashMap<Lane, VecDeque<(Ticket, T)>>,
    /// The first event of each key nobody is at work on.
    ready: VecDeque<(Lane, Ticket, T)>,
    /// Everything not yet passed by the position, by partition.
    open: BTreeMap<i32, Open>,
    count: usize,
    hasher: DefaultHashBuilder,
}

/// A key, as the hash of its text: two keys of one hash only wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Lane(u64);

/// Where an event lies, and which of all ever read of its partition it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    pub(super) partition: i32,
    pub(super) position: u64,
    number: u64,
}

#[cfg(test)]
impl Ticket {
    pub(super) const fn of(partition: i32, position: u64) -> Self {
        Self { partition, position, number: 0 }
    }
}

/// What was read of a partition and is not yet passed by its position.
#[derive(Debug, Default)]
struct Open {
    /// In the order it was read; and whether it is done.
    places: VecDeque<(Place, bool)>,
    /// The number of the first of `places`.
    first: u64,
    /// The place furthest on of all that were ever read.
    furthest: (u32, u64),
    /// The places here, while a broker gives again what it gave before.
    known: Option<HashSet<(u32, u64)>>,
}

impl Open {
    fn index(&self, ticket: Ticket) -> Option<usize> {
        usize::try_from(ticket.number.checked_sub(self.first)?).ok()
    }
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
            ready: VecDeque::new(),
            open: BTreeMap::new(),
            count: 0,
            hasher: DefaultHashBuilder::default(),
        }
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

    /// The lane of a key.
    pub(super) fn lane(&self, key: &str) -> Lane {
        Lane(self.hasher.hash_one(key))
    }

    /// Takes in what was read. A place that is here already is left alone: after a change of owner a
    /// broker gives again what was not yet committed.
    pub(super) fn push(&mut self, lane: Lane, place: Place, item: T) {
        let Some(ticket) = self.enter(place, false) else { return };
        match self.waiting.entry(lane) {
            Entry::Occupied(mut waiting) => waiting.get_mut().push_back((ticket, item)),
            Entry::Vacant(waiting) => {
                self.ready.push_back((lane, ticket, item));
                waiting.insert(VecDeque::new());
            }
        }
    }

    /// Takes in what needs nothing to be done.
    pub(super) fn pass(&mut self, place: Place) {
        self.enter(place, true);
    }

    fn enter(&mut self, place: Place, done: bool) -> Option<Ticket> {
        let open = self.open.entry(place.partition).or_default();
        let at = place.number();
        if at > open.furthest {
            open.furthest = at;
            open.known = None;
        } else {
            let Open { places, known, .. } = &mut *open;
            let known = known.get_or_insert_with(|| places.iter().map(|(place, _)| place.number()).collect());
            if !known.insert(at) {
                return None;
            }
        }
        let Place { partition, position, .. } = place;
        let ticket = Ticket { partition, position, number: open.first + open.places.len() as u64 };
        open.places.push_back((place, done));
        self.count += 1;
        Some(ticket)
    }

    /// Up to `most` events that may go together: all of keys nobody is at work on, each key's in
    /// order. Their lanes are taken until [`Lanes::free`].
    pub(super) fn take(&mut self, most: usize) -> Vec<(Lane, Ticket, T)> {
        let mut taken = Vec::with_capacity(most.min(self.count));
        while taken.len() < most {
            let Some((lane, ticket, item)) = self.ready.pop_front() else { break };
            taken.push((lane, ticket, item));
            let Some(waiting) = self.waiting.get_mut(&lane) else { continue };
            let count = waiting.len().min(most - taken.len());
            taken.extend(waiting.drain(..count).map(|(ticket, item)| (lane, ticket, item)));
        }
        taken
    }

    /// This event is done.
    pub(super) fn done(&mut self, ticket: Ticket) {
        let Some(open) = self.open.get_mut(&ticket.partition) else { return };
        if let Some((_, done)) = open.index(ticket).and_then(|index| open.places.get_mut(index)) {
            *done = true;
        }
    }

    /// Nobody is at work any more on what one [`Lanes::take`] gave, all of its events' lanes.
    pub(super) fn free(&mut self, lanes: impl IntoIterator<Item = Lane>) {
        let mut last = None;
        for lane in lanes {
            // A key's events stand side by side.
            if last == Some(lane) {
                continue;
            }
            last = Some(lane);
            let Entry::Occupied(mut waiting) = self.waiting.entry(lane) else { continue };
            match waiting.get_mut().pop_front() {
                Some((ticket, item)) => self.ready.push_back((lane, ticket, item)),
                None => drop(waiting.remove()),
            }
        }
    }

    /// The newest place of each partition before which everything is done, where it has moved.
    pub(super) fn advance(&mut self) -> Vec<Place> {
        let mut moved = Vec::new();
        for open in self.open.values_mut() {
            let mut newest = None;
            while let Some((place, _)) = open.places.pop_front_if(|(_, done)| *done) {
                if let Some(known) = &mut open.known {
                    known.remove(&place.number());
                }
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

    fn push(lanes: &mut Lanes<u64>, key: &str, place: Place, item: u64) {
        let lane = lanes.lane(key);
        lanes.push(lane, place, item);
    }

    fn read(events: &[(&'static str, u64)]) -> Lanes<u64> {
        let mut lanes = Lanes::<u64>::default();
        for (key, position) in events {
            push(&mut lanes, key, Place::of(0, *position), *position);
        }
        lanes
    }

    fn finish(lanes: &mut Lanes<u64>, taken: &[(Lane, Ticket, u64)]) {
        for (_, ticket, _) in taken {
            lanes.done(*ticket);
        }
        lanes.free(taken.iter().map(|(lane, _, _)| *lane));
    }

    fn items(taken: &[(Lane, Ticket, u64)]) -> Vec<u64> {
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
        push(&mut lanes, "a", Place::of(0, 5), 5);
        assert_eq!(items(&lanes.take(3)), [4], "a and b are at work");
        finish(&mut lanes, &batch);
        assert_eq!(items(&lanes.take(3)), [5]);
    }

    #[test]
    fn the_position_stops_before_the_first_that_is_not_done() {
        let mut lanes = read(&[("a", 10), ("b", 20), ("c", 30)]);
        lanes.pass(Place::of(0, 40));
        push(&mut lanes, "d", Place::of(1, 7), 7);
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
        push(&mut lanes, "a", Place::of(0, 1), 1);
        push(&mut lanes, "b", Place::of(0, 2), 2);
        let first = lanes.take(9);
        assert_eq!((lanes.len(), items(&first)), (2, vec![1, 2]));
        // What was done before, and whose commit another owner did not see, comes once more.
        push(&mut lanes, "c", Place::of(0, 0), 0);
        let again = lanes.take(9);
        assert_eq!(items(&again), [0]);
        finish(&mut lanes, &again);
        assert_eq!(lanes.advance(), [], "it was read last");
        finish(&mut lanes, &first);
        assert_eq!(lanes.advance(), [Place::of(0, 0)]);
    }

    /// A rotated file has its lines counted anew, and the one before is perhaps not done with.
    #[test]
    fn a_line_of_the_next_file_is_another_one() {
        let mut lanes = Lanes::default();
        push(&mut lanes, "a", Place::of_line(0, 1), 1);
        push(&mut lanes, "b", Place::of_line(1, 1), 2);
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
            let mut seen: HashMap<Lane, Vec<u64>> = HashMap::new();
            let mut passed = HashMap::new();
            for choice in choices {
                match choice.index(3) {
                    0 => if let Some((n, key)) = unread.next() {
                        push(&mut lanes, KEYS[*key], place(*key, n), n as u64);
                    },
                    1 => {
                        let taken = lanes.take(most);
                        if !taken.is_empty() {
                            for (lane, _, item) in &taken {
                                seen.entry(*lane).or_default().push(*item);
                            }
                            at_work.push(taken);
                        }
                    }
                    _ => if !at_work.is_empty() {
                        let taken = at_work.swap_remove(choice.index(at_work.len()));
                        done.extend(taken.iter().map(|(_, ticket, _)| (ticket.partition, ticket.position)));
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
