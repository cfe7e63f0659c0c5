//! What may be wrong with a pod specification, of a Pod or of a template of Pods.

use std::collections::BTreeSet;

use skiff_object::{FieldError, names, validate};

use crate::rules::check::{At, Faults};
use crate::rules::volume_check::{self, Volumes};
use crate::rules::{affinity_check, container_check, os_check, resource_check, security_check};

/// What upstream says of a template whose labels its selector does not select.
pub const SELECTOR_MISMATCH: &str = "`selector` does not match template `labels`";
/// The most name servers and search domains of a Pod.
const NAMESERVERS_LIMIT: usize = 3;
const SEARCHES_LIMIT: usize = 32;
const SEARCHES_LIMIT_CHARS: usize = 2048;

/// What the checks of containers must know of their Pod.
pub struct Pod<'a> {
    /// The specification.
    pub spec: At<'a>,
    /// The volumes that may be mounted.
    pub volumes: Volumes<'a>,
    /// The names of the claims that may be used.
    pub claims: BTreeSet<&'a str>,
    /// How long the Pod may take to end.
    pub grace_seconds: Option<i64>,
    /// When the Pod's containers are started again.
    pub restart_policy: &'a str,
    /// Whether the Pod's users are the host's.
    pub host_users: bool,
    /// The operating system, or empty.
    pub os: &'a str,
}

/// Checks a pod template.
pub fn template(faults: &mut Faults, template: &At) {
    let metadata = template.get("metadata");
    let (labels, annotations) = (metadata.get("labels"), metadata.get("annotations"));
    faults.labels(&labels.renamed(template.path().child("labels")));
    let annotations = annotations.renamed(template.path().child("annotations"));
    faults.extend(validate::annotations(annotations.node(), annotations.path()));
    let spec = template.get("spec");
    self::annotations(faults, &annotations, &spec);
    pod_spec(faults, &spec, None);
    security_check::annotations_match(faults, &annotations, &spec);
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_blank() {
        faults.forbidden(&ephemeral, "ephemeral containers not allowed in pod template");
    }
}

/// A Pod that shows one of a file on the node.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// What it costs to delete a Pod, compared with its siblings.
const DELETION_COST_ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The older way of naming a container's AppArmor profile.
pub const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Checks the annotations that say something of a Pod's specification.
pub fn annotations(faults: &mut Faults, annotations: &At, spec: &At) {
    let mirror = annotations.get(MIRROR_ANNOTATION);
    if mirror.is_set() && spec.get("nodeName").is_blank() {
        let words = "must set spec.nodeName if mirror pod annotation is set";
        faults.invalid(&mirror.renamed(annotations.path().key(MIRROR_ANNOTATION)), words);
    }
    let cost = annotations.get(DELETION_COST_ANNOTATION);
    if cost.is_set() && (cost.text().parse::<i32>().is_err() || has_odd_sign(cost.text())) {
        let at = cost.renamed(annotations.path().key(DELETION_COST_ANNOTATION));
        faults.invalid(&at, "must be a 32bit integer");
    }
    for (key, profile) in annotations.entries() {
        let Some(container) = key.strip_prefix(APP_ARMOR_ANNOTATION) else {
            continue;
        };
        if !container_check::has_container(spec.value(), container) {
            faults.invalid_as(&profile, container, "container not found");
        }
        let text = profile.text();
        if !matches!(text, "" | "runtime/default" | "unconfined") && !text.starts_with("localhost/") {
            faults.invalid(&profile, format!("invalid AppArmor profile name: {text:?}"));
        }
    }
}

/// Numbers are written without a plus and without zeros in front.
fn has_odd_sign(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    number.starts_with('+') || (digits.len() > 1 && digits.starts_with('0')) || number == "-0"
}

