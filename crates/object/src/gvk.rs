//! Names of kinds and resources: group, version, kind, resource.

use std::fmt;

macro_rules! pair {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name { $($(#[$field_doc])* pub $field: String),+ }

        impl $name {
            /// Builds the name from its parts; the core group is the empty string.
            pub fn new($($field: impl Into<String>),+) -> Self {
                Self { $($field: $field.into()),+ }
            }
        }
    };
}

pair!(
    /// A group and a version, written `apps/v1`, or `v1` in the core group.
    GroupVersion { /// The API group.
        group, /// The version.
        version });
pair!(
    /// A group and a kind, written `Deployment.apps`.
    GroupKind { /// The API group.
        group, /// The kind, in upper camel case.
        kind });
pair!(
    /// A group and a resource, written `deployments.apps`.
    GroupResource { /// The API group.
        group, /// The plural, lower-case resource name.
        resource });
pair!(
    /// A kind in full.
    GroupVersionKind { /// The API group.
        group, /// The version.
        version, /// The kind.
        kind });
pair!(
    /// A resource in full.
    GroupVersionResource { /// The API group.
        group, /// The version.
        version, /// The plural, lower-case resource name.
        resource });

impl GroupVersion {
    /// Reads `apps/v1` or `v1`; more than one slash is no group and version.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('/') {
            None => Some(Self::new("", text)),
            Some((group, version)) if !version.contains('/') => Some(Self::new(group, version)),
            Some(_) => None,
        }
    }
}

impl GroupVersionKind {
    /// The kind that an object says it is, from its `apiVersion` and `kind`.
    pub fn of(object: &crate::Object) -> Option<Self> {
        let version = GroupVersion::parse(object.get("apiVersion")?.as_str()?)?;
        Some(Self::new(version.group, version.version, object.get("kind")?.as_str()?))
    }

    /// The `apiVersion` that objects of this kind carry.
    pub fn api_version(&self) -> String {
        GroupVersion::new(&self.group, &self.version).to_string()
    }
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            return f.write_str(&self.version);
        }
        write!(f, "{}/{}", self.group, self.version)
    }
}

fn dotted(f: &mut fmt::Formatter<'_>, name: &str, group: &str) -> fmt::Result {
    if group.is_empty() { f.write_str(name) } else { write!(f, "{name}.{group}") }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dotted(f, &self.kind, &self.group)
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dotted(f, &self.resource, &self.group)
    }
}

impl fmt::Display for GroupVersionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}
