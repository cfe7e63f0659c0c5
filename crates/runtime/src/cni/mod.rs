//! The pod network by plugins of others: a chain of CNI plugins that a file of the administrator's names. What they said is
//! kept, so that it can be looked at and undone when the file says something else by then.
//! See <https://www.cni.dev/docs/spec/>.

mod chain;
mod invoke;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use skiff_cri::{CriError, CriResult, PodSandboxConfig};

use crate::network::NetworkPlugin;
use chain::{Chain, INTERFACE, Verb};

/// What files that name networks end with.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// Where a network's files are.
#[derive(Debug, Clone)]
pub struct CniConfig {
    /// The folder with the administrator's files; the first one in the order of names counts.
    pub config_folder: PathBuf,
    /// The folders with the plugins, in the order in which they are looked through.
    pub plugin_folders: Vec<PathBuf>,
    /// Where it is kept what plugins said.
    pub state_folder: PathBuf,
}

/// What is kept of a sandbox's joining.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Attachment {
    /// The chain as it was then.
    chain: Value,
    arguments: String,
    wishes: Map<String, Value>,
    /// What the last plugin said; none while they are at it.
    result: Option<Value>,
}

/// The pod network by a chain of plugins.
#[derive(Clone)]
pub struct CniNetwork(Arc<CniConfig>);

impl CniNetwork {
    /// The network that the administrator's files name.
    ///
    /// # Errors
    /// There is none, it makes no sense, or a plugin is not there.
    pub fn open(config: CniConfig) -> Result<Self, String> {
        let network = Self(Arc::new(config));
        let chain = network.chain()?;
        for kind in chain.types() {
            invoke::find(&network.0.plugin_folders, kind)?;
        }
        let failed = |error| format!("make {}: {error}", network.0.state_folder.display());
        fs::create_dir_all(&network.0.state_folder).map_err(failed)?;
        tracing::info!(name = chain.name, plugins = ?chain.types(), "the pod network is made by CNI plugins");
        Ok(network)
    }

    /// What the first file says now.
    fn chain(&self) -> Result<Chain, String> {
        let folder = &self.0.config_folder;
        let unreadable = |error: io::Error| format!("read {}: {error}", folder.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            let is_meant = file.extension().is_some_and(|ending| ENDINGS.iter().any(|own| ending == *own));
            files.extend(is_meant.then_some(file));
        }
        let file = files.into_iter().min();
        let file = file.ok_or_else(|| format!("no CNI network is configured in {}", folder.display()))?;
        let text = fs::read(&file).map_err(|error| format!("read {}: {error}", file.display()))?;
        Chain::parse(&text).map_err(|error| format!("{}: {error}", file.display()))
    }

    fn file(&self, sandbox_id: &str) -> PathBuf {
        self.0.state_folder.join(format!("{sandbox_id}.json"))
    }

    fn attachment(&self, sandbox_id: &str) -> Result<Option<Attachment>, String> {
        let file = self.file(sandbox_id);
        match fs::read(&file) {
            // What a power cut leaves of a file that was new: nothing of that time is there any more.
            Ok(bytes) if bytes.is_empty() => Ok(None),
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|error| format!("{}: {error}", file.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("read {}: {error}", file.display())),
        }
    }

    fn keep(&self, sandbox_id: &str, attachment: &Attachment) -> Result<(), String> {
        let file = self.file(sandbox_id);
        let draft = file.with_extension("draft");
        let bytes = serde_json::to_vec(attachment).map_err(|error| error.to_string())?;
        let written = fs::write(&draft, bytes).and_then(|()| fs::rename(&draft, &file));
        written.map_err(|error| format!("write {}: {error}", file.display()))
    }

