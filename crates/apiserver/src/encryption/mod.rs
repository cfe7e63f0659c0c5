//! Encryption at rest: between the API server and its store, so that whatever is read or written goes through it. What
//! is in the store stays as it is for everybody else: snapshots are taken below it. Without a configuration nothing of
//! this is in the way.
//! See <https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/>.

mod ciphers;
mod config;
mod envelope;
mod figures;
mod kms;
mod providers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::RwLock;
use skiff_base::clock::SharedClock;
use skiff_store::{
    Change, KeyRange, KeyValue, Outcome, RangeResult, Revision, Store, StoreError, Transaction, WatchItem, WatchStream,
};

use crate::files::Watched;
use providers::{Fault, Opened, Plan};

/// What stands in place of a value that cannot be read, before the reason. No object begins so.
const UNREADABLE: u8 = b'!';
/// The server's check of all plugins.
pub const CHECK: &str = "kms-providers";
/// How long a new configuration's plugins have at least to be well.
const PLUGINS_WAIT: Duration = Duration::from_secs(10);
const PLUGINS_STEP: Duration = Duration::from_millis(100);

/// Where the configuration is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file.
    pub file: PathBuf,
    /// Whether it is read again when it changes.
    pub reloads: bool,
}

/// A store whose values are encrypted in another.
pub struct Encryption {
    inner: Arc<dyn Store>,
    file: Watched,
    reloads: bool,
    current: Arc<Current>,
}

/// What is encrypted at present, and with what.
struct Current {
    clock: SharedClock,
    plan: RwLock<Arc<Plan>>,
}

impl Encryption {
    /// Reads the configuration, and puts itself before a store.
    ///
    /// # Errors
    /// The configuration has a fault.
    pub async fn start(settings: &Settings, inner: Arc<dyn Store>, clock: SharedClock) -> Result<Arc<Self>, String> {
        let (file, text) = Watched::open(settings.file.clone())
            .map_err(|error| format!("error reading encryption provider configuration file {error}"))?;
        let plan = plan(&text, &file.shown(), &clock).await?;
        let current = Arc::new(Current { clock, plan: RwLock::new(Arc::new(plan)) });
        Ok(Arc::new(Self { inner, file, reloads: settings.reloads, current }))
    }

    /// The file, where it is to be read again when it changes.
    pub fn file(&self) -> Option<&Watched> {
        self.reloads.then_some(&self.file)
    }

    /// Takes another configuration, once its plugins are well.
    ///
    /// # Errors
    /// It has a fault; what was before holds.
    pub async fn configure(&self, text: &[u8]) -> Result<(), String> {
        let clock = &self.current.clock;
        let plan = plan(text, &self.file.shown(), clock).await?;
        let calls: Duration = plan.plugins.iter().map(|kms| kms.timeout()).sum();
        let until = clock.monotonic() + (2 * calls).max(PLUGINS_WAIT);
        while let Some(why) = ill(&plan) {
            if clock.monotonic() >= until {
                return Err(format!("health check for new transformers failed, polling error timed out: {why}"));
            }
            tokio::time::sleep(PLUGINS_STEP).await;
            ask(&plan).await;
        }
        *self.current.plan.write() = Arc::new(plan);
        Ok(())
    }

    fn plan(&self) -> Arc<Plan> {
        self.current.plan()
    }

    /// The checks that the server's health has for it, as upstream's: one for all plugins, where there is one or may be.
    pub fn check(&self) -> Option<&'static str> {
        (self.reloads || !self.plan().plugins.is_empty()).then_some(CHECK)
    }

    /// Asks all plugins for their state, unless that was just done.
    pub async fn ask(&self) {
        ask(&self.plan()).await;
    }

    /// What is wrong with plugins; `check` may be that of a single one, `kms-provider-0`. `None` where there is no such check.
    pub fn fault(&self, check: &str) -> Option<Result<(), String>> {
        let plan = self.plan();
        if check == CHECK {
            return self.check().map(|_| ill(&plan).map_or(Ok(()), Err));
        }
        let index: usize = check.strip_prefix("kms-provider-")?.parse().ok()?;
        plan.plugins.get(index).map(|kms| kms.health())
    }

    /// Whether a key's value would be written otherwise today.
    ///
    /// # Errors
    /// The store, or a plugin, does not answer.
    pub async fn is_stale(&self, key: &[u8]) -> Result<bool, StoreError> {
        let plan = self.plan();
        let Some(providers) = plan.of(key) else { return Ok(false) };
        let Some(stored) = self.inner.get(key, None).await?.1 else { return Ok(false) };
        let opened =
            providers.open(&stored.value, key, &self.current.clock).await.map_err(|fault| failure(key, &fault))?;
        Ok(opened.is_stale)
    }
}

impl Current {
    fn plan(&self) -> Arc<Plan> {
        self.plan.read().clone()
    }

    async fn opened(&self, key: &[u8], value: &Bytes) -> Result<Bytes, Fault> {
        let plan = self.plan();
        let Some(providers) = plan.of(key) else { return Ok(value.clone()) };
        let Opened { value, .. } = providers.open(value, key, &self.clock).await?;
        Ok(value)
    }

