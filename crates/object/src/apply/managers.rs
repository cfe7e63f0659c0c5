//! `metadata.managedFields` as a table: who owns which fields, and since when.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Write;
use super::set::Set;
use super::versions::Changes;
use crate::meta::Meta;
use crate::{Map, Object};

/// How many managers of updates are kept apart; the oldest of more share one entry.
const UPDATERS_LIMIT: usize = 10;
/// The manager of that entry.
const ANCIENT: &str = "ancient-changes";
/// The version of scales, and where their number stands.
const SCALE_VERSION: &str = "autoscaling/v1";
const SCALE_NUMBER: &[&str] = &["spec", "replicas"];

/// Who owns fields. The version counts only for those who update.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Manager {
    name: String,
    updates: bool,
    api_version: String,
    subresource: String,
}

impl Manager {
    pub(super) fn applier(write: &Write<'_>) -> Self {
        Self {
            name: write.manager.to_owned(),
            updates: false,
            api_version: String::new(),
            subresource: write.subresource.to_owned(),
        }
    }

    pub(super) fn updater(write: &Write<'_>) -> Self {
        Self { updates: true, api_version: write.api_version.to_owned(), ..Self::applier(write) }
    }

    /// The same manager, writing through another version.
    fn of_version(&self, api_version: &str) -> Self {
        let api_version = if self.updates { api_version.to_owned() } else { String::new() };
        Self { api_version, ..self.clone() }
    }

    /// As conflicts name it: `"kubectl-edit" using v1`.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.updates {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// What a manager owns.
#[derive(Debug, Clone, Default)]
pub(super) struct Owned {
    pub(super) set: Set,
    /// The set as it is written, where nobody has had to look into it; then `set` is empty.
    packed: Option<Value>,
    pub(super) api_version: String,
    pub(super) time: Option<String>,
}

impl Owned {
    pub(super) fn new(set: Set, api_version: String, time: Option<String>) -> Self {
        Self { set, packed: None, api_version, time }
    }

    /// Reads the set; false where it is malformed.
    fn unpack(&mut self) -> bool {
        let Some(fields) = self.packed.take() else { return true };
        match Set::decode(&fields) {
            Some(set) => self.set = set,
            None => self.packed = Some(fields),
        }
        self.packed.is_none()
    }

    /// Takes away what is in `taken` or `removed`; false where the set is malformed.
    fn subtract(&mut self, taken: &Set, removed: &Set) -> bool {
        let is_touched = |fields: &Value| taken.touches(fields) || removed.touches(fields);
        if self.packed.as_ref().is_some_and(|fields| !is_touched(fields)) {
            return true;
        }
        let is_read = self.unpack();
        self.set.subtract(taken, false);
        self.set.subtract(removed, false);
        is_read
    }

    fn is_empty(&self) -> bool {
        self.packed.is_none() && self.set.is_empty()
    }
}

/// All managers of an object.
#[derive(Debug, Clone, Default)]
pub(super) struct Managers(BTreeMap<Manager, Owned>);

impl Managers {
    /// Reads the entries; `None` where one is malformed.
    pub(super) fn decode(entries: &[Value]) -> Option<Self> {
        let mut managers = Self::decode_packed(entries.iter().cloned())?;
        managers.0.values_mut().all(Owned::unpack).then_some(managers)
    }

    /// Reads entries whose sets are known to be well formed, because they were stored; sets are read when they matter.
    pub(super) fn decode_packed(entries: impl IntoIterator<Item = Value>) -> Option<Self> {
        let mut managers = BTreeMap::new();
        for mut entry in entries {
            let updates = match entry.str_at(&["operation"]) {
                "Apply" => false,
                "Update" => true,
                _ => return None,
            };
            if entry.str_at(&["apiVersion"]).is_empty() || entry.str_at(&["fieldsType"]) != "FieldsV1" {
                return None;
            }
            let mut text = |field: &str| match entry.get_mut(field).map(Value::take) {
                Some(Value::String(text)) => Some(text),
                _ => None,
            };
            let api_version = text("apiVersion").unwrap_or_default();
            let manager = Manager {
                name: text("manager").unwrap_or_default(),
                updates,
                api_version: if updates { api_version.clone() } else { String::new() },
                subresource: text("subresource").unwrap_or_default(),
            };
            let time = text("time");
            let packed = entry.get_mut("fieldsV1").map(Value::take).filter(|fields| !fields.is_null());
            managers.insert(manager, Owned { set: Set::default(), packed, api_version, time });
        }
        Some(Self(managers))
    }

