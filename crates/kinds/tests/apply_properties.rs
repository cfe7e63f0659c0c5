//! What holds of every apply and every patch, whatever is applied: tried on Deployments drawn by chance.

use std::collections::BTreeMap;

use proptest::collection::btree_map;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};
use skiff_kinds::by_kind;
use skiff_kinds::decode::blank;
use skiff_kinds::schema::{Definition, apply::of_definition, definition};
use skiff_object::apply::{Write, apply, ignored_fields, track};
use skiff_object::meta::Meta;
use skiff_object::patch::{merge_patch, strategic_merge};
use skiff_object::{GroupVersionKind, Object};

fn schema() -> &'static Definition {
    definition("io.k8s.api.apps.v1.Deployment").expect("it is in the facts")
}

fn with_write<T>(manager: &str, now: &str, act: impl FnOnce(&Write<'_>) -> T) -> T {
    let def = by_kind(&GroupVersionKind::new("apps", "v1", "Deployment")).expect("it is in the catalogue");
    let (blank, ignored) = (blank(def), ignored_fields(true, "", &def.status_keeps));
    act(&Write {
        manager,
        subresource: "",
        api_version: "apps/v1",
        now,
        schema: of_definition(schema()),
        blank: &blank,
        ignored: &ignored,
        versions: Some(def),
    })
}

fn applied(live: Option<&Object>, config: &Object, manager: &str, now: &str) -> Object {
    with_write(manager, now, |write| apply(live, config, write, true)).expect("forced applies go through")
}

/// What is in an object but for its owners: without what is empty, and lists by the names of their items.
fn content(object: &Object) -> Value {
    let mut object = object.clone();
    object.remove_at(&["metadata", "managedFields"]);
    plain(object)
}

fn plain(value: Value) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        other => other.is_null(),
    };
    match value {
        Value::Object(map) => {
            let fields = map.into_iter().map(|(name, value)| (name, plain(value)));
            Value::Object(fields.filter(|(_, value)| !is_empty(value)).collect())
        }
        Value::Array(items) => {
            let mut items: Vec<_> = items.into_iter().map(plain).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        other => other,
    }
}

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn words() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(word(), word(), 0..3)
}

fn container() -> impl Strategy<Value = Value> {
    let ports = btree_map(80..83i64, option::of(prop::sample::select(vec!["TCP", "UDP"])), 0..3);
    (option::of(word()), words(), ports, option::of(prop::collection::vec(word(), 0..3))).prop_map(
        |(image, env, ports, args)| {
            let mut container = json!({});
            if let Some(image) = image {
                container["image"] = json!(image);
            }
            if !env.is_empty() {
                container["env"] = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            }
            if !ports.is_empty() {
                let port = |(port, protocol): (&i64, &Option<&str>)| match protocol {
                    Some(protocol) => json!({"containerPort": port, "protocol": protocol}),
                    None => json!({"containerPort": port}),
                };
                container["ports"] = ports.iter().map(port).collect();
            }
            if let Some(args) = args {
                container["args"] = json!(args);
            }
            container
        },
    )
}

fn config() -> impl Strategy<Value = Object> {
    (words(), option::of(0..3i64), btree_map(word(), container(), 0..3), btree_map(word(), Just(()), 0..3)).prop_map(
        |(labels, replicas, containers, finalizers)| {
            let mut config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
            if !labels.is_empty() {
                config.set_at(&["metadata", "labels"], json!(labels));
            }
            if !finalizers.is_empty() {
                let all: Vec<_> = finalizers.keys().map(|name| format!("x/{name}")).collect();
                config.set_at(&["metadata", "finalizers"], json!(all));
            }
            if let Some(replicas) = replicas {
                config.set_at(&["spec", "replicas"], replicas);
            }
            if !containers.is_empty() {
                let named = containers.into_iter().map(|(name, mut container)| {
                    container["name"] = json!(name);
                    container
                });
                config.set_at(&["spec", "template", "spec", "containers"], named.collect::<Vec<_>>());
            }
            config
        },
    )
}

/// The merge patch that makes one tree of another.
fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = skiff_object::Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in to {
        match from.get(name) {
            Some(old) if old == value => {}
            Some(old) if old.is_object() => drop(patch.insert(name.clone(), difference(old, value))),
            _ => drop(patch.insert(name.clone(), value.clone())),
        }
    }
    Value::Object(patch)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn applying_again_changes_nothing(old in config(), new in config()) {
        let live = applied(None, &old, "a", "1");
        let once = applied(Some(&live), &new, "b", "2");
        prop_assert_eq!(&applied(Some(&once), &new, "b", "3"), &once);
    }

    #[test]
    fn what_its_only_manager_leaves_out_goes(old in config(), new in config()) {
        let changed = applied(Some(&applied(None, &old, "a", "1")), &new, "a", "2");
        prop_assert_eq!(content(&changed), content(&applied(None, &new, "a", "1")));
    }

    #[test]
    fn what_two_managers_share_stays_until_both_leave(first in config(), second in config()) {
        let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
        let both = applied(Some(&applied(None, &first, "a", "1")), &second, "b", "2");
        let one = applied(Some(&both), &nothing, "a", "3");
        prop_assert_eq!(content(&one), content(&applied(None, &second, "b", "1")));
        prop_assert_eq!(content(&applied(Some(&one), &nothing, "b", "4")), content(&nothing));
    }

    #[test]
    fn an_apply_without_conflicts_needs_no_force(first in config(), second in config()) {
        let live = applied(None, &first, "a", "1");
        let free = with_write("b", "2", |write| apply(Some(&live), &second, write, false));
        if let Ok(free) = free {
            prop_assert_eq!(free, applied(Some(&live), &second, "b", "2"));
        }
    }

    #[test]
    fn updates_own_what_they_change(old in config(), new in config()) {
        let update = |live: Option<&Object>, new: &Object, manager: &str| {
            let mut new = new.clone();
            with_write(manager, "2", |write| track(live, &mut new, write));
            new
        };
        let live = update(None, &old, "a");
        let changed = update(Some(&live), &new, "b");
        prop_assert_eq!(content(&changed), content(&new));
        // The same again is nobody's change.
        prop_assert_eq!(&update(Some(&changed), &changed, "c"), &changed);
    }

    #[test]
    fn merge_patches_lead_from_one_to_the_other(old in config(), new in config()) {
        prop_assert_eq!(merge_patch(old.clone(), difference(&old, &new)), new);
    }

    #[test]
    fn strategic_patches_may_be_repeated(old in config(), patch in config()) {
        let once = strategic_merge(old, patch.clone(), schema()).expect("it fits");
        prop_assert_eq!(&strategic_merge(once.clone(), patch, schema()).expect("it fits"), &once);
    }
}
