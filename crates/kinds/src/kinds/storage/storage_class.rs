//! `storage.k8s.io/v1` StorageClass: how volumes are provisioned.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{pod_warnings, storage_rules, table, tree};

/// `storageclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("storage.k8s.io"),
    plural: text("storageclasses"),
    singular: text("storageclass"),
    kind: text("StorageClass"),
    list_kind: text("StorageClassList"),
    short_names: texts!["sc"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.storage.v1.StorageClass"),
    columns: list![
        NAME,
        column("Provisioner", "string", "What makes the volumes."),
        column("ReclaimPolicy", "string", "What becomes of a volume when its claim goes."),
        column("VolumeBindingMode", "string", "When a volume is made and bound."),
        column("AllowVolumeExpansion", "string", "Whether volumes can grow."),
        AGE,
    ],
    default: defaults,
    row,
    validate,
    validate_update,
    warnings,
    ..BASE
};

/// Marks the class that claims without a class get; the second key is an older one.
const DEFAULT_CLASS_ANNOTATIONS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

fn defaults(object: &mut Object) {
    tree::default_text(object, &["reclaimPolicy"], "Delete");
    tree::default_text(object, &["volumeBindingMode"], "Immediate");
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let is_default = DEFAULT_CLASS_ANNOTATIONS.iter().any(|key| object.annotation(key) == Some("true"));
    let name = object.name();
    cells![
        if is_default { format!("{name} (default)") } else { name.to_owned() },
        object.str_at(&["provisioner"]),
        table::text_or(object, &["reclaimPolicy"], "Delete"),
        table::text_or(object, &["volumeBindingMode"], "Immediate"),
        object.bool_at(&["allowVolumeExpansion"]),
        table::age(object, now),
    ]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let provisioner = At::top(object, "provisioner");
    if faults.needs(&provisioner) {
        faults.all_invalid(&provisioner, names::check_label_key(&provisioner.text().to_lowercase()));
    }
    storage_rules::parameters(&mut faults, &At::top(object, "parameters"), true);
    faults.choice(&At::top(object, "reclaimPolicy"), &["Delete", "Retain"]);
    let mode = At::top(object, "volumeBindingMode");
    if mode.is_set() {
        faults.choice(&mode, &["Immediate", "WaitForFirstConsumer"]);
    } else {
        faults.required(&mode, "");
    }
    topologies(&mut faults, &At::top(object, "allowedTopologies"));
    faults.into_list()
}

/// Terms that select nodes by values of their labels; each key once, and no term twice.
fn topologies(faults: &mut Faults, terms: &At) {
    let mut seen = Vec::new();
    for term in terms.items() {
        let mut keys = BTreeMap::new();
        for expression in term.get("matchLabelExpressions").items() {
            let (key, values) = (expression.get("key"), expression.get("values"));
            if values.is_blank() {
                faults.required(&values, "");
            }
            let mut set = BTreeSet::new();
            for value in values.items() {
                if !set.insert(value.text()) {
                    faults.duplicate(&value);
                }
            }
            for words in names::check_label_key(key.text()) {
                faults.invalid_as(&key, key.text(), words);
            }
            if keys.insert(key.text(), set).is_some() {
                faults.duplicate(&key);
            }
        }
        if seen.contains(&keys) {
            faults.duplicate_as(&term.get("matchLabelExpressions"), "");
        }
        seen.push(keys);
    }
}

/// Old names of labels in the places that are allowed.
fn warnings(object: &Object) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, term) in object.list_at(&["allowedTopologies"]).iter().enumerate() {
        for (at, expression) in term.list_at(&["matchLabelExpressions"]).iter().enumerate() {
            if let Some(words) = pod_warnings::old_node_label(expression.str_at(&["key"])) {
                warnings.push(format!("allowedTopologies[{index}].matchLabelExpressions[{at}].key: {words}"));
            }
        }
    }
    warnings
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        let (new, old) = (At::top(new, field), At::top(old, field));
        if new.value() != old.value() && !(new.is_blank() && old.is_blank()) {
            faults.forbidden(&new, format!("updates to {field} are forbidden."));
        }
    }
    faults.immutable(&At::top(new, "volumeBindingMode"), &At::top(old, "volumeBindingMode"));
    faults.into_list()
}
