//! Discovery group by group and version by version: `APIVersions`, `APIGroupList`, `APIGroup`, `APIResourceList`.

use std::net::SocketAddr;

use serde_json::{Value, json};
use skiff_kinds::ResourceDef;

use super::subresource_facts;
use crate::storage::catalogue::Snapshot;

/// `/api`.
pub fn core_versions(advertise: SocketAddr) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": advertise.to_string()}]})
}

/// `/apis`.
pub fn groups(snapshot: &Snapshot) -> Value {
    let groups: Vec<_> = snapshot.groups().into_iter().map(|group| group_tree(snapshot, group)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub fn group(snapshot: &Snapshot, group: &str) -> Option<Value> {
    if snapshot.versions(group).is_empty() || group.is_empty() {
        return None;
    }
    let mut tree = group_tree(snapshot, group);
    tree["kind"] = "APIGroup".into();
    tree["apiVersion"] = "v1".into();
    Some(tree)
}

fn group_tree(snapshot: &Snapshot, group: &str) -> Value {
    let version = |version: &str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let versions: Vec<_> = snapshot.versions(group).into_iter().map(version).collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub fn resources(snapshot: &Snapshot, group: &str, version: &str) -> Option<Value> {
    let served = snapshot.ordered.iter().filter(|served| served.def.group == group && served.def.version == version);
    let resources: Vec<Value> = served.flat_map(|served| entries(&served.def)).collect();
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut tree = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources});
    if !group.is_empty() {
        tree["apiVersion"] = "v1".into();
    }
    Some(tree)
}

fn entries(def: &ResourceDef) -> Vec<Value> {
    let mut own = json!({"name": def.plural, "singularName": def.singular, "namespaced": def.is_namespaced(),
        "kind": def.kind, "verbs": def.verbs});
    if !def.short_names.is_empty() {
        own["shortNames"] = json!(def.short_names);
    }
    if !def.categories.is_empty() {
        own["categories"] = json!(def.categories);
    }
    if def.stored {
        own["storageVersionHash"] = storage_hash(def).into();
    }
    let mut entries = vec![own];
    for subresource in def.subresources.iter() {
        let (verbs, kind) = subresource_facts(subresource);
        let mut entry = json!({"name": format!("{}/{}", def.plural, subresource.name()), "singularName": "",
            "namespaced": def.is_namespaced(), "kind": def.kind, "verbs": verbs});
        if let Some((group, version, kind)) = kind {
            entry["kind"] = kind.into();
            if group != def.group || version != def.version {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
        }
        entries.push(entry);
    }
    entries
}

/// Tells clients when the storage changed its version; they only compare it.
fn storage_hash(def: &ResourceDef) -> String {
    use base64::Engine;
    let (group, version) = def.storage.clone().unwrap_or_else(|| (def.group.clone(), def.version.clone()));
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{group}/{version}/{}", def.kind).as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&digest.as_ref()[..8])
}
