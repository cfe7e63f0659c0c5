//! Looking kinds up. The list itself is in [`crate::kinds`].

use skiff_object::{GroupVersionKind, GroupVersionResource};

use crate::def::ResourceDef;
use crate::kinds;

/// Every built-in kind that has a resource of its own, in the order in which discovery tells of them.
pub fn builtin() -> &'static [&'static ResourceDef] {
    kinds::ALL
}

/// Kinds that are served only as subresources of others (`Scale`, `Eviction`, `TokenRequest`); they are never stored.
pub fn subresource_kinds() -> &'static [&'static ResourceDef] {
    kinds::SUBRESOURCES
}

/// The kind served under a group, version and plural resource name.
pub fn by_resource(resource: &GroupVersionResource) -> Option<&'static ResourceDef> {
    builtin()
        .iter()
        .copied()
        .find(|def| def.plural == resource.resource && def.version == resource.version && def.group == resource.group)
}

/// The kind of that group, version and name, also one without a resource of its own.
pub fn by_kind(kind: &GroupVersionKind) -> Option<&'static ResourceDef> {
    let all = builtin().iter().chain(subresource_kinds()).copied();
    all.into_iter().find(|def| def.kind == kind.kind && def.version == kind.version && def.group == kind.group)
}
