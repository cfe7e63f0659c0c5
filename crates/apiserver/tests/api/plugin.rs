//! A KMS plugin of the tests' own: a real gRPC server on a socket, whose keys XOR what they are given with their name. It
//! reads messages as the protocol's documentation has them, not as the server declares them: else a wrong number would
//! stand on both sides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use skiff_grpc::{GrpcError, GrpcResult, Handler, Reply, decode, serve};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    healthz: String,
    #[prost(string, tag = "3")]
    key_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Plain {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Cipher {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
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

/// What the plugin says, and was asked.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Its present key.
    pub key_id: String,
    /// `ok`, or what is wrong.
    pub healthz: String,
    /// Whether it decrypts nothing.
    pub is_closed: bool,
    encrypted: usize,
    decrypted: usize,
}

struct Answering(Arc<Mutex<Facts>>);

fn mixed(key_id: &str, bytes: &[u8]) -> Vec<u8> {
    bytes.iter().zip(key_id.bytes().cycle()).map(|(byte, key)| byte ^ key ^ 0x5a).collect()
}

#[async_trait]
impl Handler for Answering {
    async fn call(&self, service: &str, method: &str, message: Bytes) -> GrpcResult<Reply> {
        assert_eq!(service, "v2.KeyManagementService");
        let mut facts = self.0.lock();
        Ok(match method {
            "Status" => Reply::message(&Status {
                version: "v2".into(),
                healthz: facts.healthz.clone(),
                key_id: facts.key_id.clone(),
            }),
            "Encrypt" => {
                facts.encrypted += 1;
                let request: Plain = decode(&message)?;
                Reply::message(&Cipher {
                    ciphertext: mixed(&facts.key_id, &request.plaintext),
                    key_id: facts.key_id.clone(),
                    annotations: BTreeMap::from([("kind.plugin.test".to_owned(), b"xor".to_vec())]),
                })
            }
            "Decrypt" => {
                facts.decrypted += 1;
                if facts.is_closed {
                    return Err(GrpcError::unavailable("the vault is closed"));
                }
                let request: DecryptRequest = decode(&message)?;
                if request.annotations.get("kind.plugin.test").map(Vec::as_slice) != Some(b"xor")
                    || request.uid.is_empty()
                {
                    return Err(GrpcError::invalid_argument("what was told with the key is not told again"));
                }
                Reply::message(&Plain { plaintext: mixed(&request.key_id, &request.ciphertext) })
            }
            other => return Err(GrpcError::unimplemented(format!("unknown method {other}"))),
        })
    }
}

/// The plugin.
pub struct Plugin {
    socket: PathBuf,
    facts: Arc<Mutex<Facts>>,
    serving: JoinHandle<()>,
}

impl Plugin {
    /// A plugin on a socket in `folder` that is well.
    pub fn start(folder: &Path) -> Self {
        let facts = Facts { key_id: "1".into(), healthz: "ok".into(), ..Facts::default() };
        let (socket, facts) = (folder.join("kms.sock"), Arc::new(Mutex::new(facts)));
        let listener = UnixListener::bind(&socket).expect("a socket");
        let serving = tokio::spawn(serve(listener, Arc::new(Answering(facts.clone()))));
        Self { socket, facts, serving }
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Changes what it says.
    pub fn set(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock());
    }

    /// How often it encrypted and decrypted.
    pub fn asked(&self) -> (usize, usize) {
        let facts = self.facts.lock();
        (facts.encrypted, facts.decrypted)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
