//! What may be wrong with LimitRanges, ResourceQuotas, autoscalers and disruption budgets.

use std::collections::BTreeSet;

use skiff_object::names;

use crate::rules::check::{At, Faults};
use crate::rules::resource_check;

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// Pairs of which each excludes the other.
const OPPOSITES: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
/// What scopes that look at Pods may count.
const POD_RESOURCES: [&str; 7] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory", "pods"];

/// Checks a ResourceQuota.
pub fn quota(faults: &mut Faults, spec: &At) {
    amounts(faults, &spec.get("hard"));
    let hard: Vec<_> = spec.get("hard").entries().into_iter().map(|(name, _)| name).collect();
    let scopes = spec.get("scopes");
    let all = scopes.texts();
    for scope in &all {
        if !SCOPES.contains(scope) {
            faults.invalid(&scopes, "unsupported scope");
        }
        for _ in hard.iter().filter(|name| !may_count(scope, name)) {
            faults.invalid(&scopes, "unsupported scope applied to resource");
        }
    }
    for pair in OPPOSITES {
        if pair.iter().all(|scope| all.contains(scope)) {
            faults.invalid(&scopes, "conflicting scopes");
        }
    }
    scope_selector(faults, &spec.get("scopeSelector"), &hard);
}

/// Checks amounts of resources that a quota may count.
pub fn amounts(faults: &mut Faults, amounts: &At) {
    for (name, amount) in amounts.entries() {
        if resource_check::any_name(faults, name, &amount) && name == "storage" {
            faults.invalid_as(&amount, name, "must be a standard resource for quota");
        }
        resource_check::quantity(faults, name, &amount);
    }
}

/// Whether quotas of a scope may bound a resource; of what is not standard nothing is said.
fn may_count(scope: &str, name: &str) -> bool {
    let is_standard = !name.contains('/');
    match scope {
        "BestEffort" => name == "pods" || !is_standard,
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            POD_RESOURCES.contains(&name) || !is_standard
        }
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage") || !is_standard,
        _ => true,
    }
}

fn scope_selector(faults: &mut Faults, selector: &At, hard: &[&str]) {
    let expressions = selector.get("matchExpressions");
    let mut seen = BTreeSet::new();
    for expression in expressions.items() {
        // As upstream has it, faults are told of the list.
        let at = |field: &str| expression.get(field).renamed(expressions.path().child(field));
        let (scope, operator, values) = (at("scopeName"), at("operator"), at("values"));
        if !SCOPES.contains(&scope.text()) {
            faults.invalid(&scope, "unsupported scope");
        }
        for _ in hard.iter().filter(|name| !may_count(scope.text(), name)) {
            let value = selector.value().clone();
            faults.invalid_as(&expressions, value, "unsupported scope applied to resource");
        }
        let only_exists = ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"];
        if only_exists.contains(&scope.text()) && operator.text() != "Exists" {
            let words = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            faults.invalid(&operator, words);
        }
        match operator.text() {
            "In" | "NotIn" if values.is_blank() => {
                let words = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                faults.required(&values, words);
            }
            "Exists" | "DoesNotExist" if !values.is_blank() => {
                let words = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
                faults.invalid(&values, words);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => faults.invalid(&operator, "not a valid selector operator"),
        }
        seen.insert(scope.text());
    }
    for pair in OPPOSITES {
        if pair.iter().all(|scope| seen.contains(scope)) {
            faults.invalid_as(&expressions, selector.value().clone(), "conflicting scopes");
        }
    }
}

/// Checks a LimitRange.
pub fn limit_range(faults: &mut Faults, spec: &At) {
    let mut seen = BTreeSet::new();
    for item in spec.get("limits").items() {
        let kind = item.get("type");
        let wrong = names::check_label_key(kind.text());
        let is_known =
            kind.text().contains('/') || matches!(kind.text(), "Container" | "PersistentVolumeClaim" | "Pod");
        if wrong.is_empty() && !is_known {
            faults.invalid(&kind, "must be a standard limit type or fully qualified");
        }
        wrong.into_iter().for_each(|words| faults.invalid_as(&kind, kind.text(), words));
        if !seen.insert(kind.text()) {
            faults.duplicate(&kind);
        }
        let is_pod = kind.text() == "Pod";
        for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if is_pod && field.starts_with("default") {
                if !item.get(field).is_blank() {
                    faults.forbidden(&item.get(field), "may not be specified when `type` is 'Pod'");
                }
                continue;
            }
            for (name, amount) in item.get(field).entries() {
                if matches!(kind.text(), "Pod" | "Container") {
                    resource_check::container_name(faults, name, &amount);
                } else {
                    resource_check::any_name(faults, name, &amount);
                }
            }
        }
        let has_storage = |field: &str| item.get(field).get("storage").is_set();
        if kind.text() == "PersistentVolumeClaim" && !has_storage("min") && !has_storage("max") {
            let words = "either minimum or maximum storage value is required, but neither was provided";
            faults.required(&item.get("limits"), words);
        }
        bounds(faults, &item);
    }
}

