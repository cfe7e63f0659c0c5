//! Fetching an image from a registry: what its name leads to, its configuration and its layers, each verified. Layers
//! are unpacked as they arrive. Errors are worded as containerd words them, because they are shown in Pods.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use oci_client::client::{BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use skiff_cri::{AuthConfig, CriError, CriResult, PullProgress};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::content::Staged;
use super::digest::Digest;
use super::manifest::{ACCEPTED, ConfigFile, Descriptor, Document, Manifest, select};
use super::reference::{Reference, Version};
use super::registries::{Endpoint, Registries};
use super::{Found, ImageRecord, ImageStore, blocking, parse};

/// How long a connection may take to stand (containerd's).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a request is tried that failed for a reason that may pass; the kubelet tries the whole again later.
const ATTEMPTS: u32 = 4;
/// The wait before the second attempt; it doubles.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// Pieces of a blob between the network and the disk.
const CHUNKS_AHEAD: usize = 8;
/// An index may lead to an index, but not for ever.
const INDEX_DEPTH: usize = 3;

/// How far a pull has come; called often.
pub type OnProgress<'a> = &'a (dyn Fn(PullProgress) + Send + Sync);

impl ImageStore {
    /// Fetches an image and unpacks it. What is there already is not fetched again.
    pub async fn pull(
        &self,
        name: &str,
        auth: Option<&AuthConfig>,
        progress: OnProgress<'_>,
    ) -> CriResult<ImageRecord> {
        let reference = parse(name)?;
        let failed = |mut error: CriError| {
            error.message = format!("failed to pull and unpack image \"{reference}\": {}", error.message);
            error
        };
        let _one = self.inner.locks.lock(&reference.to_string()).await;
        let pulled = {
            let _adding = self.inner.adding.read().await;
            self.pull_from_any(&reference, auth, progress).await
        };
        self.sweep_if_wanted().await;
        pulled.map_err(failed)
    }

    /// Tries the mirrors and then the registry. What one of them has given already is not fetched from the next.
    async fn pull_from_any(
        &self,
        reference: &Reference,
        auth: Option<&AuthConfig>,
        progress: OnProgress<'_>,
    ) -> CriResult<ImageRecord> {
        let mut failed = CriError::internal("no registry was asked");
        for endpoint in self.registries()?.endpoints(reference, &self.inner.options.insecure_registries) {
            let pulled = async { Pull::new(self, reference, &endpoint, auth, progress)?.run().await }.await;
            match pulled {
                Ok(record) => return Ok(record),
                Err(error) => {
                    if !endpoint.is_origin {
                        tracing::info!(mirror = endpoint.reference.domain(), %error, "a mirror does not have the image");
                    }
                    failed = error;
                }
            }
        }
        Err(failed)
    }

    /// What the administrator's file says of registries now; it may change at any time.
    pub(super) fn registries(&self) -> CriResult<Registries> {
        let Some(path) = &self.inner.options.registries else { return Ok(Registries::default()) };
        let wrong = |why: String| CriError::failed_precondition(format!("{}: {why}", path.display()));
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Registries::default()),
            Err(error) => Err(wrong(error.to_string())),
            Ok(text) => Registries::parse(&text).map_err(wrong),
        }
    }
}

