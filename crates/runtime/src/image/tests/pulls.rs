//! Pulls from a registry that the test serves on the loopback.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use skiff_cri::{AuthConfig, ImageService, ImageSpec, ImageStatusRequest, PullImageRequest, PullProgress};

use super::*;

/// What the registry answers, by path; and what it was asked.
#[derive(Default)]
struct Content {
    documents: BTreeMap<String, (String, Vec<u8>)>,
    /// `user:password` that has to be given.
    password: Option<String>,
    /// The first answers to these paths are errors of this kind.
    failures: BTreeMap<String, (u32, u16)>,
    requests: Vec<String>,
}

struct Registry {
    address: SocketAddr,
    content: Arc<Mutex<Content>>,
    server: tokio::task::JoinHandle<()>,
}

impl Registry {
    async fn serve(content: Content) -> Self {
        let content = Arc::new(Mutex::new(content));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = content.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let content = served.clone();
                let service = hyper::service::service_fn(move |request| {
                    let answer = answer(&mut content.lock(), &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let served = server.serve_connection(TokioIo::new(stream), service);
                    // The client may hang up whenever it likes.
                    served.await.unwrap_or_default();
                });
            }
        });
        Self { address, content, server }
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    fn asked(&self, what: &str) -> usize {
        self.content.lock().requests.iter().filter(|request| request.contains(what)).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn answer(content: &mut Content, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    use base64::Engine;
    let path = request.uri().path().to_owned();
    content.requests.push(format!("{} {path}", request.method()));
    let plain = |status: StatusCode| Response::builder().status(status).body(Full::default()).unwrap();
    if let Some(password) = &content.password {
        let expected = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(password));
        if request.headers().get("authorization").is_none_or(|given| given.as_bytes() != expected.as_bytes()) {
            let error = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            let answer = Response::builder().status(401).header("www-authenticate", "Basic realm=\"test\"");
            return answer.body(Full::from(error)).unwrap();
        }
    }
    if path == "/v2/" || path == "/v2" {
        return plain(StatusCode::OK);
    }
    if let Some((left, status)) = content.failures.get_mut(&path)
        && *left > 0
    {
        *left -= 1;
        return plain(StatusCode::from_u16(*status).unwrap());
    }
    match content.documents.get(&path) {
        Some((media_type, body)) if request.method() == Method::GET => {
            let answer = Response::builder().header("content-type", media_type.as_str());
            answer.body(Full::from(body.clone())).unwrap()
        }
        _ => {
            let error = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            Response::builder().status(404).body(Full::from(error)).unwrap()
        }
    }
}

impl Content {
    fn with(sample: &Sample) -> Self {
        let mut content = Self::default();
        content.blob(&sample.config);
        for (layer, _) in &sample.layers {
            content.blob(layer);
        }
        content.manifest("v1", "application/vnd.oci.image.manifest.v1+json", &sample.manifest);
        content
    }

    fn blob(&mut self, blob: &[u8]) {
        let path = format!("/v2/hello/blobs/{}", Digest::of(blob));
        self.documents.insert(path, ("application/octet-stream".into(), blob.to_vec()));
    }

    fn manifest(&mut self, tag: &str, media_type: &str, manifest: &[u8]) {
        for name in [tag.to_owned(), Digest::of(manifest).to_string()] {
            self.documents.insert(format!("/v2/hello/manifests/{name}"), (media_type.into(), manifest.to_vec()));
        }
    }
}

async fn pull(store: &ImageStore, name: &str) -> Result<ImageRecord, String> {
    let port = |text: String| match name.split_once('/') {
        Some((host, _)) if host.contains(':') => text.replace(host, "HOST"),
        _ => text,
    };
    store.pull(name, None, &|_| {}).await.map_err(|error| port(error.to_string()))
}

#[tokio::test]
async fn an_image_is_pulled_once_and_told_of() {
    let folder = Folder::new("pull");
    let (store, sample) = (open(&folder), Sample::hello());
    let registry = Registry::serve(Content::with(&sample)).await;
    let told = Mutex::new(Vec::new());
    let name = registry.name("hello:v1");
    let image = store.pull(&name, None, &|progress| told.lock().push(progress)).await.unwrap();
    assert_eq!(image.id, sample.id());
    assert_eq!(image.tags.join(" "), name);
    assert_eq!(image.digests, [registry.name(&format!("hello@{}", Digest::of(&sample.manifest)))]);
    assert_eq!(contents(&store.rootfs(&name).unwrap(), "etc/a"), ["1", "2"]);
    let told = told.into_inner();
    let bytes = sample.layers.iter().map(|(layer, _)| layer.len() as u64).sum();
    let last = PullProgress { phase: "Done", done_bytes: bytes, total_bytes: bytes, done_layers: 3, total_layers: 3 };
    assert_eq!((told[0].phase, told.last()), ("Resolving", Some(&last)));
    store.pull(&image.digests[0], None, &|_| {}).await.unwrap();
    assert_eq!(registry.asked("/blobs/"), 4, "nothing is fetched again");
    let request = ImageStatusRequest { image: Some(ImageSpec { image: name, ..ImageSpec::default() }), verbose: false };
    let status = store.image_status(request).await.unwrap().image.unwrap();
    assert_eq!((status.id, status.uid.unwrap().value), (sample.id().to_string(), 1000));
}

