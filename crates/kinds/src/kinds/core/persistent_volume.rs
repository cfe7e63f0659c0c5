//! `v1` PersistentVolume: a piece of storage.

use serde_json::{Value, json};
use skiff_base::{Quantity, Timestamp};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, Object, names};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Scope, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column, wide};
use crate::rules::{affinity_check, container_defaults, prepare, source_check, storage_rules, table, tree};

/// `persistentvolumes`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("persistentvolumes"),
    singular: text("persistentvolume"),
    kind: text("PersistentVolume"),
    list_kind: text("PersistentVolumeList"),
    short_names: texts!["pv"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.core.v1.PersistentVolume"),
    subresources: list![Subresource::Status],
    columns: list![
        NAME,
        column("Capacity", "string", "The size."),
        column("Access Modes", "string", "How the volume can be mounted."),
        column("Reclaim Policy", "string", "What becomes of the volume when its claim goes."),
        column("Status", "string", "Whether the volume is free, bound or released."),
        column("Claim", "string", "The claim that the volume is bound to."),
        column("StorageClass", "string", "The class."),
        column("VolumeAttributesClass", "string", "The class of changeable attributes."),
        column("Reason", "string", "Why the volume is in its state."),
        AGE,
        wide("VolumeMode", "string", "A filesystem or a block device."),
    ],
    default: defaults,
    prepare_create,
    row,
    validate,
    validate_update,
    warnings: storage_rules::warnings,
    ..BASE
};

fn defaults(object: &mut Object) {
    tree::default_text(object, &["status", "phase"], "Pending");
    let spec = tree::made_mut(object, &["spec"]);
    tree::default_text(spec, &["persistentVolumeReclaimPolicy"], "Retain");
    tree::default_text(spec, &["volumeMode"], "Filesystem");
    let sources = spec.as_object_mut().into_iter().flatten().filter(|(_, source)| source.is_object());
    sources.for_each(|(kind, source)| container_defaults::storage_source(kind, source));
}

fn prepare_create(context: &Context, object: &mut Object) {
    prepare::create_with_status(context, object, json!({"phase": "Pending"}));
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let claim = object
        .at(&["spec", "claimRef"])
        .map(|claim| format!("{}/{}", claim.str_at(&["namespace"]), claim.str_at(&["name"])));
    cells![
        object.name(),
        object.str_at(&["spec", "capacity", "storage"]),
        storage_rules::access_modes_text(object.list_at(&["spec", "accessModes"])),
        object.str_at(&["spec", "persistentVolumeReclaimPolicy"]),
        if object.is_deleting() { "Terminating" } else { object.str_at(&["status", "phase"]) },
        claim.unwrap_or_default(),
        storage_rules::class_name(object),
        table::text_or(object, &["spec", "volumeAttributesClassName"], table::UNSET),
        object.str_at(&["status", "reason"]),
        table::age(object, now),
        table::text_or(object, &["spec", "volumeMode"], table::UNSET),
    ]
}

/// Fields of the specification that are no sources.
const PLAIN_FIELDS: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn sources<'a>(spec: &At<'a>) -> Vec<(&'a str, At<'a>)> {
    let fields = spec.value().as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    fields.filter(|name| !PLAIN_FIELDS.contains(name)).map(|name| (name, spec.get(name))).collect()
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    storage_rules::check_access_modes(&mut faults, &spec.get("accessModes"));
    let capacity = spec.get("capacity");
    if capacity.is_blank() {
        faults.required(&capacity, "");
    } else if !capacity.get("storage").is_set() || capacity.entries().len() > 1 {
        faults.extend([FieldError::not_supported(capacity.path(), capacity.value().clone(), &["storage"])]);
    }
    for (_, quantity) in capacity.entries() {
        if quantity.quantity().is_some_and(|quantity| quantity <= Quantity::ZERO) {
            faults.invalid(&quantity, "must be greater than zero");
        }
    }
    faults.choice(&spec.get("persistentVolumeReclaimPolicy"), &["Delete", "Recycle", "Retain"]);
    let affinity = spec.walk(&["nodeAffinity", "required"]);
    if affinity.is_set() {
        affinity_check::node_selector(&mut faults, &affinity);
    }
    let sources = sources(&spec);
    if sources.is_empty() {
        faults.required(&spec, "must specify a volume type");
    }
    for (index, (kind, source)) in sources.iter().enumerate() {
        if index > 0 {
            faults.forbidden(source, "may not specify more than 1 volume type");
        } else {
            source_check::storage_source(&mut faults, kind, source, true);
        }
    }
    if spec.get("local").is_set() && !affinity.is_set() {
        faults.required(&spec.get("nodeAffinity"), "Local volume requires node affinity");
    }
    faults.name(&spec.get("storageClassName"), names::check_dns_subdomain);
    faults.choice(&spec.get("volumeMode"), &["Block", "Filesystem"]);
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    let mut faults = Faults::new();
    let of = |spec: &At| {
        sources(spec).into_iter().map(|(kind, at)| (kind.to_owned(), at.value().clone())).collect::<Vec<_>>()
    };
    if of(&spec) != of(&was) {
        let words = "spec.persistentvolumesource is immutable after creation";
        faults.forbidden(&spec.get("persistentvolumesource"), words);
    }
    faults.immutable(&spec.get("volumeMode"), &was.get("volumeMode"));
    if was.get("nodeAffinity").is_set() {
        faults.immutable(&spec.get("nodeAffinity"), &was.get("nodeAffinity"));
    }
    faults.into_list()
}
