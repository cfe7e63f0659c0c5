//! `apps/v1` DaemonSet: one Pod on each matching node.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, cells, column};
use crate::rules::{pod_defaults, pod_warnings, prepare, status_check, table, tree, workload_check};

/// `daemonsets`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apps"),
    plural: text("daemonsets"),
    singular: text("daemonset"),
    kind: text("DaemonSet"),
    list_kind: text("DaemonSetList"),
    short_names: texts!["ds"],
    categories: texts!["all"],
    schema: text("io.k8s.api.apps.v1.DaemonSet"),
    subresources: list![Subresource::Status],
    has_generation: true,
    columns: list![
        NAME,
        column("Desired", "integer", "The number of nodes that should run the Pod."),
        column("Current", "integer", "The number of those that have one."),
        column("Ready", "integer", "The number of those whose Pod is ready."),
        column("Up-to-date", "integer", "The number of those whose Pod has the wanted template."),
        column("Available", "integer", "The number of those whose Pod has been ready for long enough."),
        column("Node Selector", "string", "The labels of the nodes that should run the Pod."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
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

const REVISION_HISTORY_LIMIT: i64 = 10;

fn defaults(object: &mut Object) {
    pod_defaults::template(object, &["spec", "template"]);
    tree::default_text(object, &["spec", "updateStrategy", "type"], "RollingUpdate");
    if object.str_at(&["spec", "updateStrategy", "type"]) == "RollingUpdate" {
        object.default_at(&["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"], 1);
        object.default_at(&["spec", "updateStrategy", "rollingUpdate", "maxSurge"], 0);
    }
    object.default_at(&["spec", "revisionHistoryLimit"], REVISION_HISTORY_LIMIT);
}

/// Counts the templates.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn prepare_create(context: &Context, object: &mut Object) {
    prepare::create(context, object);
    let given = object.annotation(TEMPLATE_GENERATION).and_then(|text| text.parse().ok()).unwrap_or(0i64);
    object.set_at(&["metadata", "annotations", TEMPLATE_GENERATION], given.max(1).to_string());
}

fn prepare_update(context: &Context, new: &mut Object, old: &Object) {
    prepare::update(context, new, old);
    let is_changed = new.at(&["spec", "template"]) != old.at(&["spec", "template"]);
    let before = old.annotation(TEMPLATE_GENERATION).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    let count = before + i64::from(is_changed);
    if count > 0 {
        new.set_at(&["metadata", "annotations", TEMPLATE_GENERATION], count.to_string());
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let status = |field: &str| table::number(object, &["status", field]);
    let (names, images) = table::template_containers(object);
    cells![
        object.name(),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        table::labels_text(object.at(&["spec", "template", "spec", "nodeSelector"])),
        table::age(object, now),
        names,
        images,
        table::selector_text(object.at(&["spec", "selector"])),
    ]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    workload_check::selector(&mut faults, &spec.get("selector"), "daemonset");
    workload_check::template(&mut faults, &spec, "DaemonSet");
    faults.non_negative(&spec.get("minReadySeconds"));
    workload_check::daemon_set_strategy(&mut faults, &spec.get("updateStrategy"));
    faults.non_negative(&spec.get("revisionHistoryLimit"));
    faults.into_list()
}

/// The numbers of a status.
const COUNTS: [&str; 9] = [
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];

fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        let (status, was) = (At::top(new, "status"), At::top(old, "status"));
        status_check::counts(&mut faults, &status, &COUNTS);
        status_check::not_decremented(&mut faults, &status.get("collisionCount"), &was.get("collisionCount"));
        return faults.into_list();
    }
    faults.immutable(&At::top(new, "spec").get("selector"), &At::top(old, "spec").get("selector"));
    faults.into_list()
}

fn warnings(object: &Object) -> Vec<String> {
    pod_warnings::template(object, &["spec", "template"])
}
