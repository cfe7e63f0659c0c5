//! Built-in admission: what may be created where, and what the cluster adds to objects on their way in.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>.

pub mod conditions;
pub mod definition;
pub mod kept;
pub mod lifecycle;
pub mod matching;
pub mod node;
pub mod pods;
pub mod policy;
pub mod review;
pub mod status;
pub mod storage;
pub mod webhooks;

use skiff_kinds::ResourceDef;
use skiff_kinds::decode::{FieldValidation, decode_tree};
use skiff_object::meta::Meta;
use skiff_object::{GroupVersionKind, Object};

use crate::call::Call;
use crate::custom;
use crate::failure::Result;
use crate::server::ApiServer;
use crate::write::managed;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// An object is created.
    Create,
    /// An object is changed.
    Update,
    /// An object is deleted.
    Delete,
    /// A tunnel is opened.
    Connect,
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

/// Step 6: changes an object on its way in, or refuses it; tells whether the user's own programs changed it.
pub async fn mutate(attributes: &Attributes<'_>, object: &mut Object, old: Option<&Object>) -> Result<bool> {
    lifecycle::check(attributes).await?;
    if attributes.is("", "pods") && attributes.operation == Operation::Create {
        pods::mutate(attributes, object).await?;
    }
    storage::mutate(attributes, object)?;
    if !matching::is_any(attributes) {
        return Ok(false);
    }
    let namespace = matching::namespace_of(attributes).await?;
    let by_policy = policy::mutate(attributes, object, old, namespace.as_ref())?;
    let by_webhook = webhooks::mutate(attributes, object, old, namespace.as_ref()).await?;
    Ok(by_policy || by_webhook)
}

/// Step 9: refuses what may not be.
pub async fn validate(attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<()> {
    node::restrict(attributes, object, old)?;
    storage::validate(attributes, object, old)?;
    if attributes.operation == Operation::Delete {
        lifecycle::check(attributes).await?;
    }
    ask(attributes, object, old).await
}

/// Asks the policies and webhooks that may refuse.
async fn ask(attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<()> {
    if !matching::is_any(attributes) {
        return Ok(());
    }
    let namespace = matching::namespace_of(attributes).await?;
    policy::validate(attributes, object, old, namespace.as_ref())?;
    webhooks::validate(attributes, object, old, namespace.as_ref()).await
}

/// Whether a tunnel may be opened; `options` is what its query asks for, as an object.
pub async fn connect(server: &ApiServer, call: &Call, options: &Object) -> Result<()> {
    let attributes = Attributes {
        server,
        call,
        def: &call.served.def,
        operation: Operation::Connect,
        namespace: call.info.namespace_of(&call.served.def),
        name: &call.info.name,
        subresource: &call.info.subresource,
        dry_run: false,
    };
    ask(&attributes, Some(options), None).await
}

/// An object as a webhook or a policy has left it, in the shape of its kind: unknown fields go, defaults come.
fn reshaped(attributes: &Attributes<'_>, object: Object) -> Result<Object> {
    let mut object = decode_tree(attributes.def, object, FieldValidation::Ignore)?.object;
    (attributes.def.default)(&mut object);
    if let Some(schema) = &attributes.def.inline_schema {
        custom::schema::prune(schema, &mut object);
        custom::schema::default(schema, &mut object);
    }
    Ok(object)
}

/// An object with another applied to it.
fn merged(attributes: &Attributes<'_>, object: &Object, part: &Object) -> std::result::Result<Object, String> {
    let (version, kind) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let snapshot = attributes.server.catalogue.snapshot();
    let served = snapshot.by_kind(&GroupVersionKind::new(group, version, kind));
    let served = served.ok_or_else(|| format!("{kind} of {group}/{version} is not served"))?;
    managed::overlay(served, attributes.call.now, object, part).map_err(|failure| failure.to_string())
}
