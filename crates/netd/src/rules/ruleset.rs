//! The rules as a whole: a fixed frame, and one fragment for each owner (a Service, a pod with host ports).
//! Replacing fragments yields the transaction that brings the kernel from the old rules to the new ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use super::elements::{Claimants, Elements, Place};
use super::frame::{Frame, Shared, Spread};
use super::language::{Base, Key, Rule, Set, SetKind, Value};
use super::text::Words;
use crate::family::Family;

/// What one owner adds to the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Chains of its own. Their names contain its own name, so no two owners' can meet.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// Sets and maps of its own.
    pub sets: BTreeMap<String, Set>,
    /// The common chains that it needs.
    pub spreads: BTreeSet<Spread>,
    /// Elements of the maps that all owners share.
    pub shared: Elements,
}

impl Fragment {
    /// Whether it adds nothing.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty() && self.spreads.is_empty() && self.shared.is_empty()
    }
}

/// One change to the kernel's rules. The order of the variants is the order in which changes are possible:
/// what is referred to must be there first, and what is to go must not be referred to any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new set or map.
    AddSet(String, SetKind),
    /// A new chain.
    AddChain(String, Option<Base>),
    /// All rules of the chain go.
    Flush(String),
    /// These elements go.
    DeleteElements(String, Vec<Key>),
    /// These elements come.
    AddElements(String, Vec<(Key, Value)>),
    /// These rules are added to the chain's end.
    AddRules(String, Vec<Rule>),
    /// The set or map goes.
    DeleteSet(String),
    /// The chain goes, after the maps that lead to it.
    DeleteChain(String),
}

impl Change {
    fn rank(&self) -> u8 {
        match self {
            Self::AddSet(..) => 0,
            Self::AddChain(..) => 1,
            Self::Flush(_) => 2,
            Self::DeleteElements(..) => 3,
            Self::AddElements(..) => 4,
            Self::AddRules(..) => 5,
            Self::DeleteSet(_) => 6,
            Self::DeleteChain(_) => 7,
        }
    }
}

/// Changes in an order that the kernel accepts, in two steps that each take effect at once. What is new is made
/// first and referred to later: a packet under way while a step takes effect may see the old rules and the new
/// elements, and must not be led into a chain that is still empty in the old rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    family: Family,
    preparation: Vec<Change>,
    changes: Vec<Change>,
}

impl Transaction {
    fn of(family: Family, changes: Vec<Change>) -> Self {
        let is_new = |change: &Change| matches!(change, Change::AddSet(..) | Change::AddChain(..));
        let name = |change: &Change| match change {
            Change::AddSet(name, _) => (true, name.clone()),
            Change::AddElements(name, _) => (true, name.clone()),
            Change::AddChain(name, _) | Change::AddRules(name, _) => (false, name.clone()),
            _ => (false, String::new()),
        };
        let new: BTreeSet<(bool, String)> = changes.iter().filter(|change| is_new(change)).map(name).collect();
        let (mut preparation, mut changes): (Vec<Change>, Vec<Change>) =
            changes.into_iter().partition(|change| new.contains(&name(change)));
        preparation.sort_by_key(Change::rank);
        changes.sort_by_key(Change::rank);
        Self { family, preparation, changes }
    }

    /// What is made first.
    pub fn preparation(&self) -> &[Change] {
        &self.preparation
    }

    /// What is changed then.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// How many changes it makes.
    pub fn len(&self) -> usize {
        self.preparation.len() + self.changes.len()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.preparation.is_empty() && self.changes.is_empty()
    }
}

/// All rules of this node for one family of addresses.
#[derive(Debug, Clone)]
pub struct Ruleset {
    family: Family,
    frame: Frame,
    fragments: BTreeMap<Arc<str>, Fragment>,
    /// Who wants which element of a shared map. The first owner by name gets it, if several do.
    claims: HashMap<Place, Claimants>,
    /// The common chains. They are few, and stay once they are there.
    spreads: BTreeSet<Spread>,
}

impl Ruleset {
    /// The frame alone, as far as it is of this family.
    pub fn new(frame: Frame, family: Family) -> Self {
        Self { family, frame, fragments: BTreeMap::new(), claims: HashMap::new(), spreads: BTreeSet::new() }
    }

    /// What an owner adds at the moment.
    pub fn fragment(&self, owner: &str) -> Option<&Fragment> {
        self.fragments.get(owner)
    }

    /// The names of all owners.
    pub fn owners(&self) -> impl Iterator<Item = &str> {
        self.fragments.keys().map(|owner| &**owner)
    }

