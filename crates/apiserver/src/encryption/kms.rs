//! A KMS plugin of version 2 behind its socket: it is asked for its state from time to time, encrypts a new seed whenever
//! it has another key, and decrypts the seeds of what is read. One seed serves all writes until then, so that a write
//! asks nobody. Times are upstream's: once the plugin is away, writes go on for three minutes, reads of known seeds for ever.
//! See <https://kubernetes.io/docs/tasks/administer-cluster/kms-provider/>.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use skiff_base::Timestamp;
use skiff_base::clock::{SharedClock, rfc3339};
use skiff_base::ids::Ids;
use skiff_base::remembered::Remembered;
use skiff_grpc::{Channel, GrpcResult};

use crate::encryption::ciphers::{self, Cipher, Result};
use crate::encryption::config::Plugin;
use crate::encryption::envelope::{EncryptedObject, SEED, check_key_id, hash_of};
use crate::encryption::figures::{self, Way};
use crate::encryption::providers::{Fault, Opened};

/// How often a plugin that is well is asked.
const POLL_WELL: Duration = Duration::from_secs(60);
/// How often one that is not is.
const POLL_ILL: Duration = Duration::from_secs(10);
/// How long a good answer holds for those who look at the server's health.
const WELL_FOR: Duration = Duration::from_secs(20);
/// How long a bad one does.
const ILL_FOR: Duration = Duration::from_secs(3);
/// How long a seed is written with after the plugin was last well.
const WRITE_FOR: Duration = Duration::from_secs(180);
/// How long a seed that the plugin did not decrypt is not asked for again: many values have one seed, and each would wait
/// as long for a plugin that hangs.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// How many such seeds are known.
const MOST_REFUSED: usize = 1024;
/// How long a seed that nobody used is known.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
const SERVICE: &str = "/v2.KeyManagementService/";

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    healthz: String,
    #[prost(string, tag = "3")]
    key_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
}

/// A plugin.
pub struct Kms {
    plugin: Plugin,
    channel: Channel,
    clock: SharedClock,
    ids: Ids,
    /// Held while the plugin is asked, so that many askers are one.
    asking: tokio::sync::Mutex<Asked>,
    outcome: Mutex<Result<()>>,
    state: Mutex<Option<State>>,
    sources: Mutex<HashMap<Vec<u8>, Source>>,
    refused: Remembered<Vec<u8>, Fault>,
}

/// What was last heard of it.
#[derive(Default)]
struct Asked {
    at: Option<Duration>,
    version: String,
}

/// What is written with.
#[derive(Clone)]
struct State {
    /// All but the value.
    head: EncryptedObject,
    cipher: Arc<Cipher>,
    expires: (Duration, Timestamp),
}

/// A decrypted source, and when it was last used.
struct Source {
    cipher: Arc<Cipher>,
    used: Duration,
}

impl Kms {
    /// The plugin at its endpoint; nobody is asked yet.
    ///
    /// # Errors
    /// It is none that can be spoken to.
    pub fn new(plugin: Plugin, clock: SharedClock) -> Result<Self> {
        let channel = Channel::new(&plugin.endpoint)
            .map_err(|error| format!("could not configure KMSv2-Plugin's probe {:?}, error: {error}", plugin.name))?;
        let unasked = format!("kmsv2 Provider {} is not healthy, error: it was not asked yet", plugin.name);
        Ok(Self {
            plugin,
            channel,
            clock,
            ids: Ids::random(),
            asking: tokio::sync::Mutex::default(),
            outcome: Mutex::new(Err(unasked)),
            state: Mutex::default(),
            sources: Mutex::default(),
            refused: Remembered::new(MOST_REFUSED),
        })
    }

    /// How long a call may take.
    pub fn timeout(&self) -> Duration {
        self.plugin.timeout
    }

    /// What was last heard of its health.
    pub fn health(&self) -> Result<()> {
        self.outcome.lock().clone()
    }

    /// Asks for its state, unless that was just done, and for a new seed where it has another key.
    ///
    /// # Errors
    /// It is not well.
    pub async fn check(&self) -> Result<()> {
        let mut asked = self.asking.lock().await;
        let known = self.health();
        let holds_for = if known.is_ok() { WELL_FOR } else { ILL_FOR };
        let now = self.clock.monotonic();
        if asked.at.is_some_and(|at| now.saturating_sub(at) < holds_for) {
            return known;
        }
        let outcome = self.ask(&mut asked.version).await;
        asked.at = Some(self.clock.monotonic());
        self.outcome.lock().clone_from(&outcome);
        outcome
    }

