//! What upstream warns of when Pods are written: what works, but hardly as its author thinks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skiff_base::Quantity;
use skiff_object::Object;
use skiff_object::meta::Meta;

/// Where warnings go, and under which path the specification stands.
struct Teller<'a> {
    warnings: Vec<String>,
    path: &'a str,
}

impl Teller<'_> {
    /// Warns of the field `below` the specification.
    fn tell(&mut self, below: &str, words: &str) {
        self.warnings.push(format!("{}.{below}: {words}", self.path));
    }
}

/// Warns of a Pod's specification, found under `path`.
pub fn pod(spec: &Value, path: &str, metadata: Option<&Value>) -> Vec<String> {
    let mut teller = Teller { warnings: Vec::new(), path };
    let annotations = metadata.and_then(|metadata| metadata.map_at(&["annotations"])).cloned().unwrap_or_default();
    placement(spec, &mut teller);
    old_annotations(&annotations, &mut teller);
    volumes(spec, &mut teller);
    duplicated_token_paths(spec, &mut teller);
    duplicates(spec, &mut teller);
    for resource in ["memory", "ephemeral-storage"] {
        fraction(spec.at(&["overhead", resource]), &format!("overhead[{resource}]"), &mut teller);
    }
    containers(spec, &annotations, &mut teller);
    ports(spec, &mut teller);
    if spec.int_at(&["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        let words = "must be >= 0; negative values are invalid and will be treated as 1";
        teller.tell("terminationGracePeriodSeconds", words);
    }
    no_selectors(spec, &mut teller);
    teller.warnings
}

/// Warns of the pod template at a path.
pub fn template(object: &Object, path: &[&str]) -> Vec<String> {
    let template = object.at(path).unwrap_or(&Value::Null);
    let path = format!("{}.spec", path.join("."));
    pod(template.get("spec").unwrap_or(&Value::Null), &path, template.get("metadata"))
}

/// Labels of nodes that have other names today.
pub fn old_node_label(label: &str) -> Option<&'static str> {
    Some(match label {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        _ => return None,
    })
}

/// Warns of old labels in terms that select nodes.
pub fn node_terms(terms: &[Value], path: &str, warnings: &mut Vec<String>) {
    for (index, term) in terms.iter().enumerate() {
        node_term(term, &format!("{path}[{index}]"), warnings);
    }
}

fn node_term(term: &Value, path: &str, warnings: &mut Vec<String>) {
    for (index, expression) in term.list_at(&["matchExpressions"]).iter().enumerate() {
        let key = expression.str_at(&["key"]);
        if let Some(words) = old_node_label(key) {
            warnings.push(format!("{path}.matchExpressions[{index}].key: {key} is {words}"));
        }
    }
}

fn placement(spec: &Value, teller: &mut Teller) {
    for (label, _) in spec.map_at(&["nodeSelector"]).into_iter().flatten() {
        if let Some(words) = old_node_label(label) {
            teller.tell(&format!("nodeSelector[{label}]"), words);
        }
    }
    let required = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let path = format!("{}.{}", teller.path, required.join("."));
    node_terms(spec.list_at(&required), &path, &mut teller.warnings);
    let preferred = ["affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"];
    for (index, term) in spec.list_at(&preferred).iter().enumerate() {
        let path = format!("{}.{}[{index}].preference", teller.path, preferred.join("."));
        node_term(term.get("preference").unwrap_or(&Value::Null), &path, &mut teller.warnings);
    }
    for (index, constraint) in spec.list_at(&["topologySpreadConstraints"]).iter().enumerate() {
        let key = constraint.str_at(&["topologyKey"]);
        if let Some(words) = old_node_label(key) {
            let place = format!("topologySpreadConstraints[{index}].topologyKey");
            teller.tell(&place, &format!("{key} is {words}"));
        }
        if constraint.get("labelSelector").is_none() {
            let place = format!("topologySpreadConstraints[{index}].labelSelector");
            teller.tell(&place, "a null labelSelector results in matching no pod");
        }
    }
}

type Annotations = skiff_object::Map;

fn annotation(key: &str, words: &str, teller: &mut Teller) {
    let base = teller.path.strip_suffix("spec").unwrap_or(teller.path);
    teller.warnings.push(format!("{base}metadata.annotations[{key}]: {words}"));
}

