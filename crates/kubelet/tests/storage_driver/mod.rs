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
    #[prost(btree_map = "string, string", tag = "2")]
    attached: BTreeMap<String, String>,
    #[prost(string, tag = "4")]
    target: String,
    #[prost(message, optional, tag = "5")]
    capability: Option<Use>,
    #[prost(bool, tag = "6")]
    read_only: bool,
    #[prost(btree_map = "string, string", tag = "8")]
    context: BTreeMap<String, String>,
}

/// How a volume is used: as a device, where that is said.
#[derive(Clone, PartialEq, prost::Message)]
struct Use {
    #[prost(message, optional, tag = "1")]
    block: Option<Empty>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Expand {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "2")]
    path: String,
    #[prost(message, optional, tag = "3")]
    range: Option<Range>,
    #[prost(string, tag = "4")]
    staging: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Range {
    #[prost(int64, tag = "1")]
    required: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stats {
    #[prost(message, repeated, tag = "1")]
    usage: Vec<Usage>,
    #[prost(message, optional, tag = "2")]
    condition: Option<Condition>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Usage {
    #[prost(int64, tag = "1")]
    available: i64,
    #[prost(int64, tag = "2")]
    total: i64,
    #[prost(int64, tag = "3")]
    used: i64,
    #[prost(int32, tag = "4")]
    unit: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Condition {
    #[prost(bool, tag = "1")]
    abnormal: bool,
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
                // It stages volumes, says how full they are, and grows them.
                let all = [1, 2, 3].map(|number| Capability { rpc: Some(Number { number }) });
                Ok(Reply::message(&Capabilities { all: all.into() }))
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
                let device = asked.capability.is_some_and(|capability| capability.block.is_some());
                let how = if device { " as a device" } else { "" };
                let from = asked.attached.get("device").map(|device| format!(" from {device}")).unwrap_or_default();
                note(format!("publish {volume}{how}{from} staged={staged} ro={} {told:?}", asked.read_only));
                if device {
                    std::fs::write(&asked.target, volume).map_err(io)?;
                    return Ok(Reply::message(&Empty {}));
                }
                // Its parent is the agent's to make.
                std::fs::create_dir(&asked.target).map_err(io)?;
                std::fs::write(Path::new(&asked.target).join("data"), volume).map_err(io)?;
                Ok(Reply::message(&Empty {}))
            }
            "NodeUnpublishVolume" => {
                let asked: Info = decode(&message)?;
                note(format!("unpublish {}", if asked.first.starts_with("csi-") { "inline" } else { &asked.first }));
                let target = Path::new(&asked.second);
                let is_device = target.is_file();
                if is_device { std::fs::remove_file(target) } else { std::fs::remove_dir_all(target) }.map_err(io)?;
                Ok(Reply::message(&Empty {}))
            }
            "NodeUnstageVolume" => {
                let asked: Info = decode(&message)?;
                note(format!("unstage {}", asked.first));
                Ok(Reply::message(&Empty {}))
            }
            "NodeExpandVolume" => {
                let asked: Expand = decode(&message)?;
                let (size, staged) = (asked.range.map_or(0, |range| range.required), !asked.staging.is_empty());
                note(format!(
                    "expand {} to {size} there={} staged={staged}",
                    asked.volume,
                    Path::new(&asked.path).is_dir()
                ));
                Ok(Reply::message(&Empty {}))
            }
            "NodeGetVolumeStats" => {
                let bytes = Usage { available: 70, total: 100, used: 30, unit: 1 };
                let inodes = Usage { available: 7, total: 10, used: 3, unit: 2 };
                let condition = Some(Condition { abnormal: true });
                Ok(Reply::message(&Stats { usage: vec![bytes, inodes], condition }))
            }
            _ => Err(CriError::unimplemented(method)),
        }
    }
}
