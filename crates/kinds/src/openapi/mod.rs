//! What the server serves, described as OpenAPI: one v3 document per group and version, and one v2 document for all.
//! Both are made from the catalogue and the type table when they are asked for; nothing of them is kept.
//! See <https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-interface-definition>.

pub mod gnostic;
mod operations;
mod render;
mod schemas;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use skiff_object::GroupVersion;

use crate::def::ResourceDef;
use crate::schema;
use operations::PathItem;
use schemas::Schemas;

/// Which version of OpenAPI is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Swagger 2.0
    V2,
    /// OpenAPI 3.0
    V3,
}

/// The list that `/openapi/v3` answers with: each group and version, and where its document of that fingerprint is.
pub fn v3_index(versions: &[(GroupVersion, String)], plain: &[(String, String)]) -> Value {
    let versions = versions.iter().map(|(version, hash)| (prefix(version).trim_start_matches('/').to_owned(), hash));
    let paths = versions.chain(plain.iter().map(|(name, hash)| (name.clone(), hash))).map(|(path, hash)| {
        let place = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")});
        (path, place)
    });
    json!({"paths": paths.collect::<Map<String, Value>>()})
}

/// The names of the documents of what is in no group's version, where these groups are served.
pub fn plain_names<'a>(groups: impl Iterator<Item = &'a str>) -> Vec<String> {
    let always = [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"];
    let groups = groups.filter(|group| !group.is_empty()).map(|group| format!("apis/{group}"));
    always.into_iter().map(str::to_owned).chain(groups).collect()
}

/// The document of that name; `None` where there is none such.
pub fn v3_plain_document(name: &str) -> Option<Value> {
    let mut schemas = Schemas::new(Dialect::V3);
    let paths = paths(&[operations::plain(name)?], Dialect::V3, &mut schemas);
    Some(v3_whole(paths, schemas.finish(&[])))
}

fn v3_whole(paths: Map<String, Value>, schemas: BTreeMap<String, Value>) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {
            "BearerToken": {"description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"},
        }},
    })
}

/// The document of one group and version; `None` where none of the kinds belongs to it.
pub fn v3_document(defs: &[&ResourceDef], version: &GroupVersion) -> Option<Value> {
    let defs = of_version(defs, version);
    if defs.is_empty() {
        return None;
    }
    let mut schemas = Schemas::new(Dialect::V3);
    let mut items = vec![operations::version_root(version)];
    items.extend(defs.iter().flat_map(|def| operations::of(def)));
    let paths = paths(&items, Dialect::V3, &mut schemas);
    Some(v3_whole(paths, schemas.finish(&defs)))
}

/// The one document of `/openapi/v2`.
pub fn v2_document(defs: &[&ResourceDef]) -> Value {
    let mut schemas = Schemas::new(Dialect::V2);
    let versions = versions(defs);
    let mut groups: Vec<&str> = versions.iter().map(|version| version.group.as_str()).collect();
    groups.dedup();
    let mut items: Vec<PathItem> =
        plain_names(groups.into_iter()).iter().filter_map(|name| operations::plain(name)).collect();
    items.extend(versions.iter().map(operations::version_root));
    items.extend(defs.iter().flat_map(|def| operations::of(def)));
    let paths = paths(&items, Dialect::V2, &mut schemas);
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": schemas.finish(defs),
        "securityDefinitions": {
            "BearerToken": {"description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"},
        },
        "security": [{"BearerToken": []}],
    })
}

/// A number that changes whenever what documents say of a kind would.
pub fn fingerprint_of(def: &ResourceDef) -> u64 {
    let mut hash = Fnv::default();
    for part in [&def.group, &def.version, &def.plural, &def.singular, &def.kind, &def.list_kind, &def.schema] {
        hash.add(part.as_bytes());
    }
    for list in [&def.verbs, &def.short_names, &def.categories] {
        hash.add(list.join(",").as_bytes());
    }
    hash.add(&[u8::from(def.is_namespaced())]);
    for subresource in def.subresources.iter() {
        hash.add(subresource.name().as_bytes());
    }
    if let Some(schema) = &def.inline_schema {
        hash.add(schema.to_string().as_bytes());
        def.selectable.iter().for_each(|field| hash.add(field.path.as_bytes()));
    }
    hash.0
}

/// A text that changes whenever a document of kinds with these fingerprints would: its ETag.
pub fn fingerprint(kinds: impl Iterator<Item = u64>) -> String {
    let mut hash = Fnv::default();
    hash.add(env!("CARGO_PKG_VERSION").as_bytes());
    hash.add(&schema::fingerprint().to_le_bytes());
    kinds.for_each(|kind| hash.add(&kind.to_le_bytes()));
    format!("{:016X}", hash.0)
}

/// FNV-1a: small, stable between builds, and no secret depends on it.
pub(crate) struct Fnv(pub(crate) u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.0"})
}

/// `/api/v1` or `/apis/apps/v1`.
fn prefix(version: &GroupVersion) -> String {
    let root = if version.group.is_empty() { "api" } else { "apis" };
    format!("/{root}/{version}")
}

fn versions(defs: &[&ResourceDef]) -> Vec<GroupVersion> {
    let mut versions = Vec::new();
    for def in defs {
        let version = def.group_version();
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions
}

fn of_version<'a>(defs: &[&'a ResourceDef], version: &GroupVersion) -> Vec<&'a ResourceDef> {
    defs.iter().copied().filter(|def| def.group_version() == *version).collect()
}

fn paths(items: &[PathItem], dialect: Dialect, schemas: &mut Schemas) -> Map<String, Value> {
    let rendered = items.iter().map(|item| (item.path.clone(), render::path_item(item, dialect, schemas)));
    rendered.collect()
}
