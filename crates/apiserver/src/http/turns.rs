//! Users take turns. What a server is asked for is mostly answered in one go, so that it never has two requests in its
//! hands that it could choose between: whoever sends many keeps the others waiting before anybody has looked at what they
//! want. So the connections of one user are a party, and only a few of a party are looked after at a time; the others of
//! it stay aside until one of these is done for now. Somebody who asks for little waits for a few of each party at most.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::http::prompt::Bell;

/// Parties that nobody belongs to any more are looked for when there are so many.
const FEWEST_LOOKED_THROUGH: usize = 256;

thread_local! {
    /// Whose turn it is on this thread.
    static CURRENT: RefCell<Option<Arc<Bell>>> = const { RefCell::new(None) };
}

/// All parties of a server.
pub struct Parties {
    /// How many of a party are looked after at a time.
    at_once: usize,
    known: Mutex<HashMap<String, Weak<Party>>>,
    /// Those of whom nothing is known yet.
    strangers: Arc<Party>,
}

impl Default for Parties {
    /// As many of each party as the runtime has threads: one alone can use all of them.
    fn default() -> Self {
        Self::new(Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers()))
    }
}

impl Parties {
    /// So many of each party at a time.
    pub fn new(at_once: usize) -> Self {
        Self { at_once, known: Mutex::default(), strangers: Arc::new(Party::new("", at_once)) }
    }

    /// Where everybody begins.
    pub fn strangers(&self) -> Arc<Party> {
        self.strangers.clone()
    }

    /// Says whose request the connection has that is being looked after. One that goes on for long takes no turns from
    /// then on: what it is told of comes from others' requests, which had theirs.
    pub fn settle(&self, user: &str, goes_on: bool) {
        CURRENT.with_borrow(|current| {
            if let Some(bell) = current {
                bell.join(user, goes_on, || self.of(user));
            }
        });
    }

    fn of(&self, user: &str) -> Arc<Party> {
        let mut known = self.known.lock();
        if let Some(party) = known.get(user).and_then(Weak::upgrade) {
            return party;
        }
        if known.len() >= FEWEST_LOOKED_THROUGH && known.len() == known.capacity() {
            known.retain(|_, party| party.strong_count() > 0);
        }
        let party = Arc::new(Party::new(user, self.at_once));
        known.insert(user.to_owned(), Arc::downgrade(&party));
        party
    }
}

/// The connections of one user.
pub struct Party {
    /// The user's name.
    pub user: String,
    at_once: usize,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    taken: usize,
    aside: VecDeque<Arc<Bell>>,
}

impl Party {
    fn new(user: &str, at_once: usize) -> Self {
        Self { user: user.to_owned(), at_once, places: Mutex::default() }
    }

    /// Gives somebody with news a place, now or when one is free.
    pub fn ask(self: &Arc<Self>, bell: &Arc<Bell>) {
        let mut places = self.places.lock();
        if places.taken == self.at_once {
            places.aside.push_back(bell.clone());
            return;
        }
        places.taken += 1;
        drop(places);
        if !bell.call(self) {
            self.pass_on();
        }
    }

    /// A place is free: whoever waits longest gets it.
    fn pass_on(self: &Arc<Self>) {
        loop {
            let next = {
                let mut places = self.places.lock();
                let next = places.aside.pop_front();
                if next.is_none() {
                    places.taken -= 1;
                }
                next
            };
            if next.is_none_or(|bell| bell.call(self)) {
                return;
            }
        }
    }
}

/// One of a party's places; who drops it passes it on.
pub struct Place(Arc<Party>);

impl Place {
    /// One that is this party's to give.
    pub fn of(party: &Arc<Party>) -> Self {
        Self(party.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

/// Says for a while whose turn it is on this thread.
pub struct Turn(Option<Arc<Bell>>);

impl Turn {
    /// It is this one's turn.
    pub fn begin(bell: Arc<Bell>) -> Self {
        Self(CURRENT.replace(Some(bell)))
    }

    /// Whose turn it is.
    pub fn current() -> Option<Arc<Bell>> {
        CURRENT.with_borrow(Clone::clone)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
