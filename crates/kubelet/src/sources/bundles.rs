//! The ClusterTrustBundles that Pods of this node project into their volumes: by name, or those of a signer. They are read
//! in the version that the API server has, which is looked for when the first Pod wants one.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::certificates::{v1alpha1, v1beta1};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use parking_lot::Mutex;
use skiff_client::bundles::TrustBundle;
use skiff_client::{Client, Error, Informers, Kind, ObjectKey};

use super::{OnChange, SYNC_TIMEOUT, Watched};
use crate::config::Bundle;

/// Those that Pods refer to.
pub(super) struct Bundles {
    client: Client,
    /// Whether this node projects them at all.
    is_on: bool,
    version: Mutex<Option<Version>>,
    beta: Arc<Watched<v1beta1::ClusterTrustBundle>>,
    alpha: Arc<Watched<v1alpha1::ClusterTrustBundle>>,
}

/// A version that the API server has.
#[derive(Debug, Clone, Copy)]
enum Version {
    Beta,
    Alpha,
}

impl Bundles {
    pub(super) fn new(client: Client, is_on: bool, on_change: &OnChange) -> Self {
        Self { client, is_on, version: Mutex::default(), beta: Watched::new(on_change), alpha: Watched::new(on_change) }
    }

    /// The bundles that field selectors name, as they are now; `None` where this node or its API server has none at all.
    pub(super) async fn of(
        &self,
        informers: &Informers,
        selectors: &BTreeSet<String>,
        uid: &str,
    ) -> Result<Option<Vec<Bundle>>, String> {
        if selectors.is_empty() || !self.is_on {
            return Ok(None);
        }
        let version = self.version().await.map_err(|error| {
            format!("failed to ensure informer manager for ClusterTrustBundles: failed to determine which informer manager to choose: {error}")
        })?;
        let found = match version {
            None => return Ok(None),
            Some(Version::Beta) => self.beta.selected(informers, selectors, uid).await,
            Some(Version::Alpha) => self.alpha.selected(informers, selectors, uid).await,
        };
        found.map(Some).ok_or_else(|| "ClusterTrustBundle informer has not yet synced".to_owned())
    }

    async fn version(&self) -> Result<Option<Version>, Error> {
        if let Some(known) = *self.version.lock() {
            return Ok(Some(known));
        }
        let version = if has::<v1beta1::ClusterTrustBundle>(&self.client).await? {
            Some(Version::Beta)
        } else if has::<v1alpha1::ClusterTrustBundle>(&self.client).await? {
            Some(Version::Alpha)
        } else {
            None
        };
        *self.version.lock() = version;
        Ok(version)
    }

    pub(super) fn forget(&self, uid: &str) {
        self.beta.forget(uid);
        self.alpha.forget(uid);
    }
}

/// Whether the API server has a kind.
async fn has<K: Kind>(client: &Client) -> Result<bool, Error> {
    let path = format!("/apis/{}/{}", K::GROUP, K::VERSION);
    match client.get_path::<APIResourceList>(&path).await {
        Ok(list) => Ok(list.resources.iter().any(|told| told.name == K::URL_PATH_SEGMENT)),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

impl<K: TrustBundle> Watched<K> {
    /// The bundles that field selectors name, each once, watched from now on; `None` if they could not be read in time.
    async fn selected(
        self: &Arc<Self>,
        informers: &Informers,
        selectors: &BTreeSet<String>,
        uid: &str,
    ) -> Option<Vec<Bundle>> {
        let mut found = Vec::new();
        for selector in selectors {
            let key = ObjectKey::new("", selector);
            let informer = self.watch(informers, key.clone(), selector, uid);
            tokio::time::timeout(SYNC_TIMEOUT, informer.synced()).await.ok()?;
            self.tell_changes(&informer, key);
            found.extend(informer.list().iter().map(|bundle| plain(&**bundle)));
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found.dedup_by(|one, other| one.name == other.name);
        Some(found)
    }
}

fn plain<K: TrustBundle>(bundle: &K) -> Bundle {
    let metadata = bundle.metadata();
    Bundle {
        name: metadata.name.clone().unwrap_or_default(),
        signer: bundle.signer().to_owned(),
        labels: metadata.labels.clone().unwrap_or_default(),
        certificates: bundle.certificates().to_owned(),
    }
}
