//! Elements of the maps that all owners share, as an owner wants them, and who wants which. There may be tens of thousands
//! of owners with a few elements each: ordered maps for so few would be many times larger than what is in them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::frame::Shared;
use super::language::{Key, Value};

/// Where an element is.
pub type Place = (Shared, Key);

/// One owner's elements, in the order of their places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elements(Vec<(Place, Value)>);

impl Elements {
    /// Puts an element in; one that was at the place goes.
    pub fn insert(&mut self, place: Place, value: Value) {
        match self.find(&place) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => {
                // They are made once and kept for long.
                self.0.reserve_exact(1);
                self.0.insert(at, (place, value));
            }
        }
    }

    /// What is at a place.
    pub fn get(&self, place: &Place) -> Option<&Value> {
        self.find(place).ok().map(|at| &self.0[at].1)
    }

    /// All places.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.0.iter().map(|(place, _)| place)
    }

    /// The elements from a place on and before another one.
    pub fn range(&self, places: Range<Place>) -> &[(Place, Value)] {
        let before = |end: Place| self.0.partition_point(|(place, _)| *place < end);
        &self.0[before(places.start)..before(places.end)]
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, place: &Place) -> Result<usize, usize> {
        self.0.binary_search_by_key(place, |(place, _)| *place)
    }
}

impl FromIterator<(Place, Value)> for Elements {
    fn from_iter<I: IntoIterator<Item = (Place, Value)>>(all: I) -> Self {
        let mut elements = Self::default();
        all.into_iter().for_each(|(place, value)| elements.insert(place, value));
        elements
    }
}

/// Who wants something at a place: hardly ever more than one, and there is one of these for every element.
#[derive(Debug, Clone)]
#[allow(clippy::box_collection, reason = "a set takes three words, and nearly every claim would have them empty")]
pub enum Claimants {
    /// This one.
    One(Arc<str>),
    /// None, or several, in the order of their names.
    Several(Option<Box<BTreeSet<Arc<str>>>>),
}

impl Default for Claimants {
    fn default() -> Self {
        Self::Several(None)
    }
}

impl Claimants {
    /// The first by name.
    pub fn first(&self) -> Option<&str> {
        match self {
            Self::One(owner) => Some(owner),
            Self::Several(owners) => owners.as_ref()?.first().map(|owner| &**owner),
        }
    }

    /// One more wants it.
    pub fn insert(&mut self, owner: &Arc<str>) {
        match self {
            Self::One(known) if known == owner => {}
            Self::One(known) => *self = Self::Several(Some(Box::new([known.clone(), owner.clone()].into()))),
            Self::Several(Some(owners)) => drop(owners.insert(owner.clone())),
            Self::Several(None) => *self = Self::One(owner.clone()),
        }
    }

    /// One does not want it any more.
    pub fn remove(&mut self, owner: &str) {
        match self {
            Self::One(known) if **known == *owner => *self = Self::default(),
            Self::Several(Some(owners)) => {
                owners.remove(owner);
                if owners.is_empty() {
                    *self = Self::default();
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_in_order_and_once_each() {
        let place = |number| (Shared::Endpoints, Key::Number(number));
        let mut elements = Elements::default();
        for number in [5, 1, 3, 1] {
            elements.insert(place(number), Value::Nothing);
        }
        let numbers = |found: &[(Place, Value)]| found.iter().map(|(place, _)| *place).collect::<Vec<_>>();
        assert_eq!(numbers(elements.range(place(0)..place(9))), [place(1), place(3), place(5)]);
        assert_eq!(numbers(elements.range(place(1)..place(5))), [place(1), place(3)]);
        assert_eq!((elements.get(&place(3)), elements.get(&place(4))), (Some(&Value::Nothing), None));
        assert!(elements.get(&(Shared::Peers, Key::Number(3))).is_none());
    }

    /// Ten thousand Services are tens of thousands of them.
    #[test]
    fn elements_are_small() {
        assert_eq!(std::mem::size_of::<(Place, Value)>(), 72);
        assert_eq!(std::mem::size_of::<(Place, Claimants)>(), 56);
    }

    #[test]
    fn the_first_by_name_has_it_for_as_long_as_it_wants() {
        let (a, b, c): (Arc<str>, Arc<str>, Arc<str>) = ("a".into(), "b".into(), "c".into());
        let mut claimants = Claimants::default();
        assert_eq!(claimants.first(), None);
        for owner in [&b, &b, &c, &a] {
            claimants.insert(owner);
        }
        assert_eq!(claimants.first(), Some("a"));
        claimants.remove("a");
        claimants.remove("a");
        assert_eq!(claimants.first(), Some("b"));
        claimants.remove("b");
        claimants.remove("c");
        assert_eq!(claimants.first(), None);
        claimants.insert(&c);
        claimants.remove("b");
        assert_eq!(claimants.first(), Some("c"));
    }
}
