//! A storage driver of the tests' own: it writes down what it is asked, and makes and removes folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use skiff_cri::grpc::{Handler, Reply, decode, serve};
use skiff_cri::{CriError, CriResult};
use tokio::net::UnixListener;

/// The driver's name.
pub const NAME: &str = "trial.example.com";

/// All that is told here has text, number and map fields at these places; each message has some of them.
#[derive(Clone, PartialEq, prost::Message)]
struct Info {
    #[prost(string, tag = "1")]
    first: String,
    #[prost(string, tag = "2")]
    second: String,
    #[prost(string, tag = "3")]
    third: String,
    #[prost(string, repeated, tag = "4")]
    versions: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NodeInfo {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(int64, tag = "2")]
    most: i64,
    #[prost(message, optional, tag = "3")]
    topology: Option<Segments>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Segments {
    #[prost(btree_map = "string, string", tag = "1")]
    segments: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Capabilities {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Capability>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Capability {
    #[prost(message, optional, tag = "1")]
    rpc: Option<Number>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(int32, tag = "1")]
    number: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stage {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "3")]
    staging: String,
    #[prost(btree_map = "string, string", tag = "5")]
    secrets: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Publish {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "3")]
    staging: String,
    #[prost(string, tag = "4")]
    target: String,
    #[prost(bool, tag = "6")]
    read_only: bool,
    #[prost(btree_map = "string, string", tag = "8")]
    context: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(bool, tag = "1")]
    registered: bool,
    #[prost(string, tag = "2")]
    error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

/// The driver, running.
pub struct Driver {
    calls: Arc<Mutex<Vec<String>>>,
    served: Vec<tokio::task::JoinHandle<()>>,
}

struct Service {
    endpoint: PathBuf,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Driver {
    /// Serves the driver and lets it register in the agent's folder.
    pub fn start(agent: &Path) -> Self {
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let (folder, registry) = (agent.join("plugins/trial"), agent.join("plugins_registry"));
        for folder in [&folder, &registry] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        let endpoint = folder.join("csi.sock");
        let serve_at = |socket: PathBuf| {
            let service = Service { endpoint: endpoint.clone(), calls: calls.clone() };
            tokio::spawn(serve(UnixListener::bind(socket).expect("a socket"), Arc::new(service)))
        };
        let served = vec![serve_at(endpoint.clone()), serve_at(registry.join("trial-reg.sock"))];
        Self { calls, served }
    }

    /// What it was asked, without what differs from run to run.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("nobody panicked").clone()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.served.iter().for_each(|task| task.abort());
    }
}

#[async_trait::async_trait]
impl Handler for Service {
    async fn call(&self, _: &str, method: &str, message: Bytes) -> CriResult<Reply> {
        let note = |call: String| self.calls.lock().expect("nobody panicked").push(call);
        let io = |error: std::io::Error| CriError::internal(error.to_string());
        match method {
            "GetInfo" => Ok(Reply::message(&Info {
                first: "CSIPlugin".into(),
                second: NAME.into(),
                third: self.endpoint.display().to_string(),
                versions: vec!["1.0.0".into()],
            })),
            "NotifyRegistrationStatus" => {
                let status: Status = decode(&message)?;
                note(format!("registered: {} {}", status.registered, status.error));
                Ok(Reply::message(&Empty {}))
            }
            "NodeGetInfo" => {
                let segments = [("example.com/zone".to_owned(), "a".to_owned())].into();
                let topology = Some(Segments { segments });
                Ok(Reply::message(&NodeInfo { node: "here".into(), most: 3, topology }))
            }
            "NodeGetCapabilities" => {
                let stages = Capability { rpc: Some(Number { number: 1 }) };
                Ok(Reply::message(&Capabilities { all: vec![stages] }))
            }
            "NodeStageVolume" => {
                let asked: Stage = decode(&message)?;
                note(format!("stage {} {:?} {}", asked.volume, asked.secrets, Path::new(&asked.staging).is_dir()));
                Ok(Reply::message(&Empty {}))
            }
            "NodePublishVolume" => {
                let asked: Publish = decode(&message)?;
                let volume = if asked.volume.starts_with("csi-") { "inline" } else { &asked.volume };
                let mut told = asked.context;
                told.remove("csi.storage.k8s.io/pod.uid");
                let staged = !asked.staging.is_empty();
                note(format!("publish {volume} staged={staged} ro={} {told:?}", asked.read_only));
                // Its parent is the agent's to make.
                std::fs::create_dir(&asked.target).map_err(io)?;
                std::fs::write(Path::new(&asked.target).join("data"), volume).map_err(io)?;
                Ok(Reply::message(&Empty {}))
            }
            "NodeUnpublishVolume" => {
                let asked: Info = decode(&message)?;
                note(format!("unpublish {}", if asked.first.starts_with("csi-") { "inline" } else { &asked.first }));
                std::fs::remove_dir_all(&asked.second).map_err(io)?;
                Ok(Reply::message(&Empty {}))
            }
            "NodeUnstageVolume" => {
                let asked: Info = decode(&message)?;
                note(format!("unstage {}", asked.first));
                Ok(Reply::message(&Empty {}))
            }
            _ => Err(CriError::unimplemented(method)),
        }
    }
}
