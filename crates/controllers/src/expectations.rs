//! What each key still waits to see of its own writes. Until then the caches are behind, and a plan made from them
//! would do things twice.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use skiff_client::{ObjectKey, Resource};

/// A write that is not seen after this long is no longer waited for: the watch that would have shown it has broken.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// What the caches show of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its UID.
    pub uid: String,
    /// Its revision.
    pub version: u64,
    /// Whether it is on its way out.
    pub deleting: bool,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// The object is there.
    Exists,
    /// The object is at this revision or a later one, or gone.
    Version(u64),
    /// The object with this UID is gone or on its way out.
    Gone(String),
}

impl Want {
    fn is_met(&self, seen: Option<&Seen>) -> bool {
        match (self, seen) {
            (Self::Exists, seen) => seen.is_some(),
            (Self::Version(_) | Self::Gone(_), None) => true,
            (Self::Version(version), Some(seen)) => seen.version >= *version,
            (Self::Gone(uid), Some(seen)) => seen.uid != *uid || seen.deleting,
        }
    }
}

#[derive(Debug)]
struct Pending {
    resource: Resource,
    object: ObjectKey,
    want: Want,
    since: Duration,
}

/// The writes not yet seen, by the key whose plan made them.
#[derive(Debug, Default)]
pub struct Expectations {
    pending: Mutex<HashMap<ObjectKey, Vec<Pending>>>,
}

impl Expectations {
    /// Waits for `want` before `key` is planned for again.
    pub fn expect(&self, key: &ObjectKey, resource: &Resource, object: &ObjectKey, want: Want, now: Duration) {
        let pending = Pending { resource: resource.clone(), object: object.clone(), want, since: now };
        self.pending.lock().entry(key.clone()).or_default().push(pending);
    }

    /// The write failed, or its object came and went: nothing more is to be seen of it.
    pub fn settle(&self, key: &ObjectKey, resource: &Resource, object: &ObjectKey) {
        if let Some(pending) = self.pending.lock().get_mut(key) {
            pending.retain(|p| p.resource != *resource || p.object != *object);
        }
    }

    /// The object is gone: whoever waited for it waits no longer. Gives their keys.
    pub fn object_gone(&self, resource: &Resource, object: &ObjectKey) -> Vec<ObjectKey> {
        let mut concerned = Vec::new();
        for (key, pending) in self.pending.lock().iter_mut() {
            let before = pending.len();
            pending.retain(|p| p.resource != *resource || p.object != *object);
            if pending.len() < before {
                concerned.push(key.clone());
            }
        }
        concerned
    }

    /// Drops what is met by now; gives how long to wait at most for the rest. What was written last is looked at first,
    /// and no further than to the first that is not met: a key with hundreds of writes is asked after each event.
    pub fn wait(
        &self,
        key: &ObjectKey,
        now: Duration,
        seen: impl Fn(&Resource, &ObjectKey) -> Option<Seen>,
    ) -> Option<Duration> {
        let mut all = self.pending.lock();
        let pending = all.get_mut(key)?;
        let is_given_up = |p: &Pending| now.saturating_sub(p.since) >= GIVE_UP_AFTER;
        if pending.first().is_some_and(is_given_up) {
            pending.retain(|p| !is_given_up(p));
        }
        while pending.pop_if(|p| p.want.is_met(seen(&p.resource, &p.object).as_ref())).is_some() {}
        let oldest = pending.first().map(|p| p.since);
        if oldest.is_none() {
            all.remove(key);
        }
        oldest.map(|since| (since + GIVE_UP_AFTER).saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: Resource = Resource::fixed("", "v1", "pods", "Pod");

    fn seen(version: u64, deleting: bool) -> Option<Seen> {
        Some(Seen { uid: "u".into(), version, deleting })
    }

    fn check(want: Want, unmet: Option<Seen>, met: Option<Seen>) {
        let (expectations, key, pod) = (Expectations::default(), ObjectKey::new("a", "web"), ObjectKey::new("a", "p"));
        expectations.expect(&key, &PODS, &pod, want, Duration::ZERO);
        assert_eq!(
            expectations.wait(&key, Duration::from_secs(1), |_, _| unmet.clone()),
            Some(Duration::from_secs(59))
        );
        assert_eq!(expectations.wait(&key, Duration::from_secs(1), |_, _| met.clone()), None);
        assert_eq!(expectations.wait(&key, Duration::from_secs(1), |_, _| None), None, "it is forgotten");
    }

    #[test]
    fn writes_are_waited_for_until_they_show() {
        check(Want::Exists, None, seen(1, false));
        check(Want::Version(7), seen(6, false), seen(8, false));
        check(Want::Version(7), seen(6, false), None);
        check(Want::Gone("u".into()), seen(1, false), seen(2, true));
    }

    #[test]
    fn what_came_and_went_or_never_shows_is_given_up() {
        let (expectations, key, pod) = (Expectations::default(), ObjectKey::new("a", "web"), ObjectKey::new("a", "p"));
        expectations.expect(&key, &PODS, &pod, Want::Exists, Duration::ZERO);
        assert_eq!(expectations.object_gone(&PODS, &pod), std::slice::from_ref(&key));
        assert_eq!(expectations.wait(&key, Duration::ZERO, |_, _| None), None);
        expectations.expect(&key, &PODS, &pod, Want::Exists, Duration::ZERO);
        assert_eq!(expectations.wait(&key, GIVE_UP_AFTER, |_, _| None), None);
    }
}
