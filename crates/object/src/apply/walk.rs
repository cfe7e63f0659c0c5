//! Walking over values along their schema: which fields there are, what changed, merging, and taking fields away.

use std::collections::BTreeMap;

use serde_json::Value;

use super::schema::{ListSchema, Schema, View, element, view};
use super::set::{Element, Set, path_text};
use crate::Map;

/// All fields of a value.
///
/// # Errors
/// A list's item cannot be told apart, or (if `closed`) a field is not declared.
pub(super) fn field_set(schema: Schema<'_>, value: &Value, closed: bool) -> Result<Set, String> {
    let mut set = Set::default();
    Collector { set: &mut set, path: Vec::new(), closed }.collect(schema, value)?;
    Ok(set)
}

struct Collector<'s> {
    set: &'s mut Set,
    path: Vec<Element>,
    closed: bool,
}

impl Collector<'_> {
    fn collect(&mut self, schema: Schema<'_>, value: &Value) -> Result<(), String> {
        match view(schema, Some(value)) {
            View::Leaf => {
                self.set.insert(&self.path);
                Ok(())
            }
            View::Map(map, schema) => map.into_iter().flatten().try_for_each(|(name, value)| {
                self.path.push(Element::field(name));
                let declared = schema.is_declared(name);
                if self.closed && !declared && matches!(schema, Schema::Map(map) if map.is_closed()) {
                    return Err(format!("{}: field not declared in schema", path_text(&self.path)));
                }
                self.collect(schema.field(name), value)?;
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if empty || !declared {
                    self.set.insert(&self.path);
                }
                self.path.pop();
                Ok(())
            }),
            View::List(items, list) => self.collect_items(items, list),
        }
    }

    fn collect_items(&mut self, items: &[Value], list: &dyn ListSchema) -> Result<(), String> {
        let mut count: BTreeMap<Element, usize> = BTreeMap::new();
        let elements: Vec<_> = items.iter().map(|item| self.element(list, item)).collect::<Result<_, _>>()?;
        for element in &elements {
            *count.entry(element.clone()).or_default() += 1;
        }
        for (element, item) in elements.into_iter().zip(items) {
            let is_single = count.get(&element) == Some(&1);
            self.path.push(element);
            if is_single {
                self.collect(list.item(), item)?;
            }
            self.set.insert(&self.path);
            self.path.pop();
        }
        Ok(())
    }

    fn element(&self, list: &dyn ListSchema, item: &Value) -> Result<Element, String> {
        element(list, item).map_err(|why| format!("{}: {why}", path_text(&self.path)))
    }
}

/// What changed between two values.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Comparison {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

/// What became of a value itself, apart from what is in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Added,
    Modified,
    Removed,
}

/// Why two values cannot be compared: where, and what is wrong there.
type Incomparable = (String, String);

impl Comparison {
    /// The same without what is below `ignored`.
    pub(super) fn without(mut self, ignored: &Set) -> Self {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            set.subtract(ignored, true);
        }
        self
    }

    /// Takes over what became of an element, and of what is in it.
    fn attach(&mut self, element: impl Fn() -> Element, change: Change, inner: Self) {
        let parts = [
            (&mut self.added, inner.added, Change::Added),
            (&mut self.modified, inner.modified, Change::Modified),
            (&mut self.removed, inner.removed, Change::Removed),
        ];
        for (set, inner, own) in parts {
            if change == own {
                set.members.insert(element());
            }
            if !(inner.members.is_empty() && inner.children.is_empty()) {
                set.children.insert(element(), inner);
            }
        }
    }
}

/// Compares two values.
///
/// # Errors
/// A list's item cannot be told apart.
pub(super) fn compare(schema: Schema<'_>, old: &Value, new: &Value) -> Result<Comparison, String> {
    let mut out = Comparison::default();
    // Nobody owns the whole, so that what became of it does not matter.
    compare_values(schema, Some(old), Some(new), &mut out).map_err(|(path, why)| format!("{path}: {why}"))?;
    Ok(out)
}

