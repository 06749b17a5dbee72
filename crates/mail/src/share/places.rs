//! A number of places that parties share by need.

use std::{
    collections::HashMap,
    hash::Hash,
    iter,
    sync::{Arc, Mutex, MutexGuard},
};

use super::Share;

/// A number of places, of which each party may have its [`Share`]. Cheap to clone.
#[derive(Debug)]
pub struct Places<K: Eq + Hash>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    share: Share,
    all: u64,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    sum: u64,
    /// Parties that have a place, so there are never more of them than places.
    by_party: HashMap<K, u64>,
}

/// One place of a party, until it is dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    places: Arc<Inner<K>>,
    party: K,
    /// The party is one of many, which together have no more than one party's share.
    among: Option<K>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// All are taken.
    All,
    /// The free ones are for others.
    Share,
}

impl<K: Eq + Hash + Clone> Places<K> {
    pub fn new(all: u64, share: Share) -> Self {
        let taken = Mutex::new(Taken { sum: 0, by_party: HashMap::new() });
        Self(Arc::new(Inner { share, all, taken }))
    }

    pub fn take(&self, party: K) -> Result<Place<K>, Full> {
        self.take_one(party, None)
    }

    /// Takes a place for a party that is one of many: all of `crowd` together have no more than one party may
    /// have, and each of them is also bound by its own share.
    pub fn take_among(&self, party: K, crowd: K) -> Result<Place<K>, Full> {
        self.take_one(party, Some(crowd))
    }

    fn take_one(&self, party: K, among: Option<K>) -> Result<Place<K>, Full> {
        let mut taken = self.0.lock();
        let free = self.0.all - taken.sum;
        if free == 0 {
            return Err(Full::All);
        }
        for party in iter::once(&party).chain(&among) {
            if !self.0.share.allows(taken.held(party), 1, free) {
                return Err(Full::Share);
            }
        }
        taken.add(&party, among.as_ref());
        drop(taken);
        Ok(Place { places: self.0.clone(), party, among })
    }
}

impl<K: Eq + Hash> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash + Clone> Place<K> {
    /// Gives the place to another party, if that may have one more; otherwise it stays with its party.
    /// `among` as for [`take_among`](Places::take_among).
    pub fn give_to(&mut self, party: &K, among: Option<&K>) -> Result<(), Full> {
        if self.party == *party {
            return Ok(());
        }
        let mut taken = self.places.lock();
        // As if it had been given back.
        taken.remove(&self.party, self.among.as_ref());
        let free = self.places.all - taken.sum;
        let mut taking = iter::once(party).chain(among);
        if taking.any(|party| !self.places.share.allows(taken.held(party), 1, free)) {
            taken.add(&self.party, self.among.as_ref());
            return Err(Full::Share);
        }
        taken.add(party, among);
        drop(taken);
        (self.party, self.among) = (party.clone(), among.cloned());
        Ok(())
    }
}

impl<K> Inner<K> {
    fn lock(&self) -> MutexGuard<'_, Taken<K>> {
        // No step of a change can panic, so a panic elsewhere leaves the figures in order.
        self.taken.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<K: Eq + Hash> Taken<K> {
    fn held(&self, party: &K) -> u64 {
        self.by_party.get(party).copied().unwrap_or(0)
    }

    fn add(&mut self, party: &K, among: Option<&K>)
    where
        K: Clone,
    {
        self.sum += 1;
        for party in iter::once(party).chain(among) {
            *self.by_party.entry(party.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, party: &K, among: Option<&K>) {
        self.sum -= 1;
        for party in iter::once(party).chain(among) {
            match self.by_party.get_mut(party) {
                Some(held) if *held > 1 => *held -= 1,
                _ => drop(self.by_party.remove(party)),
            }
        }
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.places.lock().remove(&self.party, self.among.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_and_nothing_is_kept_of_who_has_none() {
        let places = Places::new(9, Share::BRIEF);
        let many: Vec<_> = std::iter::from_fn(|| places.take("many").ok()).collect();
        assert_eq!((many.len(), places.take("many").unwrap_err()), (8, Full::Share));
        let last = places.take("few").unwrap();
        assert_eq!(
            (places.take("many").unwrap_err(), places.take("third").unwrap_err()),
            (Full::All, Full::All)
        );
        drop(many);
        assert_eq!(places.0.lock().by_party, HashMap::from([("few", 1)]));
        drop(last);
        let taken = places.0.lock();
        assert!(taken.by_party.is_empty() && taken.sum == 0);
    }

    #[test]
    fn a_place_changes_hands_within_the_share() {
        let places = Places::new(4, Share::LASTING);
        let mut first = places.take("stranger").unwrap();
        let mut second = places.take("stranger").unwrap();
        first.give_to(&"tenant", None).unwrap();
        second.give_to(&"tenant", None).unwrap();
        assert_eq!(places.0.lock().by_party, HashMap::from([("tenant", 2)]));
        let mut third = places.take("stranger").unwrap();
        assert_eq!(third.give_to(&"tenant", None), Err(Full::Share));
        assert_eq!(third.give_to(&"stranger", None), Ok(()));
        assert_eq!(places.0.lock().by_party, HashMap::from([("tenant", 2), ("stranger", 1)]));
        drop((first, second, third));
        assert_eq!(places.0.lock().sum, 0);
    }
}
