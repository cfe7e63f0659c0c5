//! `v1` Secret: confidential data that Pods consume.

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, selectable, text};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{config_check, table, tree};

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
    row,
    validate,
    validate_update,
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

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let entries = tree::count(object, &["data"]).to_string();
    cells![object.name(), object.str_at(&["type"]), entries, table::age(object, now)]
}

/// What each type of secret must hold.
const REQUIRED_KEYS: [(&str, &[&str]); 3] = [
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/basic-auth", &[]),
];
/// Documents of registry credentials, and the keys that hold them.
const DOCUMENT_KEYS: [(&str, &str); 2] =
    [("kubernetes.io/dockercfg", ".dockercfg"), ("kubernetes.io/dockerconfigjson", ".dockerconfigjson")];
const ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (data, mut faults) = (At::top(object, "data"), Faults::new());
    config_check::keys(&mut faults, &data);
    if config_check::encoded_bytes(object, "data") > config_check::SIZE_LIMIT_BYTES {
        config_check::too_large(&mut faults, "data");
    }
    of_type(&mut faults, object, &data);
    faults.into_list()
}

fn of_type(faults: &mut Faults, object: &Object, data: &At) {
    let kind = object.str_at(&["type"]);
    let keyed = |key: &str| data.get(key).renamed(data.path().key(key));
    for key in REQUIRED_KEYS.iter().filter(|(name, _)| *name == kind).flat_map(|(_, keys)| *keys) {
        if !data.get(key).is_set() {
            faults.required(&keyed(key), "");
        }
    }
    if kind == "kubernetes.io/basic-auth" && !data.get("username").is_set() && !data.get("password").is_set() {
        faults.required(&keyed("username"), "");
        faults.required(&keyed("password"), "");
    }
    if kind == "kubernetes.io/service-account-token" && object.annotation(ACCOUNT_ANNOTATION).is_none_or(str::is_empty)
    {
        let annotations = At::top(object, "metadata").get("annotations");
        faults.required(&annotations.renamed(annotations.path().key(ACCOUNT_ANNOTATION)), "");
    }
    for (_, key) in DOCUMENT_KEYS.iter().filter(|(name, _)| *name == kind) {
        let document = BASE64_STANDARD.decode(data.get(key).text()).unwrap_or_default();
        if !data.get(key).is_set() {
            faults.required(&keyed(key), "");
        } else if let Err(error) = serde_json::from_slice::<Value>(&document) {
            faults.invalid_as(&keyed(key), "<secret contents redacted>", error.to_string());
        }
    }
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    faults.immutable(&At::top(new, "type"), &At::top(old, "type"));
    config_check::immutable(&mut faults, new, old, &["data"]);
    faults.into_list()
}