fn old_annotations(annotations: &Annotations, teller: &mut Teller) {
    const GONE: [(&str, &str); 3] = [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            "non-functional in v1.16+; use the \"priorityClassName\" field instead",
        ),
        ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
        ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ];
    for (key, words) in GONE.iter().filter(|(key, _)| annotations.contains_key(*key)) {
        annotation(key, words, teller);
    }
}

fn volumes(spec: &Value, teller: &mut Teller) {
    const GONE: [(&str, &str); 9] = [
        ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
        ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
        ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
        ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for (index, volume) in spec.list_at(&["volumes"]).iter().enumerate() {
        for (kind, words) in GONE.iter().filter(|(kind, _)| volume.get(*kind).is_some()) {
            let shown = if *kind == "storageos" { "storageOS" } else { kind };
            teller.tell(&format!("volumes[{index}].{shown}"), words);
        }
        let requests = ["ephemeral", "volumeClaimTemplate", "spec", "resources", "requests", "storage"];
        let place = format!("volumes[{index}].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]");
        fraction(volume.at(&requests), &place, teller);
    }
}

/// Other projected files where a token stands hide it.
fn duplicated_token_paths(spec: &Value, teller: &mut Teller) {
    let all = || spec.list_at(&["volumes"]).iter().enumerate();
    let sources = |volume: &'_ Value| volume.list_at(&["projected", "sources"]).to_vec();
    let tokens: BTreeSet<String> = all()
        .flat_map(|(_, volume)| sources(volume))
        .filter_map(|source| Some(source.get("serviceAccountToken")?.str_at(&["path"]).to_owned()))
        .collect();
    for (index, volume) in all().filter(|_| !tokens.is_empty()) {
        for source in sources(volume) {
            let kinds = [("configMap", "configMap"), ("secret", "secrets"), ("downwardAPI", "downwardAPI")];
            for (kind, shown) in kinds {
                for (item_index, item) in source.list_at(&[kind, "items"]).iter().enumerate() {
                    let path = item.str_at(&["path"]);
                    if tokens.contains(path) {
                        let place = format!("volumes[{index}].projected.sources.{shown}[{item_index}]");
                        teller.tell(&place, &format!("has duplicated path with ServiceAccountToken {path:?}"));
                    }
                }
            }
            let path = source.str_at(&["clusterTrustBundle", "path"]);
            if tokens.contains(path) {
                let place = format!("volumes[{index}].projected.sources.ClusterTrustBundle");
                teller.tell(&place, &format!("has duplicated path with ServiceAccountToken {path:?}"));
            }
        }
    }
}

fn duplicates(spec: &Value, teller: &mut Teller) {
    let mut seen = BTreeSet::new();
    for (index, alias) in spec.list_at(&["hostAliases"]).iter().enumerate() {
        let ip = alias.str_at(&["ip"]);
        if !seen.insert(ip) {
            teller.tell(&format!("hostAliases[{index}].ip"), &format!("duplicate ip {ip:?}"));
        }
    }
    let secrets = || spec.list_at(&["imagePullSecrets"]).iter().map(|secret| secret.str_at(&["name"])).enumerate();
    let mut seen = BTreeSet::new();
    for (index, name) in secrets() {
        if !seen.insert(name) {
            teller.tell(&format!("imagePullSecrets[{index}].name"), &format!("duplicate name {name:?}"));
        }
    }
    for (index, _) in secrets().filter(|(_, name)| name.is_empty()) {
        teller.tell(&format!("imagePullSecrets[{index}].name"), "invalid empty name \"\"");
    }
}

fn fraction(amount: Option<&Value>, place: &str, teller: &mut Teller) {
    let text = amount.and_then(Value::as_str).unwrap_or("");
    if text.parse::<Quantity>().is_ok_and(|amount| !amount.is_integer()) {
        teller.tell(place, &format!("fractional byte value {text:?} is invalid, must be an integer"));
    }
}

/// All containers in upstream's order, each with its place.
fn each_container(spec: &Value) -> impl Iterator<Item = (String, &Value)> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.into_iter().flat_map(|list| {
        let all = spec.list_at(&[list]).iter().enumerate();
        all.map(move |(index, container)| (format!("{list}[{index}]"), container))
    })
}

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";

