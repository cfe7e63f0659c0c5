//! `storage.k8s.io/v1` CSIDriver: what a storage driver can do.

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldPath, Object};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{source_check, storage_rules, table, tree};

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
    validate,
    validate_update,
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

/// How often, at the most, a driver is asked how much it can attach.
const UPDATE_PERIOD_MIN_SECONDS: i64 = 10;

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    let name = At::top(object, "metadata").get("name");
    source_check::driver_name(&mut faults, &name.renamed(FieldPath::new("name")));
    for field in ["attachRequired", "podInfoOnMount", "storageCapacity", "fsGroupPolicy", "seLinuxMount"] {
        if !spec.get(field).is_set() {
            faults.required(&spec.get(field), "");
        }
    }
    faults.choice(&spec.get("fsGroupPolicy"), &["File", "None", "ReadWriteOnceWithFSType"]);
    token_requests(&mut faults, &spec.get("tokenRequests"));
    let modes = spec.get("volumeLifecycleModes");
    for mode in modes.texts().into_iter().filter(|mode| !matches!(*mode, "Ephemeral" | "Persistent")) {
        faults.not_supported_as(&modes, mode, &["Ephemeral", "Persistent"]);
    }
    let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
    if period.int().is_some_and(|seconds| seconds < UPDATE_PERIOD_MIN_SECONDS) {
        faults.invalid(&period, format!("must be greater than or equal to {UPDATE_PERIOD_MIN_SECONDS}"));
    }
    if spec.get("serviceAccountTokenInSecrets").is_set() && spec.get("tokenRequests").is_blank() {
        let words = "serviceAccountTokenInSecrets can only be set if tokenRequests is configured";
        faults.invalid(&spec.get("serviceAccountTokenInSecrets"), words);
    }
    faults.into_list()
}

fn token_requests(faults: &mut Faults, requests: &At) {
    let mut seen = std::collections::BTreeSet::new();
    for request in requests.items() {
        if !seen.insert(request.get("audience").text()) {
            faults.duplicate_as(&request.get("audience"), request.get("audience").text());
        }
        storage_rules::token_seconds(faults, &request.get("expirationSeconds"));
    }
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    let mut faults = Faults::new();
    let attach = spec.get("attachRequired").renamed(spec.path().child("attachedRequired"));
    faults.immutable(&attach, &was.get("attachRequired"));
    faults.immutable(&spec.get("volumeLifecycleModes"), &was.get("volumeLifecycleModes"));
    faults.into_list()
}
