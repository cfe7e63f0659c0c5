//! What may be wrong with containers, their ports, environment, probes and resources.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_object::{FieldError, names};

use crate::rules::check::{At, Faults};
use crate::rules::security_check;
use crate::rules::volume_check::{self, Volumes};

/// Which list a container stands in; the lists differ in what they allow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `containers`.
    Main,
    /// `initContainers`.
    Init,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// Checks all containers of a pod specification.
pub fn all(faults: &mut Faults, spec: &At, volumes: &Volumes) {
    let (main, init, ephemeral) = (spec.get("containers"), spec.get("initContainers"), spec.get("ephemeralContainers"));
    if main.is_blank() {
        faults.required(&main, "");
    }
    let mut seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for container in main.items() {
        one(faults, &container, Role::Main, volumes, &mut seen);
    }
    for container in main.items() {
        host_port_conflicts(faults, &container, &mut host_ports);
    }
    for container in init.items() {
        one(faults, &container, Role::Init, volumes, &mut seen);
        host_port_conflicts(faults, &container, &mut BTreeSet::new());
    }
    for container in ephemeral.items() {
        let target = container.get("targetContainerName");
        let others = main.items().into_iter().chain(init.items());
        if !target.is_blank() && !others.into_iter().any(|other| other.get("name").text() == target.text()) {
            faults.not_found(&target);
        }
        one(faults, &container, Role::Ephemeral, volumes, &mut seen);
    }
}

fn one<'a>(faults: &mut Faults, container: &At<'a>, role: Role, volumes: &Volumes, seen: &mut BTreeSet<&'a str>) {
    let name = container.get("name");
    faults.needs_name(&name, names::check_dns_label);
    faults.needs(&container.get("image"));
    faults.needs_choice(&container.get("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"]);
    ports(faults, &container.get("ports"));
    environment(faults, container);
    volume_check::mounts(faults, container, volumes);
    faults.needs_choice(&container.get("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    resources(faults, &container.get("resources"));
    resize_policy(faults, &container.get("resizePolicy"));
    security_check::container(faults, &container.get("securityContext"));
    if !name.is_blank() && !seen.insert(name.text()) {
        faults.duplicate(&name);
    }
    match role {
        Role::Main => {
            running_rules(faults, container);
            restart_policy(faults, container);
        }
        Role::Init if container.get("restartPolicy").text() == "Always" => running_rules(faults, container),
        Role::Init => {
            restart_policy(faults, container);
            let words = "may not be set for init containers without restartPolicy=Always";
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                forbid(faults, &container.get(field), words);
            }
        }
        Role::Ephemeral => ephemeral_rules(faults, container),
    }
}

/// What a debugging container does without.
fn ephemeral_rules(faults: &mut Faults, container: &At) {
    let words = "cannot be set for an Ephemeral Container";
    for field in
        ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "restartPolicy", "resizePolicy"]
    {
        forbid(faults, &container.get(field), words);
    }
    if !container.get("resources").is_blank() {
        faults.forbidden(&container.get("resources"), words);
    }
    for mount in container.get("volumeMounts").items() {
        forbid(faults, &mount.get("subPath"), words);
        forbid(faults, &mount.get("subPathExpr"), words);
    }
}

fn forbid(faults: &mut Faults, at: &At, words: &str) {
    if at.is_set() {
        faults.forbidden(at, words);
    }
}

/// The most rules of one container's restarts.
const RESTART_RULES_LIMIT: usize = 20;

fn restart_policy(faults: &mut Faults, container: &At) {
    let (policy, rules) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    faults.choice(&policy, &["Always", "Never", "OnFailure"]);
    if !policy.is_set() && !rules.is_blank() {
        faults.required(&policy, "must specify restartPolicy when restart rules are used");
    }
    if rules.items().len() > RESTART_RULES_LIMIT {
        faults.extend([FieldError::too_long(rules.path(), RESTART_RULES_LIMIT)]);
    }
    for rule in rules.items() {
        faults.choice(&rule.get("action"), &["Restart"]);
        if rule.get("exitCodes").is_set() {
            faults.choice(&rule.get("exitCodes").get("operator"), &["In", "NotIn"]);
        } else {
            faults.required(&rule.get("exitCodes"), "must be specified");
        }
    }
}

fn resize_policy(faults: &mut Faults, policies: &At) {
    let mut seen = BTreeSet::new();
    for policy in policies.items() {
        let resource = policy.get("resourceName");
        if !seen.insert(resource.text()) {
            faults.extend([FieldError::duplicate(policy.path(), resource.text())]);
        }
        for (field, supported) in
            [(resource, ["cpu", "memory"]), (policy.get("restartPolicy"), ["NotRequired", "RestartContainer"])]
        {
            let at = field.renamed(policies.path().clone());
            faults.needs_choice(&at, &supported);
        }
    }
}