fn change_of(old: Option<&Value>, new: Option<&Value>) -> Change {
    match (old, new) {
        (None, _) => Change::Added,
        (_, None) => Change::Removed,
        (Some(old), Some(new)) if old != new => Change::Modified,
        _ => Change::None,
    }
}

fn compare_values(
    schema: Schema<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    out: &mut Comparison,
) -> Result<Change, Incomparable> {
    // An absent side takes the form of the other.
    let (as_old, as_new) = match schema {
        Schema::Deduced => (old.or(new), new.or(old)),
        _ => (old, new),
    };
    match (view(schema, as_old), view(schema, as_new)) {
        (View::Map(left, schema), View::Map(right, _)) => {
            let left = if old.is_some() { left } else { None };
            let right = if new.is_some() { right } else { None };
            if left.is_none_or(Map::is_empty) && right.is_none_or(Map::is_empty) {
                return Ok(change_of(old, new));
            }
            compare_maps(schema, left, right, out)?;
        }
        (View::List(left, list), View::List(right, _)) => {
            if left.is_empty() && right.is_empty() {
                return Ok(change_of(old, new));
            }
            compare_lists(list, left, right, out)?;
        }
        _ => return Ok(change_of(old, new)),
    }
    Ok(match (old, new) {
        (None, _) => Change::Added,
        (_, None) => Change::Removed,
        _ => Change::None,
    })
}

fn compare_maps(
    schema: Schema<'_>,
    old: Option<&Map>,
    new: Option<&Map>,
    out: &mut Comparison,
) -> Result<(), Incomparable> {
    let old_names = old.into_iter().flatten().map(|(name, _)| name);
    let new_names = new.into_iter().flatten().map(|(name, _)| name);
    let added = new_names.filter(|name| old.is_none_or(|old| !old.contains_key(*name)));
    for name in old_names.chain(added) {
        let (left, right) = (get(old, name), get(new, name));
        if left == right {
            continue;
        }
        let mut inner = Comparison::default();
        let change = compare_values(schema.field(name), left, right, &mut inner);
        let change = change.map_err(|(path, why)| (format!(".{name}{path}"), why))?;
        out.attach(|| Element::field(name), change, inner);
    }
    Ok(())
}

fn compare_lists(
    list: &dyn ListSchema,
    old: &[Value],
    new: &[Value],
    out: &mut Comparison,
) -> Result<(), Incomparable> {
    let mut items: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    let here = |why: String| (String::new(), why);
    for item in old {
        items.entry(element(list, item).map_err(here)?).or_default().0.push(item);
    }
    for item in new {
        items.entry(element(list, item).map_err(here)?).or_default().1.push(item);
    }
    for (element, (left, right)) in items {
        let mut inner = Comparison::default();
        let change = if left.len() <= 1 && right.len() <= 1 {
            let change = compare_values(list.item(), left.first().copied(), right.first().copied(), &mut inner);
            change.map_err(|(path, why)| (format!("{element}{path}"), why))?
        } else if left == right {
            Change::None
        } else {
            // Items that are there several times are compared as a whole.
            match (left.is_empty(), right.is_empty()) {
                (true, _) => Change::Added,
                (_, true) => Change::Removed,
                _ => Change::Modified,
            }
        };
        out.attach(|| element.clone(), change, inner);
    }
    Ok(())
}

fn get<'v>(map: Option<&'v Map>, name: &str) -> Option<&'v Value> {
    map.and_then(|map| map.get(name))
}

