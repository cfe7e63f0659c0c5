//! Who owns whom, as the caches show it, and what follows for one object. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use skiff_client::{Outline, Resource};

/// Holds an object until its blocking dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Holds an object until its dependents are orphaned.
pub const ORPHAN: &str = "orphan";
/// Owners known to be gone that are remembered; a forgotten one is asked for again.
const MAX_ABSENT: usize = 10_000;

/// An object, of which the caches keep the same.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its resource.
    pub resource: Arc<Resource>,
    /// Its metadata.
    pub object: Arc<Outline>,
}

impl Deref for Item {
    type Target = Outline;

    fn deref(&self) -> &Outline {
        &self.object
    }
}

impl Item {
    /// Whether it is held by the finalizer.
    pub fn is_held_by(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|name| name == finalizer)
    }

    fn waits_for_dependents(&self) -> bool {
        self.is_deleting && self.is_held_by(FOREGROUND)
    }

    fn waits_for_orphaning(&self) -> bool {
        self.is_deleting && self.is_held_by(ORPHAN)
    }
}

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerState {
    /// It is there and stays.
    Solid,
    /// It waits for its dependents to go.
    Waiting,
    /// It is gone.
    Absent,
    /// Neither the caches nor the answers so far tell.
    Unknown,
}

/// What is to be done about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Ask the server for the owners with these UIDs first.
    Ask(Vec<String>),
    /// Take the references to these owners away.
    Disown(Vec<String>),
    /// Delete it, with this propagation policy.
    Delete(&'static str),
    /// Let these dependents be looked at: they have to go before it does.
    Await(Vec<String>),
    /// Take the finalizer away that held it for its dependents.
    Release(&'static str),
    /// Take the reference to it from these dependents, then the finalizer.
    OrphanDependents(Vec<String>),
}

/// All objects that have owners or may be owners.
#[derive(Debug, Default)]
pub struct Graph {
    items: HashMap<Arc<str>, Item>,
    dependents: HashMap<String, BTreeSet<String>>,
    absent: HashSet<String>,
    /// Those of which the dependents were once sent to go; each that is left comes by itself.
    awaited: HashSet<String>,
}

impl Graph {
    /// Notes an object as it is now; gives the UIDs of objects that are to be looked at for it.
    pub fn set(&mut self, item: Item) -> Vec<String> {
        let uid = item.uid.clone();
        self.unlink(&uid);
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_string());
        }
        self.absent.remove(&*uid);
        let mut concerned = Vec::new();
        if item.waits_for_dependents() || item.waits_for_orphaning() {
            concerned.push(uid.to_string());
        }
        let strange = |owner: &OwnerReference| {
            self.items.get(&*owner.uid).is_none_or(Item::waits_for_dependents) || self.is_misplaced(&item, owner)
        };
        if !item.owners.is_empty() && item.owners.iter().any(strange) {
            concerned.push(uid.to_string());
        }
        // An owner that waits may have waited for this one, which now blocks it no longer.
        concerned.extend(self.waiting_owners(&item));
        self.items.insert(uid, item);
        concerned
    }

    /// Notes that an object is gone; gives the UIDs of objects that are to be looked at for it.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        let mut concerned: Vec<_> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if let Some(item) = self.items.get(uid) {
            concerned.extend(self.waiting_owners(item));
        }
        self.unlink(uid);
        self.items.remove(uid);
        self.awaited.remove(uid);
        self.note_absent(uid);
        concerned
    }

    /// Notes that the dependents of a waiting object are being looked at: later ones are when they come, and to look at
    /// all that are left whenever one goes would be quadratic.
    pub fn note_awaited(&mut self, uid: &str) {
        self.awaited.insert(uid.to_owned());
    }

    fn waiting_owners(&self, item: &Item) -> Vec<String> {
        let waits = |uid: &&String| self.items.get(uid.as_str()).is_some_and(Item::waits_for_dependents);
        item.owners.iter().map(|owner| &owner.uid).filter(waits).cloned().collect()
    }

    fn unlink(&mut self, uid: &str) {
        let Some(old) = self.items.get(uid) else { return };
        for owner in &old.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// Remembers that there is no object with this UID.
    pub fn note_absent(&mut self, uid: &str) {
        if self.absent.len() >= MAX_ABSENT {
            self.absent.clear();
        }
        self.absent.insert(uid.to_owned());
    }

    /// An object by UID.
    pub fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// All UIDs, for the first look when the caches are filled.
    pub fn all_with_owners_or_finalizers(&self) -> Vec<String> {
        let concerns =
            |item: &&Item| !item.owners.is_empty() || item.waits_for_dependents() || item.waits_for_orphaning();
        self.items.values().filter(concerns).map(|item| item.uid.to_string()).collect()
    }

    fn state(&self, uid: &str, told: &BTreeMap<String, OwnerState>) -> OwnerState {
        match self.items.get(uid) {
            Some(owner) if owner.waits_for_dependents() => OwnerState::Waiting,
            Some(_) => OwnerState::Solid,
            None if self.absent.contains(uid) => OwnerState::Absent,
            None => told.get(uid).copied().unwrap_or(OwnerState::Unknown),
        }
    }

    /// Whether the owner lives in another namespace than the object: owners may live in the same or in none.
    fn is_misplaced(&self, item: &Item, owner: &OwnerReference) -> bool {
        self.items
            .get(&*owner.uid)
            .is_some_and(|found| !found.namespace.is_empty() && found.namespace != item.namespace)
    }

    /// The object's references to owners in other namespaces.
    pub fn misplaced(&self, uid: &str) -> Vec<OwnerReference> {
        let Some(item) = self.items.get(uid) else { return Vec::new() };
        item.owners.iter().filter(|owner| self.is_misplaced(item, owner)).cloned().collect()
    }

    /// Decides about one object; `told` is what the server said of owners that the caches do not show.
    pub fn decide(&self, uid: &str, told: &BTreeMap<String, OwnerState>) -> Verdict {
        let Some(item) = self.items.get(uid) else { return Verdict::Keep };
        if item.waits_for_orphaning() {
            return Verdict::OrphanDependents(self.dependents_of(uid));
        }
        if item.waits_for_dependents() {
            return self.about_waiting(item);
        }
        if item.is_deleting || item.owners.is_empty() {
            return Verdict::Keep;
        }
        let state = |owner: &OwnerReference| match self.is_misplaced(item, owner) {
            true if item.namespace.is_empty() => OwnerState::Solid,
            true => OwnerState::Absent,
            false => self.state(&owner.uid, told),
        };
        let owners: Vec<_> = item.owners.iter().map(|owner| (&owner.uid, state(owner))).collect();
        let of = |state: OwnerState| owners.iter().filter(move |(_, s)| *s == state).map(|(uid, _)| (*uid).clone());
        let unknown: Vec<_> = of(OwnerState::Unknown).collect();
        if !unknown.is_empty() {
            return Verdict::Ask(unknown);
        }
        let leaving: Vec<_> = of(OwnerState::Absent).chain(of(OwnerState::Waiting)).collect();
        if leaving.len() < owners.len() {
            return if leaving.is_empty() { Verdict::Keep } else { Verdict::Disown(leaving) };
        }
        let waiting = of(OwnerState::Waiting).next().is_some();
        if waiting && !self.dependents_of(uid).is_empty() {
            return Verdict::Delete("Foreground");
        }
        Verdict::Delete(match item {
            _ if item.is_held_by(ORPHAN) => "Orphan",
            _ if item.is_held_by(FOREGROUND) => "Foreground",
            _ => "Background",
        })
    }

    /// An object in foreground deletion goes when nothing that blocks it is left.
    fn about_waiting(&self, item: &Item) -> Verdict {
        let blocks = |uid: &&String| {
            let owners = self.items.get(uid.as_str()).map(|dependent| &*dependent.owners).unwrap_or_default();
            owners.iter().any(|owner| *owner.uid == *item.uid && owner.block_owner_deletion == Some(true))
        };
        // In a circle of owners that all wait, nobody blocks the other.
        let above = self.waiting_above(item);
        let mut dependents = self.dependents.get(&*item.uid).into_iter().flatten();
        if !dependents.any(|uid| blocks(&uid) && !above.contains(uid)) {
            return Verdict::Release(FOREGROUND);
        }
        if self.awaited.contains(&*item.uid) {
            return Verdict::Keep;
        }
        Verdict::Await(self.dependents_of(&item.uid))
    }

    /// The owners of an object, and theirs, that wait for their dependents.
    fn waiting_above(&self, item: &Item) -> HashSet<String> {
        let (mut found, mut open) = (HashSet::new(), self.waiting_owners(item));
        while let Some(uid) = open.pop() {
            if let Some(owner) = self.items.get(&*uid) {
                open.extend(self.waiting_owners(owner).into_iter().filter(|next| !found.contains(next)));
            }
            found.insert(uid);
        }
        found
    }

    fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const PODS: Resource = Resource::fixed("", "v1", "pods", "Pod");

    /// Objects written `name [word...]` where a word is an owner's name (`!owner` blocks it), `deleting`, `foreground` or `orphan`.
    fn graph(texts: &[&str]) -> Graph {
        let mut graph = Graph::default();
        for text in texts {
            graph.set(item(text));
        }
        graph
    }

    fn item(text: &str) -> Item {
        let mut words = text.split_whitespace();
        let name = words.next().expect("a name");
        let (mut owners, mut finalizers, mut is_deleting) = (Vec::new(), Vec::new(), false);
        for word in words {
            match word {
                "deleting" => is_deleting = true,
                "foreground" => finalizers.push(FOREGROUND.to_owned()),
                "orphan" => finalizers.push(ORPHAN.to_owned()),
                owner => owners.push(OwnerReference {
                    uid: owner.trim_start_matches('!').to_owned(),
                    block_owner_deletion: owner.starts_with('!').then_some(true),
                    ..OwnerReference::default()
                }),
            }
        }
        let object = Outline {
            namespace: "d".into(),
            name: name.into(),
            uid: name.into(),
            owners: owners.into(),
            finalizers: finalizers.into(),
            is_deleting,
            ..Outline::default()
        };
        Item { resource: Arc::new(PODS), object: Arc::new(object) }
    }

    fn check(texts: &[&str], gone: &[&str], expected: Expect) {
        let mut graph = graph(texts);
        for uid in gone {
            graph.remove(uid);
        }
        let verdicts: Vec<_> = texts
            .iter()
            .filter_map(|text| text.split_whitespace().next())
            .filter(|uid| !gone.contains(uid))
            .map(|uid| format!("{uid}: {:?}", graph.decide(uid, &BTreeMap::new())))
            .collect();
        expected.assert_eq(&verdicts.join("\n"));
    }

    #[test]
    fn dependents_of_what_is_gone_go() {
        check(
            &["a", "b a", "c b"],
            &["a"],
            expect![[r#"
            b: Delete("Background")
            c: Keep"#]],
        );
    }

    #[test]
    fn an_owner_that_is_there_keeps_its_dependents() {
        check(
            &["a", "b", "c a b"],
            &["a"],
            expect![[r#"
            b: Keep
            c: Disown(["a"])"#]],
        );
    }

    #[test]
    fn an_owner_that_nobody_knows_is_asked_for() {
        check(&["b nobody"], &[], expect![[r#"b: Ask(["nobody"])"#]]);
        let told = BTreeMap::from([("nobody".to_owned(), OwnerState::Solid)]);
        assert_eq!(graph(&["b nobody"]).decide("b", &told), Verdict::Keep);
        let told = BTreeMap::from([("nobody".to_owned(), OwnerState::Absent)]);
        assert_eq!(graph(&["b nobody"]).decide("b", &told), Verdict::Delete("Background"));
    }

    #[test]
    fn foreground_deletion_waits_for_those_that_block() {
        check(
            &["a deleting foreground", "b !a", "c !b", "d a"],
            &[],
            expect![[r#"
            a: Await(["b", "d"])
            b: Delete("Foreground")
            c: Keep
            d: Delete("Background")"#]],
        );
        check(
            &["a deleting foreground", "d a deleting"],
            &[],
            expect![[r#"
            a: Release("foregroundDeletion")
            d: Keep"#]],
        );
    }

    #[test]
    fn orphans_are_let_go() {
        check(
            &["a deleting orphan", "b a"],
            &[],
            expect![[r#"
            a: OrphanDependents(["b"])
            b: Keep"#]],
        );
    }

    #[test]
    fn a_circle_of_waiting_owners_goes_all_the_same() {
        check(
            &["a deleting foreground !c", "b deleting foreground !a", "c deleting foreground !b"],
            &[],
            expect![[r#"
            a: Release("foregroundDeletion")
            b: Release("foregroundDeletion")
            c: Release("foregroundDeletion")"#]],
        );
    }

    #[test]
    fn removal_wakes_dependents_and_waiting_owners() {
        let mut graph = graph(&["a deleting foreground", "b !a", "c b"]);
        assert_eq!(graph.remove("b"), ["c", "a"]);
    }
}
