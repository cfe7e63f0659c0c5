//! What admission reads from objects of the cluster, parsed once for each revision of each of them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use skiff_object::Object;

use crate::server::ApiServer;
use crate::storage::filter::Filter;

/// Objects of one kind, each made into a `T`.
pub struct Kept<T> {
    made: Mutex<HashMap<Bytes, (u64, Arc<T>)>>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { made: Mutex::default() }
    }
}

impl<T> Kept<T> {
    /// All of them, in the order of their names; nothing is parsed that was parsed before.
    pub fn all(&self, server: &ApiServer, group: &str, plural: &str, make: impl Fn(&Object) -> T) -> Vec<Arc<T>> {
        let Some(cache) = server.catalogue.cache(group, plural) else { return Vec::new() };
        let entries = cache.select(&Filter::default());
        if entries.is_empty() {
            return Vec::new();
        }
        let mut made = self.made.lock();
        if made.len() > 2 * entries.len() {
            let alive: Vec<&Bytes> = entries.iter().map(|entry| &entry.key).collect();
            made.retain(|key, _| alive.contains(&key));
        }
        let mut all = Vec::with_capacity(entries.len());
        for entry in &entries {
            if let Some((revision, known)) = made.get(&entry.key)
                && *revision == entry.revision
            {
                all.push(known.clone());
                continue;
            }
            match cache.decode(entry) {
                Ok(object) => {
                    let new = Arc::new(make(&object));
                    made.insert(entry.key.clone(), (entry.revision, new.clone()));
                    all.push(new);
                }
                Err(failure) => tracing::warn!(name = entry.name(), error = %failure, "reading {plural}"),
            }
        }
        all
    }
}
