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

/// Panics unless every kind of wrong history is found out: a check that finds nothing would say so of anything.
pub fn check_the_check() {
    let at = |millis: u64| Duration::from_millis(millis);
    let put = |revision: u64, value: &str| Change { revision, key: "a".into(), value: Some(value.into()) };
    let truth = [put(2, "1"), put(3, "2"), Change { revision: 4, key: "a".into(), value: None }, put(5, "3")];
    let write = |value: &str, expected, outcome, began, ended| {
        Operation::write("a".into(), Some(value.into()), expected, outcome, at(began), at(ended))
    };
    let get = |state: Option<(u64, &str)>, began, ended| {
        Operation::get("a".into(), state.map(|(revision, value)| (revision, value.into())), at(began), at(ended))
    };
    let list = |revision: u64, value: &str, began, ended| {
        let item = serde_json::json!({"metadata": {"name": "a", "resourceVersion": "3"}, "data": {"value": value}});
        let list = serde_json::json!({"metadata": {"resourceVersion": revision.to_string()}, "items": [item]});
        Operation::list(&list, at(began), at(ended))
    };
    let remove = |expected, began, ended| {
        Operation::write("a".into(), None, expected, Outcome::Done(None), at(began), at(ended))
    };
    let second = || write("2", 2, Outcome::Done(Some(3)), 10, 20);
    check(&[second(), get(Some((3, "2")), 30, 40), list(3, "2", 30, 40)], &truth, &[truth.to_vec()]);
    let third = || write("3", 0, Outcome::Done(Some(5)), 70, 80);
    check(&[second(), remove(3, 50, 60), get(None, 65, 66), third()], &truth, &[]);
    check(&[second(), write("x", 2, Outcome::Refused, 15, 25)], &truth, &[]);
    let wrong = [
        vec![write("x", 0, Outcome::Done(Some(9)), 0, 1)],
        vec![write("2", 0, Outcome::Done(Some(3)), 0, 1)],
        vec![write("2", 2, Outcome::Refused, 0, 1)],
        vec![second(), get(Some((2, "1")), 30, 40)],
        vec![get(Some((3, "1")), 0, 1)],
        vec![list(3, "1", 0, 1)],
        vec![list(4, "2", 0, 1)],
        vec![get(Some((5, "3")), 0, 5), list(3, "2", 30, 40)],
        vec![get(Some((5, "3")), 0, 5), get(None, 30, 40)],
        vec![second(), write("1", 0, Outcome::Done(Some(2)), 30, 40)],
        // A removal that is lost, what it removed read afterwards, and what it leaves read before.
        vec![remove(5, 90, 95)],
        vec![remove(2, 15, 16)],
        vec![remove(3, 50, 60), get(Some((3, "2")), 65, 66)],
        vec![get(Some((3, "2")), 0, 5), get(None, 10, 11), remove(3, 50, 60)],
        vec![get(Some((5, "3")), 30, 40), write("3", 0, Outcome::Done(Some(5)), 70, 80)],
        // Refused, though it asked for what was there all the time.
        vec![second(), write("x", 3, Outcome::Refused, 30, 40), remove(3, 50, 60)],
    ];
    let views = [truth[1..].to_vec(), vec![truth[1].clone(), truth[0].clone()], [&truth[..1], &truth].concat()];
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let passes = |operations: &[Operation], views: &[Vec<Change>]| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(operations, &truth, views))).is_ok()
    };
    let missed: Vec<_> = wrong.iter().filter(|operations| passes(operations, &[])).collect();
    let unseen: Vec<_> = views.iter().filter(|view| passes(&[], std::slice::from_ref(view))).collect();
    std::panic::set_hook(quiet);
    assert!(missed.is_empty() && unseen.is_empty(), "not found out: {missed:?} {unseen:?}");
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

    /// The change that an acknowledged removal made: the first one after the state that it asked for.
    fn removal(&self, operation: &Operation) -> Option<&Change> {
        let What::Write { key, value: None, expected, .. } = &operation.what else { return None };
        let next = self.changes.iter().find(|change| change.key == *key && change.revision > *expected);
        next.filter(|next| next.value.is_none())
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
            What::Write { value: None, .. } => {
                assert!(self.removal(operation).is_some(), "{operation:?} was acknowledged and is lost");
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

    /// Whoever begins after another's end sees at least what that one saw or did, and nothing that was only done after
    /// its own end.
    fn real_time(&self, operations: &[Operation]) {
        let known = |operation: &Operation| Some((operation.ended, self.known_after(operation)?));
        let floors = Bounds::rising(operations.iter().filter_map(known).collect());
        let done = |operation: &Operation| Some((operation.began, self.done_at(operation)?));
        let ceilings = Bounds::falling(operations.iter().filter_map(done).collect());
        for operation in operations {
            let floor = floors.before(operation.began).unwrap_or(0);
            let ceiling = ceilings.after(operation.ended).unwrap_or(u64::MAX);
            self.in_its_time(operation, floor, ceiling);
        }
    }

    /// `floor` had been seen before the operation began; `ceiling` was written after it had ended.
    fn in_its_time(&self, operation: &Operation, floor: u64, ceiling: u64) {
        if let Some(revision) = self.done_at(operation) {
            assert!(revision > floor, "{operation:?} came after revision {floor} was seen");
            assert!(revision < ceiling, "{operation:?} came before revision {ceiling} was begun");
        }
        match &operation.what {
            What::Write { key, outcome: Outcome::Refused, expected, .. } => {
                let then = self.at(key, floor).map_or(0, |(revision, _)| revision);
                let moved = self
                    .changes
                    .iter()
                    .any(|change| change.key == *key && floor < change.revision && change.revision < ceiling);
                assert!(then != *expected || moved, "{operation:?} was refused though nothing had changed");
            }
            What::Write { .. } => {}
            What::List { revision, .. } => {
                assert!(*revision >= floor, "{operation:?} is stale: revision {floor} had been seen");
                assert!(*revision < ceiling, "{operation:?} tells of revision {ceiling}, which was not begun");
            }
            What::Get { key, state } => {
                let then = self.at(key, floor);
                match state {
                    Some((now, _)) => {
                        let least = then.map_or(0, |(revision, _)| revision);
                        assert!(*now >= least, "{operation:?} is stale: revision {least} of it had been seen");
                        assert!(*now < ceiling, "{operation:?} tells of revision {ceiling}, which was not begun");
                        let next = self.changes.iter().find(|change| change.key == *key && change.revision > *now);
                        let over = next.is_some_and(|next| next.revision <= floor);
                        assert!(!over, "{operation:?} is stale: {next:?} had been seen");
                    }
                    None => {
                        let gone = |change: &&Change| {
                            change.key == *key && floor < change.revision && change.revision < ceiling
                        };
                        let later = self.changes.iter().filter(gone).any(|change| change.value.is_none());
                        assert!(then.is_none() || later, "{operation:?} is stale: it was there at {floor}");
                    }
                }
            }
        }
    }

    /// The revision that an acknowledged write made.
    fn done_at(&self, operation: &Operation) -> Option<u64> {
        match &operation.what {
            What::Write { outcome: Outcome::Done(revision), value: Some(_), .. } => *revision,
            What::Write { outcome: Outcome::Done(_), .. } => self.removal(operation).map(|change| change.revision),
            _ => None,
        }
    }

    /// The revision that an operation's end shows to be past.
    fn known_after(&self, operation: &Operation) -> Option<u64> {
        match &operation.what {
            What::Write { .. } => self.done_at(operation),
            What::Get { state, .. } => state.as_ref().map(|(revision, _)| *revision),
            What::List { revision, .. } => Some(*revision),
        }
    }
}

/// Revisions by the moment from which, or until which, they bind.
struct Bounds(Vec<(Duration, u64)>);

impl Bounds {
    /// At each moment the largest revision of those before.
    fn rising(mut points: Vec<(Duration, u64)>) -> Self {
        points.sort_unstable();
        let mut most = 0;
        points.iter_mut().for_each(|(_, revision)| {
            most = most.max(*revision);
            *revision = most;
        });
        Self(points)
    }

    /// At each moment the smallest revision of those after.
    fn falling(mut points: Vec<(Duration, u64)>) -> Self {
        points.sort_unstable();
        let mut least = u64::MAX;
        points.iter_mut().rev().for_each(|(_, revision)| {
            least = least.min(*revision);
            *revision = least;
        });
        Self(points)
    }

    fn before(&self, moment: Duration) -> Option<u64> {
        let count = self.0.partition_point(|(at, _)| *at < moment);
        Some(self.0[count.checked_sub(1)?].1)
    }

    fn after(&self, moment: Duration) -> Option<u64> {
        let first = self.0.partition_point(|(at, _)| *at <= moment);
        self.0.get(first).map(|(_, revision)| *revision)
    }
}
