//! OwnerReferencesPermissionEnforcement: who makes an object somebody's dependent must be allowed to delete it, and who has
//! an owner wait for it must be allowed to hold that owner back.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#ownerreferencespermissionenforcement>.

use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{GroupVersionKind, Object};

use crate::admission::{Attributes, Operation};
use crate::authz::Action;
use crate::failure::Result;

/// Refuses owners that the user may not give.
pub fn enforce(attributes: &Attributes<'_>, new: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let Some(new) = new else { return Ok(()) };
    // A Pod's status never changes its owners, and nodes' agents may not delete what they report on.
    let is_pod_status =
        attributes.def.group.is_empty() && attributes.def.plural == "pods" && attributes.subresource == "status";
    let is_write = matches!(attributes.operation, Operation::Create | Operation::Update);
    let old = old.map(owners).unwrap_or_default();
    if !is_write || is_pod_status || owners(new) == old {
        return Ok(());
    }
    let deletion = Action {
        verb: "delete".to_owned(),
        group: attributes.def.group.to_string(),
        version: attributes.def.version.to_string(),
        resource: attributes.def.plural.to_string(),
        subresource: attributes.subresource.to_owned(),
        namespace: attributes.namespace.to_owned(),
        name: attributes.name.to_owned(),
        ..Action::default()
    };
    if let Some(reason) = refusal(attributes, &deletion) {
        let why = format!("cannot set an ownerRef on a resource you can't delete: {reason}, <nil>");
        return Err(attributes.forbidden(why));
    }
    newly_blocking(owners(new), old).try_for_each(|owner| may_hold_back(attributes, owner))
}

/// Why the user may not; empty where nobody says why.
fn refusal(attributes: &Attributes<'_>, action: &Action) -> Option<String> {
    let decision = attributes.server.authorizer.decide_here(&attributes.call.user, action);
    (!decision.allowed).then_some(decision.reason)
}

/// An owner waits where the user might as well have given it a finalizer.
fn may_hold_back(attributes: &Attributes<'_>, owner: &Value) -> Result<()> {
    let (api_version, kind) = (owner.str_at(&["apiVersion"]), owner.str_at(&["kind"]));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let snapshot = attributes.server.catalogue.snapshot();
    let Some(served) = snapshot.by_kind(&GroupVersionKind::new(group, version, kind)) else {
        let why = format!(
            "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} \
             Kind {kind}: no matches for kind {kind:?} in version {api_version:?}"
        );
        return Err(attributes.forbidden(why));
    };
    let action = Action {
        verb: "update".to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        resource: served.def.plural.to_string(),
        subresource: "finalizers".to_owned(),
        // An owner is in the namespace of its dependents, or in none.
        namespace: if served.def.is_namespaced() { attributes.namespace.to_owned() } else { String::new() },
        name: owner.str_at(&["name"]).to_owned(),
        ..Action::default()
    };
    match refusal(attributes, &action) {
        None => Ok(()),
        Some(reason) => Err(attributes.forbidden(format!(
            "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: \
             {reason}, <nil>"
        ))),
    }
}

fn owners(object: &Object) -> &[Value] {
    object.list_at(&["metadata", "ownerReferences"])
}

/// Owners that wait for the object and did not before.
fn newly_blocking<'a>(new: &'a [Value], old: &'a [Value]) -> impl Iterator<Item = &'a Value> {
    let blocks = |owner: &Value| owner.get("blockOwnerDeletion") == Some(&Value::Bool(true));
    let blocked = move |owner: &Value| old.iter().any(|other| blocks(other) && other.get("uid") == owner.get("uid"));
    new.iter().filter(move |owner| blocks(owner) && !blocked(owner))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_owner_is_held_back_once() {
        let owner = |uid: &str, blocks: bool| json!({"uid": uid, "blockOwnerDeletion": blocks});
        let old = [owner("a", true), owner("b", false), json!({"uid": "c"})];
        let new = [owner("a", true), owner("b", true), owner("c", true), owner("d", true), owner("e", false)];
        let found: Vec<_> = newly_blocking(&new, &old).map(|owner| owner.str_at(&["uid"])).collect();
        assert_eq!(found, ["b", "c", "d"]);
    }
}
