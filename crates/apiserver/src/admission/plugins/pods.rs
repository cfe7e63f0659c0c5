//! What the cluster adds to Pods on their way in, and which it refuses: priorities, tolerations, runtime classes, pull
//! policies and node selectors. One function for each plugin.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skiff_base::gates::WORKLOAD_AWARE_PREEMPTION;
use skiff_kinds::quota::Amounts;
use skiff_object::Object;
use skiff_object::meta::Meta;
use skiff_object::selector::{LabelSelector, Requirement};

use super::find;
use crate::admission::{Attributes, Operation};
use crate::failure::Result;

const DEFAULT_TOLERATION_SECONDS: i64 = 300;
const NODE_SELECTOR: &str = "scheduler.alpha.kubernetes.io/node-selector";
/// What a namespace without a node selector of its own gets.
const CLUSTER_DEFAULT: &str = "clusterDefaultNodeSelector";

fn is_new_pod(attributes: &Attributes<'_>) -> bool {
    attributes.operation == Operation::Create && attributes.is("", "pods")
}

/// What a PriorityClass says of Pods.
#[derive(Debug, Clone)]
pub struct Class {
    name: String,
    value: i64,
    policy: String,
    is_default: bool,
}

impl Class {
    fn of(class: &Object) -> Self {
        Self {
            name: class.name().to_owned(),
            value: class.int_at(&["value"]).unwrap_or(0),
            policy: class.str_at(&["preemptionPolicy"]).to_owned(),
            is_default: class.bool_at(&["globalDefault"]),
        }
    }
}

const CLASSES: (&str, &str) = ("scheduling.k8s.io", "priorityclasses");

/// Priority: what the Pod's class is worth.
pub async fn priority(attributes: &Attributes<'_>, object: &mut Object) -> Result<()> {
    let is_group = is_new_group(attributes);
    if !(is_group || is_new_pod(attributes)) || attributes.server.catalogue.cache(CLASSES.0, CLASSES.1).is_none() {
        return Ok(());
    }
    let name = object.str_at(&["spec", "priorityClassName"]).to_owned();
    let class = if name.is_empty() {
        global_default(attributes)
    } else {
        let class = find(attributes, CLASSES.0, CLASSES.1, &name).await?;
        let missing = || attributes.forbidden(format!("no PriorityClass with name {name} was found"));
        Some(Class::of(&class.ok_or_else(missing)?))
    };
    let (value, policy) = class.as_ref().map_or((0, ""), |class| (class.value, class.policy.as_str()));
    if let (true, Some(class)) = (name.is_empty(), &class) {
        object.set_at(&["spec", "priorityClassName"], class.name.as_str());
    }
    if let Some(given) = object.int_at(&["spec", "priority"]).filter(|given| *given != value) {
        let why = if is_group {
            format!(
                "priority set in the pod group ({given}) must match the priority computed ({value}) based on the priority class set in the spec"
            )
        } else {
            format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            )
        };
        return Err(attributes.forbidden(why));
    }
    object.set_at(&["spec", "priority"], value);
    if !is_group {
        let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
        object.default_at(&["spec", "preemptionPolicy"], policy);
    }
    Ok(())
}

/// Whether a PodGroup is made where these have priorities.
fn is_new_group(attributes: &Attributes<'_>) -> bool {
    attributes.operation == Operation::Create
        && attributes.is("scheduling.k8s.io", "podgroups")
        && attributes.server.config.gates.enabled(WORKLOAD_AWARE_PREEMPTION)
}

/// The class for Pods that name none: of several the one with the lowest value.
fn global_default(attributes: &Attributes<'_>) -> Option<Class> {
    let server = attributes.server;
    let all = server.plugins.classes.all(server, CLASSES.0, CLASSES.1, Class::of);
    let default = all.into_iter().filter(|class| class.is_default).min_by_key(|class| class.value);
    default.map(|class| Class::clone(&class))
}

/// DefaultTolerationSeconds: a Pod stays for a while on a node that is not ready or cannot be reached, unless it says
/// otherwise.
pub fn tolerations(attributes: &Attributes<'_>, pod: &mut Object, _: Option<&Object>) -> Result<()> {
    if is_new_pod(attributes) {
        tolerate_failures(pod);
    }
    Ok(())
}

