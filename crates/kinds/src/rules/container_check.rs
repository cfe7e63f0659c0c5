//! What may be wrong with containers: their names, ports, restarts and what each of the three lists allows.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_object::{FieldError, names};

use crate::rules::check::{At, Faults};
use crate::rules::pod_check::Pod;
use crate::rules::{env_check, mount_check, probe_check, resource_check, security_check};

/// Which list a container stands in; the lists differ in what they allow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// `containers`.
    Main,
    /// `initContainers`.
    Init,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// The lists of containers of a pod specification.
pub const LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Checks all containers of a pod specification.
pub fn all(faults: &mut Faults, pod: &Pod) {
    let [main, init, ephemeral] = LISTS.map(|list| pod.spec.get(list));
    if main.is_blank() {
        faults.required(&main, "");
    }
    let mut seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for container in main.items() {
        one(faults, &container, Role::Main, pod, &mut seen);
    }
    for container in main.items() {
        host_port_conflicts(faults, &container, &mut host_ports);
    }
    for container in init.items() {
        one(faults, &container, Role::Init, pod, &mut seen);
        // They run one after the other.
        host_port_conflicts(faults, &container, &mut BTreeSet::new());
    }
    for container in ephemeral.items() {
        one(faults, &container, Role::Ephemeral, pod, &mut seen);
        let target = container.get("targetContainerName");
        let others = main.items().into_iter().chain(init.items());
        if !target.is_blank() && !others.into_iter().any(|other| other.get("name").text() == target.text()) {
            faults.not_found(&target);
        }
        ephemeral_rules(faults, &container);
    }
}

fn one<'a>(faults: &mut Faults, container: &At<'a>, role: Role, pod: &Pod, seen: &mut BTreeSet<&'a str>) {
    let name = container.get("name");
    faults.needs_name(&name, names::check_dns_label);
    faults.needs(&container.get("image"));
    faults.needs_choice(&container.get("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"]);
    ports(faults, &container.get("ports"));
    env_check::environment(faults, container);
    mount_check::mounts(faults, container, &pod.volumes);
    mount_check::devices(faults, container, &pod.volumes);
    faults.needs_choice(&container.get("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    resource_check::of_container(faults, &container.get("resources"), &pod.claims);
    resize_policy(faults, &container.get("resizePolicy"), pod.restart_policy);
    security_check::container(faults, &container.get("securityContext"), pod.host_users);
    if role == Role::Ephemeral && container.get("image").text().trim() != container.get("image").text() {
        faults.invalid(&container.get("image"), "must not have leading or trailing whitespace");
    }
    if !name.is_blank() && !seen.insert(name.text()) {
        faults.duplicate(&name);
    }
    match role {
        Role::Main => {
            probe_check::running_rules(faults, container, pod);
            restart_policy(faults, container);
        }
        Role::Init => {
            restart_policy(faults, container);
            if container.get("restartPolicy").text() == "Always" {
                probe_check::running_rules(faults, container, pod);
                return;
            }
            let words = "may not be set for init containers without restartPolicy=Always";
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                faults.forbid(&container.get(field), words);
            }
        }
        Role::Ephemeral => {}
    }
}

/// What a debugging container does without.
fn ephemeral_rules(faults: &mut Faults, container: &At) {
    const FORBIDDEN: [&str; 9] = [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    let words = "cannot be set for an Ephemeral Container";
    for field in FORBIDDEN {
        if !container.get(field).is_blank() {
            faults.forbidden(&container.get(field), words);
        }
    }
    for mount in container.get("volumeMounts").items() {
        for field in ["subPath", "subPathExpr"] {
            if !mount.get(field).is_blank() {
                faults.forbidden(&mount.get(field), words);
            }
        }
    }
}

/// The most rules of one container's restarts, and the most exit codes of one rule.
const RESTART_RULES_LIMIT: usize = 20;
const EXIT_CODES_LIMIT: usize = 255;

fn restart_policy(faults: &mut Faults, container: &At) {
    let (policy, rules) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    faults.choice(&policy, &["Always", "Never", "OnFailure"]);
    if !policy.is_set() && !rules.is_blank() {
        faults.required(&policy, "must specify restartPolicy when restart rules are used");
    }
    if rules.count() > RESTART_RULES_LIMIT {
        faults.too_long(&rules, RESTART_RULES_LIMIT);
    }
    for rule in rules.items() {
        let (action, codes) = (rule.get("action"), rule.get("exitCodes"));
        if !matches!(action.text(), "Restart" | "RestartAllContainers") {
            faults.not_supported(&action, &["Restart", "RestartAllContainers"]);
        }
        if !codes.is_set() {
            faults.required(&codes, "must be specified");
            continue;
        }
        if !matches!(codes.get("operator").text(), "In" | "NotIn") {
            faults.not_supported(&codes.get("operator"), &["In", "NotIn"]);
        }
        if codes.get("values").count() > EXIT_CODES_LIMIT {
            faults.too_long(&codes.get("values"), EXIT_CODES_LIMIT);
        }
    }
}

fn resize_policy(faults: &mut Faults, policies: &At, pod_restarts: &str) {
    let mut seen = BTreeSet::new();
    for policy in policies.items() {
        let (resource, restart) = (policy.get("resourceName"), policy.get("restartPolicy"));
        if !seen.insert(resource.text()) {
            faults.duplicate_as(&policy, resource.text());
        }
        for (field, supported) in [(&resource, ["cpu", "memory"]), (&restart, ["NotRequired", "RestartContainer"])] {
            faults.needs_choice(&field.renamed(policies.path().clone()), &supported);
        }
        if pod_restarts == "Never" && restart.text() != "NotRequired" {
            let words = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            faults.invalid_as(policies, restart.text(), words);
        }
    }
}

fn ports(faults: &mut Faults, ports: &At) {
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_blank() {
            let wrong = names::check_port_name(name.text());
            if wrong.is_empty() && !seen.insert(name.text()) {
                faults.duplicate(&name);
            }
            faults.all_invalid(&name, wrong);
        }
        let number = port.get("containerPort");
        match number.int().unwrap_or(0) {
            0 => faults.required(&number, ""),
            _ => faults.port(&number),
        }
        if port.get("hostPort").int().unwrap_or(0) != 0 {
            faults.port(&port.get("hostPort"));
        }
        faults.needs_choice(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn host_port_conflicts(faults: &mut Faults, container: &At, seen: &mut BTreeSet<String>) {
    for port in container.get("ports").items() {
        let Some(number) = port.get("hostPort").int().filter(|number| *number != 0) else {
            continue;
        };
        let claim = format!("{}/{}/{number}", port.get("protocol").text(), port.get("hostIP").text());
        if !seen.insert(claim.clone()) {
            faults.extend([FieldError::duplicate(port.get("hostPort").path(), claim)]);
        }
    }
}

/// Whether a list of containers has one of that name.
pub fn has_container(spec: &Value, name: &str) -> bool {
    use skiff_object::meta::Meta;
    LISTS.iter().any(|list| spec.list_at(&[list]).iter().any(|container| container.str_at(&["name"]) == name))
}
