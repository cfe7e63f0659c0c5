//! `storage.k8s.io/v1` StorageClass: how volumes are provisioned.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{table, tree};

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
    for (key, value) in At::top(object, "parameters").entries() {
        if key.is_empty() {
            faults.invalid_as(&value, key, "field can not be empty.");
        }
    }
    faults.choice(&At::top(object, "reclaimPolicy"), &["Delete", "Retain"]);
    faults.needs_choice(&At::top(object, "volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
    faults.into_list()
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
