//! What clients did and saw, and whether one order of changes explains all of it. etcd numbers every change, so that no
//! order has to be searched for: each answer names the revision that it stands for.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;

/// A change of one object, as a watch shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub revision: u64,
    pub key: String,
    /// `None` where it was deleted.
    pub value: Option<String>,
}

impl Change {
    pub fn of_event(event: &Value) -> Self {
        let object = &event["object"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            revision: text(&object["metadata"]["resourceVersion"]).parse().unwrap(),
            key: text(&object["metadata"]["name"]),
            value: (event["type"] != "DELETED").then(|| text(&object["data"]["value"])),
        }
    }
}

/// An object as it was read: its revision and its value.
pub type State = Option<(u64, String)>;

pub fn state_of(object: &Value) -> State {
    let revision = object["metadata"]["resourceVersion"].as_str()?.parse().ok()?;
    Some((revision, object["data"]["value"].as_str()?.to_owned()))
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done, at the revision where the answer names it.
    Done(Option<u64>),
    /// Certainly not done.
    Refused,
    /// Nobody knows.
    Unknown,
}

#[derive(Debug)]
enum What {
    Write { key: String, value: Option<String>, expected: u64, outcome: Outcome },
    Get { key: String, state: State },
    List { revision: u64, states: BTreeMap<String, (u64, String)> },
}

/// One request, from when it was sent to when it was answered.
#[derive(Debug)]
pub struct Operation {
    what: What,
    began: Duration,
    ended: Duration,
}

impl Operation {
    pub fn write(
        key: String,
        value: Option<String>,
        expected: u64,
        outcome: Outcome,
        began: Duration,
        ended: Duration,
    ) -> Self {
        Self { what: What::Write { key, value, expected, outcome }, began, ended }
    }

    pub fn get(key: String, state: State, began: Duration, ended: Duration) -> Self {
        Self { what: What::Get { key, state }, began, ended }
    }

    pub fn list(list: &Value, began: Duration, ended: Duration) -> Self {
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        let items = list["items"].as_array().unwrap().iter();
        let states =
            items.filter_map(|item| Some((item["metadata"]["name"].as_str()?.to_owned(), state_of(item)?))).collect();
        Self { what: What::List { revision, states }, began, ended }
    }
}

/// What all clients of a round did.
#[derive(Debug, Default)]
pub struct History(Mutex<Vec<Operation>>);

impl History {
    pub fn add(&self, operation: Operation) {
        self.0.lock().push(operation);
    }

    pub fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut self.0.lock())
    }
}

/// Panics where the operations and what watchers saw cannot be explained by the true history.
pub fn check(operations: &[Operation], truth: &[Change], watched: &[Vec<Change>]) {
    for (watcher, seen) in watched.iter().enumerate() {
        let first = seen.iter().zip(truth).position(|(seen, truth)| seen != truth);
        let at = first.unwrap_or_else(|| seen.len().min(truth.len()));
        assert!(seen == truth, "watcher {watcher} saw {:?}, and {:?} happened", seen.get(at), truth.get(at));
    }
    let truth = Truth::new(truth);
    for operation in operations {
        truth.explain(operation);
    }
    truth.real_time(operations);
}

struct Truth<'a> {
    changes: &'a [Change],
    by_revision: BTreeMap<u64, &'a Change>,
}

impl<'a> Truth<'a> {
    fn new(changes: &'a [Change]) -> Self {
        Self { changes, by_revision: changes.iter().map(|change| (change.revision, change)).collect() }
    }

    /// What a key was at a revision.
    fn at(&self, key: &str, revision: u64) -> State {
        let before = self.changes.iter().rev().find(|change| change.key == key && change.revision <= revision)?;
        Some((before.revision, before.value.clone()?))
    }

    /// The change that a write made, found by its value, which no other write has.
    fn made_by(&self, value: &str) -> Option<&Change> {
        self.changes.iter().find(|change| change.value.as_deref() == Some(value))
    }

