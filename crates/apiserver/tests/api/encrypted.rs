//! Encryption at rest: what lies in the store, what clients see of it, and what becomes of keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use expect_test::expect;
use serde_json::{Value, json};
use skiff_apiserver::ApiServer;
use skiff_apiserver::encryption::Settings;
use skiff_store::{EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore, Store};

use crate::etcd;
use crate::plugin::Plugin;
use crate::support::{self, Cluster, Folder, Watch, established};

const KEY: &[u8] = b"/registry/core/secrets/default/s";
const GET: &str = "GET /api/v1/namespaces/default/secrets/s";

/// A configuration in a file that may be written anew.
struct Configured(PathBuf);

impl Configured {
    fn new(folder: &Folder, resources: Value) -> Self {
        let this = Self(folder.path().join("encryption.yaml"));
        this.write(resources);
        this
    }

    fn write(&self, resources: Value) {
        let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": resources});
        std::fs::write(&self.0, config.to_string()).expect("written");
    }

    fn settings(&self, reloads: bool) -> Option<Settings> {
        Some(Settings { file: self.0.clone(), reloads })
    }
}

fn key(name: &str, letter: char) -> Value {
    json!({"name": name, "secret": STANDARD.encode(letter.to_string().repeat(32))})
}

fn secrets(providers: Value) -> Value {
    json!([{"resources": ["secrets"], "providers": providers}])
}

fn secret(name: &str, value: &str) -> String {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"k": value}});
    format!("POST /api/v1/namespaces/default/secrets\n\n{secret}")
}

/// What is in the store, as text.
async fn stored(cluster: &Cluster, key: &[u8]) -> String {
    let found = cluster.store.get(key, None).await.expect("a store that answers").1;
    String::from_utf8_lossy(&found.expect("it is there").value).into_owned()
}

