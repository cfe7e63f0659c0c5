//! Who owns what of an object that is made: one manager owns all that is not in every such object. What comes out is what
//! comparing with a blank object gives, but it is written down at once, without a set of fields in between: most writes
//! of objects that come and go, as Pods do, are creations.

use std::collections::BTreeMap;

use serde_json::Value;

use super::schema::{ListSchema, Schema, View, element, view};
use super::set::{Element, Set};
use crate::Map;

/// What nobody can own here.
#[derive(Clone, Copy)]
pub(super) struct Unowned<'s> {
    /// Neither these fields nor what is below them.
    pub(super) whole: Option<&'s Set>,
    /// Not these fields themselves.
    pub(super) themselves: Option<&'s Set>,
}

/// What becomes of an element that is new or another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Owned,
    /// It is nobody's, but what is below it may be owned.
    Passed,
    /// Neither it nor what is below it; all that matters is whether it is well formed.
    Dropped,
}

impl<'s> Unowned<'s> {
    /// What becomes of the element itself, and what is nobody's below it.
    fn at(self, element: impl Fn() -> Element) -> (Fate, Self) {
        if self.whole.is_none() && self.themselves.is_none() {
            return (Fate::Owned, self);
        }
        let element = element();
        let is_in = |set: Option<&Set>| set.is_some_and(|set| set.members.contains(&element));
        let fate = match (is_in(self.whole), is_in(self.themselves)) {
            (true, _) => Fate::Dropped,
            (_, true) => Fate::Passed,
            _ => Fate::Owned,
        };
        let below = |set: Option<&'s Set>| set.and_then(|set| set.children.get(&element));
        (fate, Self { whole: below(self.whole), themselves: below(self.themselves) })
    }
}

/// What is in a new object beyond a blank one, as `FieldsV1`.
///
/// # Errors
/// A list's item cannot be told apart.
pub(super) fn fields(schema: Schema<'_>, blank: &Value, new: &Value, unowned: Unowned<'_>) -> Result<Map, String> {
    let mut out = Map::new();
    // Nobody owns the whole.
    fields_of(schema, Some(blank), new, unowned, &mut out)?;
    Ok(out)
}

/// Adds what is in a value beyond `old`; tells whether the value itself is new or another.
fn fields_of(
    schema: Schema<'_>,
    old: Option<&Value>,
    new: &Value,
    unowned: Unowned<'_>,
    out: &mut Map,
) -> Result<bool, String> {
    // An absent side takes the form of the other.
    let as_old = if let Schema::Deduced = schema { old.or(Some(new)) } else { old };
    match (view(schema, as_old), view(schema, Some(new))) {
        (View::Map(left, schema), View::Map(right, _)) => {
            let left = left.filter(|left| old.is_some() && !left.is_empty());
            let Some(right) = right.filter(|right| !right.is_empty()) else {
                return Ok(if left.is_some() { false } else { old != Some(new) });
            };
            for (name, value) in right {
                let before = left.and_then(|left| left.get(name));
                if before == Some(value) {
                    continue;
                }
                let (fate, below) = unowned.at(|| Element::field(name));
                let mut inner = Map::new();
                let is_other = fields_of(schema.field(name), before, value, below, &mut inner)?;
                attach(out, || ["f:", name].concat(), fate, is_other, inner);
            }
        }
        (View::List(left, list), View::List(right, _)) => {
            if left.is_empty() && right.is_empty() {
                return Ok(old != Some(new));
            }
            items_of(list, left, right, unowned, out)?;
        }
        _ => return Ok(old != Some(new)),
    }
    Ok(old.is_none())
}

fn items_of(
    list: &dyn ListSchema,
    old: &[Value],
    new: &[Value],
    unowned: Unowned<'_>,
    out: &mut Map,
) -> Result<(), String> {
    let mut items: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for item in old {
        items.entry(element(list, item)?).or_default().0.push(item);
    }
    for item in new {
        items.entry(element(list, item)?).or_default().1.push(item);
    }
    for (element, (left, right)) in items {
        let (fate, below) = unowned.at(|| element.clone());
        let mut inner = Map::new();
        let is_other = match (left.as_slice(), right.as_slice()) {
            ([] | [_], [item]) => fields_of(list.item(), left.first().copied(), item, below, &mut inner)?,
            // Items that are there several times are compared as a whole.
            (left, right) => !right.is_empty() && left != right,
        };
        attach(out, || element.encode(), fate, is_other, inner);
    }
    Ok(())
}

