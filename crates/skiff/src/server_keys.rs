//! What signs the cluster's certificates and tokens, on servers of several machines: it lies in the etcd that they share,
//! encrypted by a secret that the user gives to each of them, so that nobody copies files. The first server puts it there;
//! what one of them exchanges all others have soon after.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use skiff_base::clock::SharedClock;
use skiff_store::{Change, Compare, KeyRange, Outcome, Revision, Store, StoreError, Transaction, WatchItem};
use tokio::sync::Mutex;

use crate::commands::CommandError;
use crate::paths::{named, remove_file, write_atomically};
use crate::pki::{Authority, Shared, service_account_keys};

/// Where it lies; no kind of the API has keys there.
const KEY: &[u8] = b"/registry/skiff.dev/server-keys";
/// What all of a cluster's keys begin with.
const CLUSTER: &str = "/registry/";
/// How often the secret is hashed (OWASP's number for PBKDF2 with SHA-256): who tries secrets pays for each. An unoptimized
/// build takes seconds for it.
const ROUNDS: u32 = if cfg!(test) { 1000 } else { 600_000 };
const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
const OTHER_TOKEN: &str =
    "the cluster's keys in etcd cannot be read: they were written with another --server-token than this server's";
const OVERTAKEN: &str = "another server exchanged keys at the same moment; its own hold now: look, and do it again";
/// The wait after etcd could not be watched.
const RETRY: Duration = Duration::from_secs(1);

/// What this server knows of it.
pub struct ServerKeys {
    /// The etcd, opened.
    pub store: Arc<dyn Store>,
    folder: PathBuf,
    /// Whoever reads or changes what the servers agree on, in the store or the files, holds it for as long as that takes.
    known: Mutex<Known>,
}

/// What lies in the store as far as this server knows, and by what it is read.
struct Known {
    revision: Revision,
    /// The secret of all servers.
    token: Arc<str>,
    /// Nothing where the others have another secret by now.
    lock: Option<Lock>,
}

/// A key that was made from the secret, with the salt that belongs to it.
#[derive(Clone)]
struct Lock {
    salt: Vec<u8>,
    key: Arc<LessSafeKey>,
}

/// As it lies in the store.
#[derive(Serialize, Deserialize)]
struct Sealed {
    /// Of the secret's hash, in base64, as is all else.
    salt: String,
    nonce: String,
    /// A [`Shared`] as JSON, encrypted by AES-256-GCM.
    keys: String,
}

impl Lock {
    /// It takes a while, on a thread of its own.
    async fn new(token: Arc<str>, salt: Vec<u8>) -> Result<Self, CommandError> {
        let rounds = std::num::NonZero::new(ROUNDS).ok_or("the secret is not hashed at all")?;
        let hash = move || {
            let mut key = [0; KEY_BYTES];
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, token.as_bytes(), &mut key);
            (salt, key)
        };
        let (salt, key) = tokio::task::spawn_blocking(hash).await?;
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| "the secret's hash has a wrong length")?;
        Ok(Self { salt, key: Arc::new(LessSafeKey::new(key)) })
    }

    async fn fresh(token: Arc<str>) -> Result<Self, CommandError> {
        Self::new(token, random::<SALT_BYTES>()?.to_vec()).await
    }

    fn seal(&self, keys: &Shared) -> Result<Bytes, CommandError> {
        let nonce = random::<NONCE_LEN>()?;
        let mut text = serde_json::to_vec(keys)?;
        let sealed = self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(KEY), &mut text);
        sealed.map_err(|_| "the cluster's keys cannot be encrypted")?;
        let [salt, nonce, keys] = [&self.salt[..], &nonce, &text].map(|bytes| STANDARD.encode(bytes));
        Ok(serde_json::to_vec(&Sealed { salt, nonce, keys })?.into())
    }

    fn open(&self, sealed: &Sealed) -> Result<Shared, CommandError> {
        let nonce = Nonce::try_assume_unique_for_key(&STANDARD.decode(&sealed.nonce)?);
        let nonce = nonce.map_err(|_| "the cluster's keys in etcd were written by another version")?;
        let mut text = STANDARD.decode(&sealed.keys)?;
        let opened = self.key.open_in_place(nonce, Aad::from(KEY), &mut text);
        let opened = opened.map_err(|_| OTHER_TOKEN)?;
        Ok(serde_json::from_slice(opened)?)
    }
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], CommandError> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gives no random numbers")?;
    Ok(bytes)
}

/// What a server does where its own keys and those in the store may differ.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It has what the others have.
    Nothing,
    /// It goes by what the others have.
    Take,
    /// It tells the others of what it has.
    Give,
    /// It has keys that the others never had.
    Refuse,
}

