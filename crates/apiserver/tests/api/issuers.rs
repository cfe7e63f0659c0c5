//! Tokens of others: by an issuer that serves its keys over TLS, by a webhook, from a file; and who comes without any.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use expect_test::{Expect, expect};
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
};
use serde_json::{Value, json};
use skiff_apiserver::authn::{self, token_file, webhook};
use skiff_apiserver::config::ServiceAccountKeys;

use crate::peer::Peer;
use crate::support::{Cluster, Folder};

/// 2026-01-02T03:04:05Z, when the clusters of these tests begin.
pub const NOW: i64 = 1_767_323_045;

/// A key of an issuer, of one sort or the other.
pub struct Key {
    id: String,
    algorithm: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    pub fn new(id: &str, algorithm: &'static str) -> Self {
        let parameters = parameters(algorithm);
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(parameters, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(parameters, document.as_ref(), &random).expect("a key");
        Self { id: id.to_owned(), algorithm, pair }
    }

    pub fn public(&self) -> Value {
        let (x, y) = {
            let point = &self.pair.public_key().as_ref()[1..];
            point.split_at(point.len() / 2)
        };
        let curve = if self.algorithm == "ES384" { "P-384" } else { "P-256" };
        json!({"kty": "EC", "use": "sig", "kid": self.id, "alg": self.algorithm, "crv": curve,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
    }

    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm, "kid": self.id});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn parameters(algorithm: &str) -> &'static EcdsaSigningAlgorithm {
    if algorithm == "ES384" { &ECDSA_P384_SHA384_FIXED_SIGNING } else { &ECDSA_P256_SHA256_FIXED_SIGNING }
}

/// An issuer: its discovery document and its keys, over TLS.
pub struct Issuer {
    pub peer: Peer,
    keys: Arc<Mutex<Vec<Key>>>,
    pub fetched: Arc<Mutex<usize>>,
}

impl Issuer {
    pub async fn start(keys: Vec<Key>) -> Self {
        let keys = Arc::new(Mutex::new(keys));
        let (own, fetched) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(0)));
        let (served, counted, url) = (keys.clone(), fetched.clone(), own.clone());
        let peer = Peer::start(move |path, _| {
            let url = url.lock().clone();
            Some(match path {
                "/.well-known/openid-configuration" => json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
                "/keys" => {
                    *counted.lock() += 1;
                    json!({"keys": served.lock().iter().map(Key::public).collect::<Vec<_>>()})
                }
                _ => Value::Null,
            })
        })
        .await;
        own.lock().clone_from(&peer.url);
        Self { peer, keys, fetched }
    }

    /// A token with these claims beside the usual ones.
    pub fn token(&self, claims: Value) -> String {
        let mut whole = json!({"iss": self.peer.url, "aud": "api", "sub": "7", "exp": NOW + 600});
        for (claim, value) in claims.as_object().expect("claims") {
            whole[claim] = value.clone();
        }
        self.keys.lock().last().expect("a key").sign(&whole)
    }

    pub fn config(&self, more: Value) -> Value {
        let mut jwt = json!({
            "issuer": {"url": self.peer.url, "certificateAuthority": self.peer.authority, "audiences": ["api"]},
            "claimMappings": {"username": {"claim": "sub", "prefix": "oidc:"}}});
        for (field, value) in more.as_object().expect("fields") {
            jwt[field] = value.clone();
        }
        whole(json!({"jwt": [jwt]}))
    }
}

fn whole(mut config: Value) -> Value {
    config["apiVersion"] = "apiserver.config.k8s.io/v1".into();
    config["kind"] = "AuthenticationConfiguration".into();
    config
}

async fn cluster(settings: authn::Settings) -> Cluster {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).expect("a key");
    let keys = ServiceAccountKeys::new(key.as_ref().to_vec(), "https://own");
    Cluster::with(|config| {
        config.service_accounts = Some(keys);
        config.access.authentication = settings;
        config.tokens = token_file::read("known,jane,u1,\"dev,ops\"", "tokens.csv").expect("a token file");
    })
    .await
}

