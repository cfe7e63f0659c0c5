//! What a pod specification gets where its author left it out; for Pods and for templates of Pods.
//! The numbers are those of <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/>.

use serde_json::{Value, json};
use skiff_object::meta::Meta;

use crate::rules::container_defaults as containers;
use crate::rules::tree::{default_text, empty, is_blank, items_mut, made_mut, node_mut};

const TERMINATION_GRACE_SECONDS: i64 = 30;
const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Sets the defaults of the pod template at a path, which is made where there is none.
pub fn template(object: &mut Value, path: &[&str]) {
    let template = made_mut(object, path);
    template.default_at(&["metadata"], empty());
    pod_spec(made_mut(template, &["spec"]));
}

/// Sets the defaults of a Pod itself: those of its specification, and those that templates do without.
pub fn pod(spec: &mut Value) {
    pod_spec(spec);
    spec.default_at(&["enableServiceLinks"], true);
    let host_network = spec.bool_at(&["hostNetwork"]);
    for list in ["containers", "initContainers"] {
        for container in items_mut(spec, &[list]) {
            containers::requests_from_limits(container);
            if host_network {
                containers::host_ports(container);
            }
        }
    }
    pod_level_requests(spec);
}

fn pod_spec(spec: &mut Value) {
    default_text(spec, &["restartPolicy"], "Always");
    default_text(spec, &["dnsPolicy"], "ClusterFirst");
    default_text(spec, &["schedulerName"], "default-scheduler");
    spec.default_at(&["terminationGracePeriodSeconds"], TERMINATION_GRACE_SECONDS);
    spec.default_at(&["securityContext"], empty());
    service_account_alias(spec);
    for list in CONTAINER_LISTS {
        items_mut(spec, &[list]).for_each(containers::container);
    }
    items_mut(spec, &["volumes"]).for_each(containers::volume);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are kept the same.
pub fn service_account_alias(spec: &mut Value) {
    let (name, alias) = (spec.str_at(&["serviceAccountName"]).to_owned(), spec.str_at(&["serviceAccount"]).to_owned());
    match (name.is_empty(), alias.is_empty()) {
        (true, true) => {}
        (true, false) => spec.set_at(&["serviceAccountName"], alias),
        (false, _) => spec.set_at(&["serviceAccount"], name),
    }
}

/// A Pod with limits of its own requests what its containers request, or else as much as the limits.
fn pod_level_requests(spec: &mut Value) {
    let Some(limits) = node_mut(spec, &["resources", "limits"]).and_then(|limits| limits.as_object().cloned()) else {
        return;
    };
    for (resource, limit) in limits {
        if !is_blank(spec.at(&["resources", "requests", &resource])) {
            continue;
        }
        let requests = spec.list_at(&["containers"]).iter();
        let requests: Vec<skiff_base::Quantity> = requests
            .filter_map(|container| container.str_at(&["resources", "requests", &resource]).parse().ok())
            .collect();
        let sum = requests.into_iter().reduce(skiff_base::Quantity::plus);
        spec.set_at(&["resources", "requests", &resource], sum.map_or(limit, |sum| sum.to_string().into()));
    }
}

/// What a Pod takes from its own labels when it is made: keys that its selectors of siblings name without a value.
/// See <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>, `matchLabelKeys`.
pub fn own_labels(pod: &mut Value) {
    let labels = pod.map_at(&["metadata", "labels"]).cloned().unwrap_or_default();
    let select = |holder: &mut Value, field: &str, operator: &str| {
        if !holder.get("labelSelector").is_some_and(Value::is_object) {
            return;
        }
        let keys: Vec<_> = holder.list_at(&[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let mut expressions = holder.list_at(&["labelSelector", "matchExpressions"]).to_vec();
        for key in keys {
            if let Some(value) = labels.get(&key) {
                expressions.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
        if !expressions.is_empty() {
            holder.set_at(&["labelSelector", "matchExpressions"], expressions);
        }
    };
    for constraint in items_mut(pod, &["spec", "topologySpreadConstraints"]) {
        select(constraint, "matchLabelKeys", "In");
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let path = |list| ["spec", "affinity", kind, list];
        let mut both = |term: &mut Value| {
            select(term, "matchLabelKeys", "In");
            select(term, "mismatchLabelKeys", "NotIn");
        };
        items_mut(pod, &path("requiredDuringSchedulingIgnoredDuringExecution")).for_each(&mut both);
        for preferred in items_mut(pod, &path("preferredDuringSchedulingIgnoredDuringExecution")) {
            node_mut(preferred, &["podAffinityTerm"]).into_iter().for_each(&mut both);
        }
    }
}