fn tolerate_failures(pod: &mut Object) {
    let mut tolerations = pod.list_at(&["spec", "tolerations"]).to_vec();
    let before = tolerations.len();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |toleration: &Value| {
            let own = toleration.str_at(&["key"]);
            (own.is_empty() || own == key) && matches!(toleration.str_at(&["effect"]), "" | "NoExecute")
        };
        if !tolerations[..before].iter().any(covers) {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": DEFAULT_TOLERATION_SECONDS}));
        }
    }
    if tolerations.len() > before {
        pod.set_at(&["spec", "tolerations"], tolerations);
    }
}

/// Whether a Pod is new, or has an image that it did not have before.
fn brings_images(attributes: &Attributes<'_>, pod: &Object, old: Option<&Object>) -> bool {
    let images = |pod: &Object| -> BTreeSet<String> {
        let all = LISTS.iter().flat_map(|list| pod.list_at(&["spec", list]));
        all.map(|container| container.str_at(&["image"]).to_owned()).collect()
    };
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    let is_pod = writes && attributes.is("", "pods");
    is_pod && old.is_none_or(|old| !images(pod).is_subset(&images(old)))
}

/// The lists of containers.
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// AlwaysPullImages: nobody runs an image on a node only because somebody else was allowed to pull it.
pub fn always_pull(attributes: &Attributes<'_>, pod: &mut Object, old: Option<&Object>) -> Result<()> {
    if !brings_images(attributes, pod, old) {
        return Ok(());
    }
    let Some(spec) = pod.get_mut("spec") else { return Ok(()) };
    for list in LISTS {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container.set_at(&["imagePullPolicy"], "Always");
        }
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if volume.get("image").is_some_and(|image| !image.is_null()) {
            volume.set_at(&["image", "pullPolicy"], "Always");
        }
    }
    Ok(())
}

/// AlwaysPullImages, once everybody else has changed the Pod.
pub fn always_pull_check(attributes: &Attributes<'_>, pod: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let Some(pod) = pod.filter(|pod| brings_images(attributes, pod, old)) else { return Ok(()) };
    for list in LISTS {
        for (index, container) in pod.list_at(&["spec", list]).iter().enumerate() {
            let policy = container.str_at(&["imagePullPolicy"]);
            if policy != "Always" {
                return Err(attributes.forbidden(format!(
                    "spec.{list}[{index}].imagePullPolicy: Unsupported value: {policy:?}: supported values: \"Always\""
                )));
            }
        }
    }
    Ok(())
}

/// LimitPodHardAntiAffinityTopology: Pods may be kept apart by nodes, and not by anything larger.
pub fn hard_anti_affinity_check(attributes: &Attributes<'_>, pod: Option<&Object>, _: Option<&Object>) -> Result<()> {
    const HOSTNAME: &str = "kubernetes.io/hostname";
    const TERMS: [&str; 4] = ["spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    let Some(pod) = pod.filter(|_| attributes.is("", "pods")) else { return Ok(()) };
    for key in pod.list_at(&TERMS).iter().map(|term| term.str_at(&["topologyKey"])) {
        if key != HOSTNAME {
            return Err(attributes.forbidden(format_args!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is allowed"
            )));
        }
    }
    Ok(())
}

/// ExtendedResourceToleration: who asks for a device tolerates the taint of the nodes that are kept for it.
pub fn extended_resources(attributes: &Attributes<'_>, pod: &mut Object, _: Option<&Object>) -> Result<()> {
    if !matches!(attributes.operation, Operation::Create | Operation::Update) || !attributes.is("", "pods") {
        return Ok(());
    }
    let containers = pod.list_at(&["spec", "containers"]).iter().chain(pod.list_at(&["spec", "initContainers"]));
    let names = containers.filter_map(|container| container.map_at(&["resources", "requests"])).flatten();
    let names: BTreeSet<_> = names.map(|(name, _)| name.clone()).filter(|name| is_extended(name)).collect();
    let mut tolerations = pod.list_at(&["spec", "tolerations"]).to_vec();
    let before = tolerations.len();
    for name in names {
        let same = |held: &Value| {
            held.str_at(&["key"]) == name
                && held.str_at(&["operator"]) == "Exists"
                && held.str_at(&["effect"]).is_empty()
        };
        if !tolerations.iter().any(same) {
            tolerations.push(json!({"key": name, "operator": "Exists"}));
        }
    }
    if tolerations.len() > before {
        pod.set_at(&["spec", "tolerations"], tolerations);
    }
    Ok(())
}

/// Whether a resource is one of the cluster's own devices.
fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.")
}