    /// A pair as it is, or with the reason why it cannot be read: what else was asked for must not fail with it.
    async fn pair(&self, pair: KeyValue) -> KeyValue {
        let value = self.opened(&pair.key, &pair.value).await.unwrap_or_else(|fault| {
            let text = failure(&pair.key, &fault).to_string();
            [&[UNREADABLE], text.as_bytes()].concat().into()
        });
        KeyValue { value, ..pair }
    }

    async fn item(&self, item: WatchItem) -> WatchItem {
        let WatchItem::Events(mut events) = item else { return item };
        for event in &mut events {
            if let Some(pair) = event.value.take() {
                event.value = Some(self.pair(pair).await);
            }
            // Nobody here asks what stood there before, and it would have to be decrypted once more.
            event.previous = None;
        }
        WatchItem::Events(events)
    }
}

/// Why an object cannot be read, where it begins as none does.
pub fn unreadable(key: &[u8], value: &[u8]) -> Option<String> {
    match value.split_first() {
        Some((&UNREADABLE, text)) => Some(String::from_utf8_lossy(text).into_owned()),
        _ if value.starts_with(providers::ENCRYPTED) => {
            Some(failure(key, &Fault::from("identity transformer tried to read encrypted data")).to_string())
        }
        _ => None,
    }
}

fn failure(key: &[u8], fault: &Fault) -> StoreError {
    StoreError::Transform(format!("unable to transform key {:?}: {}", String::from_utf8_lossy(key), fault.text))
}

async fn plan(text: &[u8], file: &str, clock: &SharedClock) -> Result<Plan, String> {
    let parsed = || {
        if text.is_empty() {
            return Err(format!("encryption provider configuration file {file:?} is empty"));
        }
        let tree = config::SHAPE
            .read(text)
            .map_err(|why| format!("error decoding encryption provider configuration file {file:?}: {why}"))?;
        config::rules(&tree)
    };
    let rules = parsed().map_err(|why| format!("error while parsing file: {why}"))?;
    Plan::new(rules, clock).await.map_err(|why| format!("error while building transformers: {why}"))
}

async fn ask(plan: &Plan) {
    for kms in &plan.plugins {
        // What is wrong is kept, and told by whoever looks at it.
        drop(kms.check().await);
    }
}

fn ill(plan: &Plan) -> Option<String> {
    let told = |(index, why): (usize, String)| format!("kms-provider-{index}: {why}");
    let faults = plan.plugins.iter().map(|kms| kms.health().err()).enumerate();
    let faults: Vec<String> = faults.filter_map(|(index, why)| Some(told((index, why?)))).collect();
    match faults.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

#[async_trait]
impl Store for Encryption {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    fn whole_since(&self) -> Revision {
        self.inner.whole_since()
    }

    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<(Revision, Option<KeyValue>), StoreError> {
        let (revision, found) = self.inner.get(key, at).await?;
        let Some(pair) = found else { return Ok((revision, None)) };
        let value = self.current.opened(key, &pair.value).await.map_err(|fault| failure(key, &fault))?;
        Ok((revision, Some(KeyValue { value, ..pair })))
    }

    async fn range(&self, range: &KeyRange, at: Option<Revision>, limit: usize) -> Result<RangeResult, StoreError> {
        let mut result = self.inner.range(range, at, limit).await?;
        let mut items = Vec::with_capacity(result.items.len());
        for pair in result.items {
            items.push(self.current.pair(pair).await);
        }
        result.items = items;
        Ok(result)
    }

    async fn commit(&self, mut transaction: Transaction) -> Result<Outcome, StoreError> {
        let plan = self.plan();
        for change in &mut transaction.changes {
            let Change::Put { key, value } = change else { continue };
            if let Some(providers) = plan.of(key) {
                let sealed = providers.seal(std::mem::take(value), key, &self.current.clock);
                *value = sealed.map_err(|fault| StoreError::Transform(fault.text))?;
            }
        }
        let outcome = self.inner.commit(transaction).await?;
        let Outcome::Failed { revision, current } = outcome else { return Ok(outcome) };
        let mut opened = Vec::with_capacity(current.len());
        for pair in current {
            opened.push(match pair {
                Some(pair) => Some(self.current.pair(pair).await),
                None => None,
            });
        }
        Ok(Outcome::Failed { revision, current: opened })
    }

    async fn watch(&self, range: KeyRange, after: Revision) -> Result<WatchStream, StoreError> {
        let stream = self.inner.watch(range, after).await?;
        let current = self.current.clone();
        Ok(Box::pin(stream.then(move |item| {
            let current = current.clone();
            async move { Ok(current.item(item?).await) }
        })))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    fn size_bytes(&self) -> Option<u64> {
        self.inner.size_bytes()
    }

    fn transaction_limit(&self) -> usize {
        self.inner.transaction_limit()
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.inner.request_progress().await
    }
}
