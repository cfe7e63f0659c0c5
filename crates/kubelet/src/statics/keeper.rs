//! Looking at the sources of static Pods again and again, and carrying out what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod};
use skiff_client::{DeleteOptions, Informer};

use super::manifest::{Source, read};
use super::{Action, FullName, full_name, plan};
use crate::admission::is_mirror;
use crate::agent::Workers;
use crate::config::{namespace, uid};
use crate::options::Options;

/// The longest manifest that a URL may give.
const MOST_BYTES: usize = 10 << 20;
/// How long a URL has to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the files are looked at: only whether they have changed, which costs next to nothing.
const LOOK: Duration = Duration::from_secs(1);
/// The pause before what failed towards the API server is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What keeps static Pods.
pub struct Keeper {
    /// The Pods of the node.
    pub workers: Arc<Workers>,
    /// Where manifests are and how often to look.
    pub options: Arc<Options>,
    /// A folder of manifests that is looked at beside the one of the options.
    pub folder: PathBuf,
    /// The node's Pods as the API server has them, mirrors among them.
    pub pods: Informer<Pod>,
    /// The Node object.
    pub api_node: Informer<ApiNode>,
}

/// Files with what changes when they are written: inode, time and size.
type Seen = BTreeMap<PathBuf, Option<(u64, i64, i64, u64)>>;

/// What the sources said last: a source that cannot be read keeps its Pods.
#[derive(Default)]
struct Said {
    files: Vec<Arc<Pod>>,
    url: Vec<Arc<Pod>>,
}

impl Keeper {
    /// The Pods that the folders hold now, with what an earlier run of the agent has told of them: what was taken stays, and
    /// what has ended or was started again and again is known. The API server's Pods have to be known before.
    pub fn first(&self) -> Vec<Arc<Pod>> {
        let mirrors: BTreeMap<FullName, Arc<Pod>> =
            self.pods.list().into_iter().filter(|pod| is_mirror(pod)).map(|pod| (full_name(&pod), pod)).collect();
        self.files().into_iter().map(|pod| super::recovered(pod, &mirrors)).collect()
    }

    fn files(&self) -> Vec<Arc<Pod>> {
        self.read_files().unwrap_or_default()
    }

    /// Keeps static Pods for ever.
    pub async fn keep(self) {
        let mut said = Said { files: self.files(), url: Vec::new() };
        self.pods.synced().await;
        let changed = self.workers.statics_changed();
        let waker = changed.clone();
        self.pods.on_change(move |change| {
            if is_mirror(change.object()) {
                waker.notify_one();
            }
        });
        let clock = self.workers.node().clock.clone();
        let (mut seen, mut asked) = (Seen::new(), None);
        loop {
            let now = self.look();
            if now != seen
                && let Some(files) = self.read_files()
            {
                said.files = files;
                seen = now;
            }
            let due = asked.is_none_or(|at| clock.monotonic() >= at + self.options.http_check_frequency.0);
            if let Some(url) = self.options.static_pod_url.as_ref().filter(|_| due) {
                asked = Some(clock.monotonic());
                match self.read_url(url).await {
                    Ok(pods) => said.url = pods,
                    Err(error) => tracing::warn!(url, error, "cannot read static Pods"),
                }
            }
            let well = self.settle(&said).await;
            tokio::select! {
                () = changed.notified() => {}
                () = tokio::time::sleep(if well { LOOK } else { RETRY }) => {}
            }
        }
    }

