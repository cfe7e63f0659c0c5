//! Whether a rule of a webhook or a policy concerns a request: its operation, resource, scope, namespace and labels.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#matching-requests-rules>.

use std::sync::Arc;

use serde_json::Value;
use skiff_kinds::ResourceDef;
use skiff_object::meta::Meta;
use skiff_object::{LabelSelector, Object};

use super::{Attributes, Operation, lifecycle};
use crate::failure::Result;
use crate::storage::catalogue::Served;

/// A rule: what is done to which resources.
#[derive(Debug, Default)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

fn texts(list: &[Value]) -> Vec<String> {
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Rule {
    /// Reads a rule.
    pub fn of(rule: &Value) -> Self {
        Self {
            operations: texts(rule.list_at(&["operations"])),
            groups: texts(rule.list_at(&["apiGroups"])),
            versions: texts(rule.list_at(&["apiVersions"])),
            resources: texts(rule.list_at(&["resources"])),
            names: texts(rule.list_at(&["resourceNames"])),
            scope: rule.str_at(&["scope"]).to_owned(),
        }
    }

    /// Reads a list of rules.
    pub fn all(list: &[Value]) -> Vec<Self> {
        list.iter().map(Self::of).collect()
    }

    fn concerns(&self, attributes: &Attributes<'_>, def: &ResourceDef) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|own| own == "*" || own == value);
        let named = self.names.is_empty() || self.names.iter().any(|name| name == attributes.name);
        has(&self.operations, attributes.operation.name())
            && has(&self.groups, &def.group)
            && has(&self.versions, &def.version)
            && self.resources.iter().any(|own| is_resource(own, &def.plural, attributes.subresource))
            && self.fits_scope(def)
            && named
    }

    /// A namespace counts as cluster-wide, although its requests carry its own name as a namespace.
    fn fits_scope(&self, def: &ResourceDef) -> bool {
        match self.scope.as_str() {
            "Namespaced" => def.is_namespaced(),
            "Cluster" => !def.is_namespaced(),
            _ => true,
        }
    }
}

/// `pods`, `pods/*`, `*/status`, `*` (no subresources) and `*/*`.
fn is_resource(rule: &str, plural: &str, subresource: &str) -> bool {
    let (resource, sub) = rule.split_once('/').unwrap_or((rule, ""));
    (resource == "*" || resource == plural) && (sub == "*" || sub == subresource)
}

/// What is matched besides rules.
#[derive(Debug, Default)]
pub struct Selectors {
    namespace: Option<LabelSelector>,
    object: Option<LabelSelector>,
    /// Whether the same resource in another version or group is matched too.
    equivalent: bool,
}

impl Selectors {
    /// Reads the selectors of a webhook or of a policy's constraints.
    pub fn of(node: &Value) -> Self {
        let selector = |field: &str| {
            let node = node.get(field)?;
            let parsed = LabelSelector::from_object(node).unwrap_or_else(|_| LabelSelector::nothing());
            (!parsed.is_everything()).then_some(parsed)
        };
        Self {
            namespace: selector("namespaceSelector"),
            object: selector("objectSelector"),
            equivalent: node.str_at(&["matchPolicy"]) != "Exact",
        }
    }

    /// Whether namespace and labels are selected.
    pub fn select(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
        old: Option<&Object>,
        namespace: Option<&Object>,
    ) -> bool {
        let object_fits = self
            .object
            .as_ref()
            .is_none_or(|selector| [object, old].into_iter().flatten().any(|object| selector.matches_object(object)));
        let namespace_fits = self.namespace.as_ref().is_none_or(|selector| {
            if attributes.def.plural == "namespaces" && attributes.def.group.is_empty() {
                return object.or(old).is_some_and(|own| selector.matches_object(own));
            }
            // What is cluster-wide has no namespace that could be left out.
            !attributes.def.is_namespaced() || namespace.is_some_and(|namespace| selector.matches_object(namespace))
        });
        object_fits && namespace_fits
    }
}

/// In which version a request is shown to those who asked for it by rules.
pub enum Shown {
    /// As it came.
    Same,
    /// As another version, or of another group, of the same resource.
    As(Arc<Served>),
}

/// Whether any of the rules concerns the request, and in which version.
pub fn matches(attributes: &Attributes<'_>, rules: &[Rule], selectors: &Selectors) -> Option<Shown> {
    if rules.iter().any(|rule| rule.concerns(attributes, attributes.def)) {
        return Some(Shown::Same);
    }
    if !selectors.equivalent {
        return None;
    }
    equivalents(attributes)
        .into_iter()
        .find(|served| rules.iter().any(|rule| rule.concerns(attributes, &served.def)))
        .map(Shown::As)
}

/// The same stored objects under other versions and groups.
fn equivalents(attributes: &Attributes<'_>) -> Vec<Arc<Served>> {
    let def = attributes.def;
    let snapshot = attributes.server.catalogue.snapshot();
    let Some(own) = snapshot.get(&def.group, &def.version, &def.plural) else { return Vec::new() };
    let same = |served: &&Arc<Served>| {
        served.cache.prefix == own.cache.prefix
            && (served.def.group != def.group || served.def.version != def.version)
            && served.def.plural == def.plural
    };
    snapshot.ordered.iter().filter(same).cloned().collect()
}

impl Operation {
    /// As rules and reviews write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// The objects that admission itself is made of: no webhook and no policy may lock them.
pub fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.def.group == "admissionregistration.k8s.io"
}

/// Whether there is any webhook or policy of a kind that might concern a request.
pub fn is_any(attributes: &Attributes<'_>, plural: &str) -> bool {
    let cache = attributes.server.catalogue.cache("admissionregistration.k8s.io", plural);
    cache.is_some_and(|cache| cache.object_count() > 0) && !is_exempt(attributes)
}

/// The namespace of a request, as selectors and expressions see it.
pub async fn namespace_of(attributes: &Attributes<'_>) -> Result<Option<Object>> {
    if attributes.namespace.is_empty() || !attributes.def.is_namespaced() {
        return Ok(None);
    }
    lifecycle::find(attributes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_matched_with_and_without_subresources() {
        for (rule, plural, sub, matches) in [
            ("pods", "pods", "", true),
            ("pods", "pods", "status", false),
            ("pods/status", "pods", "status", true),
            ("pods/*", "pods", "log", true),
            ("*", "pods", "", true),
            ("*", "pods", "status", false),
            ("*/*", "pods", "status", true),
            ("*/*", "pods", "", true),
            ("*/scale", "deployments", "scale", true),
            ("*/scale", "deployments", "", false),
        ] {
            assert_eq!(is_resource(rule, plural, sub), matches, "{rule} {plural}/{sub}");
        }
    }
}
