//! What the binary tells the server at its start.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::Serialize;
use skiff_base::Cidr;
use skiff_base::clock::SharedClock;
use skiff_base::gates::Gates;
use skiff_base::ids::Ids;
use skiff_kinds::ResourceDef;
use skiff_object::Object;
use skiff_store::Store;

use crate::admission::plugins::Settings;
use crate::authorities::ClientAuthorities;
use crate::call::UserInfo;
use crate::trust::Identity;

/// What `/version` tells.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionInfo {
    /// `1`.
    pub major: String,
    /// `36`.
    pub minor: String,
    /// `v1.36.0+skiff1`.
    pub git_version: String,
    /// The commit that was built.
    pub git_commit: String,
    /// `clean` or `dirty`.
    pub git_tree_state: String,
    /// When it was built, RFC 3339.
    pub build_date: String,
    /// The compiler (upstream's field is named for its own language).
    pub go_version: String,
    /// The compiler.
    pub compiler: String,
    /// `linux/amd64`.
    pub platform: String,
}

impl VersionInfo {
    /// API v1.36 by Skiff's version `skiff`.
    pub fn skiff(skiff: &str) -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            major: "1".into(),
            minor: "36".into(),
            git_version: format!("v1.36.0+skiff-{skiff}"),
            git_commit: String::new(),
            git_tree_state: "clean".into(),
            build_date: "1970-01-01T00:00:00Z".into(),
            go_version: "none".into(),
            compiler: "rustc".into(),
            platform: format!("{}/{arch}", std::env::consts::OS),
        }
    }
}

/// How service-account tokens are signed and checked.
#[derive(Clone)]
pub struct ServiceAccountKeys {
    /// An ECDSA P-256 key in PKCS#8 DER.
    pub signing_key: Vec<u8>,
    /// Public keys of former signing keys whose tokens are believed still, as SubjectPublicKeyInfo in DER.
    pub former_keys: Vec<Vec<u8>>,
    /// The issuer, `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
}

impl ServiceAccountKeys {
    /// One key.
    pub fn new(signing_key: Vec<u8>, issuer: &str) -> Self {
        Self { signing_key, former_keys: Vec::new(), issuer: issuer.to_owned() }
    }
}

/// How the server makes other API servers believe in whose name it asks them.
#[derive(Clone)]
pub struct FrontProxy {
    /// The certificate that it shows them.
    pub identity: Identity,
    /// The authority of that certificate, in PEM: what others check it against.
    pub authority: String,
    /// The name in it.
    pub name: String,
    /// The authority of clients' certificates, in PEM, where it does not change.
    pub client_authority: String,
}

/// Who may come, beside what every server knows.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Whom the server believes to be who.
    pub authentication: crate::authn::Settings,
    /// Who decides who may do what.
    pub authorization: crate::authz::Settings,
}

/// What the binary tells the server at its start.
#[derive(Clone)]
pub struct Config {
    /// The storage.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: SharedClock,
    /// UIDs and generated names.
    pub ids: Arc<Ids>,
    /// What `/version` tells.
    pub version: VersionInfo,
    /// The built-in kinds, `skiff_kinds::builtin()` and what else is asked for.
    pub kinds: Vec<&'static ResourceDef>,
    /// Which features are on.
    pub gates: Gates,
    /// Where cluster IPs come from: a range of each family that Services may have, that of the primary one first.
    pub service_cidrs: Vec<Cidr>,
    /// Where node ports come from.
    pub node_port_range: RangeInclusive<u16>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Where the server is reached by others: the endpoint of the `kubernetes` Service.
    pub advertise: SocketAddr,
    /// Service-account tokens; without it none are issued or accepted.
    pub service_accounts: Option<ServiceAccountKeys>,
    /// How the server speaks TLS to the nodes' agents, with its client certificate.
    pub kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    /// How requests are passed on to other API servers; without it these are asked without a certificate.
    pub front_proxy: Option<FrontProxy>,
    /// Whether other servers may keep their objects in the same store.
    pub shared_store: bool,
    /// Whether proxies may lead to this machine's own loopback, as only tests want it.
    pub loopback_proxies: bool,
    /// What of the requests is written down, and where.
    pub audit: Option<crate::audit::Settings>,
    /// Whether requests are authorized at all.
    pub authorization: bool,
    /// What the plugins of admission are told.
    pub admission: Settings,
    /// Tokens that are known beforehand.
    pub tokens: Vec<(String, UserInfo)>,
    /// Who may come.
    pub access: Access,
    /// Whose certificates of clients are believed, where that may change.
    pub client_authorities: Option<Arc<ClientAuthorities>>,
    /// What is encrypted where it is stored.
    pub encryption: Option<crate::encryption::Settings>,
    /// What else the cluster begins with; objects that are there stay as they are.
    pub first_objects: Vec<Object>,
    /// Whether the cluster begins with the definitions of the Gateway API.
    pub gateway_api: bool,
    /// How many requests are worked on at a time, and whose.
    pub flow: crate::flow::Settings,
}

impl Config {
    /// What a server needs at least. The rest is as the documentation has it where nothing is set: every built-in kind,
    /// upstream's ranges, authorization and the default plugins of admission; nothing that needs a key or a file. The
    /// address is one of those set aside for documentation (RFC 5737), which nobody reaches.
    pub fn new(store: Arc<dyn Store>, clock: SharedClock, ids: Arc<Ids>) -> Self {
        Self {
            store,
            clock,
            ids,
            version: VersionInfo::skiff(env!("CARGO_PKG_VERSION")),
            kinds: skiff_kinds::builtin().to_vec(),
            gates: Gates::default(),
            service_cidrs: Cidr::new([10, 96, 0, 0], 12).into_iter().collect(),
            node_port_range: 30000..=32767,
            cluster_domain: "cluster.local".into(),
            advertise: (Ipv4Addr::new(192, 0, 2, 1), 6443).into(),
            service_accounts: None,
            kubelet_tls: None,
            front_proxy: None,
            shared_store: false,
            loopback_proxies: false,
            audit: None,
            authorization: true,
            admission: Settings::default(),
            tokens: Vec::new(),
            access: Access::default(),
            client_authorities: None,
            encryption: None,
            first_objects: Vec::new(),
            gateway_api: false,
            flow: crate::flow::Settings::default(),
        }
    }
}
