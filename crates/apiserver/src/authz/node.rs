//! What the agent of a node may do: its node, the Pods bound to it, and what those refer to.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/node/>.

use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::authz::Action;
use crate::call::UserInfo;
use crate::storage::catalogue::Catalogue;
use crate::storage::filter::Filter;

/// What every node may do, whatever its Pods: group, resource, verbs.
const RULES: [(&str, &str, &str); 24] = [
    ("", "nodes", "create get list watch update patch"),
    ("", "nodes/status", "get update patch"),
    ("", "pods", "create get list watch delete"),
    ("", "pods/status", "get update patch"),
    ("", "pods/eviction", "create"),
    ("", "services", "get list watch"),
    ("", "events", "create update patch"),
    ("events.k8s.io", "events", "create update patch"),
    ("", "persistentvolumeclaims/status", "get update patch"),
    ("", "endpoints", "get"),
    ("certificates.k8s.io", "certificatesigningrequests", "create get list watch"),
    ("certificates.k8s.io", "clustertrustbundles", "get list watch"),
    ("coordination.k8s.io", "leases", "create get update patch delete"),
    ("storage.k8s.io", "volumeattachments", "get"),
    ("storage.k8s.io", "csidrivers", "get list watch"),
    ("storage.k8s.io", "csinodes", "create get update patch delete"),
    ("node.k8s.io", "runtimeclasses", "get list watch"),
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "localsubjectaccessreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
    ("resource.k8s.io", "resourceclaims", "get"),
    ("resource.k8s.io", "resourceslices", "create get list watch update patch delete deletecollection"),
    ("certificates.k8s.io", "podcertificaterequests", "create get list watch"),
    ("discovery.k8s.io", "endpointslices", "get"),
];
/// What a node may read (`get list watch`) where one of its Pods refers to it.
const REFERRED: [&str; 4] = ["secrets", "configmaps", "persistentvolumeclaims", "persistentvolumes"];

/// The name of the node that a user is the agent of.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.in_group("system:nodes"))
}

/// Why a node may do something, or `None` where it may not (by these rules).
pub fn allows(catalogue: &Catalogue, user: &UserInfo, action: &Action) -> Option<String> {
    let node = node_of(user)?;
    if action.is_path() {
        return None;
    }
    let resource = action.full_resource();
    let readable = matches!(action.verb.as_str(), "get" | "list" | "watch");
    if action.group.is_empty() && REFERRED.contains(&resource.as_str()) {
        let allowed = readable && !action.name.is_empty() && refers(catalogue, node, action);
        return allowed.then(|| "node: referred to by a pod of the node".to_owned());
    }
    if action.group.is_empty() && resource == "serviceaccounts/token" {
        let allowed = action.verb == "create"
            && any_pod(catalogue, node, &action.namespace, |pod| {
                pod.str_at(&["spec", "serviceAccountName"]) == action.name
            });
        return allowed.then(|| "node: a pod of the node runs as it".to_owned());
    }
    if action.group.is_empty() && resource == "serviceaccounts" {
        return (action.verb == "get").then(|| "node: readable by nodes".to_owned());
    }
    let rule = RULES.iter().find(|(group, own, _)| *group == action.group && *own == resource)?;
    let allowed = rule.2.split(' ').any(|verb| verb == action.verb) && concerns_only_itself(node, action);
    allowed.then(|| "node: allowed to every node".to_owned())
}

/// A node's lease, its CSINode and its Node object carry its name; those of others it may read at most.
fn concerns_only_itself(node: &str, action: &Action) -> bool {
    let reads = matches!(action.verb.as_str(), "get" | "list" | "watch");
    match (action.group.as_str(), action.resource.as_str()) {
        ("coordination.k8s.io", "leases") => {
            action.namespace == "kube-node-lease" && (action.verb == "create" || action.name == node)
        }
        ("storage.k8s.io", "csinodes") | ("", "nodes") => reads || action.verb == "create" || action.name == node,
        _ => true,
    }
}