    async fn ask(&self, version: &mut String) -> Result<()> {
        let name = &self.plugin.name;
        let status: StatusResponse = self.call("Status", &StatusRequest {}).await.map_err(|error| {
            format!("failed to perform status section of the healthz check for KMS Provider {name}, error: {error}")
        })?;
        let mut faults = Vec::new();
        if status.healthz != "ok" {
            faults.push(format!("got unexpected healthz status: {}", status.healthz));
        }
        if !matches!(status.version.as_str(), "v2" | "v2beta1") {
            faults.push(format!("expected KMSv2 API version v2, got {}", status.version));
        } else if version.is_empty() {
            version.clone_from(&status.version);
        } else if *version != status.version {
            faults.push(format!(
                "KMSv2 API version should not change after the initial status response version {version}, got {}",
                status.version
            ));
        }
        let hash = hash_of(&status.key_id);
        if let Err((word, why)) = check_key_id(&status.key_id) {
            figures::key_refused(name, word);
            faults.push(format!("got invalid KMSv2 KeyID hash {hash:?}: {why}"));
        } else {
            figures::key_named(name, &hash, self.clock.now());
            faults.extend(self.follow(&status.key_id).await.err());
        }
        match faults.as_slice() {
            [] => Ok(()),
            [one] => Err(format!("kmsv2 Provider {name} is not healthy, error: {one}")),
            many => Err(format!("kmsv2 Provider {name} is not healthy, error: [{}]", many.join(", "))),
        }
    }

    /// Lets writes go on for a while, with a new seed where the plugin has another key.
    async fn follow(&self, key_id: &str) -> Result<()> {
        let soon = self.clock.now().checked_add(WRITE_FOR).unwrap_or(Timestamp::MAX);
        let expires = (self.clock.monotonic() + WRITE_FOR, soon);
        if let Some(state) = self.state.lock().as_mut().filter(|state| state.head.key_id == key_id) {
            state.expires = expires;
            return Ok(());
        }
        let uid = self.ids.uid();
        let made = self.seed(&uid).await;
        let encrypted_by = made.as_ref().map_or("", |(head, _)| head.key_id.as_str()).to_owned();
        let why = match made {
            Ok((head, cipher)) if head.key_id == key_id => {
                let (identity, cipher) = (head.identity(), Arc::new(cipher));
                self.remember(identity, cipher.clone());
                *self.state.lock() = Some(State { head, cipher, expires });
                return Ok(());
            }
            Ok(_) => "<nil>".to_owned(),
            Err(why) => why,
        };
        let (own, until) = self.state.lock().as_ref().map_or_else(
            || (String::new(), "0001-01-01T00:00:00Z".to_owned()),
            |state| (hash_of(&state.head.key_id), rfc3339(state.expires.1)),
        );
        Err(format!(
            "failed to rotate DEK uid={uid:?}, useSeed=true, errState=<nil>, errGen={why}, statusKeyIDHash={:?}, \
             encryptKeyIDHash={:?}, stateKeyIDHash={own:?}, expirationTimestamp={until}",
            hash_of(key_id),
            hash_of(&encrypted_by),
        ))
    }

