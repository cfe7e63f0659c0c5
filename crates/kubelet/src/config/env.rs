//! The environment of a container: service variables, envFrom, env with its sources, and `$(VAR)` expansion.
//! See <https://kubernetes.io/docs/tasks/inject-data-application/>.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector, Service};
use skiff_base::Quantity;

use super::{NodeFacts, Objects, name, namespace, uid};
use crate::pod::spec::{self, Spec};

/// Why the environment cannot be built; the container then waits with `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EnvError(pub String);

/// Variables in the order in which they were set, the last value of each name counting.
#[derive(Debug, Default)]
struct Variables {
    names: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.names.push(name.to_owned());
        }
    }
}

/// Builds the environment; `ips` are the Pod's addresses.
///
/// # Errors
/// An object or a key that must exist does not.
pub fn build(
    pod: &Pod,
    spec: &Spec<'_>,
    ips: &[String],
    objects: &Objects,
    node: &NodeFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut variables = Variables::default();
    let links = spec::spec(pod).enable_service_links != Some(false);
    for (name, value) in services(&objects.services, namespace(pod), links) {
        variables.set(&name, value);
    }
    env_from(pod, spec, objects, &mut variables)?;
    for variable in spec.container.env.iter().flatten() {
        if let Some(value) = value(pod, spec, ips, objects, node, variable, &variables.values)? {
            variables.set(&variable.name, value);
        }
    }
    let Variables { names, mut values } = variables;
    Ok(names.into_iter().filter_map(|name| values.remove_entry(&name)).collect())
}

fn env_from(pod: &Pod, spec: &Spec<'_>, objects: &Objects, variables: &mut Variables) -> Result<(), EnvError> {
    for source in spec.container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or("");
        if let Some(reference) = &source.config_map_ref {
            match objects.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        variables.set(&format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(missing("configmap", &reference.name)),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match objects.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        let value = utf8(&value.0, "Secret", pod, &reference.name, key)?;
                        variables.set(&format!("{prefix}{key}"), value);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(missing("secret", &reference.name)),
            }
        }
    }
    Ok(())
}

fn missing(kind: &str, name: &str) -> EnvError {
    EnvError(format!("{kind} {name:?} not found"))
}

fn no_key(kind: &str, key: &str, pod: &Pod, name: &str) -> EnvError {
    EnvError(format!("couldn't find key {key} in {kind} {}/{name}", namespace(pod)))
}

fn utf8(bytes: &[u8], kind: &str, pod: &Pod, name: &str, key: &str) -> Result<String, EnvError> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned)
        .map_err(|_| EnvError(format!("key {key} in {kind} {}/{name} is not valid UTF-8", namespace(pod))))
}

/// The value of one variable; `None` where an optional source is absent.
fn value(
    pod: &Pod,
    spec: &Spec<'_>,
    ips: &[String],
    objects: &Objects,
    node: &NodeFacts,
    variable: &EnvVar,
    known: &BTreeMap<String, String>,
) -> Result<Option<String>, EnvError> {
    match &variable.value_from {
        None => Ok(Some(expand(variable.value.as_deref().unwrap_or(""), known))),
        Some(source) => from_source(pod, spec, ips, objects, node, source),
    }
}

fn from_source(
    pod: &Pod,
    spec: &Spec<'_>,
    ips: &[String],
    objects: &Objects,
    node: &NodeFacts,
    source: &EnvVarSource,
) -> Result<Option<String>, EnvError> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, ips, node, field).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, spec.name(), resource, node).map(Some);
    }
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional == Some(true);
        return match objects.config_maps.get(&selector.name) {
            None if optional => Ok(None),
            None => Err(missing("configmap", &selector.name)),
            Some(map) => match map.data.as_ref().and_then(|data| data.get(&selector.key)) {
                Some(value) => Ok(Some(value.clone())),
                None if optional => Ok(None),
                None => Err(no_key("ConfigMap", &selector.key, pod, &selector.name)),
            },
        };
    }
    if let Some(selector) = &source.file_key_ref {
        let optional = selector.optional == Some(true);
        let file = objects.files.get(&(selector.volume_name.clone(), selector.path.clone()));
        let (volume, path, key) = (&selector.volume_name, &selector.path, &selector.key);
        return match file.map(|text| env_file(text)) {
            Some(Ok(mut values)) => match values.remove(key) {
                Some(value) => Ok(Some(value)),
                None if optional => Ok(None),
                None => Err(EnvError(format!(
                    "environment variable key {key:?} not found in file {path:?} of volume {volume:?}"
                ))),
            },
            Some(Err(why)) => Err(EnvError(format!("couldn't parse env file {path:?} of volume {volume:?}: {why}"))),
            None if optional => Ok(None),
            None => Err(EnvError(format!("couldn't find env file {path:?} in volume {volume:?}"))),
        };
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional == Some(true);
        return match objects.secrets.get(&selector.name) {
            None if optional => Ok(None),
            None => Err(missing("secret", &selector.name)),
            Some(secret) => match secret.data.as_ref().and_then(|data| data.get(&selector.key)) {
                Some(value) => utf8(&value.0, "Secret", pod, &selector.name, &selector.key).map(Some),
                None if optional => Ok(None),
                None => Err(no_key("Secret", &selector.key, pod, &selector.name)),
            },
        };
    }
    Ok(None)
}