/// A client for an endpoint, and how it logs in there. Credentials of a request go to no mirror.
pub(super) fn connect(
    endpoint: &Endpoint,
    auth: Option<&AuthConfig>,
    silence: Duration,
) -> CriResult<(oci_client::Client, RegistryAuth)> {
    let mut authorities = Vec::new();
    if let Some(file) = &endpoint.tls.ca_file {
        let data = std::fs::read(file)
            .map_err(|error| CriError::failed_precondition(format!("{}: {error}", file.display())))?;
        authorities.push(Certificate { encoding: CertificateEncoding::Pem, data });
    }
    let config = ClientConfig {
        protocol: if endpoint.plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
        accept_invalid_certificates: endpoint.tls.insecure_skip_verify,
        extra_root_certificates: authorities,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(silence),
        user_agent: concat!("skiff/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    // Where the program has chosen its cryptography already, that one stays.
    rustls::crypto::ring::default_provider().install_default().unwrap_or_default();
    let client = oci_client::Client::try_from(config)
        .map_err(|error| CriError::internal(format!("preparing TLS: {}", with_causes(&error))))?;
    let given = auth.filter(|_| endpoint.is_origin);
    Ok((client, credentials(given.or(endpoint.auth.as_ref()))?))
}

struct Pull<'a> {
    store: &'a ImageStore,
    /// The name that was asked for.
    reference: &'a Reference,
    /// What the image is called where it is fetched from.
    remote: &'a Reference,
    client: oci_client::Client,
    auth: RegistryAuth,
    scheme: &'static str,
    progress: OnProgress<'a>,
    done_bytes: AtomicU64,
    done_layers: AtomicU32,
}

impl<'a> Pull<'a> {
    fn new(
        store: &'a ImageStore,
        reference: &'a Reference,
        endpoint: &'a Endpoint,
        auth: Option<&AuthConfig>,
        progress: OnProgress<'a>,
    ) -> CriResult<Self> {
        let (client, auth) = connect(endpoint, auth, store.inner.options.silence)?;
        Ok(Self {
            store,
            reference,
            remote: &endpoint.reference,
            client,
            auth,
            scheme: if endpoint.plain_http { "http" } else { "https" },
            progress,
            done_bytes: AtomicU64::new(0),
            done_layers: AtomicU32::new(0),
        })
    }

    async fn run(&self) -> CriResult<ImageRecord> {
        self.tell("Resolving", None);
        let (manifests, manifest, manifest_bytes) = self.resolve().await?;
        let target = manifests.first().cloned().ok_or_else(|| CriError::internal("no manifest was found"))?;
        self.fetch(&manifest.config, None).await?;
        let content = self.store.inner.content.read(&manifest.config.digest)?;
        let config = ConfigFile::parse(&content).map_err(CriError::invalid_argument)?;
        let found = Found { manifests, manifest, manifest_bytes, config };
        found.check()?;
        self.layers(&found).await?;
        self.tell("Done", Some(&found.manifest));
        let tags = match self.reference.version() {
            Version::Tag(_) => vec![self.reference.to_string()],
            Version::Digest(_) => Vec::new(),
        };
        self.store.finish(found.record(tags, vec![self.reference.at(&target).to_string()])).await
    }

    fn tell(&self, phase: &'static str, manifest: Option<&Manifest>) {
        (self.progress)(PullProgress {
            phase,
            done_bytes: self.done_bytes.load(Ordering::Relaxed),
            total_bytes: manifest.map_or(0, |manifest| manifest.layers.iter().map(|layer| layer.size).sum()),
            done_layers: self.done_layers.load(Ordering::Relaxed),
            total_layers: manifest.map_or(0, |manifest| u32::try_from(manifest.layers.len()).unwrap_or(u32::MAX)),
        });
    }

    /// Follows the name to a manifest for this machine; returns all documents on the way, the name's own first.
    async fn resolve(&self) -> CriResult<(Vec<Digest>, Manifest, u64)> {
        let failed = |mut error: CriError| {
            error.message = format!("failed to resolve reference \"{}\": {}", self.remote, error.message);
            error
        };
        let mut wanted = self.remote.clone();
        let mut passed = Vec::new();
        while passed.len() < INDEX_DEPTH {
            let bytes =
                self.document(&wanted).await.map_err(|error| if passed.is_empty() { failed(error) } else { error })?;
            let digest = Digest::of(&bytes);
            if let Version::Digest(expected) = wanted.version()
                && *expected != digest
            {
                let message = format!("unexpected commit digest {digest}, expected {expected}: failed precondition");
                return Err(CriError::failed_precondition(message));
            }
            let document = Document::parse(&bytes).map_err(CriError::invalid_argument)?;
            self.store.inner.content.put(&bytes)?;
            passed.push(digest);
            match document {
                Document::Image(manifest) => return Ok((passed, manifest, bytes.len() as u64)),
                Document::Index(entries) => {
                    let none = || CriError::not_found("no match for platform in manifest: not found");
                    wanted = self.remote.at(&select(&entries).ok_or_else(none)?.digest);
                }
            }
        }
        Err(CriError::invalid_argument("the index leads to too many others"))
    }

    async fn document(&self, reference: &Reference) -> CriResult<Bytes> {
        let name = oci_name(reference);
        let mut attempts = Attempts::default();
        loop {
            match self.client.pull_manifest_raw(&name, &self.auth, ACCEPTED).await {
                Ok((bytes, _)) => return Ok(bytes),
                Err(error) => attempts.after(self.explain(reference, error)).await?,
            }
        }
    }

    /// Fetches the layers, some at a time, and unpacks each as soon as it and those below are there.
    async fn layers(&self, found: &Found) -> CriResult<()> {
        let layers = &found.manifest.layers;
        let chain = found.config.chain_ids();
        let (arrived, arrivals): (Vec<_>, Vec<_>) = layers.iter().map(|_| oneshot::channel::<()>()).unzip();
        let places = Semaphore::new(self.store.inner.options.downloads.max(1));
        let fetches = FuturesUnordered::new();
        for ((layer, chain), arrived) in layers.iter().zip(&chain).zip(arrived) {
            fetches.push(self.arrive(layer, chain, &found.manifest, &places, arrived));
        }
        let fetching = fetches.try_collect::<()>();
        let unpacking = async {
            for (number, arrival) in arrivals.into_iter().enumerate() {
                arrival.await.map_err(|_| CriError::canceled("the download ended"))?;
                self.store.unpack(layers[number].digest.clone(), &found.config, number).await?;
                self.done_layers.fetch_add(1, Ordering::Relaxed);
                self.tell("Extracting", Some(&found.manifest));
            }
            Ok(())
        };
        futures_util::future::try_join(fetching, unpacking).await.map(|_| ())
    }

    /// Sees to it that a layer is here or not needed, and says so.
    async fn arrive(
        &self,
        layer: &Descriptor,
        chain: &Digest,
        manifest: &Manifest,
        places: &Semaphore,
        arrived: oneshot::Sender<()>,
    ) -> CriResult<()> {
        let _place = places.acquire().await.map_err(|_| CriError::canceled("the download ended"))?;
        if self.store.inner.is_unpacked(chain) {
            self.advance(layer.size, Some(manifest));
        } else {
            self.fetch(layer, Some(manifest)).await?;
        }
        // The other half is gone only when unpacking has failed, and then the whole has.
        arrived.send(()).unwrap_or_default();
        Ok(())
    }

    /// Counts the bytes of layers; the configuration is none.
    fn advance(&self, bytes: u64, manifest: Option<&Manifest>) {
        if manifest.is_some() {
            self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.tell("Downloading", manifest);
        }
    }

    fn recede(&self, bytes: u64, manifest: Option<&Manifest>) {
        if manifest.is_some() {
            self.done_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Fetches a blob that is not here yet; `manifest` is given for its layers.
    async fn fetch(&self, blob: &Descriptor, manifest: Option<&Manifest>) -> CriResult<()> {
        let _one = self.store.inner.locks.lock(&blob.digest.to_string()).await;
        if self.store.inner.content.has(&blob.digest) {
            self.advance(blob.size, manifest);
            return Ok(());
        }
        let (mut attempts, mut begun) = (Attempts::default(), None);
        while let Err(failed) = self.fetch_once(blob, manifest, &mut begun).await {
            attempts.after(failed).await.map_err(|mut error| {
                error.message = format!("failed to copy: {}", error.message);
                error
            })?;
        }
        Ok(())
    }

    /// One attempt; what an attempt has got before it breaks off is left in `begun` for the next.
    async fn fetch_once(
        &self,
        blob: &Descriptor,
        manifest: Option<&Manifest>,
        begun: &mut Option<Staged>,
    ) -> Result<(), Failed> {
        let failed = |error| self.explain_blob(&blob.digest, error);
        let name = oci_name(&self.remote.at(&blob.digest));
        let descriptor = oci_client::manifest::OciDescriptor {
            digest: blob.digest.to_string(),
            size: i64::try_from(blob.size).unwrap_or(i64::MAX),
            ..Default::default()
        };
        self.client.store_auth_if_needed(name.resolve_registry(), &self.auth).await;
        let offset = begun.as_ref().map_or(0, Staged::size_bytes);
        let answer = if offset > 0 {
            self.client.pull_blob_stream_partial(&name, &descriptor, offset, None).await.map_err(failed)?
        } else {
            BlobResponse::Full(self.client.pull_blob_stream(&name, &descriptor).await.map_err(failed)?)
        };
        let mut stream = match answer {
            BlobResponse::Partial(rest) => rest.stream,
            BlobResponse::Full(whole) => {
                // The registry begins anew, and so must the file.
                if let Some(begun) = begun.take() {
                    self.recede(offset, manifest);
                    begun.discard();
                }
                whole.stream
            }
        };
        let (chunks, mut written) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
        let (inner, resumed) = (self.store.inner.clone(), begun.take());
        let writing = tokio::task::spawn_blocking(move || {
            let mut staged = match resumed {
                Some(staged) => staged,
                None => inner.content.stage()?,
            };
            while let Some(chunk) = written.blocking_recv() {
                if let Err(error) = staged.write(&chunk) {
                    staged.discard();
                    return Err(error);
                }
            }
            Ok(staged)
        });
        let mut broken = None;
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) => {
                    let length = chunk.len() as u64;
                    if chunks.send(chunk).await.is_err() {
                        // The disk has failed, and tells below.
                        break;
                    }
                    self.advance(length, manifest);
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        drop(chunks);
        let staged = writing.await.map_err(|error| Failed::last(CriError::internal(error.to_string())))?;
        let staged = staged.map_err(Failed::last)?;
        // A wrong digest is found once more, and worded, when the blob is put in its place.
        if let Some(error) = broken.filter(|error| !is_digest_mismatch(error)) {
            *begun = Some(staged);
            let message = format!("httpReadSeeker: failed open: {}", with_causes(&error));
            return Err(Failed::again(CriError::unknown(message)));
        }
        let (inner, digest) = (self.store.inner.clone(), blob.digest.clone());
        blocking(move || inner.content.commit(staged, &digest)).await.map_err(Failed::last)
    }

    /// Words what a registry answered to a request for a manifest.
    fn explain(&self, reference: &Reference, error: OciDistributionError) -> Failed {
        let version = match reference.version() {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
        };
        let host = oci_name(reference).resolve_registry().to_owned();
        let url = format!("{}://{host}/v2/{}/manifests/{version}", self.scheme, reference.path());
        self.word(&format!("{reference}"), "Head", &url, error)
    }

    fn explain_blob(&self, digest: &Digest, error: OciDistributionError) -> Failed {
        let host = oci_name(self.remote).resolve_registry().to_owned();
        let url = format!("{}://{host}/v2/{}/blobs/{digest}", self.scheme, self.remote.path());
        self.word(&format!("httpReadSeeker: failed open: content at {url}"), "Get", &url, error)
    }

    fn word(&self, what: &str, method: &str, url: &str, error: OciDistributionError) -> Failed {
        let not_found = || Failed::last(CriError::not_found(format!("{what}: not found")));
        let status = |code: u16| format!("unexpected status from {} request to {url}: {code}", method.to_uppercase());
        match &error {
            OciDistributionError::ImageManifestNotFoundError(_) => not_found(),
            OciDistributionError::ServerError { code: 404, .. } => not_found(),
            OciDistributionError::UnauthorizedError { .. } => self.unauthorized(status(401)),
            OciDistributionError::ServerError { code, .. } => {
                let error = CriError::unknown(status(*code));
                if *code >= 500 || *code == 429 { Failed::again(error) } else { Failed::last(error) }
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let is = |code: &[OciErrorCode]| envelope.errors.iter().any(|error| code.contains(&error.code));
                use OciErrorCode::{
                    BlobUnknown, Denied, ManifestUnknown, NameUnknown, NotFound, Toomanyrequests, Unauthorized,
                };
                if is(&[ManifestUnknown, NameUnknown, NotFound, BlobUnknown]) {
                    not_found()
                } else if is(&[Unauthorized, Denied]) {
                    self.unauthorized(with_causes(&error))
                } else if is(&[Toomanyrequests]) {
                    Failed::again(CriError::unknown(status(429)))
                } else {
                    Failed::last(CriError::unknown(with_causes(&error)))
                }
            }
            OciDistributionError::RequestError(cause) => {
                let (text, passing) = network(cause, oci_name(self.remote).resolve_registry());
                let error = CriError::unknown(format!("failed to do request: {method} \"{url}\": {text}"));
                if passing { Failed::again(error) } else { Failed::last(error) }
            }
            OciDistributionError::DigestError(error) => {
                Failed::last(CriError::failed_precondition(format!("{}: failed precondition", with_causes(error))))
            }
            _ => Failed::last(CriError::unknown(with_causes(&error))),
        }
    }

    fn unauthorized(&self, status: String) -> Failed {
        let reason = match self.auth {
            RegistryAuth::Anonymous => "authorization failed: no basic auth credentials".to_owned(),
            _ => status,
        };
        let message = format!("pull access denied, repository does not exist or may require authorization: {reason}");
        Failed::last(CriError::unknown(message))
    }
}

/// The name as the client library has it.
pub(super) fn oci_name(reference: &Reference) -> oci_client::Reference {
    let (domain, path) = (reference.domain().to_owned(), reference.path().to_owned());
    match reference.version() {
        Version::Tag(tag) => oci_client::Reference::with_tag(domain, path, tag.clone()),
        Version::Digest(digest) => oci_client::Reference::with_digest(domain, path, digest.to_string()),
    }
}

fn credentials(auth: Option<&AuthConfig>) -> CriResult<RegistryAuth> {
    use base64::Engine;
    let Some(auth) = auth else { return Ok(RegistryAuth::Anonymous) };
    if !auth.registry_token.is_empty() {
        return Ok(RegistryAuth::Bearer(auth.registry_token.clone()));
    }
    if !auth.username.is_empty() {
        return Ok(RegistryAuth::Basic(auth.username.clone(), auth.password.clone()));
    }
    if !auth.auth.is_empty() {
        let invalid = || CriError::invalid_argument("invalid auth config: auth is not base64 of user:password");
        let plain = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).map_err(|_| invalid())?;
        let plain = String::from_utf8(plain).map_err(|_| invalid())?;
        let (user, password) = plain.split_once(':').ok_or_else(invalid)?;
        return Ok(RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()));
    }
    if !auth.identity_token.is_empty() {
        return Ok(RegistryAuth::Bearer(auth.identity_token.clone()));
    }
    Ok(RegistryAuth::Anonymous)
}

/// A failed attempt, and whether another may succeed.
struct Failed {
    error: CriError,
    again: bool,
}

impl Failed {
    fn again(error: CriError) -> Self {
        Self { error, again: true }
    }

    fn last(error: CriError) -> Self {
        Self { error, again: false }
    }
}

/// The attempts at one request.
struct Attempts {
    left: u32,
    delay: Duration,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { left: ATTEMPTS - 1, delay: FIRST_DELAY }
    }
}