fn containers(spec: &Value, annotations: &Annotations, teller: &mut Teller) {
    let old_seccomp = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    if spec.at(&["securityContext", "seccompProfile"]).is_none() && annotations.contains_key(SECCOMP_POD) {
        annotation(SECCOMP_POD, old_seccomp, teller);
    }
    let pod_armor = spec.at(&["securityContext", "appArmorProfile"]).is_some();
    for (place, container) in each_container(spec) {
        let name = container.str_at(&["name"]);
        let key = format!("{SECCOMP_CONTAINER}{name}");
        if container.at(&["securityContext", "seccompProfile"]).is_none() && annotations.contains_key(&key) {
            annotation(&key, old_seccomp, teller);
        }
        let key = format!("{APP_ARMOR_CONTAINER}{name}");
        let has_armor = pod_armor || container.at(&["securityContext", "appArmorProfile"]).is_some();
        // Of a Pod's own annotations the field is made, which goes with the same warning.
        if !has_armor && annotations.contains_key(&key) {
            annotation(&key, "deprecated since v1.30; use the \"appArmorProfile\" field instead", teller);
        }
        for resource in ["memory", "ephemeral-storage"] {
            for kind in ["limits", "requests"] {
                let amount = container.at(&["resources", kind, resource]);
                fraction(amount, &format!("{place}.resources.{kind}[{resource}]"), teller);
            }
        }
        hidden_variables(container.list_at(&["env"]), &place, teller);
    }
}

/// A variable may build on an earlier one of its name, but not just replace it.
fn hidden_variables(variables: &[Value], place: &str, teller: &mut Teller) {
    let mut seen = BTreeSet::new();
    for (index, variable) in variables.iter().enumerate() {
        let (name, value) = (variable.str_at(&["name"]), variable.str_at(&["value"]));
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        if variable.get("valueFrom").is_some() || value == reference || !value.contains(&reference) {
            let words = format!("hides previous definition of {name:?}, which may be dropped when using apply");
            teller.tell(&format!("{place}.env[{index}]"), &words);
        }
    }
}

/// The same port again, in the same or another container.
fn ports(spec: &Value, teller: &mut Teller) {
    let mut known: BTreeMap<String, Vec<(String, &Value)>> = BTreeMap::new();
    for (container, value) in each_container(spec) {
        for (index, port) in value.list_at(&["ports"]).iter().enumerate() {
            let place = format!("{container}.ports[{index}]");
            let (address, host_port) = (port.str_at(&["hostIP"]), port.int_at(&["hostPort"]).unwrap_or(0));
            if !address.is_empty() && host_port == 0 {
                teller.tell(&place, &format!("hostIP set without hostPort: {port}"));
            }
            let number = port.int_at(&["containerPort"]).unwrap_or(0);
            let same = known.entry(format!("{number}/{}", port.str_at(&["protocol"]))).or_default();
            for (other_place, other) in same.iter() {
                let (other_address, other_host_port) =
                    (other.str_at(&["hostIP"]), other.int_at(&["hostPort"]).unwrap_or(0));
                let other_place = format!("{}.{other_place}", teller.path);
                let is_any = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
                if address == other_address && host_port == other_host_port {
                    teller.tell(&place, &format!("duplicate port definition with {other_place}"));
                } else if host_port == 0 || other_host_port == 0 {
                    teller.tell(&place, &format!("overlapping port definition with {other_place}"));
                } else if host_port == other_host_port && (is_any(address) || is_any(other_address)) {
                    teller.tell(&place, &format!("dangerously ambiguous port definition with {other_place}"));
                }
            }
            same.push((place, port));
        }
    }
}

/// Affinity to Pods that nothing selects.
fn no_selectors(spec: &Value, teller: &mut Teller) {
    let words = "a null labelSelector results in matching no pod";
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (list, below) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            ("preferredDuringSchedulingIgnoredDuringExecution", ".podAffinityTerm"),
        ] {
            for (index, term) in spec.list_at(&["affinity", kind, list]).iter().enumerate() {
                let term = if below.is_empty() { Some(term) } else { term.get("podAffinityTerm") };
                if term.is_some_and(|term| term.get("labelSelector").is_none()) {
                    teller.tell(&format!("affinity.{kind}.{list}[{index}]{below}.labelSelector"), words);
                }
            }
        }
    }
}
