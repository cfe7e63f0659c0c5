//! The ConfigMaps, Secrets, Services and ClusterTrustBundles that the node's Pods refer to. Each ConfigMap and Secret is
//! watched by itself, for as long as a Pod refers to it: that is all that a node has the right to read.

mod bundles;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use parking_lot::Mutex;
use skiff_client::{Informer, Informers, Kind, ObjectKey};

use crate::config::{Objects, References, namespace, uid};
use crate::sources::bundles::Bundles;

/// How long a Pod waits for an object to be read before it tells that it cannot be.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

/// Called with the UID of a Pod when something that it refers to has changed.
pub type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

/// The objects that Pods of this node refer to.
pub struct Sources {
    informers: Informers,
    services: Informer<Service>,
    config_maps: Arc<Watched<ConfigMap>>,
    secrets: Arc<Watched<Secret>>,
    claims: Arc<Watched<PersistentVolumeClaim>>,
    volumes: Arc<Watched<PersistentVolume>>,
    bundles: Bundles,
}

/// The objects of one kind that are watched one by one.
struct Watched<K> {
    entries: Mutex<HashMap<ObjectKey, Entry<K>>>,
    on_change: OnChange,
}

struct Entry<K> {
    informer: Informer<K>,
    users: HashSet<String>,
    tells: bool,
}

impl Sources {
    /// Reads ConfigMaps and Secrets with `informers`, and ClusterTrustBundles where the node projects these; tells
    /// `on_change` whose objects have changed.
    pub fn new(services: Informer<Service>, informers: Informers, projects_bundles: bool, on_change: OnChange) -> Self {
        Self {
            bundles: Bundles::new(informers.client().clone(), projects_bundles, &on_change),
            informers,
            services,
            config_maps: Watched::new(&on_change),
            secrets: Watched::new(&on_change),
            claims: Watched::new(&on_change),
            volumes: Watched::new(&on_change),
        }
    }

    /// The objects that the Pod refers to, as they are now; what does not exist is absent.
    ///
    /// # Errors
    /// They could not be read in time.
    pub async fn of(&self, pod: &Pod) -> Result<Objects, String> {
        let references = References::of(pod);
        let mut objects = Objects::default();
        let namespace = namespace(pod);
        tokio::time::timeout(SYNC_TIMEOUT, self.services.synced())
            .await
            .map_err(|_| "failed to sync service cache: timed out waiting for the condition".to_owned())?;
        objects.services = self.services.list_namespace(namespace);
        if namespace != "default" {
            objects.services.extend(self.services.get("default", "kubernetes"));
        }
        let failed = |kind: &str| format!("failed to sync {kind} cache: timed out waiting for the condition");
        let maps = self.config_maps.get(&self.informers, namespace, &references.config_maps, uid(pod)).await;
        objects.config_maps = maps.ok_or_else(|| failed("configmap"))?.into_iter().collect();
        let secrets = self.secrets.get(&self.informers, namespace, &references.secrets, uid(pod)).await;
        objects.secrets = secrets.ok_or_else(|| failed("secret"))?.into_iter().collect();
        let claims = self.claims.get(&self.informers, namespace, &references.claims, uid(pod)).await;
        objects.claims = claims.ok_or_else(|| failed("persistentvolumeclaim"))?.into_iter().collect();
        let bound = objects.claims.values().filter_map(|claim| {
            // A volume may be read once it is bound to the claim, and not before.
            let phase = claim.status.as_ref()?.phase.as_deref();
            claim.spec.as_ref()?.volume_name.clone().filter(|name| phase == Some("Bound") && !name.is_empty())
        });
        let volumes = self.volumes.get(&self.informers, "", &bound.collect(), uid(pod)).await;
        objects.volumes = volumes.ok_or_else(|| failed("persistentvolume"))?.into_iter().collect();
        objects.bundles = self.bundles.of(&self.informers, &references.bundles, uid(pod)).await?;
        Ok(objects)
    }

    /// The Pod has gone: what only it referred to is watched no longer.
    pub fn forget(&self, uid: &str) {
        self.config_maps.forget(uid);
        self.secrets.forget(uid);
        self.claims.forget(uid);
        self.volumes.forget(uid);
        self.bundles.forget(uid);
    }
}

impl<K: Kind> Watched<K> {
    fn new(on_change: &OnChange) -> Arc<Self> {
        Arc::new(Self { entries: Mutex::default(), on_change: on_change.clone() })
    }

    /// The named objects, watched from now on; `None` if they could not be read in time.
    async fn get(
        self: &Arc<Self>,
        informers: &Informers,
        namespace: &str,
        names: &BTreeSet<String>,
        uid: &str,
    ) -> Option<Vec<(String, Arc<K>)>> {
        let mut found = Vec::new();
        for name in names {
            let selector = format!("metadata.name={name}");
            let informer = self.watch(informers, ObjectKey::new(namespace, name), &selector, uid);
            tokio::time::timeout(SYNC_TIMEOUT, informer.synced()).await.ok()?;
            self.tell_changes(&informer, ObjectKey::new(namespace, name));
            found.extend(informer.get(namespace, name).map(|object| (name.clone(), object)));
        }
        Some(found)
    }

    fn watch(&self, informers: &Informers, key: ObjectKey, selector: &str, uid: &str) -> Informer<K> {
        let mut entries = self.entries.lock();
        let entry = entries.entry(key.clone()).or_insert_with(|| {
            let informer = informers.selected::<K>(&key.namespace, "", selector);
            Entry { informer, users: HashSet::new(), tells: false }
        });
        entry.users.insert(uid.to_owned());
        entry.informer.clone()
    }

    /// Tells the users of an object about its changes from now on; what it is now, they read themselves.
    fn tell_changes(self: &Arc<Self>, informer: &Informer<K>, key: ObjectKey) {
        match self.entries.lock().get_mut(&key) {
            Some(entry) if !entry.tells => entry.tells = true,
            _ => return,
        }
        let watched = Arc::downgrade(self);
        let registered = Arc::new(AtomicBool::new(false));
        let armed = registered.clone();
        informer.on_change(move |_| {
            let Some(watched) = watched.upgrade().filter(|_| armed.load(Ordering::Acquire)) else { return };
            let users: Vec<String> = match watched.entries.lock().get(&key) {
                Some(entry) => entry.users.iter().cloned().collect(),
                None => return,
            };
            users.iter().for_each(|uid| (watched.on_change)(uid));
        });
        registered.store(true, Ordering::Release);
    }

    fn forget(&self, uid: &str) {
        let mut gone = Vec::new();
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| {
            entry.users.remove(uid);
            if entry.users.is_empty() {
                gone.push(entry.informer.clone());
            }
            !entry.users.is_empty()
        });
        drop(entries);
    }
}
