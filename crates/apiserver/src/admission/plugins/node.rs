//! NodeRestriction: a node's agent changes its own node and its own Pods, and no others, and nothing that would bring
//! Pods of others to it. TaintNodesByCondition stands here too.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skiff_object::Object;
use skiff_object::meta::Meta;

use super::MIRROR;
use crate::admission::{Attributes, Operation};
use crate::authz::node::node_of;
use crate::failure::Result;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Where nodes renew their leases.
const LEASES: &str = "kube-node-lease";
/// What only administrators say of nodes.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own that an agent may give its node.
const LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Domains whose labels it may give too.
const DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// What an agent says of a claim: how far its expansion is.
const CLAIM_STATUS: [&str; 4] = ["allocatedResourceStatuses", "allocatedResources", "capacity", "conditions"];

/// Refuses what a node may not write, although its role allows the verb.
pub fn restrict(attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let Some(node) = node_of(&attributes.call.user) else { return Ok(()) };
    let (operation, name) = (attributes.operation, attributes.name);
    let verdict = match (attributes.def.group.as_ref(), attributes.def.plural.as_ref(), attributes.subresource) {
        ("", "pods", "") => match (operation, object, old) {
            (Operation::Create, Some(pod), _) => mirror(node, name, pod),
            (Operation::Delete, _, old) => owned(node, old, "delete pods"),
            (Operation::Connect, ..) => Ok(()),
            _ => Err(format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods")),
        },
        ("", "pods", "status") => status(node, object, old),
        ("", "nodes", _) if name != node => Err(format!("node {node:?} is not allowed to modify node {name:?}")),
        ("", "nodes", _) => object.map_or(Ok(()), |object| own_node(node, object, old)),
        ("", "persistentvolumeclaims", "status") => claim(node, object, old),
        ("", "persistentvolumeclaims", _) => Err("may only update PVC status".to_owned()),
        ("coordination.k8s.io", "leases", _) if attributes.namespace != LEASES => {
            Err(format!("can only access leases in the {LEASES:?} system namespace"))
        }
        ("coordination.k8s.io", "leases", _) if name != node => {
            Err("can only access node lease with the same name as the requesting node".to_owned())
        }
        ("storage.k8s.io", "csinodes", _) if name != node => {
            Err("can only access CSINode with the same name as the requesting node".to_owned())
        }
        ("resource.k8s.io", "resourceslices", _) => slice(node, operation, object, old),
        _ => Ok(()),
    };
    verdict.map_err(|why| attributes.forbidden(why))
}

type Verdict = std::result::Result<(), String>;

fn is_bound(node: &str, pod: Option<&Object>) -> bool {
    pod.is_some_and(|pod| pod.str_at(&["spec", "nodeName"]) == node)
}

fn owned(node: &str, pod: Option<&Object>, what: &str) -> Verdict {
    if is_bound(node, pod) {
        return Ok(());
    }
    Err(format!("node {node:?} can only {what} with spec.nodeName set to itself"))
}

/// A Pod that an agent makes known because it runs it by itself: it refers to nothing of the cluster.
fn mirror(node: &str, name: &str, pod: &Object) -> Verdict {
    if pod.annotation(MIRROR).is_none() {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods, not {name:?}"
        ));
    }
    owned(node, Some(pod), "create pods")?;
    let is_own = |owner: &Value| {
        owner.str_at(&["apiVersion"]) == "v1"
            && owner.str_at(&["kind"]) == "Node"
            && owner.str_at(&["name"]) == node
            && owner.bool_at(&["controller"])
    };
    match pod.list_at(&["metadata", "ownerReferences"]) {
        [owner] if owner.bool_at(&["blockOwnerDeletion"]) => {
            return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        [owner] if is_own(owner) => {}
        [] | [_] => return Err(format!("node {node:?} can only create pods with an owner reference set to itself")),
        _ => return Err(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    }
    match referred(pod) {
        Some(what) => Err(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

/// What of the cluster a Pod refers to.
fn referred(pod: &Object) -> Option<&'static str> {
    let spec = pod.get("spec")?;
    if !spec.str_at(&["serviceAccountName"]).is_empty() {
        return Some("a service account");
    }
    if !spec.list_at(&["resourceClaims"]).is_empty() {
        return Some("resourceclaims");
    }
    if !spec.list_at(&["imagePullSecrets"]).is_empty() {
        return Some("secrets");
    }
    const FIELDS: [(&str, &str); 10] = [
        ("secret", "secrets"),
        ("secretRef", "secrets"),
        ("secretKeyRef", "secrets"),
        ("nodePublishSecretRef", "secrets"),
        ("configMap", "configmaps"),
        ("configMapRef", "configmaps"),
        ("configMapKeyRef", "configmaps"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims"),
    ];
    FIELDS.iter().find(|(field, _)| holds(spec, field)).map(|(_, what)| *what)
}

/// Whether a field of this name is set anywhere below.
fn holds(tree: &Value, field: &str) -> bool {
    match tree {
        Value::Object(map) => map.iter().any(|(key, value)| (key == field && !value.is_null()) || holds(value, field)),
        Value::Array(items) => items.iter().any(|item| holds(item, field)),
        _ => false,
    }
}

fn status(node: &str, new: Option<&Object>, old: Option<&Object>) -> Verdict {
    owned(node, old, "update pod status for pods")?;
    let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
    if new.labels() != old.labels() {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims = |pod: &Object| pod.list_at(&["status", "resourceClaimStatuses"]).to_vec();
    if claims(new) != claims(old) {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

/// What an agent says of its own node: neither taints, once it is there, nor labels that are others' to give.
fn own_node(node: &str, new: &Object, old: Option<&Object>) -> Verdict {
    let taints = |node: &Object| node.list_at(&["spec", "taints"]).to_vec();
    if old.is_some_and(|old| taints(new) != taints(old)) {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    let (has, had) = (new.labels(), old.map(Meta::labels).unwrap_or_default());
    let changed = has.keys().chain(had.keys()).filter(|key| has.get(*key) != had.get(*key));
    let forbidden: BTreeSet<_> = changed.filter(|key| is_forbidden(key)).map(String::as_str).collect();
    if forbidden.is_empty() {
        return Ok(());
    }
    let list = forbidden.into_iter().collect::<Vec<_>>().join(", ");
    Err(match old {
        None => format!("node {node:?} is not allowed to set the following labels: {list}"),
        Some(_) => format!("is not allowed to modify labels: {list}"),
    })
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    if within(RESTRICTED) {
        return true;
    }
    let own = within("kubernetes.io") || within("k8s.io");
    own && !LABELS.contains(&label) && !DOMAINS.iter().any(|parent| within(parent))
}

/// Of a claim an agent says how far its expansion is, and nothing else.
fn claim(node: &str, new: Option<&Object>, old: Option<&Object>) -> Verdict {
    let rest = |claim: Option<&Object>| {
        let mut claim = claim.cloned().unwrap_or_default();
        CLAIM_STATUS.iter().for_each(|field| drop(claim.remove_at(&["status", field])));
        ["resourceVersion", "managedFields"].iter().for_each(|field| drop(claim.remove_at(&["metadata", field])));
        claim
    };
    if rest(new) == rest(old) {
        return Ok(());
    }
    Err(format!("node {node:?} is not allowed to update fields other than status.capacity and status.conditions"))
}

/// The devices of a node are told by its own agent.
fn slice(node: &str, operation: Operation, new: Option<&Object>, old: Option<&Object>) -> Verdict {
    let told = |slice: Option<&Object>| slice.is_some_and(|slice| slice.str_at(&["spec", "nodeName"]) == node);
    match operation {
        Operation::Create if !told(new) => {
            Err("can only create ResourceSlice with the same NodeName as the requesting node".to_owned())
        }
        Operation::Update | Operation::Delete if !told(old) => {
            let verb = if operation == Operation::Update { "update" } else { "delete" };
            Err(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
        }
        _ => Ok(()),
    }
}

/// TaintNodesByCondition: nothing is placed on a new node before it says that it is ready.
pub fn taint_new(attributes: &Attributes<'_>, node: &mut Object, _: Option<&Object>) -> Result<()> {
    if attributes.operation != Operation::Create || !attributes.is("", "nodes") {
        return Ok(());
    }
    let mut taints = node.list_at(&["spec", "taints"]).to_vec();
    let same = |taint: &Value| taint.str_at(&["key"]) == NOT_READY && taint.str_at(&["effect"]) == "NoSchedule";
    if !taints.iter().any(same) {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        node.set_at(&["spec", "taints"], taints);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(yaml: &str) -> Object {
        serde_saphyr::from_str(yaml).expect(yaml)
    }

    fn told(verdict: Verdict) -> String {
        verdict.err().unwrap_or_default()
    }

    #[test]
    fn mirrors_refer_to_nothing_of_the_cluster() {
        let check = |owner: &str, spec: &str, expected: &str| {
            let pod = format!(
                "{{metadata: {{annotations: {{{MIRROR}: x}}, ownerReferences: [{owner}]}}, spec: {{nodeName: n1, {spec}}}}}"
            );
            assert_eq!(told(mirror("n1", "p", &object(&pod))), expected, "{pod}");
        };
        let own = "{apiVersion: v1, kind: Node, name: n1, controller: true}";
        check(own, "containers: [{name: a}]", "");
        check("", "containers: []", "node \"n1\" can only create pods with an owner reference set to itself");
        check(
            "{apiVersion: v1, kind: Node, name: other, controller: true}",
            "containers: []",
            "node \"n1\" can only create pods with an owner reference set to itself",
        );
        check(own, "serviceAccountName: a", "node \"n1\" can not create pods that reference a service account");
        check(
            own,
            "containers: [{name: a, envFrom: [{secretRef: {name: s}}]}]",
            "node \"n1\" can not create pods that reference secrets",
        );
        check(
            own,
            "volumes: [{name: v, projected: {sources: [{configMap: {name: c}}]}}]",
            "node \"n1\" can not create pods that reference configmaps",
        );
        let other = object(&format!("{{metadata: {{annotations: {{{MIRROR}: x}}}}, spec: {{nodeName: m1}}}}"));
        assert_eq!(
            told(mirror("n1", "p", &other)),
            "node \"n1\" can only create pods with spec.nodeName set to itself"
        );
    }

    #[test]
    fn labels_that_are_others_to_give_stay() {
        let node = |labels: &str, taints: &str| {
            object(&format!("{{metadata: {{labels: {{{labels}}}}}, spec: {{taints: [{taints}]}}}}"))
        };
        let check = |new: &str, old: Option<&str>, expected: &str| {
            let old = old.map(|labels| node(labels, ""));
            assert_eq!(told(own_node("n1", &node(new, ""), old.as_ref())), expected, "{new}");
        };
        check("kubernetes.io/os: linux, mine: x, node.kubernetes.io/pool: a, example.org/y: z", None, "");
        check(
            "node-role.kubernetes.io/control-plane: ''",
            None,
            "node \"n1\" is not allowed to set the following labels: node-role.kubernetes.io/control-plane",
        );
        check(
            "",
            Some("node-restriction.kubernetes.io/secure: a, x.node-restriction.kubernetes.io/y: b, mine: c"),
            "is not allowed to modify labels: node-restriction.kubernetes.io/secure, x.node-restriction.kubernetes.io/y",
        );
        check("topology.kubernetes.io/zone: b", Some("topology.kubernetes.io/zone: a"), "");
        let refused = own_node("n1", &node("", ""), Some(&node("", "{key: a, effect: NoSchedule}")));
        assert_eq!(told(refused), "node \"n1\" is not allowed to modify taints");
    }

    #[test]
    fn of_pods_and_claims_only_the_status_is_told() {
        let pod = |labels: &str, phase: &str| {
            object(&format!(
                "{{metadata: {{labels: {{{labels}}}}}, spec: {{nodeName: n1}}, status: {{phase: {phase}}}}}"
            ))
        };
        let before = pod("", "Pending");
        assert_eq!(status("n1", Some(&pod("", "Running")), Some(&before)), Ok(()));
        let refused = told(status("n1", Some(&pod("a: b", "Running")), Some(&before)));
        assert_eq!(refused, "node \"n1\" cannot update labels through pod status");
        assert!(status("m1", Some(&before), Some(&before)).is_err());
        let held = |more: &str| object(&format!("{{metadata: {{resourceVersion: '1'}}, status: {{{more}}}}}"));
        assert_eq!(
            claim("n1", Some(&held("capacity: {storage: 2Gi}")), Some(&held("capacity: {storage: 1Gi}"))),
            Ok(())
        );
        assert!(claim("n1", Some(&held("phase: Bound")), Some(&held(""))).is_err());
    }
}
