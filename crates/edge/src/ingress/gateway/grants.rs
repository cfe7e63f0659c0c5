//! Which references to other namespaces are allowed.

use std::sync::Arc;

use skiff_kinds::bootstrap::GATEWAY_GROUP;

use super::api::ReferenceGrant;

/// A reference from an object of this API to one of the core group.
#[derive(Debug, Clone, Copy)]
pub struct Reference<'a> {
    /// The kind that refers.
    pub kind: &'static str,
    /// Its namespace.
    pub from: &'a str,
    /// The kind that is referred to.
    pub to_kind: &'static str,
    /// Its namespace.
    pub to: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// Whether it stays in its namespace, or a grant in the other one allows it.
pub fn is_granted(grants: &[Arc<ReferenceGrant>], reference: Reference<'_>) -> bool {
    let allows = |grant: &Arc<ReferenceGrant>| {
        grant.namespace() == reference.to
            && grant.spec.from.iter().any(|from| {
                from.group == GATEWAY_GROUP && from.kind == reference.kind && from.namespace == reference.from
            })
            && grant.spec.to.iter().any(|to| {
                let is_meant = to.name.as_deref().is_none_or(|name| name.is_empty() || name == reference.name);
                to.group.is_empty() && to.kind == reference.to_kind && is_meant
            })
    };
    reference.from == reference.to || grants.iter().any(allows)
}
