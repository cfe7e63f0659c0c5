//! Where objects lie in the store: `/registry/GROUP/RESOURCE/[NAMESPACE/]NAME`.

use bytes::Bytes;
use skiff_kinds::ResourceDef;

/// What every key begins with.
pub const ROOT: &str = "/registry/";

/// The group that an object of this kind is stored under, which differs where two groups share one storage.
pub fn storage_group(def: &ResourceDef) -> &str {
    def.storage.as_ref().map_or(def.group.as_ref(), |(group, _)| group.as_ref())
}

/// The prefix of all objects of a resource.
pub fn prefix(group: &str, plural: &str) -> String {
    [ROOT, if group.is_empty() { "core" } else { group }, "/", plural, "/"].concat()
}

/// The key of one object.
pub fn object(prefix: &str, namespace: &str, name: &str) -> Bytes {
    let separator = if namespace.is_empty() { "" } else { "/" };
    [prefix, namespace, separator, name].concat().into()
}

/// The part of a key that names its resource, with the slash that ends it.
pub fn resource_part(key: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(key).ok()?;
    let rest = text.strip_prefix(ROOT)?;
    let group = rest.find('/')?;
    let resource = rest[group + 1..].find('/')?;
    Some(&text[..ROOT.len() + group + 1 + resource + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_resource() {
        assert_eq!(resource_part(b"/registry/core/pods/default/a"), Some("/registry/core/pods/"));
        assert_eq!(resource_part(b"/registry/core"), None);
        assert_eq!(resource_part(b"/other/core/pods/a"), None);
    }
}
