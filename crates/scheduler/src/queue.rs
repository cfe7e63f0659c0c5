//! Pods that wait for a node: those to be tried now, those backing off, those that wait for the cluster to change,
//! and those held by gates. Pure; time comes as an argument.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::pod::PodInfo;

/// How long pods wait that could not be scheduled.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failed try; twice as long after each further one.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_secs(10) }
    }
}

impl Backoff {
    fn after(self, attempts: u32) -> Duration {
        self.first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(self.most)
    }
}

/// A pod for which no event was right is tried again after this long all the same.
const UNSCHEDULABLE_CAP: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Active,
    Backoff(Duration),
    Unschedulable { flush_at: Duration, ready_at: Duration, group: Arc<Group> },
    Gated,
    InFlight,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    since: Duration,
    attempts: u32,
    place: Place,
    /// Whether something beside the pod itself keeps it from being tried.
    is_held: bool,
}

/// What pods that wait have in common: an event means the same for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Group {
    /// Shape and labels.
    kin: String,
    rejected_by: Vec<&'static str>,
}

/// Higher priority first, then whoever waits longer.
type Rank = (Reverse<i32>, Duration, String);

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    backoff: Backoff,
    entries: HashMap<String, Entry>,
    active: BTreeSet<Rank>,
    timers: BTreeSet<(Duration, String)>,
    /// UIDs of pods that wait for an event.
    waiting: HashMap<Arc<Group>, HashSet<String>>,
}

