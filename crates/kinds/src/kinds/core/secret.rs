//! `v1` Secret: confidential data that Pods consume.

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, selectable, text};
use crate::def::{Context, ResourceDef};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{prepare, table, tree};

/// `secrets`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("secrets"),
    singular: text("secret"),
    kind: text("Secret"),
    list_kind: text("SecretList"),
    schema: text("io.k8s.api.core.v1.Secret"),
    selectable: selectable!["type"],
    columns: list![
        NAME,
        column("Type", "string", "The kind of secret."),
        column("Data", "string", "The number of entries."),
        AGE
    ],
    default: defaults,
    prepare_update: prepare_update,
    row: row,
    ..BASE
};

/// `stringData` is a way of writing only: its texts become entries of `data`.
fn defaults(object: &mut Object) {
    tree::default_text(object, &["type"], "Opaque");
    if let Some(Value::Object(texts)) = object.remove_at(&["stringData"]) {
        for (key, text) in texts {
            let encoded = BASE64_STANDARD.encode(text.as_str().unwrap_or_default());
            object.set_at(&["data", &key], encoded);
        }
    }
}

/// A Secret cannot change its type; an update that names none means the old one.
fn prepare_update(context: &Context, new: &mut Object, old: &Object) {
    prepare::update(context, new, old);
    tree::default_text(new, &["type"], old.str_at(&["type"]));
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let entries = tree::count(object, &["data"]).to_string();
    cells![object.name(), object.str_at(&["type"]), entries, table::age(object, now)]
}