/// A cluster with a configuration in a file of its own.
pub async fn configured(folder: &Folder, config: &Value) -> (Cluster, PathBuf) {
    let file = folder.path().join("authentication.yaml");
    std::fs::write(&file, config.to_string()).expect("written");
    (cluster(authn::Settings { file: Some(file.clone()), ..Default::default() }).await, file)
}

/// Who a bearer token is, or why it is nobody.
pub async fn whoever(cluster: &Cluster, token: &str) -> String {
    let review =
        cluster.outcome(&format!("GET /api/v1/namespaces/default\nUser: -\nAuthorization: Bearer {token}")).await;
    let spec = json!({"spec": {"token": token}});
    let status = &cluster.tree(&format!("POST /apis/authentication.k8s.io/v1/tokenreviews\n\n{spec}")).await["status"];
    match status["authenticated"] == true {
        true => {
            // What a review tells is what the request itself was taken for.
            let user = &status["user"];
            let name = user["username"].as_str().expect("a name");
            assert!(review.starts_with(&format!("403 namespaces \"default\" is forbidden: User {name:?}")), "{review}");
            user.to_string()
        }
        false => {
            assert_eq!(review, "401 Unauthorized");
            status["error"].as_str().expect("an error").to_owned()
        }
    }
}

pub async fn check(cluster: &Cluster, token: &str, expected: Expect) {
    expected.assert_eq(&whoever(cluster, token).await);
}

