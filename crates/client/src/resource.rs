//! Which resource a request is about, and its path.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A resource as it stands in URL paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// The version.
    pub version: Cow<'static, str>,
    /// The plural name.
    pub plural: Cow<'static, str>,
    /// The kind.
    pub kind: Cow<'static, str>,
}

/// A `k8s-openapi` type that can be read, written and watched.
pub trait Kind:
    k8s_openapi::Resource + k8s_openapi::Metadata<Ty = ObjectMeta> + DeserializeOwned + Serialize + Send + Sync + 'static
{
    /// The resource of the type.
    fn resource() -> Resource {
        Resource::fixed(Self::GROUP, Self::VERSION, Self::URL_PATH_SEGMENT, <Self as k8s_openapi::Resource>::KIND)
    }
}

impl<T> Kind for T where
    T: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static
{
}

impl Resource {
    /// A resource known at compile time.
    pub const fn fixed(group: &'static str, version: &'static str, plural: &'static str, kind: &'static str) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
        }
    }

    /// A resource known at run time only.
    pub fn new(
        group: impl Into<String>,
        version: impl Into<String>,
        plural: impl Into<String>,
        kind: impl Into<String>,
    ) -> Self {
        Self {
            group: Cow::Owned(group.into()),
            version: Cow::Owned(version.into()),
            plural: Cow::Owned(plural.into()),
            kind: Cow::Owned(kind.into()),
        }
    }

    /// The collection's path; an empty namespace means all namespaces, or a cluster-scoped resource.
    pub fn path(&self, namespace: &str) -> String {
        let prefix = match self.group.as_ref() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace {
            "" => format!("{prefix}/{}", self.plural),
            namespace => format!("{prefix}/namespaces/{namespace}/{}", self.plural),
        }
    }

    /// The path of one object, or of one of its subresources where `subresource` is not empty.
    pub fn object_path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let path = format!("{}/{name}", self.path(namespace));
        if subresource.is_empty() { path } else { format!("{path}/{subresource}") }
    }

    /// The `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Node};

    use super::*;

    #[test]
    fn paths_are_upstreams() {
        assert_eq!(Deployment::resource().path("a"), "/apis/apps/v1/namespaces/a/deployments");
        assert_eq!(Deployment::resource().path(""), "/apis/apps/v1/deployments");
        assert_eq!(Node::resource().object_path("", "n1", "status"), "/api/v1/nodes/n1/status");
    }
}
