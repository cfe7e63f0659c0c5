//! `apps/v1` DaemonSet: one Pod on each matching node.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, cells, column};
use crate::rules::{pod_defaults, pod_warnings, table, tree, workload_check};

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

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    faults.immutable(&At::top(new, "spec").get("selector"), &At::top(old, "spec").get("selector"));
    faults.into_list()
}

fn warnings(object: &Object) -> Vec<String> {
    pod_warnings::template(object, &["spec", "template"])
}