/// Hooks and probes, which only what keeps running has.
fn running_rules(faults: &mut Faults, container: &At) {
    for hook in ["postStart", "preStop"] {
        let hook = container.get("lifecycle").get(hook);
        if hook.is_set() {
            handler(faults, &hook);
        }
    }
    for (name, once) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        let probe = container.get(name);
        if probe.is_set() {
            check_probe(faults, &probe, once, name == "readinessProbe");
        }
    }
}

fn check_probe(faults: &mut Faults, probe: &At, succeeds_once: bool, is_readiness: bool) {
    handler(faults, probe);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        faults.non_negative(&probe.get(field));
    }
    let grace = probe.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|seconds| seconds <= 0) {
        faults.invalid(&grace, "must be greater than 0");
    }
    let threshold = probe.get("successThreshold");
    if succeeds_once && threshold.int().unwrap_or(0) != 1 {
        faults.invalid_as(&threshold, threshold.int().unwrap_or(0), "must be 1");
    }
    if is_readiness && grace.is_set() {
        faults.invalid(&grace, "must not be set for readinessProbes");
    }
}

/// One way of asking or telling a container something.
fn handler(faults: &mut Faults, handler: &At) {
    const KINDS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<_> = KINDS.iter().map(|kind| (*kind, handler.get(kind))).filter(|(_, at)| at.is_set()).collect();
    if given.is_empty() {
        faults.required(handler, "must specify a handler type");
    }
    for (index, (kind, action)) in given.into_iter().enumerate() {
        if index > 0 {
            faults.forbidden(&action, "may not specify more than 1 handler type");
            continue;
        }
        match kind {
            "exec" => drop(faults.needs(&action.get("command"))),
            "httpGet" => http_get(faults, &action),
            "sleep" => faults.non_negative(&action.get("seconds")),
            "grpc" => faults.port(&action.get("port")),
            _ => faults.port_or_name(&action.get("port")),
        }
    }
}

fn http_get(faults: &mut Faults, action: &At) {
    faults.needs(&action.get("path"));
    faults.port_or_name(&action.get("port"));
    faults.choice(&action.get("scheme"), &["HTTP", "HTTPS"]);
    for header in action.get("httpHeaders").items() {
        let name = header.get("name").text();
        for words in names::check_http_header_name(name) {
            faults.invalid_as(&action.get("httpHeaders"), name, words);
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
            let error = FieldError::duplicate(port.get("hostPort").path(), claim);
            faults.extend([error]);
        }
    }
}

/// What a variable may show of its Pod.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// What a variable may show of a container's resources.
const ENV_RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

fn environment(faults: &mut Faults, container: &At) {
    for variable in container.get("env").items() {
        faults.needs_name(&variable.get("name"), names::check_env_var_name);
        let source = variable.get("valueFrom");
        if source.is_set() {
            env_source(faults, &source, variable.get("value").text());
        }
    }
    for source in container.get("envFrom").items() {
        faults.name(&source.get("prefix"), names::check_env_var_name);
        let given: Vec<_> =
            ["configMapRef", "secretRef"].map(|kind| source.get(kind)).into_iter().filter(At::is_set).collect();
        for reference in &given {
            faults.needs_name(&reference.get("name"), names::check_dns_subdomain);
        }
        match given.len() {
            1 => {}
            0 => faults.invalid_as(&source, "", "must specify one of: `configMapRef` or `secretRef`"),
            _ => faults.invalid_as(&source, "", "may not have more than one field specified at a time"),
        }
    }
}

fn env_source(faults: &mut Faults, source: &At, value: &str) {
    const KINDS: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let given: Vec<_> = KINDS.iter().map(|kind| (*kind, source.get(kind))).filter(|(_, at)| at.is_set()).collect();
    for (kind, reference) in &given {
        match *kind {
            "fieldRef" => field_reference(faults, reference, &ENV_FIELDS, true),
            "resourceFieldRef" => resource_reference(faults, reference, false),
            "fileKeyRef" => {
                faults.needs(&reference.get("volumeName"));
                faults.needs(&reference.get("path"));
                faults.needs(&reference.get("key"));
            }
            _ => {
                faults.name(&reference.get("name"), names::check_dns_subdomain);
                if reference.get("name").is_blank() {
                    faults.required(&reference.get("name"), "");
                }
                faults.needs_name(&reference.get("key"), names::check_config_key);
            }
        }
    }
    if given.is_empty() {
        let words = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        faults.invalid_as(source, "", words);
    } else if !value.is_empty() {
        faults.invalid_as(source, "", "may not be specified when `value` is not empty");
    } else if given.len() > 1 {
        faults.invalid_as(source, "", "may not have more than one field specified at a time");
    }
}

