//! Follows the store: one watch over everything feeds the caches of all resources, and tells how far they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use skiff_store::{KeyRange, KeyValue, Revision, Store, StoreError, WatchEvent, WatchItem, WatchStream};
use tokio::sync::{Mutex, watch};

use crate::failure::{Result, too_large_revision};
use crate::storage::cache::ResourceCache;
use crate::storage::catalogue::Catalogue;
use crate::storage::keys;

/// How long a request waits for a revision that the caches have not reached.
const FRESHNESS_WAIT: Duration = Duration::from_secs(3);
/// How long an event may be under way before the store is asked to say how far it is.
const EVENT_WAIT: Duration = Duration::from_millis(20);
/// How many items of the store's watch are taken over at once, where so many have come.
const MOST_AT_ONCE: usize = 64;
/// How many revisions of the past the caches begin with.
const KNOWN_PAST: Revision = 1000;
/// How long to wait before the store is asked again after it failed.
const RETRY: Duration = Duration::from_millis(200);

/// The caches' tie to the store.
pub struct Hub {
    store: Arc<dyn Store>,
    catalogue: Arc<Catalogue>,
    applied: watch::Sender<Revision>,
    /// Held while caches change, so that a new resource's cache misses nothing.
    changing: Mutex<()>,
    following: AtomicBool,
}

impl Hub {
    /// Fills all caches, and gives the stream that keeps them up to date.
    pub async fn start(store: Arc<dyn Store>, catalogue: Arc<Catalogue>) -> Result<(Arc<Self>, WatchStream)> {
        let hub = Arc::new(Self {
            store,
            catalogue,
            applied: watch::Sender::new(0),
            changing: Mutex::new(()),
            following: AtomicBool::new(true),
        });
        let stream = hub.fill().await?;
        Ok((hub, stream))
    }

    /// Fills the caches as they were a while ago and lets them catch up, so that they know of what came before a
    /// restart: clients go on with their watches where they stopped, and need not list everything again.
    async fn fill(&self) -> Result<WatchStream, StoreError> {
        let present = self.store.revision().await?;
        let past = present.saturating_sub(KNOWN_PAST).max(self.store.whole_since());
        let mut stream = self.load_past(past.clamp(1, present)).await?;
        self.store.request_progress().await?;
        while self.reached() < present {
            self.take(vec![stream.next().await.ok_or(StoreError::Lagged)?]).await?;
        }
        Ok(stream)
    }

    /// Loads a past state, or the oldest that there is.
    async fn load_past(&self, mut at: Revision) -> Result<WatchStream, StoreError> {
        loop {
            match self.load(at).await {
                Err(StoreError::Compacted { oldest }) if oldest > at => at = oldest,
                outcome => return outcome,
            }
        }
    }

    async fn load(&self, at: Revision) -> Result<WatchStream, StoreError> {
        let _changing = self.changing.lock().await;
        let everything = KeyRange::prefix(keys::ROOT);
        let content = self.store.range(&everything, Some(at), 0).await?;
        let mut parts: BTreeMap<String, Vec<KeyValue>> = BTreeMap::new();
        for pair in content.items {
            if let Some(part) = keys::resource_part(&pair.key).map(str::to_owned) {
                parts.entry(part).or_default().push(pair);
            }
        }
        for cache in self.catalogue.snapshot().caches() {
            cache.load(parts.remove(&cache.prefix).unwrap_or_default(), content.revision);
        }
        self.applied.send_replace(content.revision);
        self.store.watch(everything, content.revision).await
    }

    /// Takes over what the store tells, which may be much at once; gives the error that it ended with.
    async fn take(&self, items: Vec<Result<WatchItem, StoreError>>) -> Result<(), StoreError> {
        let (mut events, mut reached, mut end) = (Vec::new(), 0, Ok(()));
        for item in items {
            match item {
                Ok(WatchItem::Events(more)) => events.extend(more),
                Ok(WatchItem::Progress(revision)) => reached = revision,
                Err(error) => end = Err(error),
            }
        }
        self.apply(events).await;
        self.reach(reached);
        end
    }

