//! What an object uses up of a ResourceQuota, and which quotas concern it. One rule for the controller that tells
//! what is used and for the admission that refuses what is too much. Pure.
//! See <https://kubernetes.io/docs/concepts/policy/resource-quotas/>.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use skiff_base::quantity::Format;
use skiff_base::{Quantity, Timestamp};
use skiff_object::Object;
use skiff_object::meta::Meta;

/// Amounts by the names that quotas give them.
pub type Amounts = BTreeMap<String, Quantity>;

/// Resources whose objects are counted under their bare names too.
const COUNTED: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
/// Resources of containers that quotas know without a prefix.
const PLAIN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// What quotas call a claim's resources, by its storage class.
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";

/// Adds one amount to others.
pub fn add(amounts: &mut Amounts, name: impl Into<String>, amount: Quantity) {
    let sum = amounts.entry(name.into()).or_insert(Quantity::ZERO);
    *sum = sum.plus(amount);
}

fn one() -> Quantity {
    Quantity::from_units(1, Format::DecimalSi)
}

/// The name by which objects of a resource are counted: `count/deployments.apps`.
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

/// What an object uses.
pub fn usage(group: &str, plural: &str, object: &Object, now: Timestamp) -> Amounts {
    let mut used = Amounts::new();
    add(&mut used, count_name(group, plural), one());
    match (group, plural) {
        ("", "pods") => pod(object, now, &mut used),
        ("", "services") => service(object, &mut used),
        ("", "persistentvolumeclaims") => claim(object, &mut used),
        ("", plural) if COUNTED.contains(&plural) => add(&mut used, plural, one()),
        _ => {}
    }
    used
}

/// Whether a quota of this spec counts the object: all its scopes have to fit.
pub fn concerns(spec: &Value, group: &str, plural: &str, object: &Object) -> bool {
    let scopes = spec.list_at(&["scopes"]).iter().filter_map(Value::as_str);
    let expressions = spec.list_at(&["scopeSelector", "matchExpressions"]);
    // Scopes choose among pods and claims; of nothing else can they hold.
    let fits = match (group, plural) {
        ("", "pods") => pod_fits,
        ("", "persistentvolumeclaims") => claim_fits,
        _ => return spec.list_at(&["scopes"]).is_empty() && expressions.is_empty(),
    };
    let by_name = |scope: &str| fits(object, scope, "Exists", &[]);
    let by_expression = |expression: &Value| {
        let values: Vec<&str> = expression.list_at(&["values"]).iter().filter_map(Value::as_str).collect();
        fits(object, expression.str_at(&["scopeName"]), expression.str_at(&["operator"]), &values)
    };
    scopes.into_iter().all(by_name) && expressions.iter().all(by_expression)
}

/// Whether the names that an object has of a scope are such as the operator wants: as with labels, a name that is not
/// there is in no list.
fn named(names: &[&str], operator: &str, values: &[&str]) -> bool {
    match operator {
        "In" => names.iter().any(|name| values.contains(name)),
        "NotIn" => !names.iter().any(|name| values.contains(name)),
        "DoesNotExist" => names.is_empty(),
        _ => !names.is_empty(),
    }
}

/// Those names that are given.
fn some<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| !name.is_empty()).collect()
}

/// A claim has the classes of attributes that it asks for, has, and is on its way to.
fn claim_fits(claim: &Object, scope: &str, operator: &str, values: &[&str]) -> bool {
    let names = some(&[
        claim.str_at(&["spec", "volumeAttributesClassName"]),
        claim.str_at(&["status", "currentVolumeAttributesClassName"]),
        claim.str_at(&["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"]),
    ]);
    scope == "VolumeAttributesClass" && named(&names, operator, values)
}

fn pod_fits(pod: &Object, scope: &str, operator: &str, values: &[&str]) -> bool {
    let has_deadline = pod.int_at(&["spec", "activeDeadlineSeconds"]).is_some();
    match scope {
        "Terminating" => has_deadline,
        "NotTerminating" => !has_deadline,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "CrossNamespacePodAffinity" => reaches_other_namespaces(pod),
        "PriorityClass" => named(&some(&[pod.str_at(&["spec", "priorityClassName"])]), operator, values),
        _ => false,
    }
}

fn is_best_effort(pod: &Object) -> bool {
    ["requests", "limits"].iter().all(|field| {
        let amounts = resources(pod, field);
        ["cpu", "memory"].iter().all(|name| amounts.get(*name).is_none_or(Quantity::is_zero))
    })
}

fn reaches_other_namespaces(pod: &Object) -> bool {
    let terms = |kind: &str| {
        let affinity = pod.at(&["spec", "affinity", kind]).unwrap_or(&Value::Null);
        let hard = affinity.list_at(&["requiredDuringSchedulingIgnoredDuringExecution"]).to_vec();
        let soft = affinity.list_at(&["preferredDuringSchedulingIgnoredDuringExecution"]);
        hard.into_iter().chain(soft.iter().filter_map(|term| term.get("podAffinityTerm").cloned()))
    };
    terms("podAffinity").chain(terms("podAntiAffinity")).any(|term| {
        !term.list_at(&["namespaces"]).is_empty() || term.at(&["namespaceSelector"]).is_some_and(|s| !s.is_null())
    })
}

