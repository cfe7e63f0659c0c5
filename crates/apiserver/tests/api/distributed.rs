//! Groups that a token does not have itself, but names the place of.

use std::sync::Arc;
use std::time::Duration;

use expect_test::expect;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::issuers::{Issuer, Key, NOW, check, configured, whoever};
use crate::peer::Peer;
use crate::support::{Cluster, Folder};

/// Who keeps groups: it gives them as tokens, and can be an issuer itself.
struct Keeper {
    peer: Peer,
    key: Arc<Key>,
    /// What stands at `/groups`; nothing is answered where there is `None`. `/moved/PLACE` leads to that place.
    groups: Arc<Mutex<Option<Value>>>,
    /// What was shown by those who asked for them.
    shown: Arc<Mutex<Vec<String>>>,
    asked: Arc<Notify>,
    /// How often the keys were fetched.
    fetched: Arc<Mutex<usize>>,
}

impl Keeper {
    async fn start() -> Self {
        let key = Arc::new(Key::new("k", "ES256"));
        let url = Arc::new(Mutex::new(String::new()));
        let groups = Arc::new(Mutex::new(Some(Value::Null)));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (asked, fetched) = (Arc::new(Notify::new()), Arc::new(Mutex::new(0)));
        let own = (key.clone(), url.clone(), groups.clone(), shown.clone(), asked.clone(), fetched.clone());
        let peer = Peer::seeing(move |head, _| {
            let (key, url, groups, shown, asked, fetched) = &own;
            let url = url.lock().clone();
            match head.uri.path() {
                "/.well-known/openid-configuration" => Some(json!({"issuer": url, "jwks_uri": format!("{url}/keys")})),
                "/keys" => {
                    *fetched.lock() += 1;
                    Some(json!({"keys": [key.public()]}))
                }
                "/groups" => {
                    let bearer = head.headers.get(AUTHORIZATION).map_or("-", |value| value.to_str().expect("a text"));
                    shown.lock().push(bearer.to_owned());
                    asked.notify_one();
                    groups.lock().clone()
                }
                path => Some(path.strip_prefix("/moved/").map_or(Value::Null, |place| json!({"location": place}))),
            }
        })
        .await;
        url.lock().clone_from(&peer.url);
        Self { peer, key, groups, shown, asked, fetched }
    }

    /// What it says of itself as an issuer.
    fn token(&self, more: Value) -> String {
        let mut claims = json!({"iss": self.peer.url, "aud": "api", "exp": NOW + 600});
        for (claim, value) in more.as_object().expect("claims") {
            claims[claim] = value.clone();
        }
        self.key.sign(&claims)
    }

    fn holds(&self, text: String) {
        *self.groups.lock() = Some(Value::String(text));
    }

    /// The claims that lead here.
    fn claims(&self, access_token: &str) -> Value {
        self.claims_at("/groups", access_token)
    }

    fn claims_at(&self, path: &str, access_token: &str) -> Value {
        let mut source = json!({"endpoint": format!("{}{path}", self.peer.url)});
        if !access_token.is_empty() {
            source["access_token"] = access_token.into();
        }
        json!({"_claim_names": {"groups": "elsewhere"}, "_claim_sources": {"elsewhere": source}})
    }

    fn asked_times(&self) -> usize {
        self.shown.lock().len()
    }
}

/// A cluster that believes an issuer, and connects to whomever `authorities` vouch for.
async fn cluster(issuer: &Issuer, folder: &Folder, authorities: &[&Peer]) -> Cluster {
    let mut config = issuer.config(json!({
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}, "groups": {"claim": "groups", "prefix": "g:"}},
        "claimValidationRules": [{"expression": "claims.?groups.orValue([]) != ['banned']", "message": "banned"}]}));
    let bundle: String = authorities.iter().map(|peer| peer.authority.as_str()).collect();
    config["jwt"][0]["issuer"]["certificateAuthority"] = bundle.into();
    configured(folder, &config).await.0
}