    /// The one who made an object owns these fields; nobody where there are none.
    pub(super) fn of_one(write: &Write<'_>, fields: Map) -> Self {
        if fields.is_empty() {
            return Self::default();
        }
        let owned = Owned {
            set: Set::default(),
            packed: Some(Value::Object(fields)),
            api_version: write.api_version.to_owned(),
            time: Some(write.now.to_owned()),
        };
        Self(BTreeMap::from([(Manager::updater(write), owned)]))
    }

    /// Writes the entries into an object.
    pub(super) fn encode_into(self, object: &mut Object) {
        if !self.0.is_empty() {
            object.set_at(&["metadata", "managedFields"], self.into_entries());
        }
    }

    /// The entries: appliers first, then by time and name.
    pub(super) fn into_entries(self) -> Vec<Value> {
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort_by(|(left, left_owned), (right, right_owned)| {
            let by_kind = left.updates.cmp(&right.updates).then_with(|| left_owned.time.cmp(&right_owned.time));
            by_kind
                .then_with(|| left.name.cmp(&right.name))
                .then_with(|| left_owned.api_version.cmp(&right_owned.api_version))
                .then_with(|| left.subresource.cmp(&right.subresource))
        });
        all.into_iter().map(|(manager, owned)| entry(manager, owned)).collect()
    }

    /// Those who own the number that a scale shows, as managers of the scale.
    pub(super) fn through_scale(self, number: &Set) -> Self {
        let owners = self.0.into_iter().filter(|(_, owned)| !owned.set.intersection(number).is_empty());
        let scaled = owners.map(|(manager, owned)| {
            let set = Set::of_fields(&[SCALE_NUMBER]);
            (manager.of_version(SCALE_VERSION), Owned::new(set, SCALE_VERSION.to_owned(), owned.time))
        });
        Self(scaled.collect())
    }

