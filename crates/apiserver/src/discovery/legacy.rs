//! Discovery group by group and version by version: `APIVersions`, `APIGroupList`, `APIGroup`, `APIResourceList`,
//! with their fields in upstream's order.

use std::net::SocketAddr;

use serde::Serialize;
use skiff_kinds::ResourceDef;

use super::subresource_facts;
use crate::aggregation;
use crate::storage::catalogue::Snapshot;

/// `/api`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    kind: &'static str,
    versions: [&'static str; 1],
    #[serde(rename = "serverAddressByClientCIDRs")]
    server_addresses: [ServerAddress; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerAddress {
    #[serde(rename = "clientCIDR")]
    client_cidr: &'static str,
    server_address: String,
}

/// `/apis`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupList<'a> {
    kind: &'static str,
    api_version: &'static str,
    groups: Vec<Group<'a>>,
}

/// `/apis/GROUP`, and an item of `/apis`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Group<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    name: &'a str,
    versions: Vec<Version<'a>>,
    preferred_version: Option<Version<'a>>,
}

#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Version<'a> {
    group_version: String,
    version: &'a str,
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceList<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    group_version: String,
    resources: Vec<Resource<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource<'a> {
    name: String,
    singular_name: &'a str,
    namespaced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    kind: &'a str,
    verbs: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    short_names: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    categories: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_version_hash: Option<String>,
}

/// `/api`.
pub fn core_versions(advertise: SocketAddr) -> Versions {
    let address = ServerAddress { client_cidr: "0.0.0.0/0", server_address: advertise.to_string() };
    Versions { kind: "APIVersions", versions: ["v1"], server_addresses: [address] }
}

/// `/apis`.
pub fn groups<'a>(groups: &[aggregation::Group<'a>]) -> GroupList<'a> {
    let groups = groups.iter().map(group_entry).collect();
    GroupList { kind: "APIGroupList", api_version: "v1", groups }
}

/// `/apis/GROUP`.
pub fn group<'a>(groups: &[aggregation::Group<'a>], name: &str) -> Option<Group<'a>> {
    let group = groups.iter().find(|group| group.name == name)?;
    Some(Group { kind: Some("APIGroup"), api_version: Some("v1"), ..group_entry(group) })
}

fn group_entry<'a>(group: &aggregation::Group<'a>) -> Group<'a> {
    let name = group.name;
    let version = |version: &'a str| Version { group_version: format!("{name}/{version}"), version };
    let versions: Vec<_> = group.versions.iter().map(|one| version(one.name)).collect();
    Group { kind: None, api_version: None, name, preferred_version: versions.first().cloned(), versions }
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub fn resources<'a>(snapshot: &'a Snapshot, group: &str, version: &str) -> Option<ResourceList<'a>> {
    let served = snapshot.ordered.iter().filter(|served| served.def.group == group && served.def.version == version);
    let resources: Vec<_> = served.flat_map(|served| entries(&served.def)).collect();
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let api_version = (!group.is_empty()).then_some("v1");
    Some(ResourceList { kind: "APIResourceList", api_version, group_version, resources })
}

fn entries(def: &ResourceDef) -> Vec<Resource<'_>> {
    let mut entries = vec![Resource {
        name: def.plural.to_string(),
        singular_name: &def.singular,
        namespaced: def.is_namespaced(),
        group: None,
        version: None,
        kind: &def.kind,
        verbs: def.verbs.iter().map(AsRef::as_ref).collect(),
        short_names: def.short_names.iter().map(AsRef::as_ref).collect(),
        categories: def.categories.iter().map(AsRef::as_ref).collect(),
        storage_version_hash: def.stored.then(|| storage_hash(def)),
    }];
    for subresource in def.subresources.iter() {
        let (verbs, kind) = subresource_facts(subresource);
        let (group, version, kind) = kind.unwrap_or((&def.group, &def.version, &def.kind));
        let foreign = group != def.group || version != def.version;
        entries.push(Resource {
            name: format!("{}/{}", def.plural, subresource.name()),
            singular_name: "",
            namespaced: def.is_namespaced(),
            group: foreign.then_some(group),
            version: foreign.then_some(version),
            kind,
            verbs,
            short_names: Vec::new(),
            categories: Vec::new(),
            storage_version_hash: None,
        });
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
