//! The resources that generic controllers (namespace, garbage collection) go over:
//! the built-in catalogue and what custom resource definitions add to it at run time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResource, APIResourceList};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use skiff_client::{Client, Definition, Informer, Resource};
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

/// The built-in ones that are always served, each stored kind once.
pub fn builtin() -> Vec<Deletable> {
    served(&[])
}

/// Those and the ones that were asked for.
pub fn served(asked_for: &[&'static ResourceDef]) -> Vec<Deletable> {
    let all: Vec<&ResourceDef> = skiff_kinds::builtin().iter().chain(asked_for).copied().collect();
    all.iter().filter(|def| def.stored && !is_listed_otherwise(def, &all)).filter_map(|def| of_def(def)).collect()
}

/// Whether a kind is a second version or group of what is listed too.
fn is_listed_otherwise(def: &ResourceDef, all: &[&ResourceDef]) -> bool {
    let Some((group, version)) = &def.storage else { return false };
    let is_itself = *group == def.group && *version == def.version;
    !is_itself && all.iter().any(|other| other.group == *group && other.version == *version && other.kind == def.kind)
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
pub fn custom(definitions: &Informer<Definition>) -> Vec<Deletable> {
    definitions.list().iter().filter_map(|definition| of_custom(definition)).collect()
}

fn of_custom(definition: &Definition) -> Option<Deletable> {
    let version = definition.spec.versions.iter().find(|version| version.storage && version.served);
    let version = version.or_else(|| definition.spec.versions.iter().find(|version| version.served))?;
    let (names, group) = (&definition.spec.names, definition.spec.group.clone());
    definition.is_established().then(|| Deletable {
        resource: Resource::new(group, version.name.clone(), names.plural.clone(), names.kind.clone()),
        namespaced: definition.spec.scope == "Namespaced",
        by_collection: true,
    })
}

/// Those of API servers behind this one, and the versions of groups that cannot be asked now, each with the reason.
pub async fn of_other_servers(client: &Client, services: &Informer<APIService>) -> (Vec<Deletable>, Vec<String>) {
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for service in services.list() {
        let Some(spec) = service.spec.as_ref().filter(|spec| spec.service.is_some()) else { continue };
        let (group, version) = (spec.group.clone().unwrap_or_default(), spec.version.clone().unwrap_or_default());
        if !is_available(&service) {
            unknown.push(format!("{group}/{version}: stale GroupVersion discovery: {group}/{version}"));
            continue;
        }
        match client.get_path::<APIResourceList>(&format!("/apis/{group}/{version}")).await {
            Ok(list) => found.extend(list.resources.iter().filter_map(|told| of_told(&group, &version, told))),
            Err(error) => unknown.push(format!("{group}/{version}: {error}")),
        }
    }
    (found, unknown)
}

fn is_available(service: &APIService) -> bool {
    let conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Available" && condition.status == "True")
}

fn of_told(group: &str, version: &str, told: &APIResource) -> Option<Deletable> {
    let can = |verb: &str| told.verbs.iter().any(|v| v == verb);
    (can("delete") && can("list") && !told.name.contains('/')).then(|| Deletable {
        resource: Resource::new(group.to_owned(), version.to_owned(), told.name.clone(), told.kind.clone()),
        namespaced: told.namespaced,
        by_collection: can("deletecollection"),
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

    #[test]
    fn what_was_asked_for_is_there_once_too() {
        let bundle = |version: &str| {
            let all = skiff_kinds::known().iter().copied();
            all.filter(|def| def.kind == "ClusterTrustBundle" && def.version.contains(version)).collect::<Vec<_>>()
        };
        let count = |asked: &[&'static ResourceDef]| {
            served(asked).iter().filter(|d| d.resource.plural == "clustertrustbundles").count()
        };
        assert_eq!((count(&[]), count(&bundle("alpha")), count(&bundle("beta")), count(&bundle(""))), (0, 1, 1, 1));
    }

    #[test]
    fn other_servers_tell_what_can_be_deleted() {
        let told = |name: &str, verbs: &[&str]| APIResource {
            name: name.to_owned(),
            kind: "Flunder".to_owned(),
            namespaced: true,
            verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
            ..APIResource::default()
        };
        let found = of_told("wardle.io", "v1", &told("flunders", &["list", "delete"])).expect("it can be deleted");
        assert_eq!(found.resource.path("d"), "/apis/wardle.io/v1/namespaces/d/flunders");
        assert!(found.namespaced && !found.by_collection);
        assert_eq!(of_told("wardle.io", "v1", &told("flunders", &["list", "get"])), None);
        assert_eq!(of_told("wardle.io", "v1", &told("flunders/status", &["list", "delete"])), None);
    }
}
