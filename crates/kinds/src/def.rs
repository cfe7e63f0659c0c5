//! What a kind is: one value of data and function pointers over the dynamic object.
//! A custom resource definition becomes the same struct, built at run time.

use std::borrow::Cow;

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, GroupKind, GroupResource, GroupVersion, GroupVersionKind, Object};

/// A text that is static for built-in kinds and owned for custom ones.
pub type Text = Cow<'static, str>;
/// A list that is static for built-in kinds and owned for custom ones.
pub type List<T> = Cow<'static, [T]>;

/// Whether objects live in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// Cluster-wide.
    Cluster,
}

/// A printed column of the server-side Table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The heading, in upstream's spelling (`Up-to-date`).
    pub name: Text,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: Text,
    /// `name` for the first column, otherwise mostly empty.
    pub format: Text,
    /// What the column shows.
    pub description: Text,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    /// Where the value stands, a JSONPath, for custom kinds; built-in kinds make their rows by code.
    pub path: Text,
}

/// A subresource that the kind serves, beside the object itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subresource {
    /// `status`: its writes change nothing but status (and some metadata), other writes never change it.
    Status,
    /// `scale`: `autoscaling/v1.Scale`, mapped by paths such as `.spec.replicas`.
    Scale {
        /// Where the wanted number stands.
        spec_replicas: Text,
        /// Where the observed number stands.
        status_replicas: Text,
        /// Where the selector stands: a LabelSelector object, a map or a string.
        selector: Text,
    },
    /// One that the API server answers by code of its own: `binding`, `eviction`, `log`, `exec`, `token`, `approval`, ...
    Special {
        /// The last path segment.
        name: Text,
        /// The kind that it takes and gives, `(group, version, kind)`.
        kind: (Text, Text, Text),
        /// Lower-case verbs: `create`, `get`, `update`, `patch`.
        verbs: List<Text>,
    },
}

impl Subresource {
    /// The last path segment.
    pub fn name(&self) -> &str {
        match self {
            Self::Status => "status",
            Self::Scale { .. } => "scale",
            Self::Special { name, .. } => name,
        }
    }
}

/// A field that field selectors may name, beside `metadata.name` and `metadata.namespace`.
#[derive(Clone)]
pub struct SelectableField {
    /// `status.phase`
    pub path: Text,
    /// Reads its value as selectors compare it, and the dotted paths of what it looks at; `None` reads the string (or
    /// boolean, or number) at `path`.
    pub read: Option<(&'static [&'static str], fn(&Object) -> String)>,
}

/// What the write pipeline knows when it asks a kind for its rules.
pub struct Context<'a> {
    /// The kind itself, so that custom kinds can consult their schema.
    pub def: &'a ResourceDef,
    /// The subresource that is written, or empty.
    pub subresource: &'a str,
    /// Wall-clock time.
    pub now: Timestamp,
}

/// What a delete without further options does to an object of the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The object goes at once unless finalizers hold it.
    Immediate,
    /// A Pod's way: `deletionTimestamp` and a grace period first, the node's agent confirms with grace 0.
    GracefulPod,
    /// A Namespace's way: `spec.finalizers` hold it until its content is gone.
    Namespace,
}

/// What a custom kind's definition says of all its versions together.
#[derive(Debug, Clone, PartialEq)]
pub struct Custom {
    /// Which state of which definition this is: its UID and generation.
    pub source: String,
    /// The version that objects are written in.
    pub storage_version: String,
    /// The names of all versions, served or not.
    pub versions: Vec<String>,
    /// `spec.conversion.webhook`, where versions are converted by one.
    pub conversion: Option<Value>,
}

