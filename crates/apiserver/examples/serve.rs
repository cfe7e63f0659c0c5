//! The API server alone, on loopback, with a store in a folder (or in an etcd) and a kubeconfig for an administrator:
//! `cargo run -p skiff-apiserver --example serve -- FOLDER PORT [ETCD,...]`. For trials with kubectl and for measuring.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use skiff_apiserver::authorities::ClientAuthorities;
use skiff_apiserver::config::ServiceAccountKeys;
use skiff_apiserver::{ApiServer, Config, VersionInfo, trust};
use skiff_base::clock::SystemClock;
use skiff_base::ids::Ids;
use skiff_store::{EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore, Store, slice};

/// The allocator of `skiff`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Fallible<T> = Result<T, Box<dyn Error>>;

struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

fn issue(issuer: &Issuer<'_, KeyPair>, name: &str, group: Option<&str>) -> Fallible<Identity> {
    let mut params = CertificateParams::new(vec!["localhost".into()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse()?));
    let key = KeyPair::generate()?;
    Ok(Identity { certificate: params.signed_by(&key, issuer)?, key })
}

/// As the binary has it (`server.rs`).
const TURNS_BETWEEN_NEWS: u32 = 3;

fn main() -> Fallible<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.on_thread_park(slice::shorten_once);
    runtime.event_interval(TURNS_BETWEEN_NEWS).enable_all().build()?.block_on(serve())
}

async fn serve() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("FOLDER is missing")?;
    let port: u16 = arguments.next().ok_or("PORT is missing")?.parse()?;
    let clock = SystemClock::shared();
    let began = clock.monotonic();
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "trial-ca");
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);
    let (serving, admin) = (issue(&issuer, "kube-apiserver", None)?, issue(&issuer, "admin", Some("system:masters"))?);
    std::fs::create_dir_all(&folder)?;
    let store = open_store(&folder, arguments.next()).await?;
    let signing_key = KeyPair::generate()?.serialize_der();
    let config = Config {
        version: VersionInfo::skiff("trial"),
        advertise: format!("127.0.0.1:{port}").parse()?,
        service_accounts: Some(ServiceAccountKeys::new(signing_key, "https://kubernetes.default.svc.cluster.local")),
        ..Config::new(store.clone(), clock.clone(), Arc::new(Ids::random()))
    };
    let server = ApiServer::new(config).await?;
    write_kubeconfig(Path::new(&folder), port, &authority.pem(), &admin)?;
    for (name, text) in
        [("ca.crt", authority.pem()), ("admin.crt", admin.certificate.pem()), ("admin.key", admin.key.serialize_pem())]
    {
        std::fs::write(Path::new(&folder).join(name), text)?;
    }
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("serving after {:?}", clock.monotonic() - began);
    let tls = tls(&authority.pem(), serving)?;
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    server.clone().serve(listener, tls, interrupted).await?;
    server.stop();
    Ok(())
}

async fn open_store(folder: &str, etcd: Option<String>) -> Fallible<Arc<dyn Store>> {
    let Some(endpoints) = etcd else {
        return Ok(EmbeddedStore::open(Path::new(folder).join("store"), EmbeddedOptions::default())?);
    };
    let options = EtcdOptions {
        root: "/registry/".into(),
        prefix: "/registry/".into(),
        ..EtcdOptions::new(endpoints.split(',').map(str::to_owned).collect())
    };
    Ok(EtcdStore::open(options).await?)
}

fn tls(authority: &str, serving: Identity) -> Fallible<Arc<rustls::ServerConfig>> {
    let key = trust::provider().key_provider.load_private_key(serving.key.serialize_der().try_into()?)?;
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![serving.certificate.der().clone()], key));
    let mut tls = ClientAuthorities::new(authority, "")?.server_tls(Arc::new(shown))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

fn write_kubeconfig(folder: &Path, port: u16, authority: &str, admin: &Identity) -> Fallible<()> {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: trial\n\
         clusters:\n- name: trial\n  cluster:\n    server: https://127.0.0.1:{port}\n    certificate-authority-data: {}\n\
         users:\n- name: admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
         contexts:\n- name: trial\n  context:\n    cluster: trial\n    user: admin\n",
        encode(authority),
        encode(&admin.certificate.pem()),
        encode(&admin.key.serialize_pem())
    );
    std::fs::write(folder.join("kubeconfig"), text)?;
    Ok(())
}
