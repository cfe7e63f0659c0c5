//! `batch/v1` Job: runs Pods until enough of them succeeded.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::selector::LabelSelector;
use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, SelectableField, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, cells, column};
use crate::rules::{check, job_check, pod_defaults, pod_warnings, prepare, status_check, table, tree, workload_check};

/// `jobs`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("batch"),
    plural: text("jobs"),
    singular: text("job"),
    kind: text("Job"),
    list_kind: text("JobList"),
    categories: texts!["all"],
    schema: text("io.k8s.api.batch.v1.Job"),
    subresources: list![Subresource::Status],
    has_generation: true,
    selectable: list![SelectableField {
        path: text("status.successful"),
        read: Some((&["status.succeeded"], successful))
    }],
    columns: list![
        NAME,
        column("Status", "string", "Whether the job runs, is suspended or how it ended."),
        column("Completions", "string", "The Pods that succeeded, of those that must."),
        column("Duration", "string", "How long the job took, or has taken so far."),
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

const BACKOFF_LIMIT: i64 = 6;

fn defaults(object: &mut Object) {
    pod_defaults::template(object, &["spec", "template"]);
    let spec = tree::made_mut(object, &["spec"]);
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        spec.default_at(&["completions"], 1);
    }
    spec.default_at(&["parallelism"], 1);
    let per_index = spec.get("backoffLimitPerIndex").is_some();
    spec.default_at(&["backoffLimit"], if per_index { i64::from(i32::MAX) } else { BACKOFF_LIMIT });
    tree::default_text(spec, &["completionMode"], "NonIndexed");
    spec.default_at(&["suspend"], false);
    let has_policy = spec.get("podFailurePolicy").is_some();
    tree::default_text(spec, &["podReplacementPolicy"], if has_policy { "Failed" } else { "TerminatingOrFailed" });
    for rule in tree::items_mut(spec, &["podFailurePolicy", "rules"]) {
        for pattern in tree::items_mut(rule, &["onPodConditions"]) {
            tree::default_text(pattern, &["status"], "True");
        }
    }
    label_defaults(object);
}

fn successful(object: &Object) -> String {
    table::number(object, &["status", "succeeded"]).to_string()
}

/// A job without labels has those of its Pods.
fn label_defaults(object: &mut Object) {
    let labels = object.at(&["spec", "template", "metadata", "labels"]).cloned();
    if let Some(labels) = labels.filter(|labels| !tree::is_blank(Some(labels)))
        && tree::is_blank(object.at(&["metadata", "labels"]))
    {
        object.set_at(&["metadata", "labels"], labels);
    }
}

/// A job finds its Pods by its own uid, unless its author takes care of the selector.
/// See <https://kubernetes.io/docs/concepts/workloads/controllers/job/#specifying-your-own-pod-selector>.
fn prepare_create(context: &Context, object: &mut Object) {
    prepare::create(context, object);
    let (uid, name) = (object.uid().to_owned(), object.name().to_owned());
    if object.bool_at(&["spec", "manualSelector"]) || uid.is_empty() {
        return;
    }
    let labels = ["controller-uid", "job-name"].into_iter().zip([&uid, &name]);
    for (label, value) in labels {
        for key in [label.to_owned(), format!("batch.kubernetes.io/{label}")] {
            object.default_at(&["spec", "template", "metadata", "labels", &key], value.as_str());
        }
    }
    object.default_at(&["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"], uid);
    label_defaults(object);
}

fn prepare_update(context: &Context, new: &mut Object, old: &Object) {
    if context.subresource != "status" && tree::is_blank(new.at(&["spec", "selector"])) {
        tree::carry_over(new, old, &["spec", "selector"]);
    }
    prepare::update(context, new, old);
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let (names, images) = table::template_containers(object);
    cells![
        object.name(),
        status(object),
        completions(object),
        duration(object, now),
        table::age(object, now),
        names,
        images,
        table::selector_text(object.at(&["spec", "selector"])),
    ]
}