    /// The names of the owners that begin with this.
    pub fn owners_within<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let from = self.fragments.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.map(|(owner, _)| &**owner).take_while(move |owner| owner.starts_with(prefix))
    }

    /// Puts fragments in place of the owners' old ones (an empty one removes the owner) and says what that changes.
    pub fn replace(&mut self, fragments: impl IntoIterator<Item = (String, Fragment)>) -> Transaction {
        let mut changes = Vec::new();
        let mut touched: BTreeMap<Place, Option<Value>> = BTreeMap::new();
        let spreads_before = self.spreads.clone();
        let nothing = Fragment::default();
        for (owner, new) in fragments {
            let (owner, old) = match self.fragments.get_key_value(&*owner) {
                Some((owner, old)) => (owner.clone(), old),
                None => (owner.into(), &nothing),
            };
            if *old == new {
                continue;
            }
            diff_chains(&old.chains, &new.chains, &mut changes);
            diff_sets(&old.sets, &new.sets, &mut changes);
            let places = old.shared.places().chain(new.shared.places());
            let places: Vec<Place> =
                places.filter(|place| old.shared.get(place) != new.shared.get(place)).copied().collect();
            for place in &places {
                touched.entry(*place).or_insert_with(|| self.effective(place).cloned());
            }
            self.spreads.extend(&new.spreads);
            self.claim(&owner, &places, &new);
            if new.is_empty() {
                self.fragments.remove(&owner);
            } else {
                self.fragments.insert(owner, new);
            }
        }
        diff_chains(&spread_chains(&spreads_before), &spread_chains(&self.spreads), &mut changes);
        self.diff_shared(&touched, &mut changes);
        Transaction::of(self.family, changes)
    }

    /// What makes all of it out of nothing.
    pub fn creation(&self) -> Transaction {
        let mut changes = Vec::new();
        for (name, base, rules) in self.frame.chains(self.family) {
            changes.push(Change::AddChain(name.to_owned(), base));
            changes.push(Change::AddRules(name.to_owned(), rules));
        }
        for shared in Shared::ALL {
            changes.push(Change::AddSet(shared.name().to_owned(), shared.kind()));
            changes.push(Change::AddElements(shared.name().to_owned(), self.shared_elements(shared)));
        }
        diff_chains(&BTreeMap::new(), &spread_chains(&self.spreads), &mut changes);
        for fragment in self.fragments.values() {
            diff_chains(&BTreeMap::new(), &fragment.chains, &mut changes);
            diff_sets(&BTreeMap::new(), &fragment.sets, &mut changes);
        }
        changes.retain(|change| !matches!(change, Change::AddElements(_, elements) if elements.is_empty()));
        Transaction::of(self.family, changes)
    }

    /// The family of the addresses that it is about.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The fixed frame.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The element of a shared map that is in effect.
    pub fn shared(&self, map: Shared, key: &Key) -> Option<&Value> {
        self.effective(&(map, *key))
    }

    /// Every owner's part.
    pub fn fragments(&self) -> impl Iterator<Item = &Fragment> {
        self.fragments.values()
    }

    fn effective(&self, place: &Place) -> Option<&Value> {
        self.fragments.get(self.claims.get(place)?.first()?)?.shared.get(place)
    }

    fn shared_elements(&self, shared: Shared) -> Vec<(Key, Value)> {
        let places = self.claims.keys().filter(|(of, _)| *of == shared);
        let mut elements: Vec<(Key, Value)> =
            places.filter_map(|place| Some((place.1, self.effective(place)?.clone()))).collect();
        elements.sort_by_key(|(key, _)| *key);
        elements
    }

    /// Records at which of these places the owner wants something from now on.
    fn claim(&mut self, owner: &Arc<str>, places: &[Place], new: &Fragment) {
        for place in places {
            if new.shared.get(place).is_some() {
                self.claims.entry(*place).or_default().insert(owner);
            } else if let Some(claimants) = self.claims.get_mut(place) {
                claimants.remove(owner);
                if claimants.first().is_none() {
                    self.claims.remove(place);
                }
            }
        }
    }

    fn diff_shared(&self, touched: &BTreeMap<Place, Option<Value>>, changes: &mut Vec<Change>) {
        for shared in Shared::ALL {
            let mut gone = Vec::new();
            let mut come = Vec::new();
            for ((of, key), before) in touched {
                let after = self.effective(&(*of, *key));
                if *of != shared || before.as_ref() == after {
                    continue;
                }
                gone.extend(before.is_some().then_some(*key));
                come.extend(after.map(|value| (*key, value.clone())));
            }
            push_elements(shared.name(), gone, come, changes);
        }
    }
}

fn spread_chains(spreads: &BTreeSet<Spread>) -> BTreeMap<String, Vec<Rule>> {
    spreads.iter().map(|spread| (spread.chain(), spread.rules())).collect()
}