/// Merges what is applied into what is there.
///
/// # Errors
/// A list's item cannot be told apart, or is applied twice.
pub(super) fn merge(
    schema: Schema<'_>,
    live: Option<&Value>,
    applied: Option<&Value>,
) -> Result<Option<Value>, String> {
    let keep_applied = || applied.or(live).cloned();
    match (view(schema, live.or(applied)), view(schema, applied.or(live))) {
        (View::Map(left, schema), View::Map(right, _)) => {
            let left = if live.is_some() { left } else { None };
            let right = if applied.is_some() { right } else { None };
            if left.is_none_or(Map::is_empty) && right.is_none_or(Map::is_empty) {
                return Ok(keep_applied());
            }
            let mut out = Map::new();
            let names = left.into_iter().flatten().chain(right.into_iter().flatten()).map(|(name, _)| name);
            for name in names {
                if out.contains_key(name) {
                    continue;
                }
                let (left, right) = (get(left, name), get(right, name));
                let merged = merge(schema.field(name), left, right);
                if let Some(merged) = merged.map_err(|why| format!(".{name}{why}"))? {
                    out.insert(name.clone(), merged);
                }
            }
            Ok((!out.is_empty()).then_some(Value::Object(out)))
        }
        (View::List(left, list), View::List(right, _)) => {
            let left = if live.is_some() { left } else { &[] };
            let right = if applied.is_some() { right } else { &[] };
            if left.is_empty() && right.is_empty() {
                return Ok(keep_applied());
            }
            let merged = merge_lists(list, left, right)?;
            Ok((!merged.is_empty()).then_some(Value::Array(merged)))
        }
        _ => Ok(keep_applied()),
    }
}

/// Merges lists: applied items in their own order, and items that are only live kept before those that they preceded.
fn merge_lists(list: &dyn ListSchema, live: &[Value], applied: &[Value]) -> Result<Vec<Value>, String> {
    let elements = |items: &[Value]| -> Result<Vec<Element>, String> {
        items.iter().map(|item| element(list, item).map_err(|why| format!(": {why}"))).collect()
    };
    let (left, right) = (elements(live)?, elements(applied)?);
    for (index, element) in right.iter().enumerate() {
        if right[..index].contains(element) {
            return Err(format!(": duplicate entries for key {element}"));
        }
    }
    let place = |all: &[Element], one: &Element| all.iter().position(|other| other == one);
    let merged = |left_item: Option<&Value>, right_item: Option<&Value>, element: &Element| {
        merge(list.item(), left_item, right_item).map_err(|why| format!("{element}{why}"))
    };
    let mut shared = right.iter().filter(|element| left.contains(element)).peekable();
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let mut done: Vec<&Element> = Vec::new();
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            if left[l] == right[r] {
                done.push(&right[r]);
                out.extend(merged(Some(&live[l]), Some(&applied[r]), &right[r])?);
                (l, r) = (l + 1, r + 1);
                shared.next();
                continue;
            }
            if right.contains(&left[l]) && shared.peek().is_some_and(|next| **next != left[l]) {
                // It is applied too, but its turn comes later.
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            if !right.contains(&left[l]) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if done.contains(&&left[l]) {
                l += 1;
            }
        }
        if r < right.len() {
            let twin = place(&left, &right[r]).map(|index| &live[index]);
            out.extend(merged(twin, Some(&applied[r]), &right[r])?);
            done.push(&right[r]);
            if shared.peek().is_some_and(|next| **next == right[r]) {
                shared.next();
            }
            r += 1;
        }
    }
    Ok(out)
}

/// Takes fields away; containers that become empty stay, unless they are taken away themselves.
pub(super) fn remove(schema: Schema<'_>, value: Value, removed: &Set) -> Value {
    match value {
        Value::Object(map) if matches!(schema, Schema::Map(_) | Schema::Deduced) => {
            let mut out = Map::new();
            for (name, value) in map {
                let element = Element::field(&name);
                if removed.members.contains(&element) {
                    continue;
                }
                let value = match removed.children.get(&element) {
                    Some(inner) => remove(schema.field(&name), value, inner),
                    None => value,
                };
                out.insert(name, value);
            }
            Value::Object(out)
        }
        Value::Array(items) => match schema {
            Schema::List(list) => Value::Array(remove_items(list, items, removed)),
            _ => Value::Array(items),
        },
        other => other,
    }
}

fn remove_items(list: &dyn ListSchema, items: Vec<Value>, removed: &Set) -> Vec<Value> {
    let kept = items.into_iter().filter_map(|item| {
        let Ok(element) = element(list, &item) else { return Some(item) };
        if removed.members.contains(&element) {
            return None;
        }
        Some(match removed.children.get(&element) {
            Some(inner) => remove(list.item(), item, inner),
            None => item,
        })
    });
    kept.collect()
}