    /// Follows the store until the future is dropped; where the watch breaks, the caches are filled anew.
    pub async fn run(self: Arc<Self>, mut stream: WatchStream) {
        loop {
            let mut pieces = stream.ready_chunks(MOST_AT_ONCE);
            while let Some(items) = pieces.next().await {
                if let Err(error) = self.take(items).await {
                    tracing::warn!(%error, "the watch of the store broke; the caches are filled anew");
                    break;
                }
            }
            self.following.store(false, Ordering::Relaxed);
            stream = loop {
                match self.fill().await {
                    Ok(stream) => break stream,
                    Err(error) => tracing::error!(%error, "the store cannot be read"),
                }
                tokio::time::sleep(RETRY).await;
            };
            self.following.store(true, Ordering::Relaxed);
        }
    }

    async fn apply(&self, events: Vec<WatchEvent>) {
        let Some(revision) = events.last().map(|event| event.revision) else { return };
        let _changing = self.changing.lock().await;
        let snapshot = self.catalogue.snapshot();
        // Few kinds change at once.
        let mut parts: Vec<(&ResourceCache, Vec<WatchEvent>)> = Vec::new();
        for event in events {
            let Some(part) = keys::resource_part(&event.key) else { continue };
            match parts.iter_mut().find(|(cache, _)| cache.prefix == part) {
                Some((_, events)) => events.push(event),
                None => parts.extend(snapshot.cache(part).map(|cache| (&**cache, vec![event]))),
            }
        }
        for (cache, events) in parts {
            cache.apply(events);
        }
        self.reach(revision);
    }

    fn reach(&self, revision: Revision) {
        self.applied.send_if_modified(|applied| {
            let newer = revision > *applied;
            *applied = revision.max(*applied);
            newer
        });
    }

    /// Fills the cache of a resource that is served from now on.
    pub async fn fill_cache(&self, cache: &ResourceCache) -> Result<()> {
        let _changing = self.changing.lock().await;
        let range = KeyRange::prefix(Bytes::copy_from_slice(cache.prefix.as_bytes()));
        let content = self.store.range(&range, None, 0).await?;
        // What the watch still brings at or below this revision is known already, and skipped.
        cache.load(content.items, content.revision);
        Ok(())
    }

    /// Reads again what could not be decrypted.
    pub async fn reread(&self) -> Result<()> {
        for cache in self.catalogue.snapshot().caches() {
            if cache.check_readable().is_err() {
                self.fill_cache(cache).await?;
            }
        }
        Ok(())
    }

    /// Whether the store's watch stands.
    pub fn is_following(&self) -> bool {
        self.following.load(Ordering::Relaxed)
    }

    /// The revision that all caches have reached.
    pub fn reached(&self) -> Revision {
        *self.applied.borrow()
    }

    /// Waits until the caches show every write that was acknowledged before this call.
    pub async fn fresh(&self) -> Result<Revision> {
        let revision = self.store.revision().await?;
        self.wait_for(revision).await
    }

    /// Waits until the caches have reached a revision; 504 where that takes too long.
    pub async fn wait_for(&self, revision: Revision) -> Result<Revision> {
        let reached = self.reached();
        if reached >= revision {
            return Ok(reached);
        }
        Box::pin(self.reaching(revision)).await
    }

    async fn reaching(&self, revision: Revision) -> Result<Revision> {
        let mut applied = self.applied.subscribe();
        let reached = async {
            let reached = applied.wait_for(|applied| *applied >= revision).await;
            reached.map(|reached| *reached).map_err(|_| too_large_revision(revision, self.reached()))
        };
        let mut reached = std::pin::pin!(reached);
        // Mostly the event that made the revision is under way.
        if let Ok(reached) = tokio::time::timeout(EVENT_WAIT, &mut reached).await {
            return reached;
        }
        // Where the revision was made by keys that are not ours, no event tells of it.
        self.store.request_progress().await?;
        let in_time = tokio::time::timeout(FRESHNESS_WAIT, reached).await;
        in_time.unwrap_or_else(|_| Err(too_large_revision(revision, self.reached())))
    }

    /// Sends bookmarks to all watchers that want them.
    pub fn bookmark(&self) {
        let reached = self.reached();
        for cache in self.catalogue.snapshot().caches() {
            cache.bookmark(reached);
        }
    }
}
