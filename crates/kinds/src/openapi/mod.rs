//! What the server serves, described as OpenAPI: one v3 document per group and version, and one v2 document for all.
//! Both are made from the catalogue and the type table when they are asked for; nothing of them is kept.
//! See <https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-interface-definition>.

mod operations;
mod render;
mod schemas;

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

/// The list that `/openapi/v3` answers with: each group and version, and where its document is.
pub fn v3_index(defs: &[&ResourceDef]) -> Value {
    let mut paths = Map::new();
    for version in versions(defs) {
        let path = prefix(&version).trim_start_matches('/').to_owned();
        let hash = fingerprint(&of_version(defs, &version));
        paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}));
    }
    json!({"paths": paths})
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
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {"schemas": schemas.finish(&defs), "securitySchemes": {
            "BearerToken": {"description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"},
        }},
    }))
}

/// The one document of `/openapi/v2`.
pub fn v2_document(defs: &[&ResourceDef]) -> Value {
    let mut schemas = Schemas::new(Dialect::V2);
    let mut items: Vec<PathItem> = versions(defs).iter().map(operations::version_root).collect();
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

/// A text that changes whenever the document of these kinds would: their ETag.
pub fn fingerprint(defs: &[&ResourceDef]) -> String {
    let mut hash = Fnv::default();
    hash.add(env!("CARGO_PKG_VERSION").as_bytes());
    hash.add(&schema::fingerprint().to_le_bytes());
    for def in defs {
        for part in [&def.group, &def.version, &def.plural, &def.kind, &def.schema] {
            hash.add(part.as_bytes());
        }
        if let Some(schema) = &def.inline_schema {
            hash.add(schema.to_string().as_bytes());
        }
    }
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
