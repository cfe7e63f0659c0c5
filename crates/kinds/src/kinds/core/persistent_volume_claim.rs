//! `v1` PersistentVolumeClaim: a request for storage.

use serde_json::{Value, json};
use skiff_base::{Quantity, Timestamp};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldPath, Object, names};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column, wide};
use crate::rules::{prepare, resource_check, storage_rules, table, tree};

/// `persistentvolumeclaims`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("persistentvolumeclaims"),
    singular: text("persistentvolumeclaim"),
    kind: text("PersistentVolumeClaim"),
    list_kind: text("PersistentVolumeClaimList"),
    short_names: texts!["pvc"],
    schema: text("io.k8s.api.core.v1.PersistentVolumeClaim"),
    subresources: list![Subresource::Status],
    columns: list![
        NAME,
        column("Status", "string", "Whether the claim is bound."),
        column("Volume", "string", "The volume that the claim is bound to."),
        column("Capacity", "string", "The size of the volume."),
        column("Access Modes", "string", "How the volume can be mounted."),
        column("StorageClass", "string", "The class."),
        column("VolumeAttributesClass", "string", "The class of changeable attributes."),
        AGE,
        wide("VolumeMode", "string", "A filesystem or a block device."),
    ],
    default: storage_rules::claim_defaults,
    prepare_create,
    row,
    validate,
    validate_update,
    warnings,
    ..BASE
};

fn prepare_create(context: &Context, object: &mut Object) {
    prepare::create_with_status(context, object, json!({"phase": "Pending"}));
    storage_rules::same_sources(tree::made_mut(object, &["spec"]));
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let bound = !object.str_at(&["spec", "volumeName"]).is_empty();
    let modes = if bound { object.list_at(&["status", "accessModes"]) } else { &[] };
    cells![
        object.name(),
        if object.is_deleting() { "Terminating" } else { object.str_at(&["status", "phase"]) },
        object.str_at(&["spec", "volumeName"]),
        if bound { object.str_at(&["status", "capacity", "storage"]) } else { "" },
        storage_rules::access_modes_text(modes),
        storage_rules::class_name(object),
        table::text_or(object, &["spec", "volumeAttributesClassName"], table::UNSET),
        table::age(object, now),
        table::text_or(object, &["spec", "volumeMode"], table::UNSET),
    ]
}

fn validate(context: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource != "status" {
        storage_rules::check_claim(&mut faults, &At::top(object, "spec"));
    }
    faults.into_list()
}

/// A claim is settled once it is made, but for its size, its binding and the class of its attributes.
fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    let mut faults = Faults::new();
    if context.subresource == "status" {
        status_update(&mut faults, &At::top(new, "status"));
        return faults.into_list();
    }
    let moves = moves_class(new, old);
    if !moves {
        let at = |object| At::top(object, "metadata").get("annotations").get(CLASS_ANNOTATION);
        if at(new).text() != at(old).text() {
            let path = FieldPath::new("metadata").child("annotations").key(CLASS_ANNOTATION);
            faults.invalid(&at(new).renamed(path), crate::rules::check::IMMUTABLE);
        }
    }
    if settled(new, old, moves) != settled(old, old, moves) {
        let words = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n";
        faults.forbidden(&spec, words);
    }
    let size = |spec: &At| spec.walk(&["resources", "requests", "storage"]).quantity().unwrap_or(Quantity::ZERO);
    let given = At::top(old, "status").walk(&["capacity", "storage"]).quantity().unwrap_or(Quantity::ZERO);
    if size(&spec) < size(&was) && size(&spec) <= given {
        let at = spec.walk(&["resources", "requests", "storage"]);
        faults.forbidden(&at, "field can not be less than status.capacity");
    }
    faults.immutable(&spec.get("volumeMode").renamed(FieldPath::new("volumeMode")), &was.get("volumeMode"));
    let class = spec.get("volumeAttributesClassName");
    if was.get("volumeAttributesClassName").is_set() && class.is_blank() {
        let what = if class.is_set() { "an empty string" } else { "nil" };
        faults.forbidden(&class, format!("update from non-nil value to {what} is forbidden"));
    }
    faults.into_list()
}

/// The older way of naming the class.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Whether the update names in the field the class that the annotation named.
fn moves_class(new: &Object, old: &Object) -> bool {
    let class = |object: &Object| object.at(&["spec", "storageClassName"]).and_then(Value::as_str).map(str::to_owned);
    let noted = old.annotation(CLASS_ANNOTATION).map(str::to_owned);
    let still = new.annotation(CLASS_ANNOTATION);
    noted.is_some()
        && class(old).is_none()
        && class(new) == noted
        && still.is_none_or(|still| Some(still) == noted.as_deref())
}

/// The specification without what may change.
fn settled(object: &Object, old: &Object, moves_class: bool) -> Value {
    let mut spec = object.get("spec").cloned().unwrap_or(Value::Null);
    if old.str_at(&["status", "phase"]) == "Bound" {
        spec.remove_at(&["resources", "requests", "storage"]);
        spec.remove_at(&["volumeAttributesClassName"]);
    }
    if old.str_at(&["spec", "volumeName"]).is_empty() {
        spec.remove_at(&["volumeName"]);
    }
    let was_unclassed = old.at(&["spec", "storageClassName"]).is_none() && old.annotation(CLASS_ANNOTATION).is_none();
    if was_unclassed || moves_class {
        spec.remove_at(&["storageClassName"]);
    }
    spec
}

fn status_update(faults: &mut Faults, status: &At) {
    const RESIZES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    for (_, amount) in status.get("capacity").entries() {
        if let Some(quantity) = amount.quantity().filter(|quantity| quantity.is_negative()) {
            faults.invalid_as(&amount, quantity.value(), "must be a valid resource quantity");
        }
    }
    let resizing = status.get("allocatedResourceStatuses");
    let told = resizing.renamed(status.path().child("allocatedResourceStatus"));
    for (name, state) in resizing.entries() {
        resource_key(faults, name, &told);
        if !RESIZES.contains(&state.text()) {
            let mut sorted = RESIZES;
            sorted.sort_unstable();
            faults.not_supported_as(&told, name, &sorted);
        }
    }
    for (name, amount) in status.get("allocatedResources").entries() {
        resource_key(faults, name, &status.get("allocatedResources"));
        faults.non_negative_quantity(&amount);
    }
}

fn resource_key(faults: &mut Faults, name: &str, told: &At) {
    let wrong = names::check_label_key(name);
    if wrong.is_empty() && resource_check::is_native(name) && name != "storage" {
        faults.not_supported_as(told, name, &["storage"]);
    }
    wrong.into_iter().for_each(|words| faults.invalid_as(told, name, words));
}

fn warnings(object: &Object) -> Vec<String> {
    let mut warnings = storage_rules::warnings(object);
    let size = object.str_at(&["spec", "resources", "requests", "storage"]);
    if size.parse::<Quantity>().is_ok_and(|size| !size.is_integer()) {
        let words = format!("fractional byte value {size:?} is invalid, must be an integer");
        warnings.push(format!("spec.resources.requests[storage]: {words}"));
    }
    warnings
}
