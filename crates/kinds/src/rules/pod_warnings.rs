//! What upstream warns of when Pods are written: what works, but hardly as its author thinks.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_object::Object;
use skiff_object::meta::Meta;

/// Warns of a Pod's specification, found under `path`.
pub fn pod(spec: &Value, path: &str, metadata: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    deprecated_annotations(metadata, path, &mut warnings);
    node_labels(spec, path, &mut warnings);
    volumes(spec, path, &mut warnings);
    containers(spec, path, &mut warnings);
    duplicates(spec, path, &mut warnings);
    if spec.int_at(&["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    warnings
}

/// Warns of the pod template at a path.
pub fn template(object: &Object, path: &[&str]) -> Vec<String> {
    let template = object.at(path).unwrap_or(&Value::Null);
    let path = format!("{}.spec", path.join("."));
    pod(template.get("spec").unwrap_or(&Value::Null), &path, template.get("metadata"))
}

fn deprecated_annotations(metadata: Option<&Value>, path: &str, warnings: &mut Vec<String>) {
    let annotations = metadata.and_then(|metadata| metadata.map_at(&["annotations"]));
    let base = path.strip_suffix("spec").unwrap_or(path);
    for key in annotations.into_iter().flatten().map(|(key, _)| key) {
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") {
            warnings.push(format!(
                "{base}metadata.annotations[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
            ));
        } else if key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
            || key == "seccomp.security.alpha.kubernetes.io/pod"
        {
            warnings.push(format!(
                "{base}metadata.annotations[{key}]: non-functional in v1.27+; use the \"seccompProfile\" field instead"
            ));
        }
    }
}

fn node_labels(spec: &Value, path: &str, warnings: &mut Vec<String>) {
    const DEPRECATED: [(&str, &str); 4] = [
        ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
        ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
        (
            "failure-domain.beta.kubernetes.io/region",
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
        ),
        (
            "failure-domain.beta.kubernetes.io/zone",
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
        ),
    ];
    for (label, words) in DEPRECATED {
        if spec.at(&["nodeSelector", label]).is_some() {
            warnings.push(format!("{path}.nodeSelector[{label}]: {words}"));
        }
    }
}

fn volumes(spec: &Value, path: &str, warnings: &mut Vec<String>) {
    const GONE: [(&str, &str); 8] = [
        ("gitRepo", "deprecated in v1.11"),
        ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
        ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
        ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for (index, volume) in spec.list_at(&["volumes"]).iter().enumerate() {
        for (kind, words) in GONE {
            if volume.get(kind).is_some() {
                warnings.push(format!("{path}.volumes[{index}].{kind}: {words}"));
            }
        }
    }
}

fn containers(spec: &Value, path: &str, warnings: &mut Vec<String>) {
    for list in ["initContainers", "containers"] {
        for (index, container) in spec.list_at(&[list]).iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            for kind in ["requests", "limits"] {
                let memory = container.str_at(&["resources", kind, "memory"]);
                if memory.ends_with('m') {
                    warnings.push(format!("{path}.resources.{kind}[memory]: fractional byte value \"{memory}\" is invalid, must be an integer"));
                }
            }
            duplicate_names(container.list_at(&["env"]), &format!("{path}.env"), warnings);
        }
    }
}

fn duplicate_names(variables: &[Value], path: &str, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, variable) in variables.iter().enumerate() {
        let name = variable.str_at(&["name"]);
        if !seen.insert(name) && !variable.str_at(&["value"]).contains(&format!("$({name})")) {
            warnings.push(format!(
                "{path}[{index}]: hides previous definition of \"{name}\", which may be dropped when using apply"
            ));
        }
    }
}

fn duplicates(spec: &Value, path: &str, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, alias) in spec.list_at(&["hostAliases"]).iter().enumerate() {
        if !seen.insert(alias.str_at(&["ip"])) {
            warnings.push(format!("{path}.hostAliases[{index}].ip: duplicate ip \"{}\"", alias.str_at(&["ip"])));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, secret) in spec.list_at(&["imagePullSecrets"]).iter().enumerate() {
        let name = secret.str_at(&["name"]);
        if name.is_empty() {
            warnings.push(format!("{path}.imagePullSecrets[{index}].name: invalid empty name \"\""));
        } else if !seen.insert(name) {
            warnings.push(format!("{path}.imagePullSecrets[{index}].name: duplicate name \"{name}\""));
        }
    }
}