#[tokio::test]
async fn groups_that_are_elsewhere_are_fetched() {
    let (issuer, keeper) = (Issuer::start(vec![Key::new("a", "ES256")]).await, Keeper::start().await);
    let folder = Folder::new("distributed-good");
    let cluster = cluster(&issuer, &folder, &[&issuer.peer, &keeper.peer]).await;
    // The issuer's own word, that stands elsewhere.
    keeper.holds(issuer.token(json!({"groups": ["dev", "ops"]})));
    let token = issuer.token(keeper.claims(""));
    check(&cluster, &token, expect![[r#"{"groups":["g:dev","g:ops","system:authenticated"],"username":"7"}"#]]).await;
    assert_eq!(*keeper.shown.lock(), ["-"], "a review and a request asked once together");
    // The word of whoever keeps them, an issuer that nobody told of: to be had with the token for it alone.
    keeper.holds(keeper.token(json!({"groups": "one"})));
    let token = issuer.token(keeper.claims("secret"));
    check(&cluster, &token, expect![[r#"{"groups":["g:one","system:authenticated"],"username":"7"}"#]]).await;
    assert_eq!(*keeper.shown.lock(), ["-", "Bearer secret"]);
    // What was fetched holds for a while, and the keys for longer.
    keeper.holds(keeper.token(json!({"groups": ["two"]})));
    assert!(whoever(&cluster, &token).await.contains("g:one"));
    cluster.clock.advance(Duration::from_secs(11));
    check(&cluster, &token, expect![[r#"{"groups":["g:two","system:authenticated"],"username":"7"}"#]]).await;
    assert_eq!((keeper.asked_times(), *keeper.fetched.lock(), *issuer.fetched.lock()), (3, 1, 1));
    // Rules see them as if the token had had them.
    cluster.clock.advance(Duration::from_secs(11));
    keeper.holds(keeper.token(json!({"groups": ["banned"]})));
    assert!(whoever(&cluster, &token).await.ends_with("failed: banned]"));
    // Who has groups is not asked about; who has none anywhere has none.
    let mut claims = keeper.claims("other");
    claims["groups"] = json!(["own"]);
    check(&cluster, &issuer.token(claims), expect![[r#"{"groups":["g:own","system:authenticated"],"username":"7"}"#]])
        .await;
    check(&cluster, &issuer.token(json!({})), expect![[r#"{"groups":["system:authenticated"],"username":"7"}"#]]).await;
    assert_eq!(keeper.asked_times(), 4);
}

#[tokio::test]
async fn groups_that_nobody_vouches_for_are_refused() {
    let (issuer, keeper) = (Issuer::start(vec![Key::new("a", "ES256")]).await, Keeper::start().await);
    let stranger = Keeper::start().await;
    let folder = Folder::new("distributed-faults");
    let cluster = cluster(&issuer, &folder, &[&issuer.peer, &keeper.peer]).await;
    let told = async |keeper: &Keeper, number: usize| {
        let why = whoever(&cluster, &issuer.token(keeper.claims(&number.to_string()))).await;
        let why = why.replace(&keeper.peer.url, "KEEPER").replace(&stranger.peer.url, "STRANGER");
        let before = "[invalid bearer token, oidc: could not expand distributed claims: ";
        why.strip_prefix(before).unwrap_or_else(|| panic!("{why}")).strip_suffix(']').expect("an end").to_owned()
    };
    let groups = json!({"groups": ["system:masters"]});
    let forged =
        Key::new("k", "ES256").sign(&json!({"iss": keeper.peer.url, "aud": "api", "exp": NOW + 9, "groups": []}));
    let with = |field: &str, value: Value| {
        let mut claims = groups.clone();
        claims[field] = value;
        keeper.token(claims)
    };
    let answers = [
        (
            with("exp", json!(NOW - 1)),
            expect!["verify distributed claim token: oidc: token is expired (Token Expiry: 2026-01-02T03:04:04Z)"],
        ),
        (
            with("aud", json!("else")),
            expect![[r#"verify distributed claim token: oidc: expected audience "api" got ["else"]"#]],
        ),
        (
            keeper.token(json!({"roles": []})),
            expect![[r#"jwt returned by distributed claim endpoint "KEEPER/groups" did not contain claim: groups"#]],
        ),
        (
            with("iss", json!("https://localhost:1")),
            expect![[
                r#"verifying untrusted issuer https://localhost:1 failed: verifier not initialized for issuer: "https://localhost:1""#
            ]],
        ),
        (
            with("iss", json!(stranger.peer.url)),
            expect![[r#"verifying untrusted issuer STRANGER failed: verifier not initialized for issuer: "STRANGER""#]],
        ),
        (
            keeper.token(groups.clone()) + "A",
            expect!["verify distributed claim token: failed to verify signature: failed to verify id token signature"],
        ),
        (
            forged,
            expect!["verify distributed claim token: failed to verify signature: failed to verify id token signature"],
        ),
        (
            r#"{"groups": ["system:masters"]}"#.to_owned(),
            expect![[
                r#"getting untrusted issuer from endpoint KEEPER/groups failed for claim "groups": token is not compact JWT"#
            ]],
        ),
        (
            "groups".to_owned(),
            expect![[
                r#"getting untrusted issuer from endpoint KEEPER/groups failed for claim "groups": malformed token"#
            ]],
        ),
    ];
    for (number, (answer, expected)) in answers.into_iter().enumerate() {
        keeper.holds(answer);
        expected.assert_eq(&told(&keeper, number).await);
    }
    *keeper.groups.lock() = Some(Value::Null);
    expect![[r#"while getting distributed claim "groups": error while getting distributed claim JWT: 404 Not Found"#]]
        .assert_eq(&told(&keeper, 20).await);
    // More than any token has.
    keeper.holds("x".repeat(2 * 1024 * 1024));
    expect![[r#"while getting distributed claim "groups": Get "KEEPER/groups": length limit exceeded"#]]
        .assert_eq(&told(&keeper, 21).await);
    // The authority that the configuration names vouches for whoever is asked, also here.
    stranger.holds(stranger.token(groups));
    let why = told(&stranger, 22).await;
    assert!(why.contains("tls: failed to verify certificate"), "{why}");
    assert_eq!(stranger.asked_times(), 0);
    // What went wrong is not tried again with every request.
    let asked = keeper.asked_times();
    assert!(told(&keeper, 21).await.contains("length limit exceeded"));
    assert_eq!(keeper.asked_times(), asked);
}

#[tokio::test]
async fn whoever_keeps_groups_and_does_not_answer_is_waited_for_so_long_only() {
    let (issuer, keeper) = (Issuer::start(vec![Key::new("a", "ES256")]).await, Keeper::start().await);
    let folder = Folder::new("distributed-slow");
    let cluster = cluster(&issuer, &folder, &[&issuer.peer, &keeper.peer]).await;
    *keeper.groups.lock() = None;
    let token = issuer.token(keeper.claims(""));
    let answer = async {
        let why = whoever(&cluster, &token).await;
        why.replace(&keeper.peer.url, "KEEPER")
    };
    let hurry = async {
        keeper.asked.notified().await;
        // Nothing is under way now but the wait.
        tokio::time::pause();
    };
    let (why, ()) = tokio::join!(answer, hurry);
    expect![[r#"[invalid bearer token, oidc: could not expand distributed claims: while getting distributed claim "groups": Get "KEEPER/groups": context deadline exceeded]"#]]
        .assert_eq(&why);
    assert_eq!(keeper.asked_times(), 1);
}

#[tokio::test]
async fn groups_that_have_moved_are_fetched_from_there() {
    let (issuer, keeper) = (Issuer::start(vec![Key::new("a", "ES256")]).await, Keeper::start().await);
    let folder = Folder::new("distributed-moved");
    let cluster = cluster(&issuer, &folder, &[&issuer.peer, &keeper.peer]).await;
    keeper.holds(keeper.token(json!({"groups": ["dev"]})));
    let other_host = keeper.peer.url.replace("localhost", "127.0.0.1");
    let back = format!("{other_host}/moved/{}/groups", keeper.peer.url);
    // The token for them is shown on the host that it is for alone, and not again after a way over another one.
    for (place, shown) in [
        ("/groups".to_owned(), "Bearer secret"),
        (format!("{}/groups", keeper.peer.url), "Bearer secret"),
        (format!("{other_host}/groups"), "-"),
        (back, "-"),
    ] {
        let claims = keeper.claims_at(&format!("/moved/{place}"), "secret");
        let told = whoever(&cluster, &issuer.token(claims)).await;
        assert!(told.contains(r#""groups":["g:dev","system:authenticated"]"#), "{place}: {told}");
        assert_eq!(keeper.shown.lock().pop().as_deref(), Some(shown), "{place}");
    }
    // Neither in circles, nor to where nobody proves who they are.
    for (place, why) in [
        ("/moved//moved/".repeat(12), "stopped after 10 redirects"),
        (keeper.peer.url.replace("https", "http"), "it is no https URL"),
        ("https://[".to_owned(), "failed to parse Location header"),
    ] {
        let claims = keeper.claims_at(&format!("/moved/{place}"), "secret");
        let told = whoever(&cluster, &issuer.token(claims)).await;
        assert!(told.contains(why), "{place}: {told}");
    }
    assert_eq!(keeper.asked_times(), 0);
}