    fn explain(&self, operation: &Operation) {
        match &operation.what {
            What::Write { key, value: Some(value), expected, outcome } => {
                let made = self.made_by(value);
                match outcome {
                    Outcome::Done(revision) => {
                        let made = made.unwrap_or_else(|| panic!("{operation:?} was acknowledged and is lost"));
                        assert_eq!((Some(made.revision), &made.key), (*revision, key), "{operation:?}");
                    }
                    Outcome::Refused => assert_eq!(made, None, "{operation:?} was refused and is there"),
                    Outcome::Unknown => {}
                }
                if let Some(made) = made {
                    let before = self.at(key, made.revision - 1).map_or(0, |(revision, _)| revision);
                    assert_eq!(before, *expected, "{operation:?} replaced another state than it had read");
                }
            }
            What::Write { key, value: None, expected, .. } => {
                let next = self.changes.iter().find(|change| change.key == *key && change.revision > *expected);
                assert_eq!(next.and_then(|next| next.value.clone()), None, "{operation:?} is lost");
            }
            What::Get { key, state: Some((revision, value)) } => {
                let made = self.by_revision.get(revision).unwrap_or_else(|| panic!("{operation:?}: no such revision"));
                assert_eq!((&made.key, made.value.as_ref()), (key, Some(value)), "{operation:?}");
            }
            What::Get { state: None, .. } => {}
            What::List { revision, states } => {
                for change in self.changes.iter().filter(|change| change.revision <= *revision) {
                    let then = self.at(&change.key, *revision);
                    assert_eq!(then.as_ref(), states.get(&change.key), "{operation:?}, object {}", change.key);
                }
            }
        }
    }

    /// Whoever begins after another's end sees at least what that one saw or did.
    fn real_time(&self, operations: &[Operation]) {
        let mut ends: Vec<(Duration, u64)> =
            operations.iter().filter_map(|operation| Some((operation.ended, self.known_after(operation)?))).collect();
        ends.sort_unstable();
        let mut floors = Vec::with_capacity(ends.len());
        let mut floor = 0;
        for (ended, revision) in ends {
            floor = floor.max(revision);
            floors.push((ended, floor));
        }
        for operation in operations {
            let before = floors.partition_point(|(ended, _)| *ended < operation.began);
            let Some((_, floor)) = before.checked_sub(1).map(|last| floors[last]) else { continue };
            match &operation.what {
                What::Write { outcome: Outcome::Done(Some(revision)), value: Some(_), .. } => {
                    assert!(*revision > floor, "{operation:?} came after revision {floor} was seen");
                }
                What::Write { .. } => {}
                What::List { revision, .. } => {
                    assert!(*revision >= floor, "{operation:?} is stale: revision {floor} had been seen");
                }
                What::Get { key, state } => {
                    let (then, now) = (self.at(key, floor), state.as_ref().map_or(0, |(revision, _)| *revision));
                    match state {
                        Some(_) => {
                            let least = then.map_or(0, |(revision, _)| revision);
                            assert!(now >= least, "{operation:?} is stale: revision {least} of it had been seen");
                        }
                        None => {
                            let gone = |change: &&Change| change.key == *key && change.revision > floor;
                            let later = self.changes.iter().filter(gone).any(|change| change.value.is_none());
                            assert!(then.is_none() || later, "{operation:?} is stale: it was there at {floor}");
                        }
                    }
                }
            }
        }
    }

    /// The revision that an operation's end shows to be past.
    fn known_after(&self, operation: &Operation) -> Option<u64> {
        match &operation.what {
            What::Write { outcome: Outcome::Done(revision), value: Some(_), .. } => *revision,
            What::Write { .. } => None,
            What::Get { state, .. } => state.as_ref().map(|(revision, _)| *revision),
            What::List { revision, .. } => Some(*revision),
        }
    }
}
