//! The resources that generic controllers (namespace, garbage collection) go over:
//! the built-in catalogue and what custom resource definitions add to it at run time.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use skiff_client::{Informer, Resource};
use skiff_kinds::ResourceDef;

/// A resource of which objects can be listed and deleted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Deletable {
    /// The resource.
    pub resource: Resource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether many can be deleted by one request.
    pub by_collection: bool,
}

/// The built-in ones, each stored kind once.
pub fn builtin() -> Vec<Deletable> {
    let all = skiff_kinds::builtin().iter().copied();
    all.filter(|def| is_own_storage(def)).filter_map(of_def).collect()
}

/// False for a second version of what is listed already.
fn is_own_storage(def: &ResourceDef) -> bool {
    def.stored && def.storage.as_ref().is_none_or(|(group, version)| *group == def.group && *version == def.version)
}

fn of_def(def: &ResourceDef) -> Option<Deletable> {
    let can = |verb: &str| def.verbs.iter().any(|v| v == verb);
    (can("delete") && can("list") && can("watch")).then(|| Deletable {
        resource: Resource::new(def.group.clone(), def.version.clone(), def.plural.clone(), def.kind.clone()),
        namespaced: def.is_namespaced(),
        by_collection: can("deletecollection"),
    })
}

/// Those of custom resource definitions that are established.
pub fn custom(definitions: &Informer<CustomResourceDefinition>) -> Vec<Deletable> {
    definitions.list().iter().filter_map(|definition| of_custom(definition)).collect()
}

fn of_custom(definition: &CustomResourceDefinition) -> Option<Deletable> {
    let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
    let established = conditions.into_iter().flatten().any(|c| c.type_ == "Established" && c.status == "True");
    let version = definition.spec.versions.iter().find(|version| version.storage && version.served);
    let version = version.or_else(|| definition.spec.versions.iter().find(|version| version.served))?;
    let (names, group) = (&definition.spec.names, definition.spec.group.clone());
    established.then(|| Deletable {
        resource: Resource::new(group, version.name.clone(), names.plural.clone(), names.kind.clone()),
        namespaced: definition.spec.scope == "Namespaced",
        by_collection: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stored_kind_is_there_once() {
        let all = builtin();
        let count = |plural: &str| all.iter().filter(|d| d.resource.plural == plural).count();
        assert_eq!(count("pods"), 1);
        assert_eq!(count("events"), 1);
        assert_eq!(count("horizontalpodautoscalers"), 1);
        assert_eq!(count("subjectaccessreviews"), 0);
        assert!(all.iter().any(|d| d.resource.plural == "deployments" && d.namespaced && d.by_collection));
        assert!(all.iter().any(|d| d.resource.plural == "services" && d.namespaced));
    }
}