fn pod(pod: &Object, now: Timestamp, used: &mut Amounts) {
    if matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") || is_overdue(pod, now) {
        return;
    }
    add(used, "pods", one());
    for (name, amount) in resources(pod, "requests") {
        if PLAIN.contains(&name.as_str()) || name.starts_with("hugepages-") {
            add(used, name.clone(), amount);
        }
        add(used, format!("requests.{name}"), amount);
    }
    for (name, amount) in resources(pod, "limits").into_iter().filter(|(name, _)| PLAIN.contains(&name.as_str())) {
        add(used, format!("limits.{name}"), amount);
    }
}

/// A Pod that should be gone by now, and is not because its node is not heard of, frees what it had.
fn is_overdue(pod: &Object, now: Timestamp) -> bool {
    let deleted = pod.str_at(&["metadata", "deletionTimestamp"]).parse::<Timestamp>().ok();
    let grace = pod.int_at(&["metadata", "deletionGracePeriodSeconds"]);
    match (deleted, grace) {
        (Some(deleted), Some(grace)) => now > deleted + Duration::from_secs(grace.unsigned_abs()),
        _ => false,
    }
}

/// What a Pod asks for in all, by `requests` or `limits`.
pub fn resources(pod: &Object, field: &str) -> Amounts {
    let (mut total, mut before) = (Amounts::new(), Amounts::new());
    for container in pod.list_at(&["spec", "containers"]) {
        for (name, amount) in of_container(pod, container, "containerStatuses", field) {
            add(&mut total, name, amount);
        }
    }
    let mut peak = Amounts::new();
    for container in pod.list_at(&["spec", "initContainers"]) {
        let own = of_container(pod, container, "initContainerStatuses", field);
        if container.str_at(&["restartPolicy"]) == "Always" {
            for (name, amount) in own {
                add(&mut before, name.clone(), amount);
                add(&mut total, name, amount);
            }
            raise(&mut peak, &before);
        } else {
            let mut at_once = before.clone();
            own.into_iter().for_each(|(name, amount)| add(&mut at_once, name, amount));
            raise(&mut peak, &at_once);
        }
    }
    raise(&mut total, &peak);
    // What is said of the Pod as a whole holds instead of the sums.
    total.extend(amounts(pod.at(&["spec", "resources", field])));
    for (name, amount) in amounts(pod.at(&["spec", "overhead"])) {
        if field == "requests" || total.get(&name).is_some_and(|limit| !limit.is_zero()) {
            add(&mut total, name, amount);
        }
    }
    total
}

fn raise(peak: &mut Amounts, others: &Amounts) {
    for (name, amount) in others {
        let known = peak.entry(name.clone()).or_insert(*amount);
        *known = (*known).max(*amount);
    }
}

/// What a container asks for, or still has while it is resized.
fn of_container(pod: &Object, container: &Value, statuses: &str, field: &str) -> Amounts {
    let mut asked = amounts(container.at(&["resources", field]));
    let name = container.str_at(&["name"]);
    let status = pod.list_at(&["status", statuses]).iter().find(|status| status.str_at(&["name"]) == name);
    if let Some(status) = status {
        let mut held = amounts(status.at(&["resources", field]));
        if field == "requests" {
            raise(&mut held, &amounts(status.at(&["allocatedResources"])));
        }
        held.retain(|name, _| asked.contains_key(name));
        raise(&mut asked, &held);
    }
    asked
}

fn amounts(tree: Option<&Value>) -> Amounts {
    let pairs = tree.and_then(Value::as_object).into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

fn service(service: &Object, used: &mut Amounts) {
    add(used, "services", one());
    let kind = service.str_at(&["spec", "type"]);
    let ports = service.list_at(&["spec", "ports"]);
    let allocates = service.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false));
    let held = match kind {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates => ports.len(),
        "LoadBalancer" => ports.iter().filter(|port| port.int_at(&["nodePort"]).unwrap_or(0) > 0).count(),
        _ => 0,
    };
    add(used, "services.nodeports", Quantity::from_units(held as i64, Format::DecimalSi));
    let balancers = i64::from(kind == "LoadBalancer");
    add(used, "services.loadbalancers", Quantity::from_units(balancers, Format::DecimalSi));
}