#[tokio::test]
async fn many_pulls_of_one_image_fetch_it_once() {
    let folder = Folder::new("many");
    let (store, sample) = (open(&folder), Sample::hello());
    let mut content = Content::with(&sample);
    content.manifest("v2", "application/vnd.oci.image.manifest.v1+json", &sample.manifest);
    let registry = Registry::serve(content).await;
    let names: Vec<_> = (0..6).map(|number| registry.name(&format!("hello:v{}", 1 + number % 2))).collect();
    let pulls = names.iter().map(|name| pull(&store, name));
    for pulled in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap().id, sample.id());
    }
    assert_eq!((registry.asked("/blobs/"), store.images().len()), (4, 1));
    assert_eq!(store.images()[0].tags.len(), 2);
}

#[tokio::test]
async fn an_index_leads_to_this_machines_image() {
    let folder = Folder::new("index");
    let (store, sample) = (open(&folder), Sample::hello());
    let (arch, variant) = platform::candidates(std::env::consts::ARCH)[0];
    let mut mine = pointer("application/vnd.oci.image.manifest.v1+json", &sample.manifest);
    mine["platform"] = json!({ "os": "linux", "architecture": arch, "variant": variant });
    let index = |entries: Value| json!({ "schemaVersion": 2, "manifests": entries }).to_string().into_bytes();
    let (good, bad) = (index(json!([mine])), index(json!([])));
    let mut content = Content::with(&sample);
    content.manifest("multi", "application/vnd.oci.image.index.v1+json", &good);
    content.manifest("none", "application/vnd.docker.distribution.manifest.list.v2+json", &bad);
    let registry = Registry::serve(content).await;
    let image = pull(&store, &registry.name("hello:multi")).await.unwrap();
    assert_eq!(image.digests, [registry.name(&format!("hello@{}", Digest::of(&good)))]);
    let error = pull(&store, &registry.name("hello:none")).await.unwrap_err();
    assert_eq!(
        error,
        "rpc error: code = NotFound desc = failed to pull and unpack image \"HOST/hello:none\": no match for platform in manifest: not found"
    );
}

#[tokio::test]
async fn errors_are_worded_as_containerd_words_them() {
    let folder = Folder::new("errors");
    let (store, sample) = (open(&folder), Sample::hello());
    let registry = Registry::serve(Content::with(&sample)).await;
    let check = async |name: &str, expected: &str| assert_eq!(pull(&store, name).await.unwrap_err(), expected);
    check(
        &registry.name("nope:v1"),
        "rpc error: code = NotFound desc = failed to pull and unpack image \"HOST/nope:v1\": failed to resolve reference \"HOST/nope:v1\": HOST/nope:v1: not found",
    )
    .await;
    check(
        "a//b",
        "rpc error: code = InvalidArgument desc = failed to parse image reference \"a//b\": invalid reference format",
    )
    .await;
    registry.content.lock().password = Some("me:secret".into());
    check(
        &registry.name("hello:v1"),
        "rpc error: code = Unknown desc = failed to pull and unpack image \"HOST/hello:v1\": failed to resolve reference \"HOST/hello:v1\": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials",
    )
    .await;
    let name = registry.name("hello:v1");
    let auth =
        |password: &str| AuthConfig { username: "me".into(), password: password.into(), ..AuthConfig::default() };
    let wrong = store.pull(&name, Some(&auth("wrong")), &|_| {}).await.unwrap_err().message;
    assert!(wrong.contains("pull access denied, repository does not exist or may require authorization: "), "{wrong}");
    let spec = Some(ImageSpec { image: name.clone(), ..ImageSpec::default() });
    let request = PullImageRequest { image: spec, auth: Some(auth("secret")), sandbox_config: None };
    assert_eq!(store.pull_image(request).await.unwrap().image_ref, sample.id().to_string());
    let encoded = AuthConfig { auth: "bWU6c2VjcmV0".into(), ..AuthConfig::default() };
    store.pull(&name, Some(&encoded), &|_| {}).await.unwrap();
    drop(registry);
}