impl Queue {
    /// An empty queue.
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, ..Self::default() }
    }

    /// Adds a pod that came or changed; a change of spec, labels or gates makes it worth a new try.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Duration) {
        let uid = pod.uid.clone();
        let Some(entry) = self.entries.get_mut(&uid) else {
            let place = if pod.is_gated() { Place::Gated } else { Place::Active };
            self.entries
                .insert(uid.clone(), Entry { pod, since: now, attempts: 0, place: Place::Gated, is_held: false });
            return self.put(&uid, place);
        };
        let changed = entry.pod.pod.spec != pod.pod.spec || entry.pod.labels() != pod.labels();
        let place = match &entry.place {
            Place::Gated if !pod.is_gated() && !entry.is_held => Some(Place::Active),
            Place::Unschedulable { ready_at, .. } if changed => Some(backoff_or_active(*ready_at, now)),
            // A changed priority changes the rank.
            Place::Active => Some(Place::Active),
            _ => None,
        };
        self.unrank(&uid);
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.pod = pod;
        }
        match place {
            Some(place) => self.put(&uid, place),
            None => self.rank(&uid),
        }
    }

    /// A pod is gone, or has its node.
    pub fn remove(&mut self, uid: &str) {
        self.unrank(uid);
        self.entries.remove(uid);
    }

    /// Takes the first pod that is to be tried now; it stays known as in flight.
    pub fn pop(&mut self, now: Duration) -> Option<Arc<PodInfo>> {
        self.advance(now);
        let (_, _, uid) = self.active.first()?.clone();
        self.put(&uid, Place::InFlight);
        let entry = self.entries.get_mut(&uid)?;
        entry.attempts += 1;
        Some(entry.pod.clone())
    }

    /// How often a pod was tried, and since when it is known.
    pub fn history(&self, uid: &str) -> Option<(u32, Duration)> {
        self.entries.get(uid).map(|entry| (entry.attempts, entry.since))
    }

    /// How many pods wait in which part of the queue.
    pub fn pending(&self) -> [(&'static str, usize); 4] {
        let count = |is: fn(&Place) -> bool| self.entries.values().filter(|entry| is(&entry.place)).count();
        [
            ("active", self.active.len()),
            ("backoff", count(|place| matches!(place, Place::Backoff(_)))),
            ("gated", count(|place| matches!(place, Place::Gated))),
            ("unschedulable", count(|place| matches!(place, Place::Unschedulable { .. }))),
        ]
    }

    /// When [`Queue::pop`] is next worth a call though nothing happens.
    pub fn next_timer(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// No node could take the pod: it waits for an event that one of these plugins cares for.
    pub fn unschedulable(&mut self, uid: &str, rejected_by: Vec<&'static str>, now: Duration) {
        let Some(entry) = self.entries.get(uid) else { return };
        let ready_at = now + self.backoff.after(entry.attempts);
        let group = Arc::new(Group { kin: entry.pod.signature(|_| true), rejected_by });
        self.put(uid, Place::Unschedulable { flush_at: now + UNSCHEDULABLE_CAP, ready_at, group });
    }

    /// The try failed for reasons outside the scheduler: it is repeated after the back-off.
    pub fn failed(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.entries.get(uid) else { return };
        if entry.place == Place::InFlight {
            let until = now + self.backoff.after(entry.attempts);
            self.put(uid, Place::Backoff(until));
        }
    }

    /// Tries again the pods for which `is_right` says so, given the plugins that turned them down.
    pub fn wake(&mut self, now: Duration, is_right: impl Fn(&PodInfo, &[&'static str]) -> bool) {
        let is_right = |(group, uids): &(&Arc<Group>, &HashSet<String>)| {
            let any = uids.iter().next().and_then(|uid| self.entries.get(uid));
            any.is_some_and(|any| is_right(&any.pod, &group.rejected_by))
        };
        let woken: Vec<String> = self.waiting.iter().filter(is_right).flat_map(|(_, uids)| uids).cloned().collect();
        for uid in woken {
            let Some(Entry { place: Place::Unschedulable { ready_at, .. }, .. }) = self.entries.get(&uid) else {
                continue;
            };
            let place = backoff_or_active(*ready_at, now);
            self.put(&uid, place);
        }
    }

    /// Tries a pod again that waits for an event.
    pub fn wake_one(&mut self, uid: &str, now: Duration) {
        if let Some(Entry { place: Place::Unschedulable { ready_at, .. }, .. }) = self.entries.get(uid) {
            let place = backoff_or_active(*ready_at, now);
            self.put(uid, place);
        }
    }

    /// Holds a pod that waits, or lets it be tried; one that is under way goes on. True where it was not held before.
    pub fn hold(&mut self, uid: &str, is_held: bool) -> bool {
        let Some(entry) = self.entries.get_mut(uid) else { return false };
        let was_held = std::mem::replace(&mut entry.is_held, is_held);
        match entry.place {
            Place::InFlight => {}
            Place::Gated if !is_held && !entry.pod.is_gated() => self.put(uid, Place::Active),
            Place::Gated => {}
            _ if is_held => self.put(uid, Place::Gated),
            _ => {}
        }
        is_held && !was_held
    }

    /// Takes a pod back that was to be tried, and holds it.
    pub fn park(&mut self, uid: &str) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.is_held = true;
            self.put(uid, Place::Gated);
        }
    }

    /// The pod, if it is held and nothing of its own stands in its way.
    pub fn held_pod(&self, uid: &str) -> Option<Arc<PodInfo>> {
        let entry = self.entries.get(uid).filter(|entry| entry.is_held && entry.place == Place::Gated)?;
        (!entry.pod.is_gated()).then(|| entry.pod.clone())
    }

    /// Takes this pod as [`Queue::pop`] would, wherever it waits; none that is held or under way.
    pub fn take(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let entry = self.entries.get_mut(uid)?;
        if matches!(entry.place, Place::Gated | Place::InFlight) {
            return None;
        }
        entry.attempts += 1;
        let pod = entry.pod.clone();
        self.put(uid, Place::InFlight);
        Some(pod)
    }

    fn advance(&mut self, now: Duration) {
        while let Some((at, uid)) = self.timers.first().cloned() {
            if at > now {
                return;
            }
            self.put(&uid, Place::Active);
        }
    }

    fn put(&mut self, uid: &str, place: Place) {
        self.unrank(uid);
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.place = place;
        }
        self.rank(uid);
    }

    fn rank(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else { return };
        match entry.place {
            Place::Active => {
                self.active.insert(rank(entry));
            }
            Place::Backoff(at) => {
                self.timers.insert((at, uid.to_owned()));
            }
            Place::Unschedulable { flush_at, ref group, .. } => {
                self.timers.insert((flush_at, uid.to_owned()));
                self.waiting.entry(group.clone()).or_default().insert(uid.to_owned());
            }
            Place::Gated | Place::InFlight => {}
        }
    }

    fn unrank(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else { return };
        match entry.place {
            Place::Active => {
                self.active.remove(&rank(entry));
            }
            Place::Backoff(at) => {
                self.timers.remove(&(at, uid.to_owned()));
            }
            Place::Unschedulable { flush_at, ref group, .. } => {
                self.timers.remove(&(flush_at, uid.to_owned()));
                if let Some(uids) = self.waiting.get_mut(group) {
                    uids.remove(uid);
                    if uids.is_empty() {
                        self.waiting.remove(group);
                    }
                }
            }
            Place::Gated | Place::InFlight => {}
        }
    }
}

