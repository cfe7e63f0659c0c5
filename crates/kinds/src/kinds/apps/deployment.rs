//! `apps/v1` Deployment: declares Pods and rolls changes out over ReplicaSets.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, scale, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, cells, column};
use crate::rules::{pod_defaults, pod_warnings, prepare, status_check, table, tree, workload_check};

/// `deployments`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apps"),
    plural: text("deployments"),
    singular: text("deployment"),
    kind: text("Deployment"),
    list_kind: text("DeploymentList"),
    short_names: texts!["deploy"],
    categories: texts!["all"],
    schema: text("io.k8s.api.apps.v1.Deployment"),
    subresources: list![scale(".spec.selector"), Subresource::Status,],
    status_keeps: texts!["labels"],
    has_generation: true,
    columns: list![
        NAME,
        column("Ready", "string", "The Pods that are ready, of those that are wanted."),
        column("Up-to-date", "string", "The Pods that have the wanted template."),
        column("Available", "string", "The Pods that have been ready for long enough."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    default: defaults,
    prepare_update,
    row,
    validate,
    validate_update,
    warnings,
    ..BASE
};

const REVISION_HISTORY_LIMIT: i64 = 10;
const PROGRESS_DEADLINE_SECONDS: i64 = 600;
/// How far a rolling update may go beyond and below the wanted number.
const ROLLING_UPDATE_SHARE: &str = "25%";

fn defaults(object: &mut Object) {
    pod_defaults::template(object, &["spec", "template"]);
    object.default_at(&["spec", "replicas"], 1);
    tree::default_text(object, &["spec", "strategy", "type"], "RollingUpdate");
    if object.str_at(&["spec", "strategy", "type"]) == "RollingUpdate" {
        object.default_at(&["spec", "strategy", "rollingUpdate", "maxUnavailable"], ROLLING_UPDATE_SHARE);
        object.default_at(&["spec", "strategy", "rollingUpdate", "maxSurge"], ROLLING_UPDATE_SHARE);
    }
    object.default_at(&["spec", "revisionHistoryLimit"], REVISION_HISTORY_LIMIT);
    object.default_at(&["spec", "progressDeadlineSeconds"], PROGRESS_DEADLINE_SECONDS);
}

/// ReplicaSets take over a Deployment's annotations, so that a change of them is one to be observed.
fn prepare_update(context: &Context, new: &mut Object, old: &Object) {
    prepare::update(context, new, old);
    if context.subresource == "status" {
        return;
    }
    let notes = |object: &Object| {
        object.at(&["metadata", "annotations"]).filter(|notes| !tree::is_blank(Some(*notes))).cloned()
    };
    prepare::raise_generation_for(new, old, notes(new) != notes(old));
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let status = |field: &str| table::number(object, &["status", field]);
    let (names, images) = table::template_containers(object);
    cells![
        object.name(),
        format!("{}/{}", status("readyReplicas"), table::number(object, &["spec", "replicas"])),
        status("updatedReplicas"),
        status("availableReplicas"),
        table::age(object, now),
        names,
        images,
        table::selector_text(object.at(&["spec", "selector"])),
    ]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    faults.non_negative(&spec.get("replicas"));
    workload_check::selector(&mut faults, &spec.get("selector"), "deployment");
    workload_check::template(&mut faults, &spec, "ReplicaSet");
    workload_check::deployment_strategy(&mut faults, &spec.get("strategy"));
    for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        faults.non_negative(&spec.get(field));
    }
    let deadline = spec.get("progressDeadlineSeconds");
    if deadline.int().is_some_and(|seconds| seconds <= spec.get("minReadySeconds").int().unwrap_or(0)) {
        faults.invalid(&deadline, "must be greater than minReadySeconds");
    }
    faults.into_list()
}

fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        let (status, was) = (At::top(new, "status"), At::top(old, "status"));
        status_check::replicas(&mut faults, &status, &["updatedReplicas"]);
        status_check::counts(&mut faults, &status, &["unavailableReplicas", "collisionCount"]);
        status_check::not_decremented(&mut faults, &status.get("collisionCount"), &was.get("collisionCount"));
        return faults.into_list();
    }
    faults.immutable(&At::top(new, "spec").get("selector"), &At::top(old, "spec").get("selector"));
    faults.into_list()
}

fn warnings(object: &Object) -> Vec<String> {
    pod_warnings::template(object, &["spec", "template"])
}
