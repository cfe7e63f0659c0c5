//! Built-in admission: what may be created where, and what the cluster adds to objects on their way in.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>.

pub mod lifecycle;
pub mod node;
pub mod pods;

use skiff_kinds::ResourceDef;
use skiff_object::Object;

use crate::call::Call;
use crate::failure::Result;
use crate::server::ApiServer;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// An object is created.
    Create,
    /// An object is changed.
    Update,
    /// An object is deleted.
    Delete,
}

/// What admission knows of a write.
pub struct Attributes<'a> {
    /// The server.
    pub server: &'a ApiServer,
    /// The request.
    pub call: &'a Call,
    /// The kind.
    pub def: &'a ResourceDef,
    /// What is being done.
    pub operation: Operation,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The name.
    pub name: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// Whether nothing will be stored.
    pub dry_run: bool,
}

impl Attributes<'_> {
    /// Whether the object itself (not a subresource) of a kind is concerned.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.def.group == group && self.def.plural == resource && self.subresource.is_empty()
    }
}

/// Step 6: changes an object on its way in, or refuses it.
pub async fn mutate(attributes: &Attributes<'_>, object: &mut Object, _old: Option<&Object>) -> Result<()> {
    lifecycle::check(attributes).await?;
    if attributes.is("", "pods") && attributes.operation == Operation::Create {
        pods::mutate(attributes, object).await?;
    }
    Ok(())
}

/// Step 9: refuses what may not be.
pub async fn validate(attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<()> {
    node::restrict(attributes, object, old)?;
    if attributes.operation == Operation::Delete {
        lifecycle::check(attributes).await?;
    }
    Ok(())
}
