//! Discovery in one document: `APIGroupDiscoveryList`.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use skiff_kinds::ResourceDef;

use super::subresource_facts;
use crate::aggregation::remote::Remote;
use crate::aggregation::{self, Group};
use crate::storage::catalogue::Snapshot;

/// The document of the core group, or of all others.
pub fn document(snapshot: &Snapshot, remotes: &[Arc<Remote>], core: bool) -> Value {
    let items: Vec<Value> = if core {
        let versions = snapshot.versions("").into_iter().map(|version| own_version(snapshot, "", version));
        vec![json!({"metadata": {}, "versions": versions.collect::<Vec<_>>()})]
    } else {
        aggregation::groups(snapshot, remotes).iter().map(|group| group_tree(snapshot, group)).collect()
    };
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn group_tree(snapshot: &Snapshot, group: &Group<'_>) -> Value {
    let versions = group.versions.iter().map(|version| match version.remote {
        Some(remote) => remote.told.lock().version(version.name),
        None => own_version(snapshot, group.name, version.name),
    });
    json!({"metadata": {"name": group.name}, "versions": versions.collect::<Vec<_>>()})
}

fn own_version(snapshot: &Snapshot, group: &str, version: &str) -> Value {
    let served = snapshot.ordered.iter().filter(|served| served.def.group == group && served.def.version == version);
    let resources: Vec<Value> = served.map(|served| resource(&served.def)).collect();
    json!({"version": version, "freshness": "Current", "resources": resources})
}

fn response_kind(def: &ResourceDef, kind: Option<(&str, &str, &str)>) -> Value {
    let (group, version, kind) = kind.unwrap_or((&def.group, &def.version, &def.kind));
    // Clients take the resource's own group and version where none are given.
    let own = group == def.group && version == def.version;
    let (group, version) = if own { ("", "") } else { (group, version) };
    json!({"group": group, "version": version, "kind": kind})
}

fn resource(def: &ResourceDef) -> Value {
    let mut tree = Map::new();
    tree.insert("resource".into(), json!(def.plural));
    tree.insert("responseKind".into(), response_kind(def, None));
    tree.insert("scope".into(), json!(if def.is_namespaced() { "Namespaced" } else { "Cluster" }));
    tree.insert("singularResource".into(), json!(def.singular));
    tree.insert("verbs".into(), json!(def.verbs));
    if !def.short_names.is_empty() {
        tree.insert("shortNames".into(), json!(def.short_names));
    }
    if !def.categories.is_empty() {
        tree.insert("categories".into(), json!(def.categories));
    }
    let subresources: Vec<Value> = def
        .subresources
        .iter()
        .map(|subresource| {
            let (verbs, kind) = subresource_facts(subresource);
            json!({"subresource": subresource.name(), "responseKind": response_kind(def, kind), "verbs": verbs})
        })
        .collect();
    if !subresources.is_empty() {
        tree.insert("subresources".into(), subresources.into());
    }
    Value::Object(tree)
}
