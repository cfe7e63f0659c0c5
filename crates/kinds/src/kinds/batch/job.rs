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
use crate::rules::{check, pod_defaults, pod_warnings, prepare, table, tree, workload_check};

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
    selectable: list![SelectableField { path: text("status.successful"), read: Some(successful) }],
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

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    workload_check::job(&mut faults, &spec);
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

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    let mut faults = Faults::new();
    let is_elastic = spec.get("completionMode").text() == "Indexed"
        && spec.get("completions").int() == spec.get("parallelism").int();
    if !is_elastic {
        faults.immutable(&spec.get("completions"), &was.get("completions"));
    }
    faults.immutable(&spec.get("selector"), &was.get("selector"));
    let never_ran = was.get("suspend").flag() && old.at(&["status", "startTime"]).is_none();
    let template = |object: &Object| {
        let mut template = object.at(&["spec", "template"]).cloned().unwrap_or(Value::Null);
        for field in MUTABLE_WHILE_SUSPENDED.iter().filter(|_| never_ran) {
            template.remove_at(&["spec", field]);
        }
        if never_ran {
            template.remove_at(&["metadata", "labels"]);
            template.remove_at(&["metadata", "annotations"]);
        }
        template
    };
    if template(new) != template(old) {
        faults.invalid(&spec.get("template"), check::IMMUTABLE);
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        faults.immutable(&spec.get(field), &was.get(field));
    }
    faults.into_list()
}

fn warnings(object: &Object) -> Vec<String> {
    pod_warnings::template(object, &["spec", "template"])
}