    /// Gives the number to those who own it in the scale, and takes it from the others.
    pub(super) fn behind_scale(mut self, scale: Self, number: &Set, api_version: &str) -> Self {
        let in_scale = Set::of_fields(&[SCALE_NUMBER]);
        let mut owners = scale.0;
        owners.retain(|_, owned| !owned.set.intersection(&in_scale).is_empty());
        self.0.retain(|manager, owned| {
            if owned.set.intersection(number).is_empty() {
                return true;
            }
            match owners.remove(&manager.of_version(SCALE_VERSION)) {
                Some(kept) => owned.time = kept.time,
                None => owned.set = owned.set.difference(number),
            }
            !owned.set.is_empty()
        });
        for (manager, owned) in owners {
            let owned = Owned::new(number.clone(), api_version.to_owned(), owned.time);
            self.0.insert(manager.of_version(api_version), owned);
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, manager: &Manager) -> Option<&Owned> {
        self.0.get(manager)
    }

    pub(super) fn put(&mut self, manager: Manager, owned: Owned) {
        self.0.insert(manager, owned);
    }

    /// What others than `manager` own of what was changed.
    ///
    /// # Errors
    /// A version's objects cannot be compared.
    pub(super) fn conflicts(
        &self,
        manager: &Manager,
        changes: &mut Changes<'_>,
    ) -> Result<Vec<(Manager, Set)>, String> {
        let mut conflicts = Vec::new();
        for (other, owned) in self.0.iter().filter(|(other, _)| *other != manager) {
            let Some(seen) = changes.seen_in(&owned.api_version)? else { continue };
            let set = owned.set.intersection(&seen.taken);
            if !set.is_empty() {
                conflicts.push((other.clone(), set));
            }
        }
        Ok(conflicts)
    }

    /// Takes from a manager what belongs to nobody; who owns nothing then goes.
    pub(super) fn keep_own(&mut self, manager: &Manager, unowned: &Set) {
        if let Some(owned) = self.0.get_mut(manager) {
            owned.set.subtract(unowned, false);
        }
        self.0.retain(|other, owned| other != manager || !owned.set.is_empty());
    }

    /// Takes from all but `manager` what was changed, and what is gone.
    ///
    /// # Errors
    /// A version's objects cannot be compared.
    pub(super) fn take_from_others(&mut self, manager: &Manager, changes: &mut Changes<'_>) -> Result<(), String> {
        let own = self.0.remove_entry(manager);
        self.take(changes)?;
        self.0.extend(own);
        Ok(())
    }

    /// Takes from everybody what somebody else has written, and what is gone, each in the version that he wrote through;
    /// those who own nothing any more go, and those whose version is no more.
    ///
    /// # Errors
    /// A stored set is malformed, or a version's objects cannot be compared.
    pub(super) fn take(&mut self, changes: &mut Changes<'_>) -> Result<(), String> {
        let mut failure = None;
        self.0.retain(|_, owned| {
            let seen = match changes.seen_in(&owned.api_version) {
                Ok(Some(seen)) => seen,
                Ok(None) => return false,
                Err(why) => {
                    failure.get_or_insert(why);
                    return true;
                }
            };
            if !owned.subtract(&seen.taken, &seen.removed) {
                failure.get_or_insert_with(|| "managed fields are malformed".to_owned());
            }
            !owned.is_empty()
        });
        failure.map_or(Ok(()), Err)
    }

    /// Adds to what a manager owns.
    pub(super) fn add(&mut self, manager: Manager, set: Set, write: &Write<'_>) {
        let new = || Owned::new(Set::default(), write.api_version.to_owned(), None);
        let owned = self.0.entry(manager).or_insert_with(new);
        owned.unpack();
        owned.set.extend(set);
        owned.time = Some(write.now.to_owned());
    }

    pub(super) fn touch(&mut self, manager: &Manager, now: &str) {
        if let Some(owned) = self.0.get_mut(manager) {
            owned.time = Some(now.to_owned());
        }
    }

    /// All that anybody owns, by the version in which it is owned, that of `first` first; all of it there where versions
    /// do not count.
    pub(super) fn by_version(&self, first: &str, versions_count: bool) -> Vec<(String, Set)> {
        let mut all = vec![(first.to_owned(), Set::default())];
        for owned in self.0.values() {
            let place = all.iter().position(|(version, _)| *version == owned.api_version);
            let place = if versions_count { place } else { Some(0) };
            match place.and_then(|place| all.get_mut(place)) {
                Some((_, set)) => *set = set.union(&owned.set),
                None => all.push((owned.api_version.clone(), owned.set.clone())),
            }
        }
        all
    }

    /// Keeps the number of updaters bounded: the oldest of the same version are put together.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<_> = self.0.iter().filter(|(manager, _)| manager.updates).collect();
        let mut excess = updaters.len().saturating_sub(UPDATERS_LIMIT);
        if excess == 0 {
            return;
        }
        updaters.sort_by_key(|(manager, owned)| (owned.time.clone(), (*manager).clone()));
        let oldest: Vec<Manager> = updaters.into_iter().map(|(manager, _)| manager.clone()).collect();
        let mut first_of: BTreeMap<String, Manager> = BTreeMap::new();
        for manager in oldest {
            if excess == 0 {
                return;
            }
            let version = manager.api_version.clone();
            let Some(first) = first_of.get(&version).cloned() else {
                first_of.insert(version, manager);
                continue;
            };
            let bucket =
                Manager { name: ANCIENT.to_owned(), updates: true, api_version: version, subresource: String::new() };
            if let (false, Some(owned)) = (self.0.contains_key(&bucket), self.0.remove(&first)) {
                self.0.insert(bucket.clone(), owned);
            }
            let merged = self.0.remove(&manager);
            if let (Some(mut owned), Some(bucket)) = (merged, self.0.get_mut(&bucket)) {
                owned.unpack();
                bucket.unpack();
                bucket.set.extend(owned.set);
                bucket.time = owned.time;
            }
            excess -= 1;
        }
    }
}

fn entry(manager: Manager, owned: Owned) -> Value {
    let mut entry = json!({
        "operation": if manager.updates { "Update" } else { "Apply" },
        "fieldsType": "FieldsV1",
    });
    entry["manager"] = manager.name.into();
    entry["apiVersion"] = owned.api_version.into();
    entry["fieldsV1"] = owned.packed.unwrap_or_else(|| owned.set.encode());
    if let Some(time) = owned.time {
        entry["time"] = time.into();
    }
    if !manager.subresource.is_empty() {
        entry["subresource"] = manager.subresource.into();
    }
    entry
}