#[tokio::test]
async fn a_registry_that_is_down_is_named() {
    let folder = Folder::new("down");
    let store = open(&folder);
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = pull(&store, &format!("{address}/hello:v1")).await.unwrap_err();
    assert_eq!(
        error,
        "rpc error: code = Unknown desc = failed to pull and unpack image \"HOST/hello:v1\": failed to resolve reference \"HOST/hello:v1\": failed to do request: Head \"http://HOST/v2/hello/manifests/v1\": dial tcp HOST: connect: connection refused"
    );
}

#[tokio::test]
async fn wrong_content_is_never_kept() {
    let folder = Folder::new("mismatch");
    let (store, sample) = (open(&folder), Sample::hello());
    let mut content = Content::with(&sample);
    let layer = Digest::of(&sample.layers[0].0);
    content.documents.insert(format!("/v2/hello/blobs/{layer}"), ("application/octet-stream".into(), b"evil".to_vec()));
    let claimed = Digest::of(b"another manifest");
    let manifest = content.documents["/v2/hello/manifests/v1"].clone();
    content.documents.insert(format!("/v2/hello/manifests/{claimed}"), manifest);
    let registry = Registry::serve(content).await;
    let error = pull(&store, &registry.name("hello:v1")).await.unwrap_err();
    let expected = format!(
        "rpc error: code = FailedPrecondition desc = failed to pull and unpack image \"HOST/hello:v1\": failed to copy: unexpected commit digest {}, expected {layer}: failed precondition",
        Digest::of(b"evil")
    );
    assert_eq!(error, expected);
    assert!(!store.inner.content.has(&layer) && !store.inner.content.has(&Digest::of(b"evil")));
    let error = pull(&store, &registry.name(&format!("hello@{claimed}"))).await.unwrap_err();
    assert!(error.contains("code = FailedPrecondition"), "{error}");
    assert!(store.images().is_empty());
}

#[tokio::test]
async fn passing_failures_are_tried_again() {
    let folder = Folder::new("retry");
    let (store, sample) = (open(&folder), Sample::hello());
    let mut content = Content::with(&sample);
    content.failures.insert("/v2/hello/manifests/v1".into(), (1, 503));
    content.failures.insert(format!("/v2/hello/blobs/{}", sample.id()), (2, 500));
    let registry = Registry::serve(content).await;
    assert_eq!(pull(&store, &registry.name("hello:v1")).await.unwrap().id, sample.id());
    assert_eq!(registry.asked("/manifests/v1"), 2);
}

fn open_with(folder: &Folder, registries: &str) -> ImageStore {
    let file = folder.path().join("registries.yaml");
    std::fs::write(&file, registries).unwrap();
    let options = ImageStoreOptions { registries: Some(file), ..ImageStoreOptions::default() };
    ImageStore::open(folder.path().join("images"), options).unwrap()
}

#[tokio::test]
async fn mirrors_are_asked_first_and_get_no_credentials_of_others() {
    let folder = Folder::new("mirror");
    let sample = Sample::hello();
    let mut guarded = Content::with(&sample);
    guarded.password = Some("me:secret".into());
    let (empty, guarded, open) = (
        Registry::serve(Content::default()).await,
        Registry::serve(guarded).await,
        Registry::serve(Content::with(&sample)).await,
    );
    let mirrors = |endpoints: &[&Registry], rest: &str| {
        let list: Vec<String> = endpoints.iter().map(|registry| format!("'http://{}'", registry.address)).collect();
        format!(
            "mirrors: {{far.example: {{endpoint: [{}], rewrite: {{'^deep/(.*)$': '$1'}}}}}}\n{rest}",
            list.join(", ")
        )
    };
    let store = open_with(&folder, &mirrors(&[&empty, &guarded, &open], ""));
    let auth = AuthConfig { username: "me".into(), password: "secret".into(), ..AuthConfig::default() };
    let image = store.pull("far.example/deep/hello:v1", Some(&auth), &|_| {}).await.unwrap();
    assert_eq!(image.tags, ["far.example/deep/hello:v1"]);
    assert_eq!((empty.asked("/blobs/"), guarded.asked("/blobs/"), open.asked("/blobs/")), (0, 0, 4));
    let login = format!("configs: {{'{}': {{auth: {{username: me, password: secret}}}}}}", guarded.address);
    std::fs::write(folder.path().join("registries.yaml"), mirrors(&[&guarded], &login)).unwrap();
    store.remove("far.example/deep/hello:v1").await.unwrap();
    store.pull("far.example/deep/hello:v1", None, &|_| {}).await.unwrap();
    assert_eq!(guarded.asked("/blobs/"), 4, "the file is read anew");
    std::fs::write(folder.path().join("registries.yaml"), "mirror: {}").unwrap();
    let wrong = store.pull("far.example/a:v1", None, &|_| {}).await.unwrap_err();
    assert!(wrong.message.contains("registries.yaml") && wrong.message.contains("mirror"), "{wrong}");
}

