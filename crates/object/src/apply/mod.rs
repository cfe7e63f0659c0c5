//! Server-side apply: who owns which fields, merging what is applied, and telling of conflicts.
//! See <https://kubernetes.io/docs/reference/using-api/server-side-apply/>.
//!
//! What somebody wrote through another version of the API is compared in that version.

mod fresh;
mod managers;
mod schema;
mod set;
mod structural;
mod versions;
mod walk;

use std::sync::LazyLock;

use serde_json::Value;

pub use schema::{ListSchema, MapSchema, Schema};
pub use set::{Element, Scalar, Set};
pub use structural::Custom;
pub use versions::{InVersion, Versions};

use crate::meta::Meta;
use crate::status::{Cause, Details};
use crate::{GroupVersionKind, Object, Reason, Status, validate};
use fresh::Unowned;
use managers::{Manager, Managers, Owned};
use versions::{Changes, view};

/// The manager that owns what was there before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Where `kubectl apply` keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A write, as ownership sees it.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// Who writes: the query parameter `fieldManager`, or what was made of the user agent.
    pub manager: &'a str,
    /// Through which subresource, or empty.
    pub subresource: &'a str,
    /// Through which version, `apps/v1`.
    pub api_version: &'a str,
    /// When, in RFC 3339.
    pub now: &'a str,
    /// The object's type.
    pub schema: Schema<'a>,
    /// An object of the kind in which nothing is set.
    pub blank: &'a Object,
    /// Fields that this kind of write cannot change, such as status.
    pub ignored: &'a Set,
    /// The versions of the kind; without them all entries are taken to name the fields of this one.
    pub versions: Option<&'a dyn Versions>,
}

/// Fields that no write through a subresource (or, where it is empty, through the object itself) can change.
/// `kept` is the metadata that writes of the status leave alone, beside the owners.
pub fn ignored_fields(has_status: bool, subresource: &str, kept: &[impl AsRef<str>]) -> Set {
    match subresource {
        "" if has_status => Set::of_fields(&[&["status"]]),
        "status" => {
            let mut set = Set::of_fields(&[&["spec"], &["metadata", "ownerReferences"]]);
            for field in kept {
                set.insert(&[Element::field("metadata"), Element::field(field.as_ref())]);
            }
            set
        }
        _ => Set::default(),
    }
}

/// Metadata that belongs to nobody. Made once: every write asks for it.
fn unowned() -> &'static Set {
    static UNOWNED: LazyLock<Set> = LazyLock::new(|| {
        let names = [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "generation",
            "managedFields",
            "resourceVersion",
        ];
        let mut set = Set::of_fields(&[&["apiVersion"], &["kind"], &["metadata"]]);
        for name in names {
            set.insert(&[Element::field("metadata"), Element::field(name)]);
        }
        set
    });
    &UNOWNED
}

/// Where the owners themselves are written.
fn owners() -> &'static Set {
    static OWNERS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["metadata", "managedFields"]]));
    &OWNERS
}

fn without_managers(object: &Object) -> Object {
    let mut object = object.clone();
    object.remove_at(&["metadata", "managedFields"]);
    object
}

