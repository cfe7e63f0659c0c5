//! What may be wrong with a pod specification, of a Pod or of a template of Pods.

use std::collections::BTreeSet;

use skiff_object::{names, validate};

use crate::rules::check::{At, Faults};
use crate::rules::{affinity_check, container_check, security_check, volume_check};

/// What upstream says of a template whose labels its selector does not select.
pub const SELECTOR_MISMATCH: &str = "`selector` does not match template `labels`";
/// The most name servers and search domains of a Pod.
const NAMESERVERS_LIMIT: usize = 3;
const SEARCHES_LIMIT: usize = 32;
const SEARCHES_LIMIT_CHARS: usize = 2048;

/// Checks a pod template.
pub fn template(faults: &mut Faults, template: &At) {
    let metadata = template.get("metadata");
    faults.labels(&metadata.get("labels"));
    let annotations = metadata.get("annotations");
    faults.extend(validate::annotations(annotations.node(), annotations.path()));
    let spec = template.get("spec");
    pod_spec(faults, &spec);
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_blank() {
        faults.forbidden(&ephemeral, "ephemeral containers not allowed in pod template");
    }
}

/// Checks a pod specification.
pub fn pod_spec(faults: &mut Faults, spec: &At) {
    let volumes = volume_check::volumes(faults, &spec.get("volumes"));
    container_check::all(faults, spec, &volumes);
    pod_resources(faults, &spec.get("resources"));
    security_check::host_network(faults, spec);
    faults.needs_choice(&spec.get("restartPolicy"), &["Always", "OnFailure", "Never"]);
    faults.needs_choice(&spec.get("dnsPolicy"), &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    faults.labels(&spec.get("nodeSelector"));
    security_check::pod(faults, spec);
    affinity_check::affinity(faults, &spec.get("affinity"));
    dns_config(faults, spec);
    gates(faults, spec);
    affinity_check::spread(faults, &spec.get("topologySpreadConstraints"));
    own_users(faults, spec);
    host_name(faults, spec);
    plain_fields(faults, spec);
    affinity_check::tolerations(faults, &spec.get("tolerations"));
    for alias in spec.get("hostAliases").items() {
        faults.ip(&alias.get("ip"));
        for name in alias.get("hostnames").items() {
            faults.all_invalid(&name, names::check_dns_subdomain(name.text()));
        }
    }
    operating_system(faults, spec);
}

fn pod_resources(faults: &mut Faults, resources: &At) {
    for part in ["limits", "requests"] {
        for (name, quantity) in resources.get(part).entries() {
            if !matches!(name, "cpu" | "memory") && !name.starts_with("hugepages-") {
                let supported = ["cpu", "hugepages-", "memory"];
                faults.extend([skiff_object::FieldError::not_supported(quantity.path(), name, &supported)]);
            }
        }
    }
    if !resources.get("claims").is_blank() {
        faults.forbidden(&resources.get("claims"), "claims may not be set for Resources at pod-level");
    }
    container_check::resources(faults, resources);
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
    if servers.items().len() > NAMESERVERS_LIMIT {
        faults.invalid(&servers, format!("must not have more than {NAMESERVERS_LIMIT} nameservers"));
    }
    servers.items().iter().for_each(|server| faults.ip(server));
    let searches = config.get("searches");
    if searches.items().len() > SEARCHES_LIMIT {
        faults.invalid(&searches, format!("must not have more than {SEARCHES_LIMIT} search paths"));
    }
    let chars: usize = searches.items().iter().map(|search| search.text().len() + 1).sum();
    if chars > SEARCHES_LIMIT_CHARS + 1 {
        let words =
            format!("must not have more than {SEARCHES_LIMIT_CHARS} characters (including spaces) in the search list");
        faults.invalid(&searches, words);
    }
    for search in searches.items() {
        let name = search.text().strip_suffix('.').unwrap_or(search.text());
        if name != "." && !search.text().is_empty() && search.text() != "." {
            faults.all_invalid(&search, names::check_dns_subdomain(&name.replace('_', "-")));
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
            faults.extend([skiff_object::FieldError::duplicate(gate.path(), name)]);
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
    if name.text().len() > HOST_NAME_LIMIT_BYTES {
        faults.extend([skiff_object::FieldError::too_long(name.path(), HOST_NAME_LIMIT_BYTES)]);
    }
    faults.all_invalid(&name, names::check_dns_subdomain(name.text()));
}

fn plain_fields(faults: &mut Faults, spec: &At) {
    faults.name(&spec.get("serviceAccountName"), names::check_dns_subdomain);
    faults.name(&spec.get("nodeName"), names::check_dns_subdomain);
    faults.between(&spec.get("activeDeadlineSeconds"), 1, i64::from(i32::MAX));
    faults.name(&spec.get("hostname"), names::check_dns_label);
    faults.name(&spec.get("subdomain"), names::check_dns_label);
    faults.name(&spec.get("priorityClassName"), names::check_dns_subdomain);
    faults.name(&spec.get("runtimeClassName"), names::check_dns_subdomain);
    faults.choice(&spec.get("preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
    for (name, quantity) in spec.get("overhead").entries() {
        container_check::resource_name(faults, name, &quantity);
        container_check::resource_quantity(faults, name, &quantity);
    }
    for claim in spec.get("resourceClaims").items() {
        faults.needs_name(&claim.get("name"), names::check_dns_label);
        let (direct, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (direct.is_set(), template.is_set()) {
            (true, true) => faults
                .invalid(&claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            (false, false) => {
                faults.invalid(&claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
            }
            _ => {}
        }
    }
}

fn operating_system(faults: &mut Faults, spec: &At) {
    let os = spec.get("os");
    if os.is_set() {
        faults.needs_choice(&os.get("name"), &["linux", "windows"]);
    }
    if os.get("name").text() == "windows" {
        for field in ["hostPID", "hostIPC", "shareProcessNamespace"] {
            if spec.get(field).flag() {
                faults.forbidden(&spec.get(field), "cannot be set for a windows pod");
            }
        }
    } else if os.get("name").text() == "linux" && spec.walk(&["securityContext", "windowsOptions"]).is_set() {
        let options = spec.walk(&["securityContext", "windowsOptions"]);
        faults.forbidden(&options, "windows options cannot be set for a linux pod");
    }
}