/// What is to be done by what is here, what was here when all agreed last, and what the others have.
fn step(here: &Shared, agreed: Option<&Shared>, there: &Shared) -> Step {
    match agreed {
        _ if here == there => Step::Nothing,
        _ if !here.has_authority() => Step::Take,
        Some(agreed) if agreed == here => Step::Take,
        // Exchanged while the server was down.
        Some(agreed) if agreed == there => Step::Give,
        _ => Step::Refuse,
    }
}

impl ServerKeys {
    /// Sees to it that this server has the same keys as the others of its cluster. The first one makes them.
    ///
    /// # Errors
    /// The store does not answer, holds keys of another secret or a cluster without them, or this server has others.
    pub async fn agree(
        store: Arc<dyn Store>,
        folder: &Path,
        token: &str,
        clock: &SharedClock,
    ) -> Result<Self, CommandError> {
        finish_taking(folder)?;
        let token: Arc<str> = token.into();
        let known = |revision, lock| Known { revision, token: token.clone(), lock: Some(lock) };
        loop {
            // In this order: the keys are a cluster's first object.
            let is_used = !store.range(&KeyRange::prefix(CLUSTER), None, 1).await?.items.is_empty();
            let (_, found) = store.get(KEY, None).await?;
            let here = Shared::read(folder)?;
            let Some(found) = found else {
                if is_used && !here.has_authority() {
                    return Err(
                        "that etcd holds a cluster whose servers have told nothing of its keys: start them with \
                                this --server-token first, or copy their keys"
                            .into(),
                    );
                }
                let keys = if here.has_authority() { here } else { first_keys(folder, clock)? };
                let lock = Lock::fresh(token.clone()).await?;
                if let Some(revision) = put(&*store, 0, lock.seal(&keys)?).await? {
                    take(folder, &keys)?;
                    return Ok(Self::new(store, folder, known(revision, lock)));
                }
                // Another server was first.
                continue;
            };
            let sealed: Sealed = serde_json::from_slice(&found.value)?;
            let lock = Lock::new(token.clone(), STANDARD.decode(&sealed.salt)?).await?;
            let there = lock.open(&sealed)?;
            let mut revision = found.mod_revision;
            match step(&here, agreed(folder)?.as_ref(), &there) {
                Step::Nothing | Step::Take => take(folder, &there)?,
                Step::Give => match put(&*store, revision, lock.seal(&here)?).await? {
                    Some(later) => {
                        take(folder, &here)?;
                        revision = later;
                    }
                    None => continue,
                },
                Step::Refuse => {
                    return Err(format!(
                        "the keys in {} are not those of the other servers of the cluster: move them away, and this server \
                         takes theirs",
                        folder.display()
                    )
                    .into());
                }
            }
            return Ok(Self::new(store, folder, known(revision, lock)));
        }
    }

    fn new(store: Arc<dyn Store>, folder: &Path, known: Known) -> Self {
        Self { store, folder: folder.to_owned(), known: Mutex::new(known) }
    }

    /// Tells the other servers of what was exchanged here.
    ///
    /// # Errors
    /// The store does not answer, or another server exchanged something at the same moment.
    pub async fn tell(&self) -> Result<(), CommandError> {
        self.tell_with(&mut *self.known.lock().await).await
    }

    async fn tell_with(&self, known: &mut Known) -> Result<(), CommandError> {
        let here = Shared::read(&self.folder)?;
        if agreed(&self.folder)?.as_ref() == Some(&here) {
            return Ok(());
        }
        let sealed = known.lock.as_ref().ok_or(OTHER_TOKEN)?.seal(&here)?;
        known.revision = put(&*self.store, known.revision, sealed).await?.ok_or(OVERTAKEN)?;
        Ok(take(&self.folder, &here)?)
    }

    /// Puts another secret into the place of the one in use. The other servers read nothing more until they have it too.
    ///
    /// # Errors
    /// As [`Self::tell`], and the other servers have another secret by now.
    pub async fn exchange_token(&self, token: &str) -> Result<(), CommandError> {
        let known = &mut *self.known.lock().await;
        self.tell_with(known).await?;
        known.lock.as_ref().ok_or(OTHER_TOKEN)?;
        let token: Arc<str> = token.into();
        let lock = Lock::fresh(token.clone()).await?;
        let sealed = lock.seal(&Shared::read(&self.folder)?)?;
        let revision = put(&*self.store, known.revision, sealed).await?.ok_or(OVERTAKEN)?;
        *known = Known { revision, token, lock: Some(lock) };
        Ok(())
    }

