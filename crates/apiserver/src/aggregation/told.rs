//! What another server says of itself, for discovery and the OpenAPI documents: read here, and joined to what this server
//! says. Pure but for the asking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use skiff_object::meta::Meta;

use super::remote::Remote;

/// Asks for discovery in one document, or else for the list of groups.
pub const ACCEPT_DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// What a server says of itself.
#[derive(Default, Clone)]
pub struct Told {
    /// Its group and version in discovery, as it was when it could last be asked.
    pub resources: Option<Arc<Vec<Value>>>,
    /// Whether it could be asked the last time.
    pub is_fresh: bool,
    /// What its OpenAPI v2 document says of the group and version.
    pub v2: Option<Arc<Value>>,
    /// The fingerprint of its OpenAPI v3 document of the group and version, where it has one.
    pub v3: Option<String>,
    /// Changes whenever anything of this does.
    pub fingerprint: u64,
}

impl Told {
    /// The same with its fingerprint.
    pub fn printed(mut self) -> Self {
        let all = json!([self.resources, self.is_fresh, self.v2, self.v3]).to_string();
        let print = digest(&SHA256, all.as_bytes());
        self.fingerprint = print.as_ref().iter().take(8).fold(0, |print, byte| (print << 8) | u64::from(*byte));
        self
    }

    /// The version in the document that tells of everything at once.
    pub fn version(&self, version: &str) -> Value {
        let freshness = if self.is_fresh { "Current" } else { "Stale" };
        let mut told = json!({"version": version, "freshness": freshness});
        if let Some(resources) = &self.resources {
            told["resources"] = resources.as_slice().into();
        }
        told
    }
}

/// The resources of a group and version in a server's whole discovery document.
pub fn in_aggregated(document: &Value, remote: &Remote) -> Option<Vec<Value>> {
    if document.str_at(&["kind"]) != "APIGroupDiscoveryList" {
        return None;
    }
    let groups = document.list_at(&["items"]);
    let group = groups.iter().find(|group| group.str_at(&["metadata", "name"]) == remote.group)?;
    let versions = group.list_at(&["versions"]);
    let version = versions.iter().find(|version| version.str_at(&["version"]) == remote.version)?;
    Some(version.list_at(&["resources"]).to_vec())
}

/// The same of an older server's `APIResourceList`.
pub fn of_resource_list(list: &Value, remote: &Remote) -> Vec<Value> {
    let resources = list.list_at(&["resources"]);
    let kind_of = |resource: &Value| {
        let or = |field: &str, own: &str| match resource.str_at(&[field]) {
            "" => own.to_owned(),
            given => given.to_owned(),
        };
        json!({"group": or("group", &remote.group), "version": or("version", &remote.version),
            "kind": resource.str_at(&["kind"])})
    };
    let mut found: Vec<Value> = Vec::new();
    for resource in resources.iter().filter(|resource| !resource.str_at(&["name"]).contains('/')) {
        let mut tree = Map::new();
        tree.insert("resource".into(), resource["name"].clone());
        tree.insert("responseKind".into(), kind_of(resource));
        let scope = if resource.bool_at(&["namespaced"]) { "Namespaced" } else { "Cluster" };
        tree.insert("scope".into(), scope.into());
        tree.insert("singularResource".into(), resource.str_at(&["singularName"]).into());
        tree.insert("verbs".into(), resource.list_at(&["verbs"]).into());
        for list in ["shortNames", "categories"] {
            if !resource.list_at(&[list]).is_empty() {
                tree.insert(list.into(), resource[list].clone());
            }
        }
        found.push(Value::Object(tree));
    }
    for resource in resources {
        let Some((parent, name)) = resource.str_at(&["name"]).split_once('/') else { continue };
        let Some(parent) = found.iter_mut().find(|found| found.str_at(&["resource"]) == parent) else { continue };
        let told = json!({"subresource": name, "responseKind": kind_of(resource), "verbs": resource["verbs"]});
        match parent.get_mut("subresources").and_then(Value::as_array_mut) {
            Some(subresources) => subresources.push(told),
            None => parent["subresources"] = json!([told]),
        }
    }
    found
}

/// The fingerprint of a document in a server's list of OpenAPI v3 documents; where it names none, that of the place.
pub fn v3_fingerprint(index: &Value, remote: &Remote) -> Option<String> {
    let place = index.at(&["paths", remote.path().trim_start_matches('/')])?.str_at(&["serverRelativeURL"]);
    Some(place.split_once("hash=").map_or(place, |(_, hash)| hash).to_owned())
}