/// Writes down an element that is owned itself, or of which something is.
fn attach(out: &mut Map, name: impl Fn() -> String, fate: Fate, is_other: bool, mut inner: Map) {
    if fate == Fate::Dropped {
        return;
    }
    let is_own = is_other && fate == Fate::Owned;
    if is_own && !inner.is_empty() {
        inner.insert(".".to_owned(), Value::Object(Map::new()));
    }
    if is_own || !inner.is_empty() {
        out.insert(name(), Value::Object(inner));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{MapSchema, ignored_fields, unowned, walk};
    use super::*;

    /// An object with a list of named items, a set, and what is owned as a whole.
    struct Kind;
    /// Its items, which have a set of their own.
    struct Items;
    struct Words;

    impl MapSchema for Kind {
        fn is_declared(&self, _: &str) -> bool {
            true
        }

        fn is_closed(&self) -> bool {
            true
        }

        fn field(&self, name: &str) -> Schema<'_> {
            match name {
                "metadata" | "spec" | "status" => Schema::Map(&Kind),
                "items" => Schema::List(&Items),
                "words" => Schema::List(&Words),
                "whole" => Schema::Atomic,
                "any" | "labels" => Schema::Deduced,
                _ => Schema::Scalar,
            }
        }
    }

    impl ListSchema for Items {
        fn keys(&self) -> Vec<&str> {
            vec!["name"]
        }

        fn key_default(&self, _: &str) -> Option<Value> {
            None
        }

        fn item(&self) -> Schema<'_> {
            Schema::Map(&Kind)
        }
    }

    impl ListSchema for Words {
        fn keys(&self) -> Vec<&str> {
            Vec::new()
        }

        fn key_default(&self, _: &str) -> Option<Value> {
            None
        }

        fn item(&self) -> Schema<'_> {
            Schema::Scalar
        }
    }

    /// The same by way of sets.
    fn compared(blank: &Value, new: &Value, ignored: &Set) -> Result<Value, String> {
        let changes = walk::compare(Schema::Map(&Kind), blank, new)?.without(ignored);
        let mut owned = changes.modified;
        owned.extend(changes.added);
        owned.subtract(ignored, true);
        owned.subtract(unowned(), false);
        Ok(owned.encode())
    }

    #[test]
    fn fields_are_those_that_a_comparison_with_a_blank_object_finds() {
        let blank = json!({"metadata": {"creationTimestamp": null}, "spec": {"items": null, "x": 0, "any": {"a": 1}},
            "status": {"items": [], "words": ["w"]}});
        let parts = [
            json!(null),
            json!({}),
            json!({"x": 0}),
            json!({"x": 1, "any": {"a": 1, "b": [1, {"c": 2}], "d": {}, "e": null, "f": {"g": {"h": "i"}}}}),
            json!({"items": [{"name": "a", "x": 1}, {"name": "b"}, {"name": "a", "x": 2}], "words": ["w", "v", "v"]}),
            json!({"items": [{"name": "a", "items": [{"name": "c", "words": []}], "whole": {"x": 1}}], "words": []}),
            json!({"items": [], "whole": [1], "any": [], "labels": {"app": "x"}}),
            json!({"items": [{"x": 1}]}),
            json!({"items": null, "words": null, "any": null}),
        ];
        let metadata = json!({"name": "n", "uid": "u", "labels": {"a": "b"}, "annotations": {}, "generation": 1});
        let ignored = [ignored_fields(true, "", &[""; 0]), ignored_fields(true, "status", &["labels"]), Set::default()];
        for (spec, status) in parts.iter().flat_map(|spec| parts.iter().map(move |status| (spec, status))) {
            let new = json!({"kind": "K", "metadata": metadata, "spec": spec, "status": status, "words": ["z"]});
            for ignored in &ignored {
                let unowned = Unowned { whole: Some(ignored), themselves: Some(unowned()) };
                let found = fields(Schema::Map(&Kind), &blank, &new, unowned).map(Value::Object);
                assert_eq!(found.is_err(), compared(&blank, &new, ignored).is_err(), "{new}");
                if let Ok(found) = found {
                    assert_eq!(Ok(found), compared(&blank, &new, ignored), "{new}");
                }
            }
        }
    }
}