    /// Waits until another server has exchanged something; it is in the files then.
    pub async fn news(&self) {
        loop {
            match self.wait_for_news().await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "cannot follow what other servers make of the cluster's keys"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn wait_for_news(&self) -> Result<(), CommandError> {
        let (now, found) = self.store.get(KEY, None).await?;
        if let Some(found) = found
            && self.hear(found.mod_revision, &found.value).await?
        {
            return Ok(());
        }
        let end = [KEY, b"\0"].concat().into();
        let mut events = self.store.watch(KeyRange { start: KEY.into(), end }, now).await?;
        while let Some(item) = events.next().await {
            let WatchItem::Events(events) = item? else { continue };
            let values = events.into_iter().filter_map(|event| Some((event.revision, event.value?.value)));
            for (revision, value) in values {
                if self.hear(revision, &value).await? {
                    return Ok(());
                }
            }
        }
        Err("the watch ended".into())
    }

    /// Goes by what the store says; tells whether that is news.
    async fn hear(&self, revision: Revision, value: &[u8]) -> Result<bool, CommandError> {
        let known = &mut *self.known.lock().await;
        if revision <= known.revision {
            return Ok(false);
        }
        let sealed: Sealed = serde_json::from_slice(value)?;
        let salt = STANDARD.decode(&sealed.salt)?;
        let lock = match &known.lock {
            Some(lock) if lock.salt == salt => lock.clone(),
            _ => Lock::new(known.token.clone(), salt).await?,
        };
        let there = lock.open(&sealed).inspect_err(|_| {
            // To be said once: it stays so until somebody writes again, or this server is started with the secret.
            (known.revision, known.lock) = (revision, None);
        })?;
        let is_news = Shared::read(&self.folder)? != there;
        take(&self.folder, &there)?;
        (known.revision, known.lock) = (revision, Some(lock));
        Ok(is_news)
    }
}

/// Writes it where nothing else was written since; gives the revision, if so.
async fn put(store: &dyn Store, known: Revision, value: Bytes) -> Result<Option<Revision>, StoreError> {
    let compares = vec![Compare { key: KEY.into(), mod_revision: known }];
    let changes = vec![Change::Put { key: KEY.into(), value }];
    match store.commit(Transaction { compares, changes, ..Transaction::default() }).await? {
        Outcome::Committed(revision) => Ok(Some(revision)),
        Outcome::Failed { .. } => Ok(None),
    }
}

/// New keys, beside the folder of those in use, until all agree that they are the cluster's.
fn first_keys(folder: &Path, clock: &SharedClock) -> io::Result<Shared> {
    let proposed = folder.join("proposed");
    fs::create_dir_all(&proposed).map_err(|error| named(&proposed, "make", error))?;
    Authority::load_or_create(&proposed, clock.clone())?;
    Authority::load_or_create_front_proxy(&proposed, clock.clone())?;
    service_account_keys(&proposed)?;
    let keys = Shared::read(&proposed)?;
    fs::remove_dir_all(&proposed).map_err(|error| named(&proposed, "remove", error))?;
    Ok(keys)
}

/// Which keys all servers had last, as far as this one knows.
fn agreed_file(folder: &Path) -> PathBuf {
    folder.join("agreed.json")
}

/// Keys that are being taken over.
fn coming_file(folder: &Path) -> PathBuf {
    folder.join("coming.json")
}

fn agreed(folder: &Path) -> io::Result<Option<Shared>> {
    read(&agreed_file(folder))
}

fn read(file: &Path) -> io::Result<Option<Shared>> {
    match fs::read(file) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|error| named(file, "read", io::Error::other(error)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(file, "read", error)),
    }
}

/// Makes these the keys of this server, on which all agree; all of them, also where it is broken off.
fn take(folder: &Path, keys: &Shared) -> io::Result<()> {
    if agreed(folder)?.as_ref() == Some(keys) && Shared::read(folder)? == *keys {
        return Ok(());
    }
    let text = serde_json::to_vec(keys).map_err(io::Error::other)?;
    write_atomically(&coming_file(folder), &text, 0o600)?;
    finish_taking(folder)
}

fn finish_taking(folder: &Path) -> io::Result<()> {
    let coming = coming_file(folder);
    if let Some(keys) = read(&coming)? {
        keys.write(folder)?;
        fs::rename(&coming, agreed_file(folder)).map_err(|error| named(&coming, "rename", error))?;
    }
    remove_file(&coming)
}

#[cfg(test)]
mod tests;
