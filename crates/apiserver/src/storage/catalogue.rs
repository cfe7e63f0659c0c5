//! What is served: every built-in kind, and those that custom resource definitions add while the server runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use skiff_kinds::ResourceDef;
use skiff_kinds::decode::{FieldValidation, decode_tree};
use skiff_object::{GroupVersionKind, Object};

use crate::codec::Heads;
use crate::convert::Conversion;
use crate::custom::rules::Rules;
use crate::storage::cache::ResourceCache;
use crate::storage::keys;

/// A kind that is served, with its cache and what is encoded once and for all.
pub struct Served {
    /// The kind.
    pub def: Arc<ResourceDef>,
    /// Its objects; kinds that share a storage share this.
    pub cache: Arc<ResourceCache>,
    /// The heads of its objects as they are sent.
    pub heads: Heads,
    /// How stored objects become this kind's, and back, where another kind is what is stored.
    pub conversion: Option<Conversion>,
    /// An object of the kind in which nothing is set, made when it is first needed.
    blank: OnceLock<Object>,
    fingerprint: OnceLock<u64>,
    /// What stored objects of a custom kind are marked with that were written in this version under this schema; empty
    /// for built-in kinds.
    pub mark: Box<str>,
    /// The validation rules of a custom kind, compiled when they are first needed.
    rules: OnceLock<Option<Rules>>,
}

impl Served {
    /// The validation rules of a custom kind, where it has any.
    pub fn rules(&self) -> Option<&Rules> {
        let make = || self.def.inline_schema.as_ref().and_then(|schema| Rules::of(schema));
        self.rules.get_or_init(make).as_ref()
    }

    /// A number that changes whenever what is told of the kind would.
    pub fn fingerprint(&self) -> u64 {
        *self.fingerprint.get_or_init(|| skiff_kinds::openapi::fingerprint_of(&self.def))
    }

    /// An object of the kind in which nothing is set.
    pub fn blank(&self) -> &Object {
        self.blank.get_or_init(|| {
            let decoded = decode_tree(&self.def, Object::Object(Default::default()), FieldValidation::Ignore);
            decoded.map(|decoded| decoded.object).unwrap_or_default()
        })
    }
}

type Path = (String, String, String);

/// All that is served at one moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    by_path: HashMap<Path, Arc<Served>>,
    /// In the order in which discovery tells of them.
    pub ordered: Vec<Arc<Served>>,
    by_storage: BTreeMap<String, Arc<ResourceCache>>,
}

impl Snapshot {
    /// The kind served under a group, version and plural name.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Served>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The kind of that name.
    pub fn by_kind(&self, kind: &GroupVersionKind) -> Option<&Arc<Served>> {
        self.ordered.iter().find(|served| {
            served.def.kind == kind.kind && served.def.version == kind.version && served.def.group == kind.group
        })
    }

    /// The cache of the keys with that prefix.
    pub fn cache(&self, prefix: &str) -> Option<&Arc<ResourceCache>> {
        self.by_storage.get(prefix)
    }

    /// All caches.
    pub fn caches(&self) -> impl Iterator<Item = &Arc<ResourceCache>> {
        self.by_storage.values()
    }

    /// The group's versions in order of preference, empty where the group is not served.
    pub fn versions(&self, group: &str) -> Vec<&str> {
        let mut versions: Vec<&str> = Vec::new();
        for served in self.ordered.iter().filter(|served| served.def.group == group) {
            if !versions.contains(&served.def.version.as_ref()) {
                versions.push(&served.def.version);
            }
        }
        versions.sort_by_key(|version| std::cmp::Reverse(version_priority(version)));
        versions
    }

    /// Every group and version once, with whether it is of custom kinds.
    pub fn group_versions(&self) -> Vec<(&str, &str, bool)> {
        let mut known = std::collections::HashSet::new();
        let all = self.ordered.iter().map(|served| &served.def);
        let all = all.map(|def| (def.group.as_ref(), def.version.as_ref(), def.custom.is_some()));
        all.filter(|(group, version, _)| known.insert((*group, *version))).collect()
    }