fn any_pod(catalogue: &Catalogue, node: &str, namespace: &str, test: impl Fn(&Object) -> bool) -> bool {
    let Some(pods) = catalogue.cache("", "pods") else { return false };
    let selector = format!("spec.nodeName={}", node.replace('=', "\\="));
    let Ok(filter) = Filter::new(&pods.def, &pods.def, namespace, "", &selector) else { return false };
    pods.select(&filter).iter().any(|entry| pods.decode(entry).is_ok_and(|pod| test(&pod)))
}

fn refers(catalogue: &Catalogue, node: &str, action: &Action) -> bool {
    if action.resource == "persistentvolumes" {
        let Some(volumes) = catalogue.cache("", "persistentvolumes") else { return false };
        let Ok(Some(volume)) = volumes.object("", &action.name) else { return false };
        let (namespace, claim) =
            (volume.str_at(&["spec", "claimRef", "namespace"]), volume.str_at(&["spec", "claimRef", "name"]));
        return any_pod(catalogue, node, namespace, |pod| mentions(pod, "persistentvolumeclaims", claim));
    }
    any_pod(catalogue, node, &action.namespace, |pod| mentions(pod, &action.resource, &action.name))
        || (action.resource == "secrets" && a_volume_needs(catalogue, node, &action.namespace, &action.name))
}

/// Whether a volume that a Pod of the node has names the Secret for its driver.
fn a_volume_needs(catalogue: &Catalogue, node: &str, namespace: &str, secret: &str) -> bool {
    const REFERENCES: [&str; 3] = ["nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
    let Some(volumes) = catalogue.cache("", "persistentvolumes") else { return false };
    let Ok(all) = Filter::new(&volumes.def, &volumes.def, "", "", "") else { return false };
    volumes.select(&all).iter().any(|entry| {
        let Ok(volume) = volumes.decode(entry) else { return false };
        let names = |reference: &&str| {
            let part = |field: &str| volume.str_at(&["spec", "csi", reference, field]).to_owned();
            part("name") == secret && part("namespace") == namespace
        };
        let claim = |field: &str| volume.str_at(&["spec", "claimRef", field]).to_owned();
        REFERENCES.iter().any(names)
            && any_pod(catalogue, node, &claim("namespace"), |pod| {
                mentions(pod, "persistentvolumeclaims", &claim("name"))
            })
    })
}

/// Whether a Pod's spec refers to a Secret, ConfigMap or claim of that name.
fn mentions(pod: &Object, resource: &str, name: &str) -> bool {
    let Some(spec) = pod.get("spec") else { return false };
    let keys: &[&[&str]] = match resource {
        "secrets" => &[
            &["secret", "secretName"],
            &["secret", "name"],
            &["secretRef", "name"],
            &["secretKeyRef", "name"],
            &["nodePublishSecretRef", "name"],
        ],
        "configmaps" => &[&["configMap", "name"], &["configMapRef", "name"], &["configMapKeyRef", "name"]],
        _ => &[&["persistentVolumeClaim", "claimName"]],
    };
    let pulls = || spec.list_at(&["imagePullSecrets"]).iter().any(|secret| secret.str_at(&["name"]) == name);
    let ephemeral = || {
        spec.list_at(&["volumes"]).iter().any(|volume| {
            volume.get("ephemeral").is_some() && format!("{}-{}", pod.name(), volume.str_at(&["name"])) == name
        })
    };
    find(spec, keys, name)
        || (resource == "secrets" && pulls())
        || (resource == "persistentvolumeclaims" && ephemeral())
}

fn find(value: &Object, keys: &[&[&str]], name: &str) -> bool {
    keys.iter().any(|path| value.str_at(path) == name)
        || match value {
            Object::Object(map) => map.values().any(|child| find(child, keys, name)),
            Object::Array(items) => items.iter().any(|child| find(child, keys, name)),
            _ => false,
        }
}
