//! Looking kinds up. The list itself is in [`crate::kinds`].

use std::sync::LazyLock;

use skiff_object::{GroupVersionKind, GroupVersionResource};

use crate::def::ResourceDef;
use crate::kinds;

/// Every built-in kind that has a resource of its own and is served where nothing else is asked for, in the order in which
/// discovery tells of them.
pub fn builtin() -> &'static [&'static ResourceDef] {
    static DEFAULT: LazyLock<Vec<&'static ResourceDef>> =
        LazyLock::new(|| known().iter().copied().filter(|def| def.is_default()).collect());
    &DEFAULT
}

/// Those and the ones that have to be asked for, because their versions are not stable.
pub fn known() -> &'static [&'static ResourceDef] {
    kinds::ALL
}

/// Kinds that are served only as subresources of others (`Scale`, `Eviction`, `TokenRequest`); they are never stored.
pub fn subresource_kinds() -> &'static [&'static ResourceDef] {
    kinds::SUBRESOURCES
}

/// The kind of a group, version and plural resource name.
pub fn by_resource(resource: &GroupVersionResource) -> Option<&'static ResourceDef> {
    known()
        .iter()
        .copied()
        .find(|def| def.plural == resource.resource && def.version == resource.version && def.group == resource.group)
}

/// The kind of that group, version and name, also one without a resource of its own.
pub fn by_kind(kind: &GroupVersionKind) -> Option<&'static ResourceDef> {
    let all = known().iter().chain(subresource_kinds()).copied();
    all.into_iter().find(|def| def.kind == kind.kind && def.version == kind.version && def.group == kind.group)
}
