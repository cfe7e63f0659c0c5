//! A server as a process of its own, so that it can be killed: this test's program started again in another role.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use skiff_apiserver::{ApiServer, Config, UserInfo};
use skiff_base::clock::SystemClock;
use skiff_base::ids::Ids;
use skiff_store::{EtcdOptions, EtcdStore};

use super::client::{Access, TOKEN};

const FOLDER: &str = "SKIFF_CONSISTENCY_FOLDER";
const ENDPOINT: &str = "SKIFF_CONSISTENCY_ETCD";
const PREFIX: &str = "SKIFF_CONSISTENCY_PREFIX";
const PORT: &str = "SKIFF_CONSISTENCY_PORT";

/// A server, running or not.
pub struct Server {
    folder: PathBuf,
    endpoint: String,
    prefix: String,
    port: u16,
    child: Option<Child>,
}

impl Server {
    pub fn new(folder: &Path, endpoint: &str, prefix: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(folder.join("crt"), certificate.pem()).unwrap();
        std::fs::write(folder.join("key"), key.serialize_pem()).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { folder: folder.to_owned(), endpoint: endpoint.to_owned(), prefix: prefix.to_owned(), port, child: None }
    }

    pub fn access(&self) -> Access {
        Access::new(self.port, &std::fs::read(self.folder.join("crt")).unwrap())
    }

    pub fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .env(FOLDER, &self.folder)
            .env(ENDPOINT, &self.endpoint)
            .env(PREFIX, &self.prefix)
            .env(PORT, self.port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The folder of the server that this process is, if it is one.
pub fn role() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Serves until it is killed.
pub fn run(folder: PathBuf) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(&folder));
}

async fn serve(folder: &Path) {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let text = |name: &str| std::env::var(name).unwrap();
    let options = EtcdOptions {
        root: "/registry/".into(),
        prefix: text(PREFIX).into(),
        compact_interval: None,
        ..EtcdOptions::new(vec![text(ENDPOINT)])
    };
    let port: u16 = text(PORT).parse().unwrap();
    let store = EtcdStore::open(options).await.unwrap();
    let config = Config {
        tokens: vec![(TOKEN.to_owned(), UserInfo::new("test", &["system:masters"]))],
        ..Config::new(store, SystemClock::shared(), Arc::new(Ids::random()))
    };
    let server = ApiServer::new(config).await.unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(&read("crt")).unwrap()];
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(&read("key")).unwrap())
        .unwrap();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    server.serve(listener, Arc::new(tls), std::future::pending()).await.unwrap();
}