fn diff_chains(old: &BTreeMap<String, Vec<Rule>>, new: &BTreeMap<String, Vec<Rule>>, changes: &mut Vec<Change>) {
    for (name, rules) in new {
        match old.get(name) {
            Some(before) if before == rules => continue,
            Some(_) => changes.push(Change::Flush(name.clone())),
            None => changes.push(Change::AddChain(name.clone(), None)),
        }
        changes.push(Change::AddRules(name.clone(), rules.clone()));
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        changes.push(Change::Flush(name.clone()));
        changes.push(Change::DeleteChain(name.clone()));
    }
}

fn diff_sets(old: &BTreeMap<String, Set>, new: &BTreeMap<String, Set>, changes: &mut Vec<Change>) {
    let nothing = BTreeMap::new();
    for (name, set) in new {
        // A set's kind never changes under one name: the name says what it is for, and its timeout.
        let before = old.get(name).map_or(&nothing, |set| &set.elements);
        if !old.contains_key(name) {
            changes.push(Change::AddSet(name.clone(), set.kind));
        }
        let gone = before.iter().filter(|(key, value)| set.elements.get(key) != Some(value)).map(|(key, _)| *key);
        let come = set.elements.iter().filter(|(key, value)| before.get(key) != Some(value));
        push_elements(name, gone.collect(), come.map(|(key, value)| (*key, value.clone())).collect(), changes);
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        changes.push(Change::DeleteSet(name.clone()));
    }
}

fn push_elements(set: &str, gone: Vec<Key>, come: Vec<(Key, Value)>, changes: &mut Vec<Change>) {
    if !gone.is_empty() {
        changes.push(Change::DeleteElements(set.to_owned(), gone));
    }
    if !come.is_empty() {
        changes.push(Change::AddElements(set.to_owned(), come));
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Words(self.family);
        for shared in Shared::ALL {
            let elements = self.shared_elements(shared);
            write_set(f, words, shared.name(), shared.kind(), elements.iter().map(|(key, value)| (key, value)))?;
        }
        for (name, base, rules) in self.frame.chains(self.family) {
            write_chain(f, words, name, base, &rules)?;
        }
        for (name, rules) in spread_chains(&self.spreads) {
            write_chain(f, words, &name, None, &rules)?;
        }
        for fragment in self.fragments.values() {
            for (name, set) in &fragment.sets {
                write_set(f, words, name, set.kind, set.elements.iter())?;
            }
            for (name, rules) in &fragment.chains {
                write_chain(f, words, name, None, rules)?;
            }
        }
        Ok(())
    }
}

fn write_set<'a>(
    f: &mut fmt::Formatter<'_>,
    words: Words,
    name: &str,
    kind: SetKind,
    elements: impl Iterator<Item = (&'a Key, &'a Value)>,
) -> fmt::Result {
    writeln!(f, "set {name} {{ {}", words.kind(kind))?;
    for (key, value) in elements {
        writeln!(f, "  {key}{value}")?;
    }
    writeln!(f, "}}")
}

fn write_chain(
    f: &mut fmt::Formatter<'_>,
    words: Words,
    name: &str,
    base: Option<Base>,
    rules: &[Rule],
) -> fmt::Result {
    writeln!(f, "chain {name} {{")?;
    if let Some(base) = base {
        writeln!(f, "  {base}")?;
    }
    for rule in rules {
        writeln!(f, "  {}", words.rule(rule))?;
    }
    writeln!(f, "}}")
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Words(self.family);
        for change in self.preparation.iter().chain(&self.changes) {
            match change {
                Change::AddSet(name, kind) => writeln!(f, "add set {name} {{ {} }}", words.kind(*kind))?,
                Change::AddChain(name, Some(base)) => writeln!(f, "add chain {name} {{ {base} }}")?,
                Change::AddChain(name, None) => writeln!(f, "add chain {name}")?,
                Change::Flush(name) => writeln!(f, "flush chain {name}")?,
                Change::DeleteChain(name) => writeln!(f, "delete chain {name}")?,
                Change::DeleteSet(name) => writeln!(f, "delete set {name}")?,
                Change::DeleteElements(set, keys) => {
                    keys.iter().try_for_each(|key| writeln!(f, "delete element {set} {{ {key} }}"))?;
                }
                Change::AddElements(set, elements) => {
                    elements.iter().try_for_each(|(key, value)| writeln!(f, "add element {set} {{ {key}{value} }}"))?;
                }
                Change::AddRules(chain, rules) => {
                    rules.iter().try_for_each(|rule| writeln!(f, "add rule {chain} {}", words.rule(rule)))?;
                }
            }
        }
        Ok(())
    }
}