/// Checks a pod specification; `pod` are the metadata of a Pod itself, and `None` for templates.
pub fn pod_spec(faults: &mut Faults, spec: &At, pod: Option<&At>) {
    let grace = spec.get("terminationGracePeriodSeconds");
    if !grace.is_set() {
        faults.required(&grace, "");
    }
    let pod_name = pod.filter(|metadata| metadata.get("generateName").is_blank());
    let pod_name = pod_name.map_or("", |metadata| metadata.get("name").text());
    let volumes = volume_check::volumes(faults, &spec.get("volumes"), pod_name);
    let claims = resource_claims(faults, &spec.get("resourceClaims"));
    let users = spec.get("hostUsers");
    let facts = Pod {
        spec: spec.clone(),
        volumes,
        claims,
        grace_seconds: grace.int(),
        restart_policy: spec.get("restartPolicy").text(),
        host_users: !users.is_set() || users.flag(),
        os: spec.walk(&["os", "name"]).text(),
    };
    container_check::all(faults, &facts);
    resource_check::of_pod(faults, spec, &spec.get("resources"));
    security_check::host_network(faults, spec, pod.is_some());
    faults.needs_choice(&spec.get("restartPolicy"), &["Always", "OnFailure", "Never"]);
    faults.needs_choice(&spec.get("dnsPolicy"), &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    faults.labels(&spec.get("nodeSelector"));
    security_check::pod(faults, spec);
    affinity_check::affinity(faults, &spec.get("affinity"));
    dns_config(faults, spec);
    gates(faults, spec);
    affinity_check::spread(faults, &spec.get("topologySpreadConstraints"));
    os_check::host_processes(faults, spec);
    own_users(faults, spec);
    plain_fields(faults, spec);
    os_check::operating_system(faults, spec);
    scheduling_group(faults, &spec.get("schedulingGroup"));
}

fn scheduling_group(faults: &mut Faults, group: &At) {
    let name = group.get("podGroupName");
    if name.is_set() {
        faults.all_invalid(&name, names::check_dns_subdomain(name.text()));
    } else if group.is_set() {
        faults.invalid_as(&name, "null", "must specify one of: `podGroupName`");
    }
}

fn resource_claims<'a>(faults: &mut Faults, claims: &At<'a>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for claim in claims.items() {
        let name = claim.get("name");
        if name.is_blank() {
            faults.required(&name, "");
        } else if seen.insert(name.text()) {
            faults.all_invalid(&name, names::check_dns_label(name.text()));
        } else {
            faults.duplicate(&name);
        }
        let (direct, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (direct.is_set(), template.is_set()) {
            (true, true) => {
                let words = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                faults.invalid(&claim, words);
            }
            (false, false) => {
                faults.invalid(&claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
            }
            _ => {}
        }
        for named in [direct, template].into_iter().filter(At::is_set) {
            faults.all_invalid(&named, names::check_dns_subdomain(named.text()));
        }
    }
    seen
}

fn dns_config(faults: &mut Faults, spec: &At) {
    let (policy, config) = (spec.get("dnsPolicy"), spec.get("dnsConfig"));
    let servers = config.get("nameservers");
    if policy.text() == "None" {
        if !config.is_set() {
            faults.required(&config, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_blank() {
            faults.required(&servers, "must provide at least one DNS nameserver when `dnsPolicy` is None");
            return;
        }
    }
    if servers.count() > NAMESERVERS_LIMIT {
        faults.invalid(&servers, format!("must not have more than {NAMESERVERS_LIMIT} nameservers"));
    }
    servers.items().iter().for_each(|server| faults.ip(server));
    let searches = config.get("searches");
    if searches.count() > SEARCHES_LIMIT {
        faults.invalid(&searches, format!("must not have more than {SEARCHES_LIMIT} search paths"));
    }
    if searches.texts().join(" ").len() > SEARCHES_LIMIT_CHARS {
        let words =
            format!("must not have more than {SEARCHES_LIMIT_CHARS} characters (including spaces) in the search list");
        faults.invalid(&searches, words);
    }
    for search in searches.items().into_iter().filter(|search| search.text() != ".") {
        let name = search.text().strip_suffix('.').unwrap_or(search.text());
        for words in names::check_dns_subdomain_with_underscore(name) {
            faults.invalid_as(&search, name, words);
        }
    }
    for option in config.get("options").items() {
        if option.get("name").is_blank() {
            faults.required(&option, "must not be empty");
        }
    }
}

fn gates(faults: &mut Faults, spec: &At) {
    for gate in spec.get("readinessGates").items() {
        let kind = gate.get("conditionType");
        faults.all_invalid(&kind, names::check_label_key(kind.text()));
    }
    let mut seen = BTreeSet::new();
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name").text();
        for words in names::check_label_key(name) {
            faults.invalid_as(&gate, name, words);
        }
        if !seen.insert(name) {
            faults.extend([FieldError::duplicate(gate.path(), name)]);
        }
    }
}

/// A Pod with users of its own shares none of the host's namespaces.
fn own_users(faults: &mut Faults, spec: &At) {
    let users = spec.get("hostUsers");
    if !users.is_set() || users.flag() {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.get(field).flag() {
            let at = spec.get(field).renamed(spec.path().child(shown));
            faults.forbidden(&at, "when `hostUsers` is false");
        }
    }
    for container in container_check::LISTS.iter().flat_map(|list| spec.get(list).items()) {
        if !container.get("volumeDevices").is_blank() {
            faults.forbidden(&container.get("volumeDevices"), "when `hostUsers` is false");
        }
    }
}

/// The longest name of a host.
const HOST_NAME_LIMIT_BYTES: usize = 64;

fn host_name(faults: &mut Faults, spec: &At) {
    let name = spec.get("hostnameOverride");
    if !name.is_set() {
        return;
    }
    if spec.get("setHostnameAsFQDN").flag() {
        faults.forbidden(&name, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.get("hostNetwork").flag() {
        faults.forbidden(&name, "may not be specified when hostNetwork is true");
    }
    faults.at_most_bytes(&name, HOST_NAME_LIMIT_BYTES);
    faults.all_invalid(&name, names::check_dns_subdomain(name.text()));
}

fn plain_fields(faults: &mut Faults, spec: &At) {
    faults.name(&spec.get("serviceAccountName"), names::check_dns_subdomain);
    faults.name(&spec.get("nodeName"), names::check_dns_subdomain);
    faults.between(&spec.get("activeDeadlineSeconds"), 1, i64::from(i32::MAX));
    faults.name(&spec.get("hostname"), names::check_dns_label);
    faults.name(&spec.get("subdomain"), names::check_dns_label);
    host_name(faults, spec);
    affinity_check::tolerations(faults, &spec.get("tolerations"));
    for alias in spec.get("hostAliases").items() {
        faults.ip(&alias.get("ip"));
        for name in alias.get("hostnames").items() {
            faults.all_invalid(&name, names::check_dns_subdomain(name.text()));
        }
    }
    faults.name(&spec.get("priorityClassName"), names::check_dns_subdomain);
    let class = spec.get("runtimeClassName");
    if class.is_set() {
        faults.all_invalid(&class, names::check_dns_subdomain(class.text()));
    }
    let preemption = spec.get("preemptionPolicy");
    if preemption.is_set() {
        faults.needs_choice(&preemption, &["PreemptLowerPriority", "Never"]);
    }
    for (name, quantity) in spec.get("overhead").entries() {
        let at = quantity.renamed(spec.path().child("overhead").child("limits").key(name));
        resource_check::container_name(faults, name, &at);
        resource_check::quantity(faults, name, &at);
    }
}