/// The variables of a file: `NAME='value'` on lines of their own, the value between single quotes and over several lines where
/// it has them; blank lines and comments do not count.
/// See <https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-via-file/>.
pub fn env_file(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut values = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line = rest.lines().next().unwrap_or("");
        let trimmed = line.trim_start();
        if trimmed.trim().is_empty() || trimmed.starts_with('#') {
            rest = rest[line.len()..].strip_prefix("\r\n").or(rest[line.len()..].strip_prefix('\n')).unwrap_or("");
            continue;
        }
        let (name, value) = trimmed.split_once('=').ok_or_else(|| format!("no '=' in line {line:?}"))?;
        let at = rest.len() - rest.trim_start_matches([' ', '\t']).len() + name.len() + 1;
        if !value.starts_with('\'') {
            return Err(format!("the value of {name} is not between single quotes"));
        }
        let quoted = &rest[at + 1..];
        let end = quoted.find('\'').ok_or_else(|| format!("the value of {name} has no end"))?;
        values.insert(name.trim().to_owned(), quoted[..end].to_owned());
        let after = &quoted[end + 1..];
        rest = after.find('\n').map_or("", |newline| &after[newline + 1..]);
    }
    Ok(values)
}

/// A field of the Pod as text: for variables and for downward API files.
///
/// # Errors
/// The field is not one that can be asked for.
pub fn field_value(
    pod: &Pod,
    ips: &[String],
    node: &NodeFacts,
    field: &ObjectFieldSelector,
) -> Result<String, EnvError> {
    let path = field.field_path.as_str();
    let meta = &pod.metadata;
    let entry = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some((list, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        match list {
            "metadata.labels" => return Ok(entry(&meta.labels, key)),
            "metadata.annotations" => return Ok(entry(&meta.annotations, key)),
            _ => {}
        }
    }
    let spec = spec::spec(pod);
    Ok(match path {
        "metadata.name" => name(pod).to_owned(),
        "metadata.namespace" => namespace(pod).to_owned(),
        "metadata.uid" => uid(pod).to_owned(),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => node.ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => node.ips.join(","),
        "status.podIP" => ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => ips.join(","),
        _ => return Err(EnvError(format!("unsupported fieldPath: {path}"))),
    })
}

/// Labels or annotations as the downward API writes them: one `key="value"` a line.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A request or limit of a container of the Pod, divided and rounded up.
///
/// # Errors
/// There is no such container or resource.
pub fn resource_value(
    pod: &Pod,
    own_name: &str,
    field: &ResourceFieldSelector,
    node: &NodeFacts,
) -> Result<String, EnvError> {
    let container = field.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(own_name);
    let Some(spec) = spec::container(pod, container) else {
        return Err(EnvError(format!("container {container} not found")));
    };
    let Some((list, resource)) = field.resource.split_once('.') else {
        return Err(EnvError(format!("unsupported container resource : {}", field.resource)));
    };
    let limits = list == "limits";
    let resources = spec.container.resources.as_ref();
    let own = super::resources::amount(resources, limits, resource);
    let amount = match own {
        Some(amount) => amount,
        None if limits => node.allocatable.get(resource).copied().unwrap_or(Quantity::ZERO),
        None => super::resources::amount(resources, true, resource).unwrap_or(Quantity::ZERO),
    };
    let divisor = field.divisor.as_ref().map(spec::quantity).filter(|divisor| !divisor.is_zero());
    let (amount, divisor) = if resource == "cpu" {
        (amount.milli_value(), divisor.map_or(1000, |divisor| divisor.milli_value()))
    } else {
        (amount.value(), divisor.map_or(1, |divisor| divisor.value()))
    };
    let divisor = divisor.max(1);
    Ok(((amount + divisor - 1) / divisor).to_string())
}

/// Replaces `$(NAME)` by its value where the name is known; `$$` is a plain dollar sign.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    expand_with(text, |name| known.get(name).cloned().unwrap_or_else(|| format!("$({name})")))
}

/// The same, with whatever a name is to be replaced by.
pub fn expand_with(text: &str, mut replace: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.as_bytes().first() {
            Some(b'$') => {
                out.push('$');
                rest = &rest[1..];
            }
            Some(b'(') => match rest.find(')') {
                Some(end) => {
                    out.push_str(&replace(&rest[1..end]));
                    rest = &rest[end + 1..];
                }
                None => {
                    out.push_str("$(");
                    rest = &rest[1..];
                }
            },
            Some(_) | None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

/// The variables that tell where Services are; without links only the API server's.
fn services(services: &[std::sync::Arc<Service>], namespace: &str, links: bool) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for service in services {
        let own = service.metadata.namespace.as_deref().unwrap_or("");
        let name = service.metadata.name.as_deref().unwrap_or("");
        let is_api = own == "default" && name == "kubernetes";
        let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or("");
        if !(is_api || (links && own == namespace)) || ip.is_empty() || ip == "None" {
            continue;
        }
        one_service(name, ip, service, &mut variables);
    }
    variables
}

fn one_service(name: &str, ip: &str, service: &Service, variables: &mut Vec<(String, String)>) {
    let prefix = name.to_uppercase().replace('-', "_");
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let mut set = |suffix: String, value: String| variables.push((format!("{prefix}_{suffix}"), value));
    for (index, port) in ports.enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_uppercase();
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            set("SERVICE_HOST".into(), ip.to_owned());
            set("SERVICE_PORT".into(), port.port.to_string());
            set("PORT".into(), url.clone());
        }
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            set(format!("SERVICE_PORT_{port_name}"), port.port.to_string());
        }
        let prefix = format!("PORT_{}_{protocol}", port.port);
        set(prefix.clone(), url);
        set(format!("{prefix}_PROTO"), protocol.to_lowercase());
        set(format!("{prefix}_PORT"), port.port.to_string());
        set(format!("{prefix}_ADDR"), ip.to_owned());
    }
}