/// What a registry does in the middle of an answer.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// It hangs up.
    BreaksOff,
    /// It says no more, and the connection stands.
    Stalls,
}

/// Serves one image, and does so in the middle of the first `times` answers with this blob.
fn faulty_registry(
    content: Content,
    blob: String,
    fault: Fault,
    mut times: usize,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (address, ranges) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let seen = ranges.clone();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)) else { continue };
            let range =
                head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
            let (kind, body) = content.documents.get(path).cloned().unwrap_or_default();
            let from = range.as_ref().map_or(0, |range| range.trim_end_matches('-').parse::<usize>().unwrap());
            let fails = path.ends_with(&blob) && times > 0;
            times -= usize::from(fails);
            let sent = if fails { &body[from..from.max(body.len() / 2)] } else { &body[from..] };
            let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
            seen.lock().extend(range);
            let length = body.len() - from;
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent)).unwrap_or_default();
            if fails && fault == Fault::Stalls {
                silent.push(stream);
            }
        }
    });
    (address, ranges)
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let folder = Folder::new("resume");
    let (store, sample) = (open(&folder), Sample::hello());
    let layer = Digest::of(&sample.layers[0].0).to_string();
    let (address, ranges) = faulty_registry(Content::with(&sample), layer, Fault::BreaksOff, 1);
    let image = store.pull(&format!("{address}/hello:v1"), None, &|_| {}).await.unwrap();
    assert_eq!(image.id, sample.id());
    assert_eq!(*ranges.lock(), [format!("{}-", sample.layers[0].0.len() / 2)]);
}

#[tokio::test]
async fn a_registry_that_stalls_is_asked_again_and_given_up_in_the_end() {
    let folder = Folder::new("stall");
    let sample = Sample::hello();
    let layer = Digest::of(&sample.layers[0].0).to_string();
    let options = ImageStoreOptions { silence: Duration::from_millis(200), ..ImageStoreOptions::default() };
    let store = ImageStore::open(folder.path().join("images"), options).unwrap();
    let (address, _) = faulty_registry(Content::with(&sample), layer.clone(), Fault::Stalls, usize::MAX);
    let error = store.pull(&format!("{address}/hello:v1"), None, &|_| {}).await.unwrap_err();
    assert!(error.message.contains("failed to copy: httpReadSeeker: failed open:"), "{error}");
    assert!(store.images().is_empty());
    let (address, ranges) = faulty_registry(Content::with(&sample), layer, Fault::Stalls, 1);
    let image = store.pull(&format!("{address}/hello:v1"), None, &|_| {}).await.unwrap();
    assert_eq!(image.id, sample.id());
    assert_eq!(*ranges.lock(), [format!("{}-", sample.layers[0].0.len() / 2)]);
}

#[tokio::test]
async fn layers_that_were_cut_off_before_they_were_named_are_refused() {
    let tar = tar_of(&[("bin/hello", &[7; 4096]), ("etc/a", b"1")]);
    let cut = |packed: Vec<u8>, by: usize| packed[..packed.len() - by].to_vec();
    for (name, layer) in [
        ("gzip", cut(gzip(&tar), 20)),
        ("zstd", cut(zstd::encode_all(tar.as_slice(), 1).unwrap(), 10)),
        ("tar", cut(tar.clone(), 3000)),
        ("nothing", Vec::new()),
    ] {
        // The registry and the manifest agree on the short layer; only its content tells.
        let folder = Folder::new(&format!("cut-{name}"));
        let (store, mut sample) = (open(&folder), Sample::new("cut", std::slice::from_ref(&tar)));
        sample.layers[0].0 = layer;
        let mut manifest: serde_json::Value = serde_json::from_slice(&sample.manifest).unwrap();
        manifest["layers"] =
            serde_json::json!([pointer("application/vnd.oci.image.layer.v1.tar", &sample.layers[0].0)]);
        sample.manifest = manifest.to_string().into_bytes();
        let registry = Registry::serve(Content::with(&sample)).await;
        let error = pull(&store, &registry.name("hello:v1")).await.unwrap_err();
        assert!(error.contains("failed to extract layer") || error.contains("wrong diff id"), "{name}: {error}");
        assert!(store.images().is_empty(), "{name}");
        let left = |part: &str| std::fs::read_dir(folder.path().join("images").join(part)).map_or(0, Iterator::count);
        assert_eq!((left("snapshots"), left("staging")), (0, 0), "{name}");
    }
}
