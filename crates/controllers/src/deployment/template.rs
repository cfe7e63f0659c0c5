//! Pod templates: whether two are the same, and the hash that names what comes of one.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;
use skiff_base::ids::hashed;

use super::TEMPLATE_HASH;

/// The hash of the Deployment's template; the collision count makes room where two templates hash alike.
pub fn hash(deployment: &Deployment) -> String {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    hash_of(template, collisions)
}

/// The hash of a template.
pub fn hash_of(template: Option<&PodTemplateSpec>, collisions: Option<i32>) -> String {
    let text = canonical(template).to_string();
    let count = collisions.map(|count| count.to_string()).unwrap_or_default();
    hashed(&[&text, &count])
}

/// The name that a new ReplicaSet gets.
pub fn set_name(deployment: &Deployment) -> String {
    format!("{}-{}", deployment.metadata.name.as_deref().unwrap_or_default(), hash(deployment))
}

/// Whether the ReplicaSet came of the Deployment's present template.
pub fn is_current(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = deployment.spec.as_ref().map(|spec| &spec.template);
    let has = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    canonical(wanted) == canonical(has)
}

/// The template as a tree without the hash label and without what is empty, so that absent and empty are the same.
fn canonical(template: Option<&PodTemplateSpec>) -> Value {
    let mut tree = serde_json::to_value(template).unwrap_or_default();
    if let Some(labels) = tree.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(TEMPLATE_HASH);
    }
    prune(&mut tree);
    tree
}

fn prune(tree: &mut Value) -> bool {
    match tree {
        Value::Object(map) => {
            // An empty emptyDir or securityContext is not nothing where its presence says something,
            // so only null, and maps of strings that are empty, go.
            map.retain(|key, value| !prune(value) || !is_optional(key, value));
            map.is_empty()
        }
        Value::Array(list) => {
            for item in list.iter_mut() {
                prune(item);
            }
            list.is_empty()
        }
        Value::Null => true,
        _ => false,
    }
}

fn is_optional(key: &str, value: &Value) -> bool {
    value.is_null()
        || value.is_array()
        || matches!(key, "labels" | "annotations" | "metadata" | "nodeSelector" | "resources" | "securityContext")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    fn template(yaml: &str) -> PodTemplateSpec {
        object(yaml)
    }

    #[test]
    fn the_hash_label_and_what_is_empty_do_not_count() {
        let a = template("{metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}");
        let b = template(
            "{metadata: {labels: {app: web, pod-template-hash: x}, annotations: {}}, spec: {containers: [{name: c, image: i, resources: {}, env: []}]}}",
        );
        let c = template("{metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: j}]}}");
        assert_eq!(hash_of(Some(&a), None), hash_of(Some(&b), None));
        assert_ne!(hash_of(Some(&a), None), hash_of(Some(&c), None));
        assert_ne!(hash_of(Some(&a), None), hash_of(Some(&a), Some(1)));
    }

    #[test]
    fn an_empty_volume_is_not_nothing() {
        let a = template("{spec: {containers: [], volumes: [{name: v, emptyDir: {}}]}}");
        let b = template("{spec: {containers: [], volumes: [{name: v}]}}");
        assert_ne!(canonical(Some(&a)), canonical(Some(&b)));
    }
}