/// What an OpenAPI v2 document says of a group and version: its paths, and the definitions that they lead to.
pub fn part_of_v2(document: &Value, remote: &Remote) -> Value {
    let root = remote.path();
    let belongs = |path: &str| path.strip_prefix(&root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let paths: Map<String, Value> = document
        .map_at(&["paths"])
        .into_iter()
        .flatten()
        .filter(|(path, _)| belongs(path))
        .map(|(path, item)| (path.clone(), item.clone()))
        .collect();
    let mut needed = BTreeSet::new();
    let mut waiting: Vec<String> = paths.values().flat_map(references).collect();
    while let Some(name) = waiting.pop() {
        if let Some(definition) = document.at(&["definitions", &name])
            && needed.insert(name)
        {
            waiting.extend(references(definition));
        }
    }
    let definitions: Map<String, Value> =
        needed.into_iter().map(|name| (name.clone(), document["definitions"][&name].clone())).collect();
    json!({"paths": paths, "definitions": definitions})
}

const REFERENCE: &str = "#/definitions/";

/// The definitions that a tree refers to.
fn references(tree: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![tree];
    while let Some(node) = waiting.pop() {
        match node {
            Value::Object(fields) => {
                let name = fields.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(REFERENCE));
                found.extend(name.map(str::to_owned));
                waiting.extend(fields.values());
            }
            Value::Array(items) => waiting.extend(items),
            _ => {}
        }
    }
    found
}

/// Adds a part to a document. A definition that says something else under a name that is taken gets another name, as by
/// upstream.
pub fn add_v2(document: &mut Value, part: &Value) {
    let mut renamed = BTreeMap::new();
    for (name, definition) in part.map_at(&["definitions"]).into_iter().flatten() {
        let taken = |name: &str| document.at(&["definitions", name]).is_some_and(|own| own != definition);
        if taken(name) {
            let free = (2..).map(|number| format!("{name}_v{number}")).find(|name| !taken(name));
            renamed.insert(name.clone(), free.unwrap_or_default());
        }
    }
    for field in ["definitions", "paths"] {
        let Some(own) = document.get_mut(field).and_then(Value::as_object_mut) else { continue };
        for (name, tree) in part.map_at(&[field]).into_iter().flatten() {
            let mut tree = tree.clone();
            rename(&mut tree, &renamed);
            let name = renamed.get(name).filter(|_| field == "definitions").unwrap_or(name);
            own.entry(name.clone()).or_insert(tree);
        }
    }
}

fn rename(tree: &mut Value, names: &BTreeMap<String, String>) {
    match tree {
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get_mut("$ref")
                && let Some(new) = text.strip_prefix(REFERENCE).and_then(|name| names.get(name))
            {
                *text = format!("{REFERENCE}{new}");
            }
            fields.values_mut().for_each(|node| rename(node, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|node| rename(node, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> Remote {
        let object = json!({"metadata": {"name": "v1.a.io"}, "spec": {"group": "a.io", "version": "v1",
            "service": {"namespace": "n", "name": "s"}}});
        Remote::of(&object, None).expect("it has a service")
    }

    #[test]
    fn an_older_servers_list_reads_as_the_newer_document() {
        let list = json!({"resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"],
                "shortNames": ["th"]},
            {"name": "things/status", "kind": "Thing", "verbs": ["update"]},
            {"name": "things/scale", "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]}]});
        let kind = |group: &str, kind: &str| json!({"group": group, "version": "v1", "kind": kind});
        let expected = json!({"resource": "things", "responseKind": kind("a.io", "Thing"), "scope": "Namespaced",
            "singularResource": "thing", "verbs": ["get"], "shortNames": ["th"], "subresources": [
                {"subresource": "status", "responseKind": kind("a.io", "Thing"), "verbs": ["update"]},
                {"subresource": "scale", "responseKind": kind("autoscaling", "Scale"), "verbs": ["get"]}]});
        assert_eq!(of_resource_list(&list, &remote()), std::slice::from_ref(&expected));
        let whole = json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": "a.io"},
            "versions": [{"version": "v1", "resources": [expected]}]}]});
        assert_eq!(in_aggregated(&whole, &remote()), Some(vec![expected]));
        assert_eq!(in_aggregated(&json!({"kind": "APIGroupList"}), &remote()), None);
    }

    #[test]
    fn documents_are_joined_without_losing_a_definition() {
        let reference = |name: &str| json!({"schema": {"$ref": format!("#/definitions/{name}")}});
        let theirs = json!({
            "paths": {"/apis/a.io/v1/": reference("T"), "/apis/a.io/v11/": {}, "/version": {}},
            "definitions": {"T": {"properties": {"m": {"$ref": "#/definitions/Meta"}}}, "Meta": {"type": "object"},
                "Other": {}}});
        let part = part_of_v2(&theirs, &remote());
        assert_eq!(part["paths"].as_object().expect("paths").len(), 1);
        assert_eq!(part["definitions"].as_object().expect("definitions").len(), 2);
        let mut ours = json!({"paths": {}, "definitions": {"Meta": {"type": "string"}}});
        add_v2(&mut ours, &part);
        let expected = json!({"paths": {"/apis/a.io/v1/": reference("T")}, "definitions": {
            "Meta": {"type": "string"}, "Meta_v2": {"type": "object"},
            "T": {"properties": {"m": {"$ref": "#/definitions/Meta_v2"}}}}});
        assert_eq!(ours, expected);
        let index = json!({"paths": {"apis/a.io/v1": {"serverRelativeURL": "/openapi/v3/apis/a.io/v1?hash=AB"}}});
        assert_eq!(v3_fingerprint(&index, &remote()).as_deref(), Some("AB"));
        assert_eq!(v3_fingerprint(&json!({}), &remote()), None);
    }
}