async fn runtime_class_of(attributes: &Attributes<'_>, pod: &Object) -> Result<Option<Object>> {
    let name = pod.str_at(&["spec", "runtimeClassName"]);
    if name.is_empty() {
        return Ok(None);
    }
    let class = find(attributes, "node.k8s.io", "runtimeclasses", name).await?;
    let missing = || attributes.forbidden(format!("pod rejected: RuntimeClass {name:?} not found"));
    class.ok_or_else(missing).map(Some)
}

/// RuntimeClass: what the way of running a Pod costs, and where it can be run.
pub async fn runtime_class(attributes: &Attributes<'_>, pod: &mut Object) -> Result<()> {
    if !is_new_pod(attributes) {
        return Ok(());
    }
    let Some(class) = runtime_class_of(attributes, pod).await? else { return Ok(()) };
    if let Some(overhead) = class.at(&["overhead", "podFixed"]).filter(|overhead| !overhead.is_null()) {
        let own = pod.at(&["spec", "overhead"]).filter(|own| !own.is_null());
        if own.is_some_and(|own| amounts(own) != amounts(overhead)) {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(attributes.forbidden(why));
        }
        pod.set_at(&["spec", "overhead"], overhead.clone());
    }
    place(&class, pod).map_err(|why| attributes.forbidden(why))
}

/// Restricts a Pod to the nodes of its class.
fn place(class: &Object, pod: &mut Object) -> std::result::Result<(), String> {
    for (key, value) in class.map_at(&["scheduling", "nodeSelector"]).into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        match pod.at(&["spec", "nodeSelector", key]).and_then(Value::as_str) {
            Some(own) if own != value => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
                ));
            }
            _ => {
                pod.map_mut(&["spec", "nodeSelector"]).insert(key.clone(), value.into());
            }
        }
    }
    let mut tolerations = pod.list_at(&["spec", "tolerations"]).to_vec();
    for toleration in class.list_at(&["scheduling", "tolerations"]) {
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    if !tolerations.is_empty() {
        pod.set_at(&["spec", "tolerations"], tolerations);
    }
    Ok(())
}

fn amounts(tree: &Value) -> Amounts {
    let pairs = tree.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.parse().ok()?))).collect()
}

/// RuntimeClass: nobody but the class says what it costs.
pub async fn runtime_class_check(attributes: &Attributes<'_>, pod: Option<&Object>) -> Result<()> {
    let Some(pod) = pod.filter(|_| is_new_pod(attributes)) else { return Ok(()) };
    let own = pod.at(&["spec", "overhead"]).filter(|own| !own.is_null());
    let class = runtime_class_of(attributes, pod).await?;
    let of_class = class.as_ref().and_then(|class| class.at(&["overhead", "podFixed"])).filter(|of| !of.is_null());
    let why = match (own, of_class) {
        (Some(_), None) => "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        (Some(own), Some(of_class)) if amounts(own) != amounts(of_class) => {
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
        }
        _ => return Ok(()),
    };
    Err(attributes.forbidden(why))
}

/// PodNodeSelector: the Pods of a namespace go to its nodes.
pub fn node_selector(attributes: &Attributes<'_>, pod: &mut Object, _: Option<&Object>) -> Result<()> {
    if !is_new_pod(attributes) {
        return Ok(());
    }
    let (wanted, _) = selectors(attributes)?;
    for (key, value) in &wanted {
        let own = pod.at(&["spec", "nodeSelector", key]).and_then(Value::as_str);
        if own.is_some_and(|own| own != value) {
            return Err(
                attributes.forbidden("pod node label selector conflicts with its namespace node label selector")
            );
        }
    }
    for (key, value) in wanted {
        pod.map_mut(&["spec", "nodeSelector"]).insert(key, value.into());
    }
    Ok(())
}

/// PodNodeSelector: and to no others than the administrator lets the namespace have.
pub fn node_selector_check(attributes: &Attributes<'_>, pod: Option<&Object>, _: Option<&Object>) -> Result<()> {
    let Some(pod) = pod.filter(|_| is_new_pod(attributes)) else { return Ok(()) };
    let (wanted, allowed) = selectors(attributes)?;
    let own = |key: &str| pod.at(&["spec", "nodeSelector", key]).and_then(Value::as_str);
    if wanted.iter().any(|(key, value)| own(key).is_some_and(|own| own != value)) {
        return Err(attributes.forbidden("pod node label selector conflicts with its namespace node label selector"));
    }
    let mut asked = pod.map_at(&["spec", "nodeSelector"]).into_iter().flatten();
    let strays = |(key, value): (&String, &Value)| {
        let allowed = allowed.iter().find(|(name, _)| name == key);
        allowed.is_none_or(|(_, allowed)| value.as_str() != Some(allowed.as_str()))
    };
    if !allowed.is_empty() && asked.any(strays) {
        return Err(attributes.forbidden("pod node label selector labels conflict with its namespace whitelist"));
    }
    Ok(())
}