/// A reference to a field of the Pod; single labels and annotations may be named in brackets where `keyed` says so.
pub fn field_reference(faults: &mut Faults, reference: &At, supported: &[&str], keyed: bool) {
    faults.needs(&reference.get("apiVersion"));
    let field = reference.get("fieldPath");
    if !faults.needs(&field) {
        return;
    }
    let path = field.text();
    let subscript = path.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    match subscript {
        Some(("metadata.labels", key)) if keyed => faults.all_invalid(&field, names::check_label_key(key)),
        Some(("metadata.annotations", key)) if keyed => {
            faults.all_invalid(&field, names::check_label_key(&key.to_lowercase()));
        }
        Some((_, _)) => faults.invalid(&field, "does not support subscript"),
        None if supported.contains(&path) => {}
        None if ENV_FIELDS.contains(&path) || matches!(path, "metadata.labels" | "metadata.annotations") => {
            faults.not_supported(&field, supported);
        }
        None => faults.invalid(&field, format!("error converting fieldPath: field label not supported: {path}")),
    }
}

/// A reference to a container's resource; volumes must say which container.
pub fn resource_reference(faults: &mut Faults, reference: &At, of_volume: bool) {
    if of_volume && reference.get("containerName").is_blank() {
        faults.required(&reference.get("containerName"), "");
    }
    let resource = reference.get("resource");
    if !resource.text().contains("hugepages-") && faults.needs(&resource) {
        faults.choice(&resource, &ENV_RESOURCES);
    }
}

/// Checks the requests and limits of a container.
pub fn resources(faults: &mut Faults, resources: &At) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    for (name, quantity) in limits.entries() {
        resource_name(faults, name, &quantity);
        resource_quantity(faults, name, &quantity);
    }
    for (name, quantity) in requests.entries() {
        resource_name(faults, name, &quantity);
        resource_quantity(faults, name, &quantity);
        request_within_limit(faults, name, &quantity, &requests, &limits);
    }
    for claim in resources.get("claims").items() {
        faults.needs(&claim.get("name"));
    }
}

fn request_within_limit(faults: &mut Faults, name: &str, request: &At, requests: &At, limits: &At) {
    let limit = limits.get(name);
    let may_overcommit = may_overcommit(name);
    let Some(wanted) = request.quantity() else {
        return;
    };
    match limit.quantity() {
        None if !may_overcommit => faults.required(limits, "Limit must be set for non overcommitable resources"),
        None => {}
        Some(allowed) if !may_overcommit && wanted != allowed => {
            faults.invalid_as(requests, request.text(), format!("must be equal to {name} limit of {}", limit.text()));
        }
        Some(allowed) if wanted > allowed => {
            let words = format!("must be less than or equal to {name} limit of {}", limit.text());
            faults.invalid_as(requests, request.text(), words);
        }
        Some(_) => {}
    }
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

/// The name of a resource that a container may ask for.
pub fn resource_name(faults: &mut Faults, name: &str, at: &At) {
    let shown = |faults: &mut Faults, words: &str| faults.invalid_as(at, name, words);
    let wrong = names::check_label_key(name);
    if !wrong.is_empty() {
        for words in wrong {
            shown(faults, &words);
        }
        return;
    }
    let is_standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !is_standard {
        shown(faults, "must be a standard resource type or fully qualified");
        shown(faults, "must be a standard resource for containers");
    } else if name.contains('/') && !is_native(name) && name.starts_with("requests.") {
        shown(faults, "doesn't follow extended resource name standard");
    }
}

/// The quantity of a resource: not negative, and whole where it can only be counted.
pub fn resource_quantity(faults: &mut Faults, name: &str, at: &At) {
    let Some(quantity) = at.quantity() else {
        return;
    };
    faults.non_negative_quantity(at);
    if !is_native(name) && !quantity.is_integer() {
        faults.invalid(at, "must be an integer");
    }
}

/// Whether a list of containers has one of that name.
pub fn has_container(spec: &Value, name: &str) -> bool {
    use skiff_object::meta::Meta;
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .any(|list| spec.list_at(&[list]).iter().any(|container| container.str_at(&["name"]) == name))
}