fn bounds(faults: &mut Faults, item: &At) {
    let words = |name: &str| match name {
        "min" => "min value",
        "max" => "max value",
        "default" => "default value",
        _ => "default request value",
    };
    for (lower, upper) in [
        ("min", "max"),
        ("min", "defaultRequest"),
        ("defaultRequest", "max"),
        ("min", "default"),
        ("default", "max"),
        ("defaultRequest", "default"),
    ] {
        for (name, low) in item.get(lower).entries() {
            let high = item.get(upper).get(name);
            let (Some(less), Some(more)) = (low.quantity(), high.quantity()) else {
                continue;
            };
            if less > more {
                // The fault is told of where the wrong value stands: the lower bound, or a default below it.
                let at = if lower == "min" && upper != "max" { item.get(upper) } else { item.get(lower) };
                let at = at.renamed(at.path().key(name));
                let upper_words =
                    if lower == "defaultRequest" && upper == "default" { "default limit value" } else { words(upper) };
                let detail = format!("{} {} is greater than {upper_words} {}", words(lower), low.text(), high.text());
                let shown = if lower == "min" && upper != "max" { high.text() } else { low.text() };
                faults.invalid_as(&at, shown, detail);
            }
        }
    }
    for (name, ratio) in item.get("maxLimitRequestRatio").entries() {
        ratio_bounds(faults, item, name, &ratio);
    }
    for (name, default) in item.get("default").entries() {
        let request = item.get("defaultRequest").get(name);
        if !resource_check::may_overcommit(name) && request.is_set() && default.quantity() != request.quantity() {
            let words = format!(
                "default value {} must equal to defaultRequest value {} in {name}",
                default.text(),
                request.text()
            );
            faults.invalid_as(&item.get("defaultRequest").keyed(name), request.text(), words);
        }
    }
}

fn ratio_bounds(faults: &mut Faults, item: &At, name: &str, ratio: &At) {
    let Some(value) = ratio.quantity() else {
        return;
    };
    if value < skiff_base::Quantity::from_millis(1000) {
        faults.invalid(ratio, format!("ratio {} is less than 1", ratio.text()));
    }
    let (least, most) = (item.get("min").get(name).quantity(), item.get("max").get(name).quantity());
    if let (Some(least), Some(most)) = (least, most) {
        let greatest = most.milli_value() as f64 / least.milli_value() as f64;
        if value.milli_value() as f64 / 1000.0 > greatest {
            faults.invalid(ratio, format!("ratio {} is greater than max/min = {greatest:.6}", ratio.text()));
        }
    }
}

