//! Which objects a list or a watch selects, decided on the few facts that the watch cache extracts.

use skiff_kinds::ResourceDef;
use skiff_object::{FieldSelector, LabelSelector, Status};

use crate::failure::{Failure, Result};
use crate::storage::cache::Entry;

/// A field that a selector names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    /// The kind's selectable field at this place.
    Selectable(usize),
}

/// What is selected.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this namespace; `None` for all.
    pub namespace: Option<String>,
    /// Only this name.
    pub name: Option<String>,
    labels: LabelSelector,
    fields: Vec<(Field, String, bool)>,
}

impl Filter {
    /// Everything in a namespace; in all of them where it is empty.
    pub fn namespace(namespace: &str) -> Self {
        Self { namespace: (!namespace.is_empty()).then(|| namespace.to_owned()), ..Self::default() }
    }

    /// A filter from a request's selectors. `stored` is the kind whose selectable fields the cache has extracted.
    pub fn new(
        stored: &ResourceDef,
        served: &ResourceDef,
        namespace: &str,
        labels: &str,
        fields: &str,
    ) -> Result<Self> {
        let labels = LabelSelector::parse(labels).map_err(|error| Status::bad_request(error.to_string()))?;
        let parsed = FieldSelector::parse(fields).map_err(|error| Status::bad_request(error.to_string()))?;
        let mut filter = Self { labels, ..Self::namespace(namespace) };
        for (path, value, equal) in parsed.terms {
            let field = match path.as_str() {
                "metadata.name" => Field::Name,
                "metadata.namespace" if has_namespace_field(served) => Field::Namespace,
                _ => selectable(stored, served, &path)?,
            };
            if field == Field::Name && equal && filter.name.is_none() {
                filter.name = Some(value.clone());
            }
            if field == Field::Namespace && equal && filter.namespace.is_none() && served.is_namespaced() {
                filter.namespace = Some(value.clone());
            }
            filter.fields.push((field, value, equal));
        }
        Ok(filter)
    }

    /// Whether everything (of the namespace) is selected.
    pub fn is_unselective(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty() && self.name.is_none()
    }

    /// Whether fields of the kind's own are selected by.
    pub fn has_own_fields(&self) -> bool {
        self.fields.iter().any(|(field, ..)| matches!(field, Field::Selectable(_)))
    }

    /// The same without the fields of the kind's own.
    pub fn without_own_fields(&self) -> Self {
        let mut coarse = self.clone();
        coarse.fields.retain(|(field, ..)| !matches!(field, Field::Selectable(_)));
        coarse
    }

    /// Whether an object is selected.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| namespace == entry.namespace())
            && self.name.as_ref().is_none_or(|name| name == entry.name())
            && self.labels.matches(|key| entry.label(key))
            && self.fields.iter().all(|(field, value, equal)| {
                let actual = match field {
                    Field::Name => entry.name(),
                    Field::Namespace => entry.namespace(),
                    Field::Selectable(index) => entry.field(*index),
                };
                (actual == value) == *equal
            })
    }
}

/// Cluster-wide kinds with fields of their own do not know the namespace's; the others look for an empty one.
fn has_namespace_field(def: &ResourceDef) -> bool {
    let has_own_rules = !def.selectable.is_empty() || def.inline_schema.is_some();
    def.is_namespaced() || !has_own_rules
}

fn selectable(stored: &ResourceDef, served: &ResourceDef, path: &str) -> Result<Field> {
    // The name of the field from before v1.
    let path = if served.plural == "pods" && path == "spec.host" { "spec.nodeName" } else { path };
    let position = |def: &ResourceDef| def.selectable.iter().position(|field| field.path == path);
    // Where two groups share a storage their selectable fields stand in the same order under other names.
    let renamed = || position(served).filter(|_| stored.selectable.len() == served.selectable.len());
    match position(stored).or_else(renamed) {
        Some(index) => Ok(Field::Selectable(index)),
        None => Err(unsupported(served, path)),
    }
}

/// 400 in the words that the kind's own conversion has for it.
fn unsupported(def: &ResourceDef, path: &str) -> Failure {
    let text = match (def.group.as_ref(), def.kind.as_ref()) {
        _ if def.inline_schema.is_some() => format!("field label not supported for {}: {path}", def.gvk()),
        ("resource.k8s.io", "ResourceSlice") => format!("field label not supported for {}: {path}", def.gvk()),
        ("batch", "Job") => format!("field label {path:?} not supported for batchv1.Job"),
        ("apps", "StatefulSet") => format!("field label not supported for appsv1.StatefulSet: {path}"),
        _ if !def.selectable.is_empty() => format!("field label not supported: {path}"),
        _ => format!("{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
    };
    Status::bad_request(text).into()
}