/// One kind of object and all its rules.
#[derive(Clone)]
pub struct ResourceDef {
    /// The API group; empty for the core group.
    pub group: Text,
    /// The version served, `v1`.
    pub version: Text,
    /// The feature gate without which it is not served; empty for most.
    pub gate: Text,
    /// The plural resource name, `deployments`.
    pub plural: Text,
    /// The singular resource name, `deployment`.
    pub singular: Text,
    /// `Deployment`.
    pub kind: Text,
    /// `DeploymentList`; empty where there is no list.
    pub list_kind: Text,
    /// `deploy`.
    pub short_names: List<Text>,
    /// `all`.
    pub categories: List<Text>,
    /// Namespaced or not.
    pub scope: Scope,
    /// Lower-case verbs in upstream's (alphabetical) order.
    pub verbs: List<Text>,
    /// The definition's name in the schema table, `io.k8s.api.apps.v1.Deployment`.
    pub schema: Text,
    /// The OpenAPI v3 schema itself, for custom kinds.
    pub inline_schema: Option<std::sync::Arc<Value>>,
    /// What a custom kind's definition says of all its versions together.
    pub custom: Option<std::sync::Arc<Custom>>,
    /// The group and version that objects are stored in, where several versions share one storage.
    pub storage: Option<(Text, Text)>,
    /// False for reviews and the like, which are answered and never stored.
    pub stored: bool,
    /// Subresources.
    pub subresources: List<Subresource>,
    /// Field selectors.
    pub selectable: List<SelectableField>,
    /// Columns; empty means Name and Created At.
    pub columns: List<Column>,
    /// The metadata that a write of the status leaves alone, beside what all leave alone.
    pub status_keeps: List<Text>,
    /// Whether spec changes raise `metadata.generation`.
    pub has_generation: bool,
    /// Whether an update may create the object (Leases, Events, ...).
    pub create_on_update: bool,
    /// Whether an update without a resourceVersion is accepted (and overwrites whatever is there).
    pub unconditional_update: bool,
    /// How a delete goes.
    pub deletion: Deletion,
    /// Writes may be lost in a power cut (Leases, Events).
    pub relaxed_durability: bool,
    /// Checks `metadata.name`; gives upstream's texts of what is wrong.
    pub name_rule: fn(name: &str, prefix: bool) -> Vec<String>,
    /// Sets what the user left out.
    pub default: fn(&mut Object),
    /// Clears what a creation may not set (status).
    pub prepare_create: fn(&Context, &mut Object),
    /// Carries over what an update may not change (status, or all but status).
    pub prepare_update: fn(&Context, new: &mut Object, old: &Object),
    /// What is wrong with a new object.
    pub validate: fn(&Context, &Object) -> ErrorList,
    /// What is wrong with a changed object (beside what [`ResourceDef::validate`] says of it).
    pub validate_update: fn(&Context, new: &Object, old: &Object) -> ErrorList,
    /// What every request for the kind is warned of; empty where it is not deprecated.
    pub deprecation: Text,
    /// Warnings to send with the answer to a write.
    pub warnings: fn(&Object) -> Vec<String>,
    /// The cells of an object's Table row, as many as there are columns.
    pub row: fn(&ResourceDef, &Object, Timestamp) -> Vec<Value>,
}

impl ResourceDef {
    /// `apps/v1`.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(self.group.as_ref(), self.version.as_ref())
    }

    /// `deployments.apps`.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group.as_ref(), self.plural.as_ref())
    }

    /// `Deployment.apps`.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(self.group.as_ref(), self.kind.as_ref())
    }

    /// Whether it is served where nobody asks for it: versions that are stable are, others are not.
    pub fn is_default(&self) -> bool {
        self.version.strip_prefix('v').is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(self.group.as_ref(), self.version.as_ref(), self.kind.as_ref())
    }

    /// Whether objects live in a namespace.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name() == name)
    }

    /// Whether there is a status subresource.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// What is wrong with a changed object. What was wrong in the same way before is let pass: rules grow stricter, and
    /// nobody should have to mend what they did not touch.
    pub fn check_update(&self, context: &Context, new: &Object, old: &Object) -> ErrorList {
        let mut errors = (self.validate)(context, new);
        if !errors.is_empty() {
            let known = (self.validate)(context, old);
            errors.retain(|error| !known.contains(error));
        }
        errors.extend((self.validate_update)(context, new, old));
        errors
    }

    /// Warnings to send with the answer to an update: none where nothing was changed that its author had written, and none
    /// for Pods, which programs change far more often than people.
    pub fn update_warnings(&self, subresource: &str, new: &Object, old: &Object) -> Vec<String> {
        let same = self.has_generation && new.generation() == old.generation();
        if !subresource.is_empty() || same || self.deletion == Deletion::GracefulPod {
            return Vec::new();
        }
        (self.warnings)(new)
    }
}