/// Writes `metadata.managedFields` of an object that is created or changed by anything but an apply.
/// `live` is what was there before.
pub fn track(live: Option<&Object>, new: &mut Object, write: &Write<'_>) {
    let entries = match new.remove_at(&["metadata", "managedFields"]) {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    let known = live.map_or(&[][..], |live| live.list_at(&["metadata", "managedFields"]));
    // One empty entry resets; an empty list does not, so that nobody does by accident.
    let is_reset = matches!(entries.as_slice(), [Value::Object(entry)] if entry.is_empty());
    let managers = if is_reset && write.subresource.is_empty() {
        Managers::default()
    } else {
        // Clients that know nothing of managed fields must not delete them by accident.
        let is_stored = entries.is_empty() || !write.subresource.is_empty() || entries == known;
        let sent = if is_stored { None } else { Managers::decode(&entries) };
        sent.or_else(|| Managers::decode_packed(known.iter().cloned())).unwrap_or_default()
    };
    let is_untracked = managers.is_empty() && live.is_some();
    if is_untracked {
        return;
    }
    if live.is_none() && managers.is_empty() {
        let unowned = Unowned { whole: Some(write.ignored), themselves: Some(unowned()) };
        if let Ok(fields) = fresh::fields(write.schema, write.blank, new, unowned) {
            Managers::of_one(write, fields).encode_into(new);
        }
        return;
    }
    // What cannot be compared is left without managed fields rather than with wrong ones.
    if let Ok(managers) = update(live.unwrap_or(write.blank), new, managers, write) {
        managers.encode_into(new);
    }
}

/// `new` has no managed fields; those of `live` do not count.
fn update(live: &Object, new: &Object, mut managers: Managers, write: &Write<'_>) -> Result<Managers, String> {
    let mut changes = Changes::new(live, new, write)?;
    managers.take(&mut changes)?;
    let mut owned = changes.into_taken();
    owned.subtract(write.ignored, true);
    owned.subtract(unowned(), false);
    if !owned.is_empty() {
        let manager = Manager::updater(write);
        managers.add(manager, owned, write);
    }
    managers.cap();
    Ok(managers)
}

/// Applies a configuration: merges it into what is there (if anything is), takes away what its manager applied before
/// and does not any more, and writes who owns what.
///
/// # Errors
/// 409 with each field that another manager owns and that would change, unless `force`; 400 or 500 (as upstream) where
/// the configuration does not fit its type.
pub fn apply(live: Option<&Object>, config: &Object, write: &Write<'_>, force: bool) -> Result<Object, Status> {
    if config.at(&["metadata", "managedFields"]).is_some_and(|entries| !entries.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let unfit = |what: &str, object: &Object, why: String| {
        let kind = GroupVersionKind::of(object).unwrap_or_default();
        let (namespace, name) = (object.namespace(), object.name());
        Status::failure(500, Reason::Unknown, format!("failed to {what} ({namespace}/{name}; {kind}): {why}"))
    };
    let mut managers = Managers::default();
    if let Some(live) = live {
        let entries = live.list_at(&["metadata", "managedFields"]);
        managers = Managers::decode(entries)
            .ok_or_else(|| Status::failure(500, Reason::Unknown, "failed to decode managed fields"))?;
        if managers.is_empty() {
            let before = Write { manager: BEFORE_FIRST_APPLY, ..*write };
            managers = update(write.blank, &without_managers(live), managers, &before)
                .map_err(|why| unfit("create manager for existing fields", live, why))?;
        }
    }
    let set =
        walk::field_set(write.schema, config, true).map_err(|why| unfit("create typed patch object", config, why))?;
    let base = without_managers(live.unwrap_or(write.blank));
    let merged = walk::merge(write.schema, Some(&base), Some(config))
        .map_err(|why| unfit("merge config", config, why))?
        .unwrap_or_default();
    let manager = Manager::applier(write);
    let last = managers.get(&manager).map(|owned| (owned.set.clone(), owned.api_version.clone()));
    let time = managers.get(&manager).and_then(|owned| owned.time.clone());
    let set = set.recursive_difference(write.ignored);
    managers.put(manager.clone(), Owned::new(set, write.api_version.to_owned(), time));
    let mut new = prune(merged, &managers, last, write).map_err(|why| unfit("prune fields", config, why))?;
    let mut changes = Changes::new(&base, &new, write).map_err(|why| unfit("compare objects", config, why))?;
    let conflicts = managers.conflicts(&manager, &mut changes).map_err(|why| unfit("compare objects", config, why))?;
    if !force && !conflicts.is_empty() {
        let allowed = client_side_applied(live, write);
        let left: Vec<_> = conflicts.into_iter().map(|(other, set)| (other, set.difference(&allowed))).collect();
        if left.iter().any(|(_, set)| !set.is_empty()) {
            return Err(conflict(&left));
        }
    }
    managers.keep_own(&manager, unowned());
    managers.take_from_others(&manager, &mut changes).map_err(|why| unfit("compare objects", config, why))?;
    if new != base {
        managers.touch(&manager, write.now);
    }
    note_applied(&mut new, config, write);
    managers.encode_into(&mut new);
    Ok(new)
}

/// Keeps the annotation of `kubectl apply` in step, so that its user may go back to client-side apply.
fn note_applied(new: &mut Object, config: &Object, write: &Write<'_>) {
    if write.manager != "kubectl" || new.annotation(LAST_APPLIED).is_none_or(str::is_empty) {
        return;
    }
    let mut applied = without_managers(config);
    applied.remove_at(&["metadata", "annotations", LAST_APPLIED]);
    let text = format!("{applied}\n");
    let notes = new.at(&["metadata", "annotations"]).and_then(Value::as_object).into_iter().flatten();
    let others = notes.filter(|(key, _)| *key != LAST_APPLIED);
    let size: usize = others.map(|(key, note)| key.len() + note.as_str().map_or(0, str::len)).sum();
    let fits = size + LAST_APPLIED.len() + text.len() <= validate::ANNOTATIONS_LIMIT_BYTES;
    new.set_at(&["metadata", "annotations", LAST_APPLIED], if fits { text } else { String::new() });
}

/// Takes back the times of a write that changed nothing else, so that it is none.
pub fn keep_times(old: &Object, new: &mut Object) {
    let entries = |object: &Object| object.at(&["metadata", "managedFields"]).and_then(Value::as_array).cloned();
    let is_same = {
        let (before, after) =
            (old.list_at(&["metadata", "managedFields"]), new.list_at(&["metadata", "managedFields"]));
        // The order of entries depends on their times.
        let known = |entry: &Value| before.iter().any(|other| same_but_for(other, entry, &["time"]));
        before != after
            && before.len() == after.len()
            && same_but_for(old, new, &["metadata"])
            && same_but_for(&old["metadata"], &new["metadata"], &["managedFields", "resourceVersion"])
            && after.iter().all(known)
    };
    if let (true, Some(before)) = (is_same, entries(old)) {
        new.set_at(&["metadata", "managedFields"], before);
    }
}

/// Whether two objects have the same fields, those aside that are named.
fn same_but_for(left: &Value, right: &Value, aside: &[&str]) -> bool {
    let (Some(left), Some(right)) = (left.as_object(), right.as_object()) else { return left == right };
    let counted = |(name, _): &(&String, &Value)| !aside.contains(&name.as_str());
    left.iter().filter(counted).eq(right.iter().filter(counted))
}

/// The managed fields of an object's scale: who owns the number that stands at `replicas` of the object.
pub fn scale_entries(object: &Object, replicas: &[&str]) -> Vec<Value> {
    let managers = Managers::decode(object.list_at(&["metadata", "managedFields"])).unwrap_or_default();
    managers.through_scale(&Set::of_fields(&[replicas])).into_entries()
}

/// The managed fields of an object whose scale was written with those of `scale`.
pub fn entries_behind_scale(object: &Object, scale: &Object, replicas: &[&str], api_version: &str) -> Vec<Value> {
    let decode = |object: &Object| Managers::decode(object.list_at(&["metadata", "managedFields"])).unwrap_or_default();
    decode(object).behind_scale(decode(scale), &Set::of_fields(&[replicas]), api_version).into_entries()
}

/// What `kubectl apply` owned before its user turned to server-side apply may be taken over without force.
fn client_side_applied(live: Option<&Object>, write: &Write<'_>) -> Set {
    let annotation = live.filter(|_| write.manager == "kubectl").and_then(|live| live.annotation(LAST_APPLIED));
    let applied = annotation.and_then(|text| serde_json::from_str::<Value>(text).ok());
    applied.and_then(|applied| walk::field_set(write.schema, &applied, false).ok()).unwrap_or_default()
}

/// Takes away what the manager applied last time, does not apply now, and nobody else owns.
fn prune(merged: Value, managers: &Managers, last: Option<(Set, String)>, write: &Write<'_>) -> Result<Value, String> {
    let Some((last, version)) = last.filter(|(last, _)| !last.is_empty()) else { return Ok(merged) };
    let here = write.api_version;
    // What was applied through a version that is no more cannot be told apart.
    let Some((whole, schema)) = view(write, &merged, here, &version) else { return Ok(merged) };
    let last = last.with_named_fields(schema);
    let mut pruned = walk::remove(schema, whole.clone(), &last);
    let (mut other, mut at) = (whole.clone(), version.clone());
    // What somebody owns comes back, in the version in which it is owned.
    for (owned_in, owned) in managers.by_version(&version, write.versions.is_some()) {
        let as_owned = |object: &Value| view(write, object, &at, &owned_in);
        let (Some((whole, schema)), Some((part, _))) = (as_owned(&other), as_owned(&pruned)) else { continue };
        let named = |set: &Set| set.with_named_fields(schema);
        let whole_set = named(&walk::field_set(schema, &whole, false)?);
        let kept = named(&walk::field_set(schema, &part, false)?).union(&named(&owned));
        pruned = walk::remove(schema, whole.clone(), &whole_set.difference(&kept));
        (other, at) = (whole, owned_in);
    }
    // Then what the manager had not applied itself.
    let Some((pruned, _)) = view(write, &pruned, &at, &version) else { return Ok(merged) };
    let named = |value: &Value| Ok::<_, String>(walk::field_set(schema, value, false)?.with_named_fields(schema));
    let gone = named(&whole)?.difference(&named(&pruned)?).intersection(&last);
    let pruned = walk::remove(schema, whole, &gone);
    Ok(view(write, &pruned, &version, here).map_or(pruned, |(pruned, _)| pruned))
}

fn conflict(conflicts: &[(Manager, Set)]) -> Status {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (manager, set) in conflicts.iter().filter(|(_, set)| !set.is_empty()) {
        let who = manager.text();
        lines.push(format!("conflicts with {who}:"));
        set.for_each(&mut |path| {
            let path = set::path_text(path);
            lines.push(format!("- {path}"));
            let reason = "FieldManagerConflict".to_owned();
            causes.push(Cause { reason, message: format!("conflict with {who}"), field: path });
        });
    }
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        all => format!("Apply failed with {} conflicts: {}", all.len(), lines.join("\n")),
    };
    let details = Details { causes, ..Details::default() };
    Status { details: Some(details), ..Status::failure(409, Reason::Conflict, message) }
}