type Pairs = Vec<(String, String)>;

/// What a namespace asks of the nodes of its Pods, and what the administrator lets it ask.
fn selectors(attributes: &Attributes<'_>) -> Result<(Pairs, Pairs)> {
    let settings = &attributes.server.plugins.settings.node_selectors;
    let cache = attributes.server.catalogue.cache("", "namespaces");
    let namespace = cache.map(|cache| cache.object("", attributes.namespace)).transpose()?.flatten();
    let own = namespace.as_ref().and_then(|namespace| namespace.annotation(NODE_SELECTOR));
    let read = |text: &str| pairs(text).map_err(|why| attributes.forbidden(why));
    let wanted = own.or_else(|| settings.get(CLUSTER_DEFAULT).map(String::as_str)).unwrap_or_default();
    let allowed = settings.get(attributes.namespace).map(String::as_str).unwrap_or_default();
    Ok((read(wanted)?, read(allowed)?))
}

/// `a=b,c=d`, and nothing else that selectors can say.
fn pairs(text: &str) -> std::result::Result<Pairs, String> {
    let selector = LabelSelector::parse(text).map_err(|error| error.to_string())?;
    let equal = |requirement: &Requirement| match requirement {
        Requirement::In(key, values) if values.len() == 1 => Ok((key.clone(), values[0].clone())),
        _ => Err(format!("invalid selector: [{text}]")),
    };
    selector.requirements().iter().map(equal).collect()
}

/// PodTopologyLabels: a Pod that is given to a node carries the node's zone and region.
pub fn topology_labels(server: &crate::ApiServer, node: &str) -> Vec<(String, String)> {
    const KEYS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];
    if !server.plugins.is_on("PodTopologyLabels") {
        return Vec::new();
    }
    let entry = server.catalogue.cache("", "nodes").and_then(|cache| cache.get("", node));
    let label = |key: &str| Some((key.to_owned(), entry.as_ref()?.label(key)?.to_owned()));
    KEYS.iter().filter_map(|key| label(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(yaml: &str) -> Object {
        serde_saphyr::from_str(yaml).expect(yaml)
    }

    #[test]
    fn tolerations_are_added_where_nothing_covers_them() {
        let mut pod = object("{spec: {tolerations: [{key: node.kubernetes.io/not-ready, operator: Exists}]}}");
        tolerate_failures(&mut pod);
        let all = pod.list_at(&["spec", "tolerations"]);
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].str_at(&["key"]), "node.kubernetes.io/unreachable");
        tolerate_failures(&mut pod);
        assert_eq!(pod.list_at(&["spec", "tolerations"]).len(), 2);
    }

    #[test]
    fn a_class_places_its_pods() {
        let class =
            object("{scheduling: {nodeSelector: {runtime: gvisor}, tolerations: [{key: gvisor, operator: Exists}]}}");
        let mut pod = object("{spec: {nodeSelector: {disk: ssd}}}");
        assert_eq!(place(&class, &mut pod), Ok(()));
        assert_eq!(
            pod,
            object(
                "{spec: {nodeSelector: {disk: ssd, runtime: gvisor}, tolerations: [{key: gvisor, operator: Exists}]}}"
            )
        );
        let refused = place(&class, &mut object("{spec: {nodeSelector: {runtime: runc}}}"));
        let text =
            "conflict: runtimeClass.scheduling.nodeSelector[runtime] = gvisor; pod.spec.nodeSelector[runtime] = runc";
        assert_eq!(refused, Err(text.to_owned()));
    }

    #[test]
    fn selectors_of_namespaces_are_plain_pairs() {
        assert_eq!(pairs("a=b, c=d"), Ok(vec![("a".into(), "b".into()), ("c".into(), "d".into())]));
        assert_eq!(pairs(""), Ok(Vec::new()));
        assert!(pairs("a in (b, c)").is_err());
    }

    #[test]
    fn devices_are_told_from_what_every_node_has() {
        let extended = ["example.org/gpu", "cpu", "hugepages-2Mi", "kubernetes.io/batch-cpu", "requests.x/y"];
        assert_eq!(extended.map(is_extended), [true, false, false, false, false]);
    }
}