#[tokio::test]
async fn an_issuers_token_stands_for_whom_its_claims_name() {
    let issuer = Issuer::start(vec![Key::new("a", "ES256")]).await;
    let folder = Folder::new("issuer-claims");
    let config = issuer.config(json!({
        "claimValidationRules": [{"claim": "hd", "requiredValue": "example.com"},
            {"expression": "claims.exp - claims.nbf <= 86400", "message": "the lifetime is too long"}],
        "claimMappings": {
            "username": {"expression": "claims.email_verified ? 'u:' + claims.email : ''"},
            "groups": {"expression": "claims.roles.split(',')"},
            "uid": {"claim": "sub"},
            "extra": [{"key": "example.com/team", "valueExpression": "claims.?team.orValue('')"}]},
        "userValidationRules": [{"expression": "!user.username.startsWith('u:system:')", "message": "reserved"}]}));
    let (cluster, _) = configured(&folder, &config).await;
    let claims = |more: Value| {
        let mut claims = json!({"email": "a@b", "email_verified": true, "roles": "dev,,ops", "hd": "example.com",
            "nbf": NOW - 10});
        for (claim, value) in more.as_object().expect("claims") {
            claims[claim] = value.clone();
        }
        issuer.token(claims)
    };
    check(&cluster, &claims(json!({"team": "blue"})), expect![[r#"{"extra":{"example.com/team":["blue"]},"groups":["dev","ops","system:authenticated"],"uid":"7","username":"u:a@b"}"#]]).await;
    check(
        &cluster,
        &claims(json!({"hd": "else.com"})),
        expect![
            "[invalid bearer token, oidc: required claim hd value does not match. Got = else.com, want = example.com]"
        ],
    )
    .await;
    check(&cluster, &claims(json!({"nbf": NOW - 90_000})), expect!["[invalid bearer token, oidc: error evaluating claim validation expression: validation expression 'claims.exp - claims.nbf <= 86400' failed: the lifetime is too long]"]).await;
    check(&cluster, &claims(json!({"email": "system:x"})), expect!["[invalid bearer token, oidc: error evaluating user info validation rule: validation expression '!user.username.startsWith('u:system:')' failed: reserved]"]).await;
    check(
        &cluster,
        &claims(json!({"aud": ["else"]})),
        expect![[r#"[invalid bearer token, oidc: verify token: oidc: expected audience "api" got ["else"]]"#]],
    )
    .await;
    check(
        &cluster,
        &claims(json!({"exp": NOW - 1})),
        expect![
            "[invalid bearer token, oidc: verify token: oidc: token is expired (Token Expiry: 2026-01-02T03:04:04Z)]"
        ],
    )
    .await;
    check(
        &cluster,
        &claims(json!({"roles": 7})),
        expect!["[invalid bearer token, oidc: error evaluating group claim expression: no such overload]"],
    )
    .await;
    // Nobody's tokens, and those of somebody else who says to be the issuer.
    check(&cluster, &claims(json!({"iss": "https://else"})), expect!["invalid bearer token"]).await;
    let forged = Key::new("a", "ES256").sign(&json!({"iss": issuer.peer.url, "aud": "api", "exp": NOW + 9}));
    check(&cluster, &forged, expect!["[invalid bearer token, oidc: verify token: failed to verify signature: failed to verify id token signature]"]).await;
}

#[tokio::test]
async fn keys_are_fetched_once_and_again_when_they_rotate() {
    let issuer = Issuer::start(vec![Key::new("a", "ES256")]).await;
    let folder = Folder::new("issuer-keys");
    let (cluster, _) = configured(&folder, &issuer.config(json!({}))).await;
    assert_eq!(*issuer.fetched.lock(), 0, "who has no token costs nothing");
    let old = issuer.token(json!({}));
    for _ in 0..3 {
        assert!(whoever(&cluster, &old).await.contains(r#""username":"oidc:7""#));
    }
    assert_eq!(*issuer.fetched.lock(), 1);
    *issuer.keys.lock() = vec![Key::new("b", "ES384")];
    let new = issuer.token(json!({"sub": "8"}));
    // An issuer is not asked for each of many tokens that it has not signed.
    assert!(whoever(&cluster, &new).await.contains("failed to verify signature"));
    assert_eq!(*issuer.fetched.lock(), 1);
    cluster.clock.advance(Duration::from_secs(2));
    assert!(whoever(&cluster, &new).await.contains(r#""username":"oidc:8""#));
    assert_eq!(*issuer.fetched.lock(), 2);
    cluster.clock.advance(Duration::from_secs(2));
    assert!(whoever(&cluster, &old).await.contains("failed to verify signature"));
}

#[tokio::test]
async fn a_changed_configuration_holds_and_a_wrong_one_does_not() {
    let issuer = Issuer::start(vec![Key::new("a", "ES256")]).await;
    let folder = Folder::new("issuer-reload");
    let (cluster, file) =
        configured(&folder, &whole(json!({"anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]}}))).await;
    let token = issuer.token(json!({"groups": ["x"]}));
    assert_eq!(whoever(&cluster, &token).await, "invalid bearer token");
    assert_eq!(cluster.outcome("GET /livez\nUser: -").await, "200");
    assert_eq!(cluster.outcome("GET /version\nUser: -").await, "401 Unauthorized");
    let groups = json!({"claimMappings": {"username": {"claim": "sub", "prefix": ""}, "groups": {"claim": "groups", "prefix": "g:"}}});
    let mut config = issuer.config(groups);
    config["anonymous"] = json!({"enabled": false});
    std::fs::write(&file, config.to_string()).expect("written");
    cluster.server.reload().await;
    assert_eq!(whoever(&cluster, &token).await, r#"{"groups":["g:x","system:authenticated"],"username":"7"}"#);
    assert_eq!(cluster.outcome("GET /livez\nUser: -").await, "401 Unauthorized");
    config["jwt"][0]["issuer"]["url"] = "http://x".into();
    std::fs::write(&file, config.to_string()).expect("written");
    cluster.server.reload().await;
    assert!(whoever(&cluster, &token).await.contains(r#""username":"7""#), "what was before still holds");
}

#[tokio::test]
async fn a_token_is_reviewed_for_the_audiences_that_it_is_meant_for() {
    let issuer = Issuer::start(vec![Key::new("a", "ES256")]).await;
    let folder = Folder::new("issuer-audiences");
    let (cluster, _) = configured(&folder, &issuer.config(json!({}))).await;
    let audiences = async |token: &str, asked: Value| {
        let review = json!({"spec": {"token": token, "audiences": asked}});
        let reviewed = cluster.tree(&format!("POST /apis/authentication.k8s.io/v1/tokenreviews\n\n{review}")).await;
        (reviewed["status"]["authenticated"] == true, reviewed["status"]["audiences"].clone())
    };
    for token in [issuer.token(json!({})), "known".to_owned()] {
        assert_eq!(audiences(&token, json!([])).await, (true, json!(["https://own"])));
        assert_eq!(audiences(&token, json!(["vault", "https://own"])).await, (true, json!(["https://own"])));
        // What is valid for this server is not for others: else whoever gets a token could use it here.
        assert_eq!(audiences(&token, json!(["vault"])).await, (false, Value::Null));
    }
    check(
        &cluster,
        "known",
        expect![[r#"{"groups":["dev","ops","system:authenticated"],"uid":"u1","username":"jane"}"#]],
    )
    .await;
    // A browser's WebSocket has its token among its protocols; without an upgrade that means nothing.
    let spoken = format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode("known"));
    let protocols = format!("Sec-WebSocket-Protocol: {spoken}, v5.channel.k8s.io");
    let by_socket = format!("GET /api/v1/namespaces/default\nUser: -\nUpgrade: websocket\n{protocols}");
    assert!(cluster.outcome(&by_socket).await.contains(r#"User "jane""#));
    let plain = cluster.outcome(&format!("GET /api/v1/namespaces/default\nUser: -\n{protocols}")).await;
    assert!(plain.contains(r#"User "system:anonymous""#), "{plain}");
}

#[tokio::test]
async fn a_webhook_is_asked_once_about_a_token() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let record = asked.clone();
    let peer = Peer::start(move |_, review| {
        let token = review["spec"]["token"].as_str().expect("a token").to_owned();
        assert_eq!(review["apiVersion"], "authentication.k8s.io/v1");
        record.lock().push(format!("{token} {}", review["spec"]["audiences"]));
        let known = json!({"authenticated": true, "user": {"username": "wanda", "groups": ["w"]}});
        let status = match token.as_str() {
            "good" => known,
            "bad" => json!({"authenticated": false, "error": "no such token"}),
            _ => json!({"authenticated": false}),
        };
        Some(json!({"status": status}))
    })
    .await;
    let remote = skiff_apiserver::audit::Remote::read(&peer.kubeconfig("/authenticate")).expect("a kubeconfig");
    let settings = webhook::Settings { remote, cached_for: Duration::from_secs(120), version: "v1".into() };
    let cluster = cluster(authn::Settings { webhook: Some(settings), ..Default::default() }).await;
    check(&cluster, "good", expect![[r#"{"groups":["w","system:authenticated"],"username":"wanda"}"#]]).await;
    check(&cluster, "none", expect!["invalid bearer token"]).await;
    check(&cluster, "bad", expect!["[invalid bearer token, no such token]"]).await;
    // Errors are not remembered, and what the server itself knows is not asked.
    check(
        &cluster,
        "known",
        expect![[r#"{"groups":["dev","ops","system:authenticated"],"uid":"u1","username":"jane"}"#]],
    )
    .await;
    let own = r#"["https://own"]"#;
    assert_eq!(*asked.lock(), ["good", "none", "bad", "bad"].map(|token| format!("{token} {own}")));
    cluster.clock.advance(Duration::from_secs(121));
    check(&cluster, "good", expect![[r#"{"groups":["w","system:authenticated"],"username":"wanda"}"#]]).await;
    assert_eq!(asked.lock().len(), 5);
}
