//! What a container gets where its author left it out.

use serde_json::{Value, json};
use skiff_object::meta::Meta;

use crate::rules::tree::{default_fields, default_text, empty, items_mut, node_mut};

/// Where a container leaves its last words.
const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

/// Sets a container's defaults.
pub fn container(container: &mut Value) {
    let policy = pull_policy(container.str_at(&["image"]));
    default_text(container, &["imagePullPolicy"], policy);
    default_text(container, &["terminationMessagePath"], TERMINATION_MESSAGE_PATH);
    default_text(container, &["terminationMessagePolicy"], "File");
    container.default_at(&["resources"], empty());
    for port in items_mut(container, &["ports"]) {
        default_text(port, &["protocol"], "TCP");
    }
    for variable in items_mut(container, &["env"]) {
        if let Some(field) = node_mut(variable, &["valueFrom", "fieldRef"]) {
            default_text(field, &["apiVersion"], "v1");
        }
        if let Some(file) = node_mut(variable, &["valueFrom", "fileKeyRef"]) {
            file.default_at(&["optional"], false);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(node) = node_mut(container, &[name]) {
            probe(node);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(action) = node_mut(container, &["lifecycle", hook, "httpGet"]) {
            http_get(action);
        }
    }
}

/// Requests follow limits where only limits are given; in Pods alone, so that templates stay as they were written.
pub fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.map_at(&["resources", "limits"]).cloned() else {
        return;
    };
    for (resource, limit) in limits {
        container.default_at(&["resources", "requests", &resource], limit);
    }
}

/// On the host's network a container's port is the host's port.
pub fn host_ports(container: &mut Value) {
    for port in items_mut(container, &["ports"]) {
        if port.int_at(&["hostPort"]).unwrap_or(0) == 0
            && let Some(number) = port.int_at(&["containerPort"])
        {
            port.set_at(&["hostPort"], number);
        }
    }
}

fn probe(probe: &mut Value) {
    default_number(probe, "timeoutSeconds", 1);
    default_number(probe, "periodSeconds", 10);
    default_number(probe, "successThreshold", 1);
    default_number(probe, "failureThreshold", 3);
    if let Some(action) = node_mut(probe, &["httpGet"]) {
        http_get(action);
    }
    if let Some(action) = node_mut(probe, &["grpc"]) {
        action.default_at(&["service"], "");
    }
}

/// Sets a number where there is none, or 0, which upstream cannot tell from none.
fn default_number(object: &mut Value, field: &str, number: i64) {
    if object.int_at(&[field]).unwrap_or(0) == 0 {
        object.set_at(&[field], number);
    }
}

fn http_get(action: &mut Value) {
    default_text(action, &["path"], "/");
    default_text(action, &["scheme"], "HTTP");
}

/// `Always` for what may change under its name (the tag `latest`, or none), `IfNotPresent` for the rest.
/// See <https://kubernetes.io/docs/concepts/containers/images/#imagepullpolicy-defaulting>.
pub fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, ""), |(name, digest)| (name, digest));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
        None if !digest.is_empty() || image.is_empty() => "IfNotPresent",
        None => "Always",
    }
}

/// The mode of files projected into a volume, 0644.
const FILE_MODE: i64 = 0o644;
/// How long a projected service account token is valid.
const TOKEN_EXPIRATION_SECONDS: i64 = 3600;
const VOLUME_SOURCE_COUNT_WITHOUT_ANY: usize = 1;

/// Sets a volume's defaults. A volume that says nothing but its name is an empty directory.
pub fn volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|map| map.len() <= VOLUME_SOURCE_COUNT_WITHOUT_ANY && map.contains_key("name")) {
        volume.set_at(&["emptyDir"], empty());
    }
    let Some(sources) = volume.as_object_mut() else {
        return;
    };
    for (kind, source) in sources.iter_mut().filter(|(_, source)| source.is_object()) {
        match kind.as_str() {
            "secret" | "configMap" => source.default_at(&["defaultMode"], FILE_MODE),
            "downwardAPI" => {
                source.default_at(&["defaultMode"], FILE_MODE);
                downward_items(source);
            }
            "projected" => projected(source),
            "image" => {
                let policy = pull_policy(source.str_at(&["reference"]));
                default_text(source, &["pullPolicy"], policy);
            }
            "ephemeral" => {
                if let Some(claim) = node_mut(source, &["volumeClaimTemplate", "spec"]) {
                    default_text(claim, &["volumeMode"], "Filesystem");
                }
            }
            _ => storage_source(kind, source),
        }
    }
}

/// Defaults of the sources that volumes and PersistentVolumes share.
pub fn storage_source(kind: &str, source: &mut Value) {
    match kind {
        "hostPath" => source.default_at(&["type"], ""),
        "iscsi" => default_text(source, &["iscsiInterface"], "default"),
        "rbd" => {
            default_text(source, &["pool"], "rbd");
            default_text(source, &["user"], "admin");
            default_text(source, &["keyring"], "/etc/ceph/keyring");
        }
        "azureDisk" => default_fields(
            source,
            [
                ("cachingMode", json!("ReadWrite")),
                ("kind", json!("Shared")),
                ("fsType", json!("ext4")),
                ("readOnly", json!(false)),
            ],
        ),
        "scaleIO" => {
            default_text(source, &["storageMode"], "ThinProvisioned");
            default_text(source, &["fsType"], "xfs");
        }
        _ => {}
    }
}

fn projected(projected: &mut Value) {
    projected.default_at(&["defaultMode"], FILE_MODE);
    for source in items_mut(projected, &["sources"]) {
        if let Some(token) = node_mut(source, &["serviceAccountToken"]) {
            token.default_at(&["expirationSeconds"], TOKEN_EXPIRATION_SECONDS);
        }
        if let Some(downward) = node_mut(source, &["downwardAPI"]) {
            downward_items(downward);
        }
    }
}

fn downward_items(source: &mut Value) {
    for item in items_mut(source, &["items"]) {
        if let Some(field) = node_mut(item, &["fieldRef"]) {
            default_text(field, &["apiVersion"], "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_moving_tags_are_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:v1", "IfNotPresent"),
            ("nginx:1.27", "IfNotPresent"),
            ("nginx@sha256:0123", "IfNotPresent"),
            ("nginx:latest@sha256:0123", "Always"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