fn rank(entry: &Entry) -> Rank {
    (Reverse(entry.pod.priority), entry.since, entry.pod.uid.clone())
}

fn backoff_or_active(ready_at: Duration, now: Duration) -> Place {
    if ready_at > now { Place::Backoff(ready_at) } else { Place::Active }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    const SECOND: Duration = Duration::from_secs(1);

    fn queued(names: &[(&str, i32)]) -> Queue {
        let mut queue = Queue::default();
        for (at, (name, priority)) in names.iter().enumerate() {
            queue.set(pod(&format!("{{name: {name}, priority: {priority}}}")), SECOND * at as u32);
        }
        queue
    }

    fn popped(queue: &mut Queue, now: Duration) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|pod| pod.name().to_owned()).collect()
    }

    #[test]
    fn priority_goes_first_then_age() {
        let mut queue = queued(&[("a", 0), ("b", 5), ("c", 0)]);
        assert_eq!(popped(&mut queue, SECOND * 9), ["b", "a", "c"]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_the_right_event_and_its_back_off() {
        let mut queue = queued(&[("a", 0)]);
        assert_eq!(popped(&mut queue, SECOND), ["a"]);
        queue.unschedulable("a", vec!["NodeResourcesFit"], SECOND);
        queue.wake(SECOND, |_, plugins| plugins.contains(&"NodePorts"));
        assert_eq!(queue.next_timer(), Some(SECOND * 301));
        queue.wake(SECOND, |_, plugins| plugins.contains(&"NodeResourcesFit"));
        assert_eq!(queue.next_timer(), Some(SECOND * 2));
        assert!(popped(&mut queue, SECOND).is_empty());
        assert_eq!(popped(&mut queue, SECOND * 2), ["a"]);
        queue.unschedulable("a", Vec::new(), SECOND * 2);
        queue.wake(SECOND * 9, |_, _| true);
        assert_eq!(popped(&mut queue, SECOND * 9), ["a"], "its back-off is over");
    }

    #[test]
    fn gates_hold_a_pod_until_they_are_lifted() {
        let mut queue = Queue::default();
        queue.set(pod("{name: a, gates: [x]}"), SECOND);
        assert!(popped(&mut queue, SECOND).is_empty());
        queue.set(pod("{name: a}"), SECOND);
        assert_eq!(popped(&mut queue, SECOND), ["a"]);
        queue.remove("a");
        assert!(queue.entries.is_empty());
    }

    #[test]
    fn failed_binds_back_off_longer_each_time() {
        let mut queue = queued(&[("a", 0)]);
        let mut now = SECOND;
        for wait in [1, 2, 4, 8, 10, 10] {
            assert_eq!(popped(&mut queue, now), ["a"]);
            queue.failed("a", now);
            assert_eq!(queue.next_timer(), Some(now + SECOND * wait));
            now += SECOND * wait;
        }
    }
}
