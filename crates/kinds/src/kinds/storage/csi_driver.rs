//! `storage.k8s.io/v1` CSIDriver: what a storage driver can do.

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Scope};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{table, tree};

/// `csidrivers`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("storage.k8s.io"),
    plural: text("csidrivers"),
    singular: text("csidriver"),
    kind: text("CSIDriver"),
    list_kind: text("CSIDriverList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.storage.v1.CSIDriver"),
    has_generation: true,
    unconditional_update: false,
    columns: list![
        NAME,
        column("AttachRequired", "boolean", "Whether volumes are attached before they are mounted."),
        column("PodInfoOnMount", "boolean", "Whether the driver is told of the Pod."),
        column("StorageCapacity", "boolean", "Whether the driver tells of free capacity."),
        column("TokenRequests", "string", "The audiences of tokens that the driver gets."),
        column("RequiresRepublish", "boolean", "Whether volumes are published again and again."),
        column("Modes", "string", "The ways in which volumes are used."),
        AGE,
    ],
    default: defaults,
    row,
    ..BASE
};

fn defaults(object: &mut Object) {
    let spec = tree::made_mut(object, &["spec"]);
    spec.default_at(&["attachRequired"], true);
    spec.default_at(&["fsGroupPolicy"], "ReadWriteOnceWithFSType");
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        spec.default_at(&[field], false);
    }
    if tree::is_blank(spec.get("volumeLifecycleModes")) {
        spec.set_at(&["volumeLifecycleModes"], json!(["Persistent"]));
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let flag = |field: &str| object.bool_at(&["spec", field]);
    let requests = object.list_at(&["spec", "tokenRequests"]).iter();
    let audiences: Vec<_> = requests.map(|request| request.str_at(&["audience"])).collect();
    let or_unset = |text: String| if text.is_empty() { table::UNSET.to_owned() } else { text };
    cells![
        object.name(),
        object.at(&["spec", "attachRequired"]) != Some(&Value::Bool(false)),
        flag("podInfoOnMount"),
        flag("storageCapacity"),
        or_unset(audiences.join(",")),
        flag("requiresRepublish"),
        or_unset(table::joined(object.list_at(&["spec", "volumeLifecycleModes"]))),
        table::age(object, now),
    ]
}