    fn forget(&self, sandbox_id: &str) -> Result<(), String> {
        let file = self.file(sandbox_id);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("remove {}: {error}", file.display())),
            _ => Ok(()),
        }
    }

    fn add(&self, sandbox_id: &str, netns: &Path, config: &PodSandboxConfig) -> Result<Vec<IpAddr>, String> {
        let chain = self.chain()?;
        let wishes = chain.wishes(config)?;
        let arguments = chain::arguments(sandbox_id, config);
        let mut attachment = Attachment { chain: chain.tree(), arguments, wishes, result: None };
        // Written before it begins: whatever a plugin has done by then can be undone.
        self.keep(sandbox_id, &attachment)?;
        for (kind, request) in chain.requests(Verb::Add, &attachment.wishes) {
            let request = chain.with_result(Verb::Add, request, attachment.result.as_ref());
            let said = self.call(Verb::Add, sandbox_id, Some(netns), &attachment.arguments, &kind, &request)?;
            let result = serde_json::from_slice(&said);
            attachment.result = Some(result.map_err(|error| format!("plugin type={kind:?} said no result: {error}"))?);
        }
        self.keep(sandbox_id, &attachment)?;
        chain::addresses(attachment.result.as_ref().unwrap_or(&Value::Null))
    }

    fn del(&self, sandbox_id: &str, netns: Option<&Path>) -> Result<(), String> {
        // Nothing was begun, or all was undone.
        let Some(attachment) = self.attachment(sandbox_id)? else { return Ok(()) };
        let chain = Chain::parse(attachment.chain.to_string().as_bytes())?;
        // A shim that has ended holds no namespace any more.
        let netns = netns.filter(|netns| netns.exists());
        for (kind, request) in chain.requests(Verb::Del, &attachment.wishes) {
            let request = chain.with_result(Verb::Del, request, attachment.result.as_ref());
            self.call(Verb::Del, sandbox_id, netns, &attachment.arguments, &kind, &request)?;
        }
        self.forget(sandbox_id)
    }

    /// Looks whether a sandbox's network is as it was made.
    fn check(&self, sandbox_id: &str, netns: &Path) -> Result<(), String> {
        let Some(attachment) = self.attachment(sandbox_id)? else {
            return Err("it is not known how it joined the network".to_owned());
        };
        let chain = Chain::parse(attachment.chain.to_string().as_bytes())?;
        if !chain.knows(Verb::Check) {
            return Ok(());
        }
        for (kind, request) in chain.requests(Verb::Check, &attachment.wishes) {
            let request = chain.with_result(Verb::Check, request, attachment.result.as_ref());
            self.call(Verb::Check, sandbox_id, Some(netns), &attachment.arguments, &kind, &request)?;
        }
        Ok(())
    }

    /// Undoes the joining of sandboxes that are gone, and has plugins remove what is left of others than these. What is wrong
    /// is told in the log: who is there goes on.
    pub async fn tidy(&self, known: BTreeSet<String>) {
        let network = self.clone();
        let work = move || {
            for id in network.kept()?.iter().filter(|id| !known.contains(*id)) {
                if let Err(error) = network.del(id, None) {
                    tracing::warn!(sandbox = id, %error, "what is left of a sandbox's network stays behind");
                }
            }
            network.collect(&known)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Err(error)) => tracing::warn!(%error, "the CNI network"),
            Err(error) => tracing::warn!(%error, "the CNI network"),
            Ok(Ok(())) => {}
        }
    }

    /// Looks at the networks of sandboxes that are there, each with its namespace, and tells in the log which are not as they
    /// were made. There may be many, and plugins may be slow: nobody should wait for it.
    pub fn look_at(&self, known: &[(String, Option<PathBuf>)]) {
        for (id, netns) in known {
            // Who is gone by now has no network to look at.
            if let Some(netns) = netns.as_ref().filter(|netns| netns.exists())
                && let Err(error) = self.check(id, netns)
            {
                tracing::warn!(sandbox = id, %error, "a sandbox's network is not as it was made");
            }
        }
    }

    fn kept(&self) -> Result<Vec<String>, String> {
        let failed = |error: io::Error| format!("read {}: {error}", self.0.state_folder.display());
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.0.state_folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            ids.extend(name.strip_suffix(".json").map(str::to_owned));
        }
        Ok(ids)
    }

    fn collect(&self, ids: &BTreeSet<String>) -> Result<(), String> {
        let chain = self.chain()?;
        if !chain.knows(Verb::Gc) {
            return Ok(());
        }
        let valid: Vec<_> = ids.iter().map(|id| json!({"containerID": id, "ifname": INTERFACE})).collect();
        for (kind, mut request) in chain.requests(Verb::Gc, &Map::new()) {
            request["cni.dev/valid-attachments"] = valid.clone().into();
            self.call(Verb::Gc, "", None, "", &kind, &request)?;
        }
        Ok(())
    }

    fn status(&self) -> Result<(), String> {
        let chain = self.chain()?;
        if !chain.knows(Verb::Status) {
            return Ok(());
        }
        for (kind, request) in chain.requests(Verb::Status, &Map::new()) {
            self.call(Verb::Status, "", None, "", &kind, &request)?;
        }
        Ok(())
    }

    fn call(
        &self,
        verb: Verb,
        sandbox_id: &str,
        netns: Option<&Path>,
        arguments: &str,
        kind: &str,
        request: &Value,
    ) -> Result<Vec<u8>, String> {
        let folders = &self.0.plugin_folders;
        let program = invoke::find(folders, kind)?;
        let path = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(":");
        let environment = chain::environment(verb, sandbox_id, netns, arguments, &path);
        let said = invoke::run(&program, environment, request.to_string())?;
        if said.success { Ok(said.output) } else { Err(chain::complaint(kind, verb, &said.output, &said.status)) }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> CriResult<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| CriError::internal(error.to_string()))?;
    done.map_err(CriError::internal)
}

#[async_trait]
impl NetworkPlugin for CniNetwork {
    async fn ready(&self) -> Result<(), String> {
        let network = self.clone();
        tokio::task::spawn_blocking(move || network.status()).await.map_err(|error| error.to_string())?
    }

    async fn setup(&self, sandbox_id: &str, netns: &Path, config: &PodSandboxConfig) -> CriResult<Vec<IpAddr>> {
        let (network, id, netns, config) = (self.clone(), sandbox_id.to_owned(), netns.to_owned(), config.clone());
        blocking(move || network.add(&id, &netns, &config)).await
    }

    async fn teardown(&self, sandbox_id: &str, netns: Option<&Path>, _config: &PodSandboxConfig) -> CriResult<()> {
        let (network, id, netns) = (self.clone(), sandbox_id.to_owned(), netns.map(Path::to_owned));
        blocking(move || network.del(&id, netns.as_deref())).await
    }
}

#[cfg(test)]
mod tests;
