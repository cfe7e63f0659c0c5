//! A node's agent changes its own node and its own Pods, and no others.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>.

use serde_json::{Value, json};
use skiff_object::Object;
use skiff_object::meta::Meta;

use super::MIRROR;
use crate::admission::{Attributes, Operation};
use crate::authz::node::node_of;
use crate::failure::Result;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Refuses what a node may not write, although its role allows the verb.
pub fn restrict(attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let Some(node) = node_of(&attributes.call.user) else { return Ok(()) };
    if !attributes.def.group.is_empty() {
        return Ok(());
    }
    let bound_to = |pod: Option<&Object>| pod.is_some_and(|pod| pod.str_at(&["spec", "nodeName"]) == node);
    let why = match (attributes.def.plural.as_ref(), attributes.subresource, attributes.operation) {
        ("pods", "", Operation::Create) => {
            let mirror = object.is_some_and(|pod| pod.annotation(MIRROR).is_some());
            if !mirror {
                let name = attributes.name;
                format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods, not {name:?}"
                )
            } else if !bound_to(object) {
                format!("node {node:?} can only create pods with spec.nodeName set to itself")
            } else {
                return Ok(());
            }
        }
        ("pods", "status", Operation::Update) if !bound_to(old) => {
            format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")
        }
        ("pods", "", Operation::Delete) if !bound_to(old) => {
            format!("node {node:?} can only delete pods with spec.nodeName set to itself")
        }
        ("nodes", _, _) if attributes.name != node => {
            let name = attributes.name;
            format!("node {node:?} is not allowed to modify node {name:?}")
        }
        _ => return Ok(()),
    };
    Err(attributes.forbidden(why))
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