    /// What tells whether the files have changed.
    fn look(&self) -> Seen {
        let mut seen = Seen::new();
        for place in [Some(&self.folder), self.options.static_pod_path.as_ref()].into_iter().flatten() {
            for path in manifests(place).unwrap_or_default() {
                let meta = std::fs::metadata(&path).ok();
                let changed = meta.map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()));
                seen.insert(path, changed);
            }
        }
        seen
    }

    /// Carries out what follows; returns whether the API server took its part.
    async fn settle(&self, said: &Said) -> bool {
        let mut wanted: BTreeMap<FullName, Arc<Pod>> = BTreeMap::new();
        for pod in said.files.iter().chain(&said.url) {
            wanted.entry(full_name(pod)).or_insert_with(|| pod.clone());
        }
        let wanted: Vec<_> = wanted.into_values().collect();
        let (running, ending) = self.workers.statics();
        let mirrors: BTreeMap<FullName, Arc<Pod>> =
            self.pods.list().into_iter().filter(|pod| is_mirror(pod)).map(|pod| (full_name(&pod), pod)).collect();
        self.workers.set_mirrors(&mirrors);
        let node = self.api_node.get("", &self.workers.node().facts().name);
        let node_uid = node.as_ref().and_then(|node| node.metadata.uid.as_deref());
        let ending: BTreeSet<String> = ending;
        let mut well = true;
        for action in plan(&wanted, &running, &ending, &mirrors, node_uid) {
            well &= self.carry_out(action).await;
        }
        well
    }

    async fn carry_out(&self, action: Action) -> bool {
        let client = &self.workers.node().client;
        let done = match action {
            Action::Run(pod) => {
                tracing::info!(pod = %crate::pod::spec::pod_ref(&pod), "running a static Pod");
                self.workers.add(pod);
                // Its mirror is made in the next round, which is due at once.
                self.workers.statics_changed().notify_one();
                Ok(())
            }
            Action::End(uid) => {
                self.workers.remove(&uid);
                Ok(())
            }
            Action::Mirror(pod) => match client.create(&*pod).await {
                Err(error) if !error.is_already_exists() => Err((namespace(&pod).to_owned(), error)),
                _ => Ok(()),
            },
            Action::Unmirror((namespace, name), uid) => {
                let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(uid) };
                match client.delete::<Pod>(&namespace, &name, &options).await {
                    Err(error) if !error.is_not_found() && !error.is_conflict() => Err((namespace, error)),
                    _ => Ok(()),
                }
            }
        };
        if let Err((namespace, error)) = &done {
            tracing::warn!(namespace, %error, "cannot keep the mirror of a static Pod");
        }
        done.is_ok()
    }

    /// The Pods of all files; `None` where a folder cannot be read.
    fn read_files(&self) -> Option<Vec<Arc<Pod>>> {
        let mut pods = Vec::new();
        for place in [Some(&self.folder), self.options.static_pod_path.as_ref()].into_iter().flatten() {
            for path in manifests(place)? {
                pods.extend(self.read_file(&path));
            }
        }
        Some(pods)
    }

    fn read_file(&self, path: &Path) -> Vec<Arc<Pod>> {
        let place = path.display().to_string();
        let facts = self.workers.node().facts();
        let source = Source { kind: "file", place: &place, node: &facts.name };
        let text = std::fs::read(path).map_err(|error| error.to_string());
        match text.and_then(|text| read(&text, &source, self.workers.node().clock.now())) {
            Ok(pods) => pods.into_iter().map(Arc::new).collect(),
            Err(error) => {
                tracing::warn!(path = %place, error, "cannot use a static Pod's manifest");
                vec![]
            }
        }
    }

    async fn read_url(&self, url: &str) -> Result<Vec<Arc<Pod>>, String> {
        let text =
            tokio::time::timeout(PATIENCE, self.fetch(url)).await.map_err(|_| "it took too long".to_owned())??;
        let facts = self.workers.node().facts();
        let source = Source { kind: "http", place: url, node: &facts.name };
        let pods = read(&text, &source, self.workers.node().clock.now())?;
        Ok(pods.into_iter().map(Arc::new).collect())
    }

    async fn fetch(&self, url: &str) -> Result<Vec<u8>, String> {
        let uri: http::Uri = url.parse().map_err(|error| format!("{error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err("static Pods are read from files and from http:// only".to_owned());
        }
        let host = uri.host().ok_or("the URL names no host")?;
        let stream = crate::dial::connect(host, uri.port_u16().unwrap_or(80), PATIENCE).await?;
        let text = |error: hyper::Error| error.to_string();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        let driver = tokio::spawn(connection);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request =
            http::Request::get(path).header(http::header::HOST, uri.authority().map_or(host, |a| a.as_str()));
        for (key, values) in &self.options.static_pod_url_header {
            for value in values {
                request = request.header(key, value);
            }
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(text)?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await.map_err(|error| error.to_string())?;
        driver.abort();
        Ok(body.to_bytes().to_vec())
    }
}

/// The manifests at a path: the file itself, or those of a folder in the order of their names. One that is not there holds none.
fn manifests(place: &Path) -> Option<Vec<PathBuf>> {
    if place.is_file() {
        return Some(vec![place.to_owned()]);
    }
    let entries = match std::fs::read_dir(place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(vec![]),
        Err(error) => {
            tracing::warn!(path = %place.display(), %error, "cannot read the folder of static Pods");
            return None;
        }
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| !name.starts_with('.')));
    paths.sort();
    Some(paths)
}

/// The UID of the Pod that a static Pod's status is written to: its mirror's.
pub fn mirror_uid(mirrors: &BTreeMap<FullName, Arc<Pod>>, pod: &Pod) -> Option<String> {
    mirrors
        .get(&full_name(pod))
        .filter(|mirror| super::hash(mirror) == super::hash(pod))
        .map(|mirror| uid(mirror).to_owned())
}