impl Attempts {
    /// Waits for the next attempt; the error where there is none.
    async fn after(&mut self, failed: Failed) -> CriResult<()> {
        if !failed.again || self.left == 0 {
            return Err(failed.error);
        }
        tracing::debug!(error = %failed.error, "a registry is asked again");
        tokio::time::sleep(self.delay).await;
        self.left -= 1;
        self.delay *= 2;
        Ok(())
    }
}

/// What went wrong below HTTP, as Go words it, and whether it may pass.
fn network(error: &(dyn Error + 'static), host: &str) -> (String, bool) {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            match error.kind() {
                io::ErrorKind::ConnectionRefused => {
                    return (format!("dial tcp {host}: connect: connection refused"), false);
                }
                io::ErrorKind::NetworkUnreachable => {
                    return (format!("dial tcp {host}: connect: network is unreachable"), false);
                }
                io::ErrorKind::HostUnreachable => {
                    return (format!("dial tcp {host}: connect: no route to host"), false);
                }
                io::ErrorKind::TimedOut => return (format!("dial tcp {host}: i/o timeout"), true),
                _ if error.to_string().contains("failed to lookup address") => {
                    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
                    return (format!("dial tcp: lookup {name}: no such host"), false);
                }
                _ => {}
            }
        }
        cause = error.source();
    }
    (with_causes(error), true)
}

fn is_digest_mismatch(error: &io::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<oci_client::errors::DigestError>() {
            return true;
        }
        let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        cause = inner.map(|inner| inner as &(dyn Error + 'static)).or(error.source());
    }
    false
}

/// An error with what it stems from.
pub(super) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}