/// Checks a disruption budget.
pub fn budget(faults: &mut Faults, spec: &At) {
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if least.is_set() && most.is_set() {
        faults.invalid(spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for amount in [&least, &most] {
        faults.amount(amount);
        faults.at_most_everything(amount);
    }
    faults.choice(&spec.get("unhealthyPodEvictionPolicy"), &["AlwaysAllow", "IfHealthyBudget"]);
    faults.selector(&spec.get("selector"));
}

/// Checks an autoscaler, of either version.
pub fn autoscaler(faults: &mut Faults, spec: &At) {
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    if least.int().is_some_and(|number| number < 1) {
        faults.invalid(&least, "must be greater than or equal to 1");
    }
    if most.int().unwrap_or(0) < 1 {
        faults.invalid_as(&most, most.int().unwrap_or(0), "must be greater than 0");
    }
    if least.int().is_some_and(|least| most.int().unwrap_or(0) < least) {
        faults.invalid_as(&most, most.int().unwrap_or(0), "must be greater than or equal to `minReplicas`");
    }
    object_reference(faults, &spec.get("scaleTargetRef"));
    let cpu = spec.get("targetCPUUtilizationPercentage");
    if cpu.int().is_some_and(|percents| percents < 1) {
        faults.invalid(&cpu, "must be greater than 0");
    }
    for metric in spec.get("metrics").items() {
        self::metric(faults, &metric);
    }
    for direction in ["scaleUp", "scaleDown"] {
        scaling_rules(faults, &spec.get("behavior").get(direction));
    }
}

/// The kinds of metrics, and the fields that describe them.
const METRICS: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

fn metric(faults: &mut Faults, metric: &At) {
    let kind = metric.get("type");
    if kind.is_blank() {
        faults.required(&kind, "must specify a metric source type");
    }
    let expected = METRICS.iter().find(|(name, _)| *name == kind.text()).map(|(_, field)| *field);
    if expected.is_none() {
        faults.not_supported(&kind, &METRICS.map(|(name, _)| name));
    }
    let given: Vec<_> = METRICS.iter().map(|(_, field)| *field).filter(|field| metric.get(field).is_set()).collect();
    if let Some(first) = given.iter().find(|field| Some(**field) == expected).or(given.first()) {
        metric_source(faults, &metric.get(first), first);
    }
    if let Some(expected) = expected.filter(|expected| !given.contains(expected)) {
        faults.required(&metric.get(expected), "must populate information for the given metric source");
    }
    if given.len() > 1 {
        for other in given.iter().filter(|field| Some(**field) != expected) {
            faults.forbidden(&metric.get(other), "must populate the given metric source only");
        }
    }
}

fn metric_source(faults: &mut Faults, source: &At, field: &str) {
    let target = source.get("target");
    let (value, average) = (target.get("value"), target.get("averageValue"));
    let share = target.get("averageUtilization");
    match field {
        "resource" | "containerResource" => {
            if source.get("name").is_blank() {
                faults.required(&source.get("name"), "must specify a resource name");
            }
            if field == "containerResource" && source.get("container").is_blank() {
                faults.required(&source.get("container"), "must specify a container");
            }
            metric_target(faults, &target);
            match (share.is_set(), average.is_set()) {
                (false, false) => {
                    faults.required(&share, "must set either a target raw value or a target utilization");
                }
                (true, true) => {
                    faults.forbidden(&average, "may not set both a target raw value and a target utilization");
                }
                _ => {}
            }
            return;
        }
        "object" => object_reference(faults, &source.get("describedObject")),
        _ => {}
    }
    let name = source.get("metric").get("name");
    if name.is_blank() {
        faults.required(&name, "must specify a metric name");
    }
    faults.all_invalid(&name, names::check_path_segment(name.text()));
    metric_target(faults, &target);
    match field {
        "pods" if average.quantity().is_none_or(|amount| amount <= skiff_base::Quantity::ZERO) => {
            faults.required(&average, "must specify a positive target averageValue");
        }
        "object" | "external" if !value.is_set() && !average.is_set() => {
            faults.required(&average, "must set either a target value for metric or a per-pod target");
        }
        "external" if value.is_set() && average.is_set() => {
            faults.forbidden(&value, "may not set both a target value for metric and a per-pod target");
        }
        _ => {}
    }
}

fn metric_target(faults: &mut Faults, target: &At) {
    let kind = target.get("type");
    if kind.is_blank() {
        faults.required(&kind, "must specify a metric target type");
    }
    if !matches!(kind.text(), "Utilization" | "Value" | "AverageValue") {
        faults.invalid_as(&kind, kind.text(), "must be either Utilization, Value, or AverageValue");
    }
    for amount in ["value", "averageValue"].map(|field| target.get(field)) {
        if amount.quantity().is_some_and(|quantity| quantity <= skiff_base::Quantity::ZERO) {
            faults.invalid(&amount, "must be positive");
        }
    }
    let share = target.get("averageUtilization");
    if share.int().is_some_and(|percents| percents < 1) {
        faults.invalid(&share, "must be greater than 0");
    }
}

fn object_reference(faults: &mut Faults, target: &At) {
    for field in ["kind", "name"] {
        faults.needs_name(&target.get(field), names::check_path_segment);
    }
    let version = target.get("apiVersion").text();
    if version.split('/').count() > 2 {
        let words = format!("unexpected GroupVersion string: {version}");
        faults.invalid(&target.get("apiVersion"), words);
    }
}

/// The longest window of scaling rules, and the longest period of a policy.
const WINDOW_LIMIT_SECONDS: i64 = 3600;
const PERIOD_LIMIT_SECONDS: i64 = 1800;

fn scaling_rules(faults: &mut Faults, rules: &At) {
    if !rules.is_set() {
        return;
    }
    let window = rules.get("stabilizationWindowSeconds");
    if window.int().is_some_and(|seconds| seconds < 0) {
        faults.invalid(&window, "must be greater than or equal to zero");
    }
    if window.int().is_some_and(|seconds| seconds > WINDOW_LIMIT_SECONDS) {
        faults.invalid(&window, format!("must be less than or equal to {WINDOW_LIMIT_SECONDS}"));
    }
    faults.choice(&rules.get("selectPolicy"), &["Disabled", "Max", "Min"]);
    if rules.get("tolerance").quantity().is_some_and(|share| share.is_negative()) {
        faults.invalid(&rules.get("tolerance"), "must be greater or equal to zero");
    }
    if rules.get("policies").is_blank() {
        faults.required(&rules.get("policies"), "must specify at least one Policy");
    }
    for policy in rules.get("policies").items() {
        if !matches!(policy.get("type").text(), "Percent" | "Pods") {
            faults.not_supported(&policy.get("type"), &["Percent", "Pods"]);
        }
        for field in ["value", "periodSeconds"] {
            if policy.get(field).int().unwrap_or(0) <= 0 {
                faults.invalid_as(
                    &policy.get(field),
                    policy.get(field).int().unwrap_or(0),
                    "must be greater than zero",
                );
            }
        }
        let period = policy.get("periodSeconds");
        if period.int().is_some_and(|seconds| seconds > PERIOD_LIMIT_SECONDS) {
            faults.invalid(&period, format!("must be less than or equal to {PERIOD_LIMIT_SECONDS}"));
        }
    }
}
