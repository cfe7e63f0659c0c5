//! Authorities and keys that are exchanged while the server runs, and clients that go on meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rcgen::{KeyPair, PublicKeyData};
use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use skiff_apiserver::authorities::{ClientAuthorities, ServerAuthorities};
use skiff_apiserver::config::{FrontProxy, ServiceAccountKeys};
use skiff_apiserver::trust::Identity;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::served::{self, Authority, localhost, pem, provider, text};
use crate::support::Cluster;

/// A certificate that is always shown.
fn shown((chain, key): served::Identity) -> Arc<SingleCertAndKey> {
    let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a key");
    Arc::new(CertifiedKey::new(chain, key).into())
}

/// A client, with its connection, which ends some time.
struct Client(SendRequest<Empty<Bytes>>, JoinHandle<()>);

impl Client {
    /// Connects with this identity; no matter who serves.
    async fn connect(cluster: &Cluster, server: Arc<ServerConfig>, client: &Arc<rustls::ClientConfig>) -> Option<Self> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(cluster.server.clone().serve_stream(far, server));
        let stream = TlsConnector::from(client.clone()).connect(localhost(), near).await.ok()?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        let driven = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection was cut");
            }
        });
        Some(Self(sender, driven))
    }

    async fn is_admin(&mut self) -> bool {
        text(&mut self.0, "/api/v1/namespaces/default").await.0 == 200
    }
}

#[tokio::test]
async fn a_client_goes_on_until_nobody_vouches_for_it() {
    let (old, new, serving) = (Authority::new(), Authority::new(), Authority::new());
    let authorities = ClientAuthorities::new(&pem(&old), "").expect("an authority");
    let proxy = Authority::new();
    let (chain, key) = proxy.issue("front-proxy-client", "");
    let front_proxy = FrontProxy {
        identity: Identity::new(chain, key),
        authority: pem(&proxy),
        name: "front-proxy-client".into(),
        client_authority: String::new(),
    };
    let cluster = Cluster::with(|config| {
        config.client_authorities = Some(authorities.clone());
        config.front_proxy = Some(front_proxy);
    })
    .await;
    let server = Arc::new(authorities.server_tls(shown(serving.issue("kube-apiserver", ""))).expect("TLS"));
    let client_of = |authority: &Authority| {
        let builder = rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(serving.roots());
        let (chain, key) = authority.issue("jane", "system:masters");
        Arc::new(builder.with_client_auth_cert(chain, key).expect("a certificate"))
    };
    let told = async || {
        let map =
            cluster.tree("GET /api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await;
        map["data"]["client-ca-file"].as_str().expect("text").to_owned()
    };
    let (of_old, of_new) = (client_of(&old), client_of(&new));
    let connect = async |client| Client::connect(&cluster, server.clone(), client).await;
    let mut before = connect(&of_old).await.expect("TLS");
    assert!(before.is_admin().await);
    assert_eq!(told().await, pem(&old));

    let both = pem(&new) + &pem(&old);
    cluster.server.hold_client_authorities(&both).await.expect("two authorities");
    assert!(before.is_admin().await, "its connection goes on");
    assert!(connect(&of_old).await.expect("TLS").is_admin().await);
    let mut after = connect(&of_new).await.expect("TLS");
    assert!(after.is_admin().await);
    assert_eq!(told().await, both);

    assert!(cluster.server.hold_client_authorities("nothing").await.is_err());
    assert!(before.is_admin().await, "what cannot be read changes nothing");
    cluster.server.hold_client_authorities(&pem(&new)).await.expect("an authority");
    before.1.await.expect("the connection ends");
    assert!(after.is_admin().await);
    // Its former session is not taken up again either. TLS 1.3 tells so with the first answer.
    if let Some(mut again) = connect(&of_old).await {
        let request = http::Request::get("/version").header("host", "x").body(Empty::new()).expect("a request");
        assert!(again.0.send_request(request).await.is_err(), "nobody vouches for it");
    }
    assert!(connect(&of_new).await.expect("TLS").is_admin().await);
    assert_eq!(told().await, pem(&new));
}

#[tokio::test]
async fn servers_are_believed_by_the_authority_of_the_moment() {
    let (old, new) = (Authority::new(), Authority::new());
    let cluster = Cluster::new().await;
    let authorities = ServerAuthorities::new(&pem(&old)).expect("an authority");
    let client = Arc::new(authorities.client_tls(shown(new.issue("x", ""))).expect("TLS"));
    let clients = ClientAuthorities::new(&pem(&new), "").expect("an authority");
    let server = |of: &Authority| Arc::new(clients.server_tls(shown(of.issue("kubelet", ""))).expect("TLS"));
    let believes = async |of: &Authority| Client::connect(&cluster, server(of), &client).await.is_some();
    assert!(believes(&old).await && !believes(&new).await);
    authorities.replace(&pem(&new)).expect("an authority");
    assert!(!believes(&old).await && believes(&new).await);
    assert!(authorities.replace("nothing").is_err());
    assert!(believes(&new).await);
}

#[tokio::test]
async fn tokens_are_signed_by_another_key_from_one_moment_to_the_next() {
    let (old, new) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let keys = |key: &KeyPair, former: &[&KeyPair]| ServiceAccountKeys {
        former_keys: former.iter().map(|key| key.subject_public_key_info()).collect(),
        ..ServiceAccountKeys::new(key.serialize_der(), "https://issuer")
    };
    let cluster = Cluster::with(|config| config.service_accounts = Some(keys(&old, &[]))).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.tree(&format!("POST {accounts}\n\n{{\"metadata\":{{\"name\":\"a\"}}}}")).await;
    let token = async || {
        let answer = cluster.tree(&format!("POST {accounts}/a/token\n\n{{\"spec\":{{\"audiences\":[]}}}}")).await;
        answer["status"]["token"].as_str().expect("a token").to_owned()
    };
    let is_believed = async |token: &str| {
        let own = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";
        cluster.outcome(&format!("{own}\nUser: -\nAuthorization: Bearer {token}\n\n{{}}")).await == "201"
    };
    let first = token().await;
    assert!(is_believed(&first).await);
    cluster.server.hold_service_account_keys(&keys(&new, &[&old])).expect("keys");
    let second = token().await;
    assert!(is_believed(&first).await && is_believed(&second).await);
    let told = cluster.tree("GET /openid/v1/jwks").await;
    assert_eq!(told["keys"].as_array().map(Vec::len), Some(2));
    assert!(cluster.server.hold_service_account_keys(&ServiceAccountKeys::new(vec![1], "https://issuer")).is_err());
    cluster.server.hold_service_account_keys(&keys(&new, &[])).expect("keys");
    assert!(!is_believed(&first).await && is_believed(&second).await);
}