    /// A new seed, and how the plugin encrypted it.
    async fn seed(&self, uid: &str) -> Result<(EncryptedObject, Cipher)> {
        let began = self.clock.monotonic();
        let seed = ciphers::random::<{ ciphers::SEED_BYTES }>();
        figures::generated(self.clock.monotonic().saturating_sub(began), seed.is_ok());
        let seed = seed?;
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: uid.to_owned() };
        let answer: EncryptResponse =
            self.call("Encrypt", &request).await.map_err(|error| format!("failed to encrypt DEK, error: {error}"))?;
        let head = EncryptedObject {
            data: Vec::new(),
            key_id: answer.key_id,
            source: answer.ciphertext,
            annotations: answer.annotations,
            source_type: SEED,
        };
        head.check_head()?;
        Ok((head, Cipher::seed(&seed)?))
    }

    async fn call<A: Message + Default>(&self, method: &str, question: &impl Message) -> GrpcResult<A> {
        let (path, began) = (format!("{SERVICE}{method}"), self.clock.monotonic());
        let answer = self.channel.unary(&path, question, Some(self.plugin.timeout)).await;
        let status = answer.as_ref().err().map_or("OK".to_owned(), |error| format!("{:?}", error.code));
        figures::called(&self.plugin.name, &path, &status, self.clock.monotonic().saturating_sub(began));
        answer
    }

    /// Asks again and again, for as long as anybody needs the plugin.
    pub async fn poll(kms: Weak<Self>) {
        loop {
            let Some(pause) = kms.upgrade().map(|kms| if kms.health().is_ok() { POLL_WELL } else { POLL_ILL }) else {
                return;
            };
            tokio::time::sleep(pause).await;
            let Some(kms) = kms.upgrade() else { return };
            if let Err(why) = kms.check().await {
                tracing::error!(why, "kms plugin failed health check probe");
            }
        }
    }

    /// Appends the encrypted value to `out`.
    ///
    /// # Errors
    /// The plugin never was well, or is away for too long.
    pub fn seal(&self, value: &[u8], place: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let state = self.state.lock().clone().ok_or("got unexpected nil transformer")?;
        let hash = hash_of(&state.head.key_id);
        if self.clock.monotonic() > state.expires.0 {
            let (until, now) = (rfc3339(state.expires.1), rfc3339(self.clock.now()));
            let text =
                format!("encryptedDEKSource with keyID hash {hash:?} expired at {until} (current time is {now})");
            return Err(text.into());
        }
        let mut object = state.head;
        state.cipher.seal(value, place, &mut object.data)?;
        figures::key_used(Way::ToStorage, &self.plugin.name, &hash, self.clock.now());
        object.encode(out).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// The value again; the plugin is asked where the seed is not known.
    ///
    /// # Errors
    /// It was changed, or the plugin does not know the seed.
    pub async fn open(&self, sealed: &[u8], place: &[u8]) -> Result<Opened, Fault> {
        let object = EncryptedObject::decode(sealed).map_err(|error| format!("proto: cannot parse: {error}"))?;
        object.check()?;
        let identity = object.identity();
        let cipher = match self.known(&identity) {
            Some(cipher) => cipher,
            None => self.decrypted(&object, identity).await?,
        };
        figures::key_used(Way::FromStorage, &self.plugin.name, &hash_of(&object.key_id), self.clock.now());
        let value = cipher.open(&object.data, place)?.into();
        let state = self.state.lock();
        let is_current =
            |state: &State| state.head.key_id == object.key_id && state.head.source_type == object.source_type;
        Ok(Opened { value, is_stale: !state.as_ref().is_some_and(is_current) })
    }

    async fn decrypted(&self, object: &EncryptedObject, identity: Vec<u8>) -> Result<Arc<Cipher>, Fault> {
        if let Some(fault) = self.refused.get(&identity, self.clock.monotonic()) {
            return Err(fault);
        }
        figures::missed();
        let request = DecryptRequest {
            ciphertext: object.source.clone(),
            uid: self.ids.uid(),
            key_id: object.key_id.clone(),
            annotations: object.annotations.clone(),
        };
        let answer: DecryptResponse = self.call("Decrypt", &request).await.map_err(|error| {
            let fault = Fault::of_call("failed to decrypt DEK", &error);
            self.refused.put(identity.clone(), fault.clone(), self.clock.monotonic(), REFUSED_FOR);
            fault
        })?;
        let cipher = Arc::new(object.cipher(&answer.plaintext)?);
        self.remember(identity, cipher.clone());
        Ok(cipher)
    }

    fn known(&self, identity: &[u8]) -> Option<Arc<Cipher>> {
        let now = self.clock.monotonic();
        let mut sources = self.sources.lock();
        let source = sources.get_mut(identity)?;
        source.used = now;
        Some(source.cipher.clone())
    }

    fn remember(&self, identity: Vec<u8>, cipher: Arc<Cipher>) {
        let now = self.clock.monotonic();
        let mut sources = self.sources.lock();
        sources.retain(|_, source| now.saturating_sub(source.used) < KNOWN_FOR);
        sources.insert(identity, Source { cipher, used: now });
        figures::sources(&self.plugin.name, sources.len());
    }
}