/// Writes the Secret back as it is.
async fn rewrite(cluster: &Cluster) -> (String, String) {
    let own = cluster.tree(GET).await;
    let put = format!("PUT /api/v1/namespaces/default/secrets/s\n\n{own}");
    let again = cluster.tree(&put).await;
    let revision = |tree: &Value| tree["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    (revision(&own), revision(&again))
}

#[tokio::test]
async fn keys_are_rotated_while_the_server_runs() {
    let folder = Folder::new("rotation");
    let identity = json!({"identity": {}});
    let file = Configured::new(&folder, secrets(json!([identity])));
    let cluster = Cluster::with(|config| config.encryption = file.settings(true)).await;
    cluster.tree(&secret("s", "open")).await;
    assert!(stored(&cluster, KEY).await.starts_with('{'));

    let (one, two) = (key("key1", 'a'), key("key2", 'b'));
    let step = async |providers: Value, prefix: &str| {
        file.write(secrets(providers));
        cluster.server.reload().await;
        let before = rewrite(&cluster).await;
        assert_ne!(before.0, before.1, "what is stale is written though nothing has changed");
        assert!(stored(&cluster, KEY).await.starts_with(prefix), "{prefix}");
        let after = rewrite(&cluster).await;
        assert_eq!(after.0, after.1, "what is not stale is not written");
        assert_eq!(cluster.tree(GET).await["data"]["k"], STANDARD.encode("open"));
        let list = cluster.tree("GET /api/v1/secrets").await;
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    };
    step(json!([{"aescbc": {"keys": [one]}}, identity]), "k8s:enc:aescbc:v1:key1:").await;
    step(json!([{"aescbc": {"keys": [two, one]}}, identity]), "k8s:enc:aescbc:v1:key2:").await;
    step(json!([{"aesgcm": {"keys": [one]}}, {"aescbc": {"keys": [two]}}]), "k8s:enc:aesgcm:v1:key1:").await;
    step(json!([{"secretbox": {"keys": [two]}}, {"aesgcm": {"keys": [one]}}]), "k8s:enc:secretbox:v1:key2:").await;
    step(json!([identity, {"secretbox": {"keys": [two]}}]), "{").await;
}

#[tokio::test]
async fn a_bad_configuration_changes_nothing() {
    let folder = Folder::new("bad-config");
    let file = Configured::new(&folder, secrets(json!([{"aesgcm": {"keys": [key("k", 'a')]}}])));
    let cluster = Cluster::with(|config| config.encryption = file.settings(true)).await;
    file.write(secrets(json!([])));
    cluster.server.reload().await;
    cluster.tree(&secret("s", "x")).await;
    assert!(stored(&cluster, KEY).await.starts_with("k8s:enc:aesgcm:v1:k:"));
    let mut config = support::config(cluster.store.clone(), cluster.clock.clone());
    config.encryption = file.settings(false);
    let failure = ApiServer::new(config).await.err().expect("a fault");
    expect!["error while parsing file: resources[0].providers: Required value: at least one resources[0].providers is required"]
        .assert_eq(&failure.0.message);
}

#[tokio::test]
async fn custom_objects_and_whole_groups_are_encrypted_and_watched() {
    let folder = Folder::new("groups");
    let own = |name: &str| json!([{"secretbox": {"keys": [key(name, 'a')]}}, {"identity": {}}]);
    let file = Configured::new(
        &folder,
        json!([
            {"resources": ["widgets.example.com"], "providers": own("exact")},
            {"resources": ["*.apps"], "providers": own("group")},
            {"resources": ["*.*"], "providers": own("all")},
        ]),
    );
    let cluster = Cluster::with(|config| config.encryption = file.settings(false)).await;
    cluster
        .tree(
            "POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions

            {\"metadata\": {\"name\": \"widgets.example.com\"}, \"spec\": {\"group\": \"example.com\", \"scope\": \"Namespaced\",
             \"names\": {\"plural\": \"widgets\", \"kind\": \"Widget\"}, \"versions\": [{\"name\": \"v1\", \"served\": true, \"storage\": true,
             \"schema\": {\"openAPIV3Schema\": {\"type\": \"object\", \"x-kubernetes-preserve-unknown-fields\": true}}}]}}",
        )
        .await;
    established(&cluster, "widgets.example.com").await;
    let mut watch = Watch::open(&cluster, "GET /apis/example.com/v1/widgets?watch=1").await;
    cluster
        .tree("POST /apis/example.com/v1/namespaces/default/widgets\n\n{\"apiVersion\": \"example.com/v1\", \"kind\": \"Widget\", \"metadata\": {\"name\": \"w\"}, \"color\": \"red\"}")
        .await;
    assert_eq!(watch.next().await[0]["object"]["color"], "red");
    assert!(
        stored(&cluster, b"/registry/example.com/widgets/default/w").await.starts_with("k8s:enc:secretbox:v1:exact:")
    );
    cluster.tree("POST /api/v1/namespaces\n\n{\"metadata\": {\"name\": \"n\"}}").await;
    assert!(stored(&cluster, b"/registry/core/namespaces/n").await.starts_with("k8s:enc:secretbox:v1:all:"));
    let selector = json!({"matchLabels": {"a": "b"}});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": selector, "template": template}});
    cluster.tree(&format!("POST /apis/apps/v1/namespaces/default/deployments\n\n{deployment}")).await;
    assert!(stored(&cluster, b"/registry/apps/deployments/default/d").await.starts_with("k8s:enc:secretbox:v1:group:"));
}

#[tokio::test]
async fn what_nobody_can_decrypt_stops_its_own_kind_only() {
    let folder = Folder::new("lost");
    let file = Configured::new(&folder, secrets(json!([{"aesgcm": {"keys": [key("old", 'a')]}}])));
    let first = Cluster::with(|config| config.encryption = file.settings(false)).await;
    first.tree(&secret("s", "x")).await;
    first.server.stop();

    let lost = Configured::new(&folder, secrets(json!([{"aesgcm": {"keys": [key("new", 'b')]}}])));
    let mut config = support::config(first.store.clone(), first.clock.clone());
    config.encryption = lost.settings(true);
    let server = ApiServer::new(config).await.expect("a server");
    let cluster = Cluster { server, ..first };
    let told = "500 Internal error occurred: unable to transform key \"/registry/core/secrets/default/s\": no matching key was \
                found for the provided AES transformer";
    for request in
        [GET, "GET /api/v1/secrets", "GET /api/v1/secrets?watch=1", "GET /api/v1/secrets?limit=1&resourceVersion=0"]
    {
        assert_eq!(cluster.outcome(request).await, told, "{request}");
    }
    assert_eq!(cluster.outcome("GET /api/v1/configmaps").await, "200");

    lost.write(secrets(json!([{"aesgcm": {"keys": [key("new", 'b'), key("old", 'a')]}}])));
    cluster.server.reload().await;
    assert_eq!(cluster.tree("GET /api/v1/secrets").await["items"][0]["data"]["k"], STANDARD.encode("x"));
    cluster.server.stop();

    // Without any configuration it is not taken for an object either.
    let plain = ApiServer::new(support::config(cluster.store.clone(), cluster.clock.clone())).await.expect("a server");
    let cluster = Cluster { server: plain, ..cluster };
    let told = "500 Internal error occurred: unable to transform key \"/registry/core/secrets/default/s\": identity transformer \
                tried to read encrypted data";
    assert_eq!(cluster.outcome("GET /api/v1/secrets").await, told);
}

#[tokio::test]
async fn a_plugin_guards_the_seed_of_all_keys() {
    let folder = Folder::new("kms");
    let plugin = Plugin::start(folder.path());
    let kms = json!({"kms": {"apiVersion": "v2", "name": "vault", "endpoint": plugin.endpoint(), "timeout": "60s"}});
    let file = Configured::new(&folder, secrets(json!([kms, {"identity": {}}])));
    let first = Cluster::with(|config| config.encryption = file.settings(false)).await;
    for name in ["s", "t", "u"] {
        first.tree(&secret(name, name)).await;
    }
    assert!(stored(&first, KEY).await.starts_with("k8s:enc:kms:v2:vault:"));
    assert_eq!(plugin.asked(), (1, 0), "one seed serves them all");
    assert_eq!(first.outcome("GET /healthz/kms-providers").await, "200");
    assert_eq!(first.outcome("GET /readyz/kms-provider-0").await, "200");
    assert_eq!(first.outcome("GET /livez/kms-providers").await, "404");
    let health = first.answer("GET /healthz?verbose").await;
    assert!(health.contains("[+]etcd ok\n[+]kms-providers ok\n"), "{health}");
    first.server.stop();

    // A plugin that does not decrypt is asked once for all values of a seed, and again a while later.
    plugin.set(|facts| facts.is_closed = true);
    let mut config = support::config(first.store.clone(), first.clock.clone());
    config.encryption = file.settings(false);
    let cluster = Cluster { server: ApiServer::new(config).await.expect("a server"), ..first };
    let refused = cluster.outcome("GET /api/v1/secrets").await;
    assert!(refused.contains("failed to decrypt DEK") && refused.contains("the vault is closed"), "{refused}");
    assert_eq!(plugin.asked(), (2, 1));
    plugin.set(|facts| facts.is_closed = false);
    cluster.clock.advance(Duration::from_secs(1));
    cluster.server.reload().await;
    assert_eq!(cluster.tree("GET /api/v1/secrets").await["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(plugin.asked(), (2, 2));
    cluster.server.stop();
    let first = cluster;

    // Another server, or the same after a restart, asks once for all that it reads.
    let mut config = support::config(first.store.clone(), first.clock.clone());
    config.encryption = file.settings(false);
    let cluster = Cluster { server: ApiServer::new(config).await.expect("a server"), ..first };
    assert_eq!(cluster.tree("GET /api/v1/secrets").await["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(plugin.asked(), (3, 3));

    // Another key: the next look at the plugin takes it up, and what was written before is stale.
    let same = rewrite(&cluster).await;
    assert_eq!(same.0, same.1);
    plugin.set(|facts| facts.key_id = "2".into());
    cluster.clock.advance(Duration::from_secs(61));
    assert_eq!(cluster.outcome("GET /healthz/kms-providers").await, "200");
    let changed = rewrite(&cluster).await;
    assert_ne!(changed.0, changed.1);
    assert_eq!(plugin.asked(), (4, 3));

    // It is ill: it is told so, writes go on for three minutes, reads for ever.
    plugin.set(|facts| facts.healthz = "the vault is closed".into());
    cluster.clock.advance(Duration::from_secs(61));
    let health = cluster.answer("GET /healthz/kms-providers").await;
    let told = "500\ninternal server error: kms-provider-0: kmsv2 Provider vault is not healthy, error: got unexpected healthz \
                status: the vault is closed\n\n";
    assert_eq!(health, told);
    cluster.tree(&secret("v", "v")).await;
    assert_eq!(cluster.outcome("GET /livez").await, "200");
    drop(plugin);
    cluster.clock.advance(Duration::from_secs(181));
    let refused = cluster.outcome(&secret("w", "w")).await;
    assert!(
        refused.starts_with("500 Internal error occurred: encryptedDEKSource with keyID hash \"sha256:"),
        "{refused}"
    );
    assert_eq!(cluster.tree(GET).await["data"]["k"], STANDARD.encode("s"));
}

/// The files below a folder, as one piece, without the room in them that is not used yet.
fn content(folder: &Path) -> Vec<u8> {
    const PAGE: [u8; 4096] = [0; 4096];
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(content(&path));
        } else {
            let file = std::fs::read(&path).expect("a file");
            all.extend(file.chunks(PAGE.len()).filter(|page| **page != PAGE[..page.len()]).flatten());
        }
    }
    all
}

/// Secrets and ConfigMaps of the same kind of content: only the former may not be found on the disk.
async fn no_secret_is_on_the_disk(store: Arc<dyn Store>, folder: &Folder, data: &Path) {
    let file = Configured::new(folder, secrets(json!([{"aescbc": {"keys": [key("k", 'a')]}}])));
    let cluster = Cluster::with(|config| {
        config.store = store;
        config.encryption = file.settings(false);
    })
    .await;
    // Long and without repetition, so that nothing would be left of it to be compressed.
    let (guarded, open) = ("guarded-7f3a9c51e8b2d604", "open-19c4e7d2a6f8b350");
    cluster.tree(&secret("s", guarded)).await;
    let map = json!({"metadata": {"name": "m"}, "data": {"k": open, "e": STANDARD.encode(open)}});
    cluster.tree(&format!("POST /api/v1/namespaces/default/configmaps\n\n{map}")).await;
    assert_eq!(cluster.tree(GET).await["data"]["k"], STANDARD.encode(guarded));
    let content = content(data);
    let holds = |text: &str| content.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(open) && holds(&STANDARD.encode(open)), "the test sees what is not encrypted");
    assert!(!holds(guarded) && !holds(&STANDARD.encode(guarded)), "a Secret lies on the disk");
    cluster.server.stop();
}

#[tokio::test]
async fn no_secret_lies_on_the_disk_of_the_embedded_store() {
    let folder = Folder::new("encrypted-embedded");
    let data = folder.path().join("data");
    let store = EmbeddedStore::open(&data, EmbeddedOptions::default()).expect("a store");
    no_secret_is_on_the_disk(store, &folder, &data).await;
}

#[tokio::test]
async fn no_secret_lies_on_the_disk_of_etcd() {
    if !etcd::is_there() {
        return;
    }
    let folder = Folder::new("encrypted-etcd");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    let members = etcd::cluster(&data, 1, None);
    let store = EtcdStore::open(EtcdOptions::new(vec![members[0].endpoint.clone()])).await.expect("a store on etcd");
    no_secret_is_on_the_disk(store, &folder, &data).await;
}
