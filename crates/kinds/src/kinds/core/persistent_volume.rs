//! `v1` PersistentVolume: a piece of storage.

use serde_json::{Value, json};
use skiff_base::{Quantity, Timestamp, clock};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldPath, Object, names};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Scope, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column, wide};
use crate::rules::{
    affinity_check, container_defaults, pod_warnings, prepare, source_check, storage_rules, table, tree,
};

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
    prepare_update,
    row,
    validate,
    validate_update,
    warnings,
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
    let status = json!({"phase": "Pending", "lastPhaseTransitionTime": clock::rfc3339(context.now)});
    prepare::create_with_status(context, object, status);
}

fn prepare_update(context: &Context, new: &mut Object, old: &Object) {
    const PHASE: &[&str] = &["status", "phase"];
    const SINCE: &[&str] = &["status", "lastPhaseTransitionTime"];
    prepare::update(context, new, old);
    if context.subresource == "status"
        && new.at(PHASE) != old.at(PHASE)
        && (new.at(SINCE).is_none() || new.at(SINCE) == old.at(SINCE))
    {
        new.set_at(SINCE, clock::rfc3339(context.now));
    }
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

fn validate(context: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    if context.subresource == "status" {
        return faults.into_list();
    }
    storage_rules::access_modes(&mut faults, &spec.get("accessModes"), "");
    capacity(&mut faults, &spec.get("capacity"));
    faults.choice(&spec.get("persistentVolumeReclaimPolicy"), &["Delete", "Recycle", "Retain"]);
    let affinity = spec.get("nodeAffinity");
    let required = affinity.get("required");
    if required.is_set() {
        affinity_check::node_selector(&mut faults, &required);
    } else if affinity.is_set() {
        faults.required(&required, "must specify required node constraints");
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
        faults.required(&affinity, "Local volume requires node affinity");
    }
    let path = spec.walk(&["hostPath", "path"]).text();
    let is_root = path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "."));
    if is_root && spec.get("persistentVolumeReclaimPolicy").text() == "Recycle" {
        let at = spec.get("persistentVolumeReclaimPolicy");
        faults.forbidden(&at, "may not be 'recycle' for a hostPath mount of '/'");
    }
    faults.name(&spec.get("storageClassName"), names::check_dns_subdomain);
    faults.choice(&spec.get("volumeMode"), &["Block", "Filesystem"]);
    attributes_class(&mut faults, &spec);
    faults.into_list()
}

fn capacity(faults: &mut Faults, capacity: &At) {
    if capacity.is_blank() {
        faults.required(capacity, "");
    }
    if !capacity.get("storage").is_set() || capacity.count() > 1 {
        let value = if capacity.is_set() { capacity.value().clone() } else { Value::Null };
        faults.not_supported_as(capacity, value, &["storage"]);
    }
    for (_, quantity) in capacity.entries() {
        let amount = quantity.quantity();
        if amount.is_some_and(|amount| amount.is_negative()) {
            faults.invalid_as(
                &quantity,
                amount.map_or(0, |amount| amount.value()),
                "must be a valid resource quantity",
            );
        }
        if amount.is_some_and(|amount| amount <= Quantity::ZERO) {
            faults.invalid(&quantity, "must be greater than zero");
        }
    }
}

fn attributes_class(faults: &mut Faults, spec: &At) {
    let class = spec.get("volumeAttributesClassName");
    if !class.is_set() {
        return;
    }
    if class.is_blank() {
        faults.required(&class, "an empty string is disallowed");
    }
    faults.name(&class, names::check_dns_subdomain);
    if !spec.get("csi").is_set() {
        faults.required(&spec.get("csi"), "has to be specified when using volumeAttributesClassName");
    }
}

fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    let mut faults = Faults::new();
    if context.subresource == "status" {
        return faults.into_list();
    }
    let of = |spec: &At| -> Vec<(String, Value)> {
        sources(spec).into_iter().map(|(kind, at)| (kind.to_owned(), at.value().clone())).collect()
    };
    let (mut now, before) = (of(&spec), of(&was));
    if !was.walk(&["csi", "controllerExpandSecretRef"]).is_set() {
        // It may be told later how to grow the volume.
        for (_, csi) in now.iter_mut().filter(|(kind, _)| kind == "csi") {
            csi.remove_at(&["controllerExpandSecretRef"]);
        }
    }
    if now != before {
        let words = "spec.persistentvolumesource is immutable after creation\n";
        faults.forbidden(&spec.get("persistentvolumesource"), words);
    }
    let top = |field: &str| spec.get(field).renamed(FieldPath::new(field));
    faults.immutable(&top("volumeMode"), &was.get("volumeMode"));
    if was.get("nodeAffinity").is_set() {
        node_affinity_update(&mut faults, &top("nodeAffinity"), &was.get("nodeAffinity"));
    }
    let class = spec.get("volumeAttributesClassName");
    if was.get("volumeAttributesClassName").is_set() && !class.is_set() {
        faults.forbidden(&class, "update from non-nil value to nil is forbidden");
    }
    faults.into_list()
}

/// Old names of labels that say where a node is may be replaced by those of today.
fn node_affinity_update(faults: &mut Faults, new: &At, old: &At) {
    const RENAMED: [(&str, &str); 4] = [
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ];
    let modern = |at: &At| {
        let mut affinity = at.value().clone();
        for term in tree::items_mut(&mut affinity, &["required", "nodeSelectorTerms"]) {
            for expression in tree::items_mut(term, &["matchExpressions"]) {
                let renamed = RENAMED.iter().find(|(old, _)| *old == expression.str_at(&["key"]));
                if let Some((_, today)) = renamed {
                    expression.set_at(&["key"], *today);
                }
            }
        }
        affinity
    };
    if modern(new) != modern(old) {
        faults.invalid(new, crate::rules::check::IMMUTABLE);
    }
}

fn warnings(object: &Object) -> Vec<String> {
    let mut warnings = storage_rules::warnings(object);
    if object.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == "Recycle" {
        let words = "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
        warnings.push(words.to_owned());
    }
    let terms = ["spec", "nodeAffinity", "required", "nodeSelectorTerms"];
    pod_warnings::node_terms(object.list_at(&terms), &terms.join("."), &mut warnings);
    const GONE: [(&str, &str); 8] = [
        ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
        ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ];
    for (kind, words) in GONE.iter().filter(|(kind, _)| object.at(&["spec", kind]).is_some()) {
        let shown = if *kind == "storageos" { "storageOS" } else { kind };
        warnings.push(format!("spec.{shown}: {words}"));
    }
    let capacity = object.at(&["spec", "capacity", "storage"]).and_then(Value::as_str).unwrap_or("");
    if capacity.parse::<Quantity>().is_ok_and(|amount| !amount.is_integer()) {
        warnings
            .push(format!("spec.capacity[storage]: fractional byte value {capacity:?} is invalid, must be an integer"));
    }
    warnings
}