fn claim(claim: &Object, used: &mut Amounts) {
    let asked = claim.at(&["spec", "resources", "requests", "storage"]).and_then(quantity);
    let held = claim.at(&["status", "allocatedResources", "storage"]).and_then(quantity);
    let storage = asked.max(held).unwrap_or(Quantity::ZERO);
    add(used, "persistentvolumeclaims", one());
    add(used, "requests.storage", storage);
    let class = claim.annotation("volume.beta.kubernetes.io/storage-class");
    let class = class.unwrap_or_else(|| claim.str_at(&["spec", "storageClassName"]));
    if !class.is_empty() {
        add(used, format!("{class}{BY_CLASS}persistentvolumeclaims"), one());
        add(used, format!("{class}{BY_CLASS}requests.storage"), storage);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn object(yaml: &str) -> Object {
        serde_saphyr::from_str(yaml).expect(yaml)
    }

    fn check(plural: &str, yaml: &str, expected: Expect) {
        let now = "2026-01-31T12:00:00Z".parse().expect("a time");
        let used = usage("", plural, &object(yaml), now);
        let lines: Vec<_> = used.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
        expected.assert_eq(&lines.join(" "));
    }

    #[test]
    fn what_objects_use_is_counted() {
        check(
            "pods",
            "{spec: {overhead: {cpu: 10m}, containers: [{name: a, resources: {requests: {cpu: 100m, example.org/gpu: 1}, limits: {memory: 1Gi}}}, {name: b, resources: {requests: {cpu: 200m}}}], initContainers: [{name: i, resources: {requests: {cpu: 1}}}, {name: s, restartPolicy: Always, resources: {requests: {cpu: 50m}}}]}}",
            expect!["count/pods=1 cpu=1010m limits.memory=1Gi pods=1 requests.cpu=1010m requests.example.org/gpu=1"],
        );
        check("pods", "{spec: {containers: []}, status: {phase: Failed}}", expect!["count/pods=1"]);
        check(
            "pods",
            "{metadata: {deletionTimestamp: '2026-01-31T11:00:00Z', deletionGracePeriodSeconds: 30}, spec: {containers: []}}",
            expect!["count/pods=1"],
        );
        check(
            "services",
            "{spec: {type: LoadBalancer, ports: [{port: 80}, {port: 81}]}}",
            expect!["count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"],
        );
        check(
            "persistentvolumeclaims",
            "{spec: {storageClassName: gold, resources: {requests: {storage: 2Gi}}}}",
            expect![
                "count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/requests.storage=2Gi persistentvolumeclaims=1 requests.storage=2Gi"
            ],
        );
        check("secrets", "{}", expect!["count/secrets=1 secrets=1"]);
    }

    #[test]
    fn scopes_choose_pods() {
        let check = |spec: &str, pod: &str, expected: bool| {
            assert_eq!(concerns(&object(spec), "", "pods", &object(pod)), expected, "{spec} {pod}");
        };
        let best_effort = "{spec: {containers: [{name: a}]}}";
        let long = "{spec: {priorityClassName: high, containers: [{name: a, resources: {limits: {cpu: 1}}}], activeDeadlineSeconds: 5}}";
        check("{scopes: [BestEffort]}", best_effort, true);
        check("{scopes: [BestEffort]}", long, false);
        check("{scopes: [NotBestEffort, Terminating]}", long, true);
        check("{scopes: [NotTerminating]}", long, false);
        check(
            "{scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [high]}]}}",
            long,
            true,
        );
        check(
            "{scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: Exists}]}}",
            best_effort,
            false,
        );
        check(
            "{scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: NotIn, values: [low]}]}}",
            long,
            true,
        );
        check(
            "{scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: NotIn, values: [high]}]}}",
            long,
            false,
        );
        // As with labels: who has no class is in no list.
        check(
            "{scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: NotIn, values: [high]}]}}",
            best_effort,
            true,
        );
        assert!(!concerns(&object("{scopes: [BestEffort]}"), "", "secrets", &object("{}")));
    }

    #[test]
    fn scopes_choose_claims() {
        let check = |expression: &str, claim: &str, expected: bool| {
            let spec = format!(
                "{{scopeSelector: {{matchExpressions: [{{scopeName: VolumeAttributesClass, {expression}}}]}}}}"
            );
            let is = concerns(&object(&spec), "", "persistentvolumeclaims", &object(claim));
            assert_eq!(is, expected, "{expression} {claim}");
        };
        let (plain, gold) = ("{spec: {}}", "{spec: {volumeAttributesClassName: gold}}");
        let leaving = "{spec: {volumeAttributesClassName: silver}, status: {currentVolumeAttributesClassName: gold}}";
        for (claim, exists, is_gold) in [(plain, false, false), (gold, true, true), (leaving, true, true)] {
            check("operator: Exists", claim, exists);
            check("operator: DoesNotExist", claim, !exists);
            check("operator: In, values: [gold]", claim, is_gold);
            check("operator: NotIn, values: [gold]", claim, !is_gold);
        }
        let claims = |scope: &str| {
            concerns(&object(&format!("{{scopes: [{scope}]}}")), "", "persistentvolumeclaims", &object(gold))
        };
        assert!(claims("VolumeAttributesClass") && !claims("BestEffort"));
    }
}
