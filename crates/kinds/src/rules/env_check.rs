//! What may be wrong with the environment of a container, and with references to fields of its Pod.

use skiff_object::names;

use crate::rules::check::{At, Faults};

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

/// Checks a container's variables.
pub fn environment(faults: &mut Faults, container: &At) {
    for variable in container.get("env").items() {
        faults.needs_name(&variable.get("name"), names::check_env_var_name);
        let source = variable.get("valueFrom");
        if source.is_set() {
            value_source(faults, &source, variable.get("value").text());
        }
    }
    let all = container.get("envFrom");
    for source in all.items() {
        faults.name(&source.get("prefix"), names::check_env_var_name);
        let given: Vec<_> =
            ["configMapRef", "secretRef"].map(|kind| source.get(kind)).into_iter().filter(At::is_set).collect();
        for reference in &given {
            faults.needs_name(&reference.get("name"), names::check_dns_subdomain);
        }
        match given.len() {
            1 => {}
            0 => faults.invalid_as(&all, "", "must specify one of: `configMapRef` or `secretRef`"),
            _ => faults.invalid_as(&all, "", "may not have more than one field specified at a time"),
        }
    }
}

fn value_source(faults: &mut Faults, source: &At, value: &str) {
    const KINDS: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let given: Vec<_> = KINDS.iter().map(|kind| (*kind, source.get(kind))).filter(|(_, at)| at.is_set()).collect();
    for (kind, reference) in &given {
        match *kind {
            "fieldRef" => field_reference(faults, reference, &ENV_FIELDS),
            "resourceFieldRef" => resource_reference(faults, reference, false),
            "fileKeyRef" => file_reference(faults, reference),
            _ => {
                let name = reference.get("name");
                for words in names::check_dns_subdomain(name.text()) {
                    faults.invalid_as(&name, name.text(), words);
                }
                faults.needs_name(&reference.get("key"), names::check_config_key);
            }
        }
    }
    if given.is_empty() {
        let words =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        faults.invalid_as(source, "", words);
    } else if !value.is_empty() {
        faults.invalid_as(source, "", "may not be specified when `value` is not empty");
    } else if given.len() > 1 {
        faults.invalid_as(source, "", "may not have more than one field specified at a time");
    }
}

/// A variable from a file in a volume.
fn file_reference(faults: &mut Faults, reference: &At) {
    faults.needs_name(&reference.get("volumeName"), names::check_dns_label);
    let path = reference.get("path");
    if faults.needs(&path) {
        super::volume_check::local_path(faults, &path);
    }
    faults.needs_name(&reference.get("key"), names::check_env_var_name);
}

/// Checks a reference to a field of the Pod; single labels and annotations may be named in brackets.
pub fn field_reference(faults: &mut Faults, reference: &At, supported: &[&str]) {
    let field = reference.get("fieldPath");
    if !faults.needs(&reference.get("apiVersion")) || !faults.needs(&field) {
        return;
    }
    let path = field.text();
    let subscript = path.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    match subscript {
        Some(("metadata.labels", key)) => shown(faults, reference, key, names::check_label_key(key)),
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            shown(faults, reference, &key, names::check_label_key(&key));
        }
        None if supported.contains(&path) => {}
        None if ENV_FIELDS.contains(&path) || matches!(path, "metadata.labels" | "metadata.annotations") => {
            faults.not_supported(&field, supported);
        }
        _ => faults.invalid(&field, format!("error converting fieldPath: field label not supported: {path}")),
    }
}

fn shown(faults: &mut Faults, at: &At, value: &str, wrong: Vec<String>) {
    for words in wrong {
        faults.invalid_as(at, value, words);
    }
}

/// Checks a reference to a container's resource; volumes must say which container.
pub fn resource_reference(faults: &mut Faults, reference: &At, of_volume: bool) {
    let (container, resource) = (reference.get("containerName"), reference.get("resource"));
    let huge_pages = ["limits.hugepages-", "requests.hugepages-"];
    if of_volume && container.is_blank() {
        faults.required(&container, "");
    } else if faults.needs(&resource) && !huge_pages.iter().any(|prefix| resource.text().starts_with(prefix)) {
        faults.choice(&resource, &ENV_RESOURCES);
    }
    divisor(faults, reference, resource.text());
}

const SIZE_DIVISORS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

fn divisor(faults: &mut Faults, reference: &At, resource: &str) {
    let divisor = reference.get("divisor");
    let Some(quantity) = divisor.quantity().filter(|quantity| !quantity.is_zero()) else {
        return;
    };
    let text = quantity.to_string();
    let what = resource.split_once('.').map_or("", |(_, what)| what);
    let (supported, listed, name): (&[&str], _, _) = match what {
        "cpu" => (&["1m", "1"], "1m and 1".to_owned(), "cpu"),
        "memory" => (&SIZE_DIVISORS, SIZE_DIVISORS.join(", "), "memory"),
        "ephemeral-storage" => (&SIZE_DIVISORS, SIZE_DIVISORS.join(", "), "local ephemeral storage"),
        _ if what.starts_with("hugepages-") => (&SIZE_DIVISORS, SIZE_DIVISORS.join(", "), "hugepages"),
        _ => return,
    };
    if !supported.contains(&text.as_str()) {
        let words = format!("only divisor's values {listed} are supported with the {name} resource");
        faults.invalid_as(&divisor, resource, words);
    }
}