    /// All groups but the core group, in order.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for served in &self.ordered {
            if !served.def.group.is_empty() && !groups.contains(&served.def.group.as_ref()) {
                groups.push(&served.def.group);
            }
        }
        groups
    }

    fn insert(&mut self, def: Arc<ResourceDef>) -> Arc<Served> {
        let own = ResourceCache::new(self.stored_as(&def));
        let cache = self.by_storage.entry(own.prefix.clone()).or_insert_with(|| Arc::new(own)).clone();
        let conversion = crate::convert::conversion(&def);
        let served = Arc::new(Served {
            heads: Heads::of(&def),
            cache,
            conversion,
            blank: OnceLock::new(),
            fingerprint: OnceLock::new(),
            rules: OnceLock::new(),
            mark: mark_of(&def),
            def,
        });
        let path = (served.def.group.to_string(), served.def.version.to_string(), served.def.plural.to_string());
        if self.by_path.insert(path, served.clone()).is_some() {
            self.ordered.retain(|other| !is_same_path(&other.def, &served.def));
        }
        self.ordered.push(served.clone());
        served
    }

    /// The kind whose objects are really stored: another one, where groups or versions share a storage.
    fn stored_as(&self, def: &Arc<ResourceDef>) -> Arc<ResourceDef> {
        let Some((group, version)) = &def.storage else { return def.clone() };
        self.get(group, version, &def.plural).map_or_else(|| def.clone(), |served| served.def.clone())
    }
}

fn is_same_path(a: &ResourceDef, b: &ResourceDef) -> bool {
    a.group == b.group && a.version == b.version && a.plural == b.plural
}

/// The version, and a fingerprint of its schema.
fn mark_of(def: &ResourceDef) -> Box<str> {
    let Some(schema) = &def.inline_schema else { return Box::default() };
    let digest = ring::digest::digest(&ring::digest::SHA256, schema.to_string().as_bytes());
    let short: String = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{}/{short}", def.version).into()
}

/// Orders versions as upstream: GA before beta before alpha, higher before lower.
pub fn version_priority(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest[..end].parse().unwrap_or(0);
    let (rank, minor) = match &rest[end..] {
        "" => (3, ""),
        suffix if suffix.starts_with("beta") => (2, &suffix[4..]),
        suffix if suffix.starts_with("alpha") => (1, &suffix[5..]),
        _ => return (0, 0, 0),
    };
    (rank, major, minor.parse().unwrap_or(0))
}

/// What is served, changing while the server runs.
#[derive(Default)]
pub struct Catalogue {
    current: RwLock<Arc<Snapshot>>,
}

impl Catalogue {
    /// A catalogue of the given kinds.
    pub fn new(defs: &[&ResourceDef]) -> Self {
        let mut snapshot = Snapshot::default();
        // Kinds that others are stored as come first, so that these find them.
        let (own, borrowed): (Vec<&ResourceDef>, Vec<_>) = defs.iter().partition(|def| is_own_storage(def));
        for def in own.into_iter().chain(borrowed) {
            snapshot.insert(Arc::new(def.clone()));
        }
        snapshot.ordered.sort_by_key(|served| defs.iter().position(|def| is_same_path(def, &served.def)));
        Self { current: RwLock::new(Arc::new(snapshot)) }
    }

    /// What is served now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().clone()
    }

    /// The kind served under a group, version and plural name.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Served>> {
        self.current.read().get(group, version, plural).cloned()
    }

    /// The cache of a stored resource, for what the server itself reads.
    pub fn cache(&self, group: &str, plural: &str) -> Option<Arc<ResourceCache>> {
        self.current.read().cache(&keys::prefix(group, plural)).cloned()
    }

    /// Serves further kinds, in place of those of the same path.
    pub fn add(&self, defs: Vec<ResourceDef>) -> Vec<Arc<Served>> {
        let mut current = self.current.write();
        let mut next = Snapshot::clone(&current);
        let added = defs.into_iter().map(|def| next.insert(Arc::new(def))).collect();
        *current = Arc::new(next);
        added
    }

    /// Ceases to serve those kinds for which `gone` says so.
    pub fn remove(&self, gone: impl Fn(&ResourceDef) -> bool) {
        let mut current = self.current.write();
        let mut next = Snapshot::clone(&current);
        next.by_path.retain(|_, served| !gone(&served.def));
        next.ordered.retain(|served| !gone(&served.def));
        let used: Vec<String> = next.ordered.iter().map(|served| served.cache.prefix.clone()).collect();
        next.by_storage.retain(|prefix, _| used.contains(prefix));
        *current = Arc::new(next);
    }
}

fn is_own_storage(def: &ResourceDef) -> bool {
    def.storage.as_ref().is_none_or(|(group, version)| *group == def.group && *version == def.version)
}
