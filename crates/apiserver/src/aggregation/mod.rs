//! The aggregation layer: groups and versions that other servers have, by APIServices with a service. Requests for them
//! are passed on (`proxy`), what they say of themselves is joined to what this server says (`told`), whether they can be
//! asked is looked at time and again (`keeper`). Of what this server has itself it keeps APIServices too (`local`).
//! See <https://kubernetes.io/docs/concepts/extend-kubernetes/api-extension/apiserver-aggregation/>.

pub mod keeper;
pub mod local;
pub mod proxy;
pub mod remote;
pub mod told;

use std::sync::Arc;

use parking_lot::RwLock;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::admission::kept::Kept;
use crate::http::request::RequestInfo;
use crate::storage::catalogue::{Snapshot, version_priority};
use crate::trust::Identity;
use local::Wanted;
use remote::Remote;

/// The group of APIServices.
pub const GROUP: &str = "apiregistration.k8s.io";
/// Their plural name.
pub const PLURAL: &str = "apiservices";

/// Which other servers have which groups and versions.
#[derive(Default)]
pub struct Aggregator {
    remotes: RwLock<Arc<Vec<Arc<Remote>>>>,
    /// The APIServices, each read once.
    services: Kept<Object>,
    /// What the definitions want there to be.
    definitions: Kept<Vec<Wanted>>,
}

impl Aggregator {
    /// All other servers, by the names of their APIServices.
    pub fn remotes(&self) -> Arc<Vec<Arc<Remote>>> {
        self.remotes.read().clone()
    }

    /// The server that has what a request is about, where that is not this one.
    pub fn server_of(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        let remotes = self.remotes.read();
        if remotes.is_empty() {
            return None;
        }
        if info.is_resource {
            return of_version(&remotes, &info.group, &info.version).cloned();
        }
        let segments: Vec<&str> = info.path.split('/').filter(|segment| !segment.is_empty()).collect();
        match segments[..] {
            ["apis", group, version] | ["openapi", "v3", "apis", group, version] => {
                of_version(&remotes, group, version).cloned()
            }
            _ => None,
        }
    }

    /// Takes over what the APIServices say. Who was known and is unchanged stays, with its connections.
    pub fn take_over(&self, objects: &[&Object], identity: Option<&Identity>) -> Arc<Vec<Arc<Remote>>> {
        let known = self.remotes();
        let of = |object: &&Object| match known.iter().find(|remote| remote.is_still(object)) {
            Some(remote) => Some(remote.clone()),
            None => Remote::of(object, identity).map(Arc::new),
        };
        let next: Vec<Arc<Remote>> =
            objects.iter().filter(|object| !object.str_at(&["spec", "group"]).is_empty()).filter_map(of).collect();
        let next = Arc::new(next);
        *self.remotes.write() = next.clone();
        next
    }
}

fn of_version<'a>(remotes: &'a [Arc<Remote>], group: &str, version: &str) -> Option<&'a Arc<Remote>> {
    remotes.iter().find(|remote| remote.version == version && remote.group == group)
}

/// A group as discovery tells of it.
pub struct Group<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its versions, the preferred one first.
    pub versions: Vec<Version<'a>>,
}

/// A version as discovery tells of it.
pub struct Version<'a> {
    /// Its name.
    pub name: &'a str,
    /// Who has it, where that is not this server.
    pub remote: Option<&'a Arc<Remote>>,
    priority: i64,
}

/// All groups but the core group in upstream's order: by priority, then by the names of their APIServices.
pub fn groups<'a>(snapshot: &'a Snapshot, remotes: &'a [Arc<Remote>]) -> Vec<Group<'a>> {
    let mut found: Vec<((i64, String), Group<'a>)> = Vec::new();
    let mut add = |group: &'a str, place: i64, version: Version<'a>| {
        let rank = (-place, format!("{}.{group}", version.name));
        let index = found.iter().position(|(_, known)| known.name == group).unwrap_or_else(|| {
            found.push((rank.clone(), Group { name: group, versions: Vec::new() }));
            found.len() - 1
        });
        let (known_rank, known) = &mut found[index];
        if rank < *known_rank {
            *known_rank = rank;
        }
        known.versions.push(version);
    };
    for remote in remotes {
        let version = Version { name: &remote.version, remote: Some(remote), priority: remote.version_priority };
        add(&remote.group, remote.group_priority, version);
    }
    for (group, version, custom) in snapshot.group_versions() {
        if !group.is_empty() && of_version(remotes, group, version).is_none() {
            let (place, priority) = local::priorities(group, version, custom);
            add(group, place, Version { name: version, remote: None, priority });
        }
    }
    found.sort_by(|(left, _), (right, _)| left.cmp(right));
    let sorted = found.into_iter().map(|(_, mut group)| {
        group.versions.sort_by_key(|version| std::cmp::Reverse((version.priority, version_priority(version.name))));
        group
    });
    sorted.collect()
}
