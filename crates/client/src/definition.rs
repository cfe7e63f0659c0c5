//! A CustomResourceDefinition as its readers need it: which kinds there are. Schemas are by far the most of one, and
//! nobody but the API server reads them; so they are not kept.

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// A CustomResourceDefinition without its schemas; for reading alone.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Definition {
    /// The metadata.
    pub metadata: ObjectMeta,
    /// What is defined.
    pub spec: DefinitionSpec,
    /// What has become of it.
    pub status: DefinitionStatus,
}

/// What is defined.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DefinitionSpec {
    /// The group.
    pub group: String,
    /// The names.
    pub names: DefinitionNames,
    /// `Namespaced` or `Cluster`.
    pub scope: String,
    /// The versions.
    pub versions: Vec<DefinitionVersion>,
}

/// What a kind is called.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DefinitionNames {
    /// In paths.
    pub plural: String,
    /// In objects.
    pub kind: String,
}

/// A version of a kind.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DefinitionVersion {
    /// Its name.
    pub name: String,
    /// Whether it can be asked for.
    pub served: bool,
    /// Whether objects are stored in it.
    pub storage: bool,
}

/// What has become of a definition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DefinitionStatus {
    /// What is so.
    pub conditions: Vec<DefinitionCondition>,
}

/// One aspect.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DefinitionCondition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is so.
    pub status: String,
}

impl Definition {
    /// Whether its kinds are served.
    pub fn is_established(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.kind == "Established" && condition.status == "True")
    }
}

impl k8s_openapi::Resource for Definition {
    const API_VERSION: &'static str = "apiextensions.k8s.io/v1";
    const GROUP: &'static str = "apiextensions.k8s.io";
    const KIND: &'static str = "CustomResourceDefinition";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "customresourcedefinitions";
    type Scope = ClusterResourceScope;
}

impl k8s_openapi::Metadata for Definition {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