fn status(object: &Object) -> &'static str {
    let is = |kind: &str| table::is_condition_true(object, kind);
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if object.is_deleting() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(object: &Object) -> String {
    let succeeded = table::number(object, &["status", "succeeded"]);
    match (object.int_at(&["spec", "completions"]), table::number(object, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(object: &Object, now: Timestamp) -> String {
    let Some(start) = table::time_at(object, &["status", "startTime"]) else {
        return String::new();
    };
    let end = table::time_at(object, &["status", "completionTime"]).unwrap_or(now);
    table::human_duration(end.as_second() - start.as_second())
}

fn validate(context: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    if context.subresource == "status" {
        return faults.into_list();
    }
    generated_selector(&mut faults, object, &spec);
    job_check::spec(&mut faults, &spec);
    let selector = spec.get("selector");
    if selector.is_set() {
        faults.selector(&selector);
    } else {
        faults.required(&selector, "");
    }
    let template = spec.get("template");
    let selects = |selector: &LabelSelector| {
        selector.matches(|key| template.value().at(&["metadata", "labels", key]).and_then(Value::as_str))
    };
    if LabelSelector::from_object(selector.value()).is_ok_and(|selector| !selects(&selector)) {
        workload_check::mismatch(&mut faults, &template);
    }
    host_names(&mut faults, object, &spec);
    faults.into_list()
}

/// A selector that the server makes must be the one that it made, and the Pods must have its labels.
fn generated_selector(faults: &mut Faults, object: &Object, spec: &At) {
    let selector = spec.get("selector");
    if spec.get("manualSelector").flag() || !selector.is_set() {
        return;
    }
    let metadata = spec.walk(&["template", "metadata"]);
    let expected = [
        ("batch.kubernetes.io/controller-uid", object.uid()),
        ("batch.kubernetes.io/job-name", object.name()),
        ("controller-uid", object.uid()),
        ("job-name", object.name()),
    ];
    for (key, value) in expected {
        let label = metadata.get("labels").get(key);
        let at = label.renamed(metadata.path().child("labels").key(key));
        if !label.is_set() {
            faults.required(&at, &format!("must be '{value}'"));
        } else if label.text() != value {
            faults.invalid_as(&at, metadata.get("labels").value().clone(), format!("must be '{value}'"));
        }
    }
    let own = |key: &str| expected.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    if LabelSelector::from_object(selector.value()).is_ok_and(|selector| !selector.matches(own)) {
        faults.invalid(&selector, "`selector` not auto-generated");
    }
}

/// Pods of an indexed job are named after it and their index.
fn host_names(faults: &mut Faults, object: &Object, spec: &At) {
    let completions = spec.get("completions").int().unwrap_or(0);
    if spec.get("completionMode").text() == "Indexed" && completions > 0 {
        let longest = format!("{}-{}", object.name(), completions - 1);
        if !names::check_dns_label(&longest).is_empty() {
            let words = format!("will not able to create pod with invalid DNS label: {longest}");
            faults.invalid(&At::top(object, "metadata").get("name"), words);
        }
    }
}

/// A suspended job that never ran may still change where its Pods will run.
const MUTABLE_WHILE_SUSPENDED: [&str; 4] = ["nodeSelector", "tolerations", "affinity", "schedulingGates"];

fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    let mut faults = Faults::new();
    if context.subresource == "status" {
        status_update(&mut faults, new, old);
        return faults.into_list();
    }
    check_completions(&mut faults, &spec, &was);
    faults.immutable(&spec.get("selector"), &was.get("selector"));
    if settled_template(new, old) != settled_template(old, old) {
        faults.invalid(&spec.get("template"), check::IMMUTABLE);
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        faults.immutable(&spec.get(field), &was.get(field));
    }
    faults.into_list()
}

/// An indexed job can grow and shrink, with as many Pods as indexes.
fn check_completions(faults: &mut Faults, spec: &At, was: &At) {
    let (new, old) = (spec.get("completions"), was.get("completions"));
    if spec.get("completionMode").text() != "Indexed" || !old.is_set() {
        faults.immutable(&new, &old);
    } else if new.is_set() && new.int() != old.int() && new.int() != spec.get("parallelism").int() {
        faults.invalid(&new, "can only be modified in tandem with spec.parallelism");
    }
}

/// The template without what may change: while the job is suspended the resources of its Pods, and before it ever ran
/// where they will run.
fn settled_template(object: &Object, old: &Object) -> Value {
    let is_suspended = old.bool_at(&["spec", "suspend"]);
    let never_ran = is_suspended && old.at(&["status", "startTime"]).is_none();
    let mut template = object.at(&["spec", "template"]).cloned().unwrap_or(Value::Null);
    if never_ran {
        for field in MUTABLE_WHILE_SUSPENDED {
            template.remove_at(&["spec", field]);
        }
        template.remove_at(&["metadata", "labels"]);
        template.remove_at(&["metadata", "annotations"]);
    }
    if is_suspended && table::number(old, &["status", "active"]) == 0 {
        for list in ["containers", "initContainers"] {
            for container in tree::items_mut(&mut template, &["spec", list]) {
                container.remove_at(&["resources"]);
            }
        }
    }
    template
}

/// What a job's status may not tell: that it ended and goes on, or that it did not end after all.
fn status_update(faults: &mut Faults, new: &Object, old: &Object) {
    let (status, was) = (At::top(new, "status"), At::top(old, "status"));
    status_check::counts(faults, &status, &["active", "ready", "succeeded", "failed", "terminating"]);
    status_check::within(faults, &status, &["ready"], "active", "cannot set more ready pods than active");
    let is = |object: &Object, kind: &str| table::is_condition_true(object, kind);
    let (is_complete, is_failed) = (is(new, "Complete"), is(new, "Failed"));
    let completed = status.get("completionTime");
    if is_complete || is_failed {
        for field in ["active", "terminating"] {
            if status.get(field).int().unwrap_or(0) > 0 {
                faults.invalid(&status.get(field), format!("{field}>0 is invalid for finished job"));
            }
        }
        if !status.get("startTime").is_set() {
            faults.required(&status.get("startTime"), "startTime is required for finished job");
        }
    }
    if is_complete && !completed.is_set() {
        faults.required(&completed, "completionTime is required for Complete jobs");
    } else if !is_complete && completed.is_set() {
        faults.invalid(&completed, "cannot set completionTime when there is no Complete=True condition");
    }
    let conditions = status.get("conditions");
    if is_complete && is_failed {
        faults.invalid_whole(&conditions, "cannot set Complete=True and Failed=true conditions");
    }
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is(old, kind) && !is(new, kind) {
            faults.invalid_whole(&conditions, &format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    for field in ["failed", "succeeded"] {
        let (now, before) = (status.get(field), was.get(field).int().unwrap_or(0));
        if now.int().unwrap_or(0) < before && is_shrinking_only_by_status(new, old) {
            faults.invalid_as(&now, now.int().unwrap_or(0), format!("cannot decrease the {field} counter"));
        }
    }
}

/// An indexed job that was made smaller counts fewer successes.
fn is_shrinking_only_by_status(new: &Object, old: &Object) -> bool {
    let completions = |object: &Object| object.int_at(&["spec", "completions"]);
    new.str_at(&["spec", "completionMode"]) != "Indexed" && completions(new) == completions(old)
}

fn warnings(object: &Object) -> Vec<String> {
    pod_warnings::template(object, &["spec", "template"])
}
