//! Nothing is created in a namespace that does not exist or is on its way out, and some namespaces never go.

use skiff_object::meta::Meta;
use skiff_object::{GroupResource, Object, Status};

use crate::admission::{Attributes, Operation, plugins};
use crate::failure::Result;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Checks a write against the life of its namespace.
pub async fn check(attributes: &Attributes<'_>) -> Result<()> {
    let namespaces = GroupResource::new("", "namespaces");
    let is_namespace = attributes.is("", "namespaces");
    if is_namespace && attributes.operation == Operation::Delete && IMMORTAL.contains(&attributes.name) {
        return Err(Status::forbidden(&namespaces, attributes.name, "this namespace may not be deleted").into());
    }
    let concerned =
        attributes.def.is_namespaced() && attributes.def.stored && attributes.operation == Operation::Create;
    if !concerned {
        return Ok(());
    }
    if is_plainly_active(attributes) {
        return Ok(());
    }
    let namespace =
        Box::pin(find(attributes)).await?.ok_or_else(|| Status::not_found(&namespaces, attributes.namespace))?;
    let terminating = namespace.is_deleting() || namespace.str_at(&["status", "phase"]) == "Terminating";
    if !terminating {
        return Ok(());
    }
    let why =
        format!("unable to create new content in namespace {} because it is being terminated", attributes.namespace);
    let mut status = Status::forbidden(&attributes.def.group_resource(), attributes.name, why);
    status.details.get_or_insert_default().causes.push(skiff_object::status::Cause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {} is being terminated", attributes.namespace),
        field: "metadata.namespace".into(),
    });
    Err(status.into())
}

/// Whether the cache shows the namespace, active, and nothing that could mean that it is being deleted. This is asked for
/// every object that is created, so that it decodes nothing.
fn is_plainly_active(attributes: &Attributes<'_>) -> bool {
    let Some(cache) = attributes.server.catalogue.cache("", "namespaces") else { return false };
    let Some(namespace) = cache.get("", attributes.namespace) else { return false };
    let phase = cache.def.selectable.iter().position(|field| field.path == "status.phase");
    let is_active = phase.is_some_and(|phase| namespace.field(phase) == "Active");
    is_active && !namespace.is_deleting
}

/// The namespace from the cache, or from the store where it may be too new for the cache.
pub async fn find(attributes: &Attributes<'_>) -> Result<Option<Object>> {
    plugins::find(attributes, "", "namespaces", attributes.namespace).await
}
