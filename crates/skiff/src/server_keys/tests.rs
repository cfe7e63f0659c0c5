//! Servers that share a store, and the keys that they have from it.

use skiff_base::SystemClock;
use skiff_store::{EmbeddedOptions, EmbeddedStore};

use super::*;
use crate::pki;

const TOKEN: &str = "a secret of all servers";

/// A store, and the folders of servers that share it.
struct Place {
    root: PathBuf,
    store: Arc<dyn Store>,
}

impl Place {
    fn new(purpose: &str) -> Self {
        let root = std::env::temp_dir().join(format!("skiff-server-keys-{purpose}-{}", std::process::id()));
        let store = EmbeddedStore::open(root.join("store"), EmbeddedOptions::default()).expect("a store");
        Self { root, store }
    }

    fn folder(&self, server: &str) -> PathBuf {
        let folder = self.root.join(server);
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    async fn agree(&self, server: &str, token: &str) -> Result<ServerKeys, String> {
        let clock = SystemClock::shared();
        let agreed = ServerKeys::agree(self.store.clone(), &self.folder(server), token, &clock).await;
        agreed.map_err(|error| error.to_string())
    }

    fn keys(&self, server: &str) -> Shared {
        Shared::read(&self.folder(server)).expect("files")
    }

    async fn put(&self, key: &'static [u8], value: &[u8]) {
        let changes = vec![Change::Put { key: key.into(), value: Bytes::copy_from_slice(value) }];
        self.store.commit(Transaction { changes, ..Transaction::default() }).await.expect("written");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("{}: {error}", self.root.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_start_together_have_the_same_keys() {
    let place = Place::new("together");
    let (a, b) = tokio::join!(place.agree("a", TOKEN), place.agree("b", TOKEN));
    a.and(b).map(drop).expect("they agree");
    assert!(place.keys("a").has_authority());
    assert_eq!(place.keys("a"), place.keys("b"));
    let (_, found) = place.store.get(KEY, None).await.expect("a store");
    let stored = String::from_utf8_lossy(&found.expect("they lie there").value).into_owned();
    assert!(!stored.contains("PRIVATE") && !stored.contains(TOKEN), "{stored}");
    assert!(!place.folder("a").join("proposed").exists());
}

#[tokio::test]
async fn another_token_opens_nothing() {
    let place = Place::new("token");
    place.agree("a", TOKEN).await.map(drop).expect("it is the first");
    let refused = place.agree("b", "another secret of servers").await.map(drop).expect_err("it is another secret");
    assert!(refused.contains("another --server-token"), "{refused}");
    assert!(!place.keys("b").has_authority());
}

#[tokio::test]
async fn a_cluster_whose_keys_are_elsewhere_is_not_given_others() {
    let place = Place::new("older");
    place.put(b"/registry/namespaces/kube-system", b"{}").await;
    let refused = place.agree("new", TOKEN).await.map(drop).expect_err("its keys are not known");
    assert!(refused.contains("start them with this --server-token first"), "{refused}");
    // One that has them tells them.
    Authority::load_or_create(&place.folder("old"), SystemClock::shared()).map(drop).expect("an authority");
    let before = place.keys("old");
    place.agree("old", TOKEN).await.map(drop).expect("it has the keys");
    place.agree("new", TOKEN).await.map(drop).expect("they are known now");
    assert_eq!(place.keys("new"), before);
}

#[tokio::test]
async fn a_server_with_keys_of_its_own_is_refused() {
    let place = Place::new("own");
    place.agree("a", TOKEN).await.map(drop).expect("it is the first");
    Authority::load_or_create(&place.folder("b"), SystemClock::shared()).map(drop).expect("an authority");
    let before = place.keys("b");
    let refused = place.agree("b", TOKEN).await.map(drop).expect_err("its keys are others");
    assert!(refused.contains("move them away"), "{refused}");
    assert_eq!(place.keys("b"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_exchanges_the_others_have() {
    let place = Place::new("exchange");
    let a = place.agree("a", TOKEN).await.expect("it is the first");
    let b = place.agree("b", TOKEN).await.expect("it knows the keys");
    let exchange = async {
        Authority::rotate(&place.folder("a"), SystemClock::shared()).expect("rotated");
        a.tell().await.expect("told");
    };
    tokio::join!(b.news(), exchange);
    assert_eq!(place.keys("a"), place.keys("b"));
    // And the other way round, by a server that has followed.
    pki::rotate_service_account_key(&place.folder("b")).expect("rotated");
    b.tell().await.expect("told");
    // One that was away takes it when it starts, and one that exchanged something while it was away gives it.
    drop(a);
    place.agree("a", TOKEN).await.map(drop).expect("they agree");
    assert_eq!(place.keys("a"), place.keys("b"));
    Authority::forget_former(&place.folder("a")).expect("forgotten");
    place.agree("a", TOKEN).await.map(drop).expect("they agree");
    place.agree("b", TOKEN).await.map(drop).expect("they agree");
    assert_eq!(place.keys("a"), place.keys("b"));
}

#[tokio::test]
async fn who_was_overtaken_is_told() {
    let place = Place::new("overtaken");
    let a = place.agree("a", TOKEN).await.expect("it is the first");
    let b = place.agree("b", TOKEN).await.expect("it knows the keys");
    for server in ["a", "b"] {
        pki::rotate_service_account_key(&place.folder(server)).expect("rotated");
    }
    a.tell().await.expect("it is first");
    let refused = b.tell().await.expect_err("it is second").to_string();
    assert!(refused.contains("at the same moment"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_token_is_for_those_who_are_given_it() {
    const LATER: &str = "another secret of all servers";
    let place = Place::new("later");
    let a = place.agree("a", TOKEN).await.expect("it is the first");
    let b = place.agree("b", TOKEN).await.expect("it knows the keys");
    a.exchange_token(LATER).await.expect("exchanged");
    let refused = b.wait_for_news().await.expect_err("it has not the secret").to_string();
    assert!(refused.contains("another --server-token"), "{refused}");
    // It writes nothing that the others cannot read, and neither takes the secret back.
    pki::rotate_service_account_key(&place.folder("b")).expect("rotated");
    for refused in [b.tell().await, b.exchange_token(TOKEN).await] {
        let refused = refused.expect_err("it has not the secret").to_string();
        assert!(refused.contains("another --server-token"), "{refused}");
    }
    assert!(place.agree("c", TOKEN).await.is_err());
    // With the secret it tells what it has exchanged meanwhile, and hears of others again.
    let b = place.agree("b", LATER).await.expect("it has the secret");
    a.wait_for_news().await.expect("told");
    assert_eq!(place.keys("a"), place.keys("b"));
    pki::rotate_service_account_key(&place.folder("a")).expect("rotated");
    a.tell().await.expect("told");
    b.wait_for_news().await.expect("told");
    assert_eq!(place.keys("a"), place.keys("b"));
}

/// Who follows the store hears of this server's own changes, too, while it makes the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_exchanges_the_token_keeps_it() {
    let place = Place::new("keeps");
    let a = Arc::new(place.agree("a", TOKEN).await.expect("it is the first"));
    let follower = a.clone();
    let following = tokio::spawn(async move {
        loop {
            follower.news().await;
        }
    });
    for round in 0..10 {
        a.exchange_token(&format!("the secret of round {round}")).await.expect("exchanged");
        tokio::time::sleep(Duration::from_millis(20)).await;
        pki::rotate_service_account_key(&place.folder("a")).expect("rotated");
        a.tell().await.unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    following.abort();
}

#[tokio::test]
async fn keys_that_were_half_taken_are_taken_whole() {
    let place = Place::new("half");
    place.agree("a", TOKEN).await.map(drop).expect("it is the first");
    let keys = place.keys("a");
    let folder = place.folder("b");
    write_atomically(&coming_file(&folder), &serde_json::to_vec(&keys).expect("text"), 0o600).expect("written");
    fs::copy(place.folder("a").join("ca.crt"), folder.join("ca.crt")).expect("copied");
    place.agree("b", TOKEN).await.map(drop).expect("they agree");
    assert_eq!(place.keys("b"), keys);
    assert!(!coming_file(&folder).exists());
}

#[test]
fn what_is_to_be_done_follows_from_three() {
    let keys = |name: &str| {
        let text = format!(r#"{{"ca.crt": "{name}"}}"#);
        serde_json::from_str::<Shared>(&text).expect("keys")
    };
    let (a, b, c, none) = (keys("a"), keys("b"), keys("c"), serde_json::from_str("{}").expect("no keys"));
    assert_eq!(step(&a, None, &a), Step::Nothing);
    assert_eq!(step(&none, None, &a), Step::Take);
    assert_eq!(step(&a, Some(&a), &b), Step::Take);
    assert_eq!(step(&b, Some(&a), &a), Step::Give);
    assert_eq!(step(&b, Some(&a), &c), Step::Refuse);
    assert_eq!(step(&a, None, &b), Step::Refuse);
}
