//! What may be wrong with LimitRanges, ResourceQuotas, autoscalers and disruption budgets.

use std::collections::BTreeSet;

use skiff_object::names;

use crate::rules::check::{At, Faults};

/// Resources that a quota counts by a plain name.
const QUOTA_RESOURCES: [&str; 21] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
    "storage",
    "resourceclaims",
];
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// Checks a ResourceQuota.
pub fn quota(faults: &mut Faults, spec: &At) {
    for (name, amount) in spec.get("hard").entries() {
        quota_resource(faults, name, &amount);
        faults.non_negative_quantity(&amount);
        if matches!(name, "pods" | "services" | "secrets" | "configmaps")
            && amount.quantity().is_some_and(|q| !q.is_integer())
        {
            faults.invalid(&amount, "must be an integer");
        }
    }
    for scope in spec.get("scopes").items() {
        if !SCOPES.contains(&scope.text()) {
            faults.invalid_as(&spec.get("scopes"), spec.get("scopes").value().clone(), "unsupported scope");
        }
    }
    for expression in spec.walk(&["scopeSelector", "matchExpressions"]).items() {
        let (operator, values) = (expression.get("operator"), expression.get("values"));
        if !SCOPES.contains(&expression.get("scopeName").text()) {
            faults.invalid(&expression.get("scopeName"), "unsupported scope");
        }
        match operator.text() {
            "In" | "NotIn" if values.is_blank() => {
                faults.required(
                    &values,
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                );
            }
            "Exists" | "DoesNotExist" if !values.is_blank() => {
                faults.invalid(
                    &values,
                    "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => faults.invalid(&operator, "not a valid selector operator"),
        }
    }
}

fn quota_resource(faults: &mut Faults, name: &str, at: &At) {
    let wrong = names::check_label_key(name);
    let is_known = name.contains('/')
        || QUOTA_RESOURCES.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-");
    if wrong.is_empty() && !is_known {
        faults.invalid_as(at, name, "must be a standard resource for quota");
    }
    for words in wrong {
        faults.invalid_as(at, name, words);
    }
}

/// Checks a LimitRange.
pub fn limit_range(faults: &mut Faults, spec: &At) {
    let mut seen = BTreeSet::new();
    for item in spec.get("limits").items() {
        let kind = item.get("type");
        faults.all_invalid(&kind, names::check_label_key(kind.text()));
        if !seen.insert(kind.text()) {
            faults.duplicate(&kind);
        }
        if kind.text() == "Pod" {
            for field in ["default", "defaultRequest"] {
                if !item.get(field).is_blank() {
                    faults.forbidden(&item.get(field), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        if kind.text() == "PersistentVolumeClaim" && item.get("min").is_blank() && item.get("max").is_blank() {
            faults.required(
                &item.get("limits"),
                "either minimum or maximum storage value is required, but neither was provided",
            );
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
    let ratio = item.get("maxLimitRequestRatio");
    for (_, value) in ratio.entries() {
        if value.quantity().is_some_and(|quantity| quantity < skiff_base::Quantity::from_millis(1000)) {
            let detail = format!("ratio {} is less than 1", value.text());
            faults.invalid(&value, detail);
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
    let target = spec.get("scaleTargetRef");
    for field in ["kind", "name"] {
        faults.needs_name(&target.get(field), names::check_path_segment);
    }
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

fn metric(faults: &mut Faults, metric: &At) {
    const KINDS: [(&str, &str); 5] = [
        ("ContainerResource", "containerResource"),
        ("External", "external"),
        ("Object", "object"),
        ("Pods", "pods"),
        ("Resource", "resource"),
    ];
    let kind = metric.get("type");
    if !faults.needs(&kind) {
        return;
    }
    let Some((_, field)) = KINDS.iter().find(|(name, _)| *name == kind.text()) else {
        faults.not_supported(&kind, &KINDS.map(|(name, _)| name));
        return;
    };
    let source = metric.get(field);
    if !source.is_set() {
        faults.required(&source, "must populate information for the given metric source");
        return;
    }
    if field.to_lowercase().ends_with("resource") {
        faults.needs(&source.get("name"));
    } else {
        faults.needs(&source.get("metric").get("name"));
    }
    let target = source.get("target");
    faults.needs_choice(&target.get("type"), &["AverageValue", "Utilization", "Value"]);
    let percents = target.get("averageUtilization");
    if percents.int().is_some_and(|percents| percents < 1) {
        faults.invalid(&percents, "must be greater than 0");
    }
    if field.to_lowercase().ends_with("resource") && !percents.is_set() && !target.get("averageValue").is_set() {
        let words = "must set either a target raw value or a target utilization";
        faults.required(&target.get("averageUtilization"), words);
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
    faults.non_negative(&window);
    if window.int().is_some_and(|seconds| seconds > WINDOW_LIMIT_SECONDS) {
        faults.invalid(&window, format!("must be less than or equal to {WINDOW_LIMIT_SECONDS}"));
    }
    faults.choice(&rules.get("selectPolicy"), &["Disabled", "Max", "Min"]);
    if rules.get("policies").is_blank() {
        faults.required(&rules.get("policies"), "must specify at least one Policy");
    }
    for policy in rules.get("policies").items() {
        faults.needs_choice(&policy.get("type"), &["Percent", "Pods"]);
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
