//! The embedded store passes the suite, and behaves at its own edges: limits, restarts, folders that cannot be used.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod suite;

use std::sync::Arc;
use std::time::Duration;

use skiff_store::{
    Durability, EmbeddedOptions, EmbeddedStore, HistoryLimits, KeyRange, Snapshot, Store, StoreError, Transaction,
};
use suite::{Folder, commit, delete, event, listed, put};

fn open(folder: &Folder) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap()
}

fn refused(path: &std::path::Path) -> String {
    match EmbeddedStore::open(path, EmbeddedOptions::default()) {
        Ok(_) => panic!("{} could be opened", path.display()),
        Err(error) => error.to_string().replace(&path.display().to_string(), "FOLDER"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_is_a_store() {
    let root = Folder::new("conformance");
    let next = std::sync::atomic::AtomicU32::new(0);
    let make = async || -> Arc<dyn Store> {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let store: Arc<dyn Store> =
            EmbeddedStore::open(root.path().join(number.to_string()), EmbeddedOptions::default()).unwrap();
        store
    };
    suite::run(make).await;
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let folder = Folder::new("restart");
    let store = open(&folder);
    let start = store.revision().await.unwrap();
    let first = commit(&*store, vec![put("a", "1"), put("b", "1")]).await;
    commit(&*store, vec![delete("b")]).await;
    let relaxed =
        Transaction { changes: vec![put("a", "2")], durability: Durability::Relaxed, ..Transaction::default() };
    store.commit(relaxed).await.unwrap();
    let before = (listed(&*store, "", None, 0).await, listed(&*store, "", Some(first), 0).await);
    let mut watch = store.watch(KeyRange::prefix(""), start).await.unwrap();
    let seen = [event(&mut watch).await, event(&mut watch).await, event(&mut watch).await];
    store.close();
    assert_eq!(event(&mut watch).await, "watch: the store is closed");
    assert_eq!(listed(&*store, "", None, 0).await, before.0, "reads go on");
    let late = store.commit(Transaction { changes: vec![put("a", "3")], ..Transaction::default() }).await.unwrap_err();
    assert_eq!(late.to_string(), "commit: the store is closed");
    drop(store);
    let store = open(&folder);
    assert_eq!((listed(&*store, "", None, 0).await, listed(&*store, "", Some(first), 0).await), before);
    let mut watch = store.watch(KeyRange::prefix(""), start).await.unwrap();
    assert_eq!([event(&mut watch).await, event(&mut watch).await, event(&mut watch).await], seen);
}

#[tokio::test]
async fn a_removal_that_is_compacted_does_not_turn_the_revision_back() {
    let folder = Folder::new("removal");
    let store = open(&folder);
    commit(&*store, vec![put("a", "1")]).await;
    let last = commit(&*store, vec![delete("a")]).await;
    store.compact(last).await.unwrap();
    drop(store);
    assert_eq!(open(&folder).revision().await.unwrap(), last);
}

#[tokio::test]
async fn history_is_bounded_and_slow_watches_are_told() {
    let folder = Folder::new("bounded");
    let history = HistoryLimits { revisions: 100, ..HistoryLimits::default() };
    let options =
        EmbeddedOptions { history, progress_interval: Duration::from_secs(3600), ..EmbeddedOptions::default() };
    let store = EmbeddedStore::open(folder.path(), options.clone()).unwrap();
    let start = store.revision().await.unwrap();
    let mut slow = store.watch(KeyRange::prefix("loud"), start).await.unwrap();
    let mut quiet = store.watch(KeyRange::prefix("quiet"), start).await.unwrap();
    let mut last = start;
    for number in 0..500 {
        last = commit(&*store, vec![put("loud", &number.to_string())]).await;
    }
    assert_eq!(event(&mut slow).await, "watcher fell behind and was dropped");
    let next = commit(&*store, vec![put("quiet", "1")]).await;
    assert_eq!(
        event(&mut quiet).await,
        format!("{next}: - -> quiet=1@{next}:{next}"),
        "nothing of its own was forgotten"
    );
    assert!(matches!(store.watch(KeyRange::prefix("loud"), start).await, Err(StoreError::Compacted { .. })));
    assert!(store.watch(KeyRange::prefix("loud"), last - 90).await.is_ok());
    assert_eq!(store.watches(), 2);
    drop(store);
    let store = EmbeddedStore::open(folder.path(), options).unwrap();
    let kept = store.range(&KeyRange::prefix(""), None, 0).await.unwrap();
    assert_eq!((kept.items.len(), kept.revision), (2, next));
}

#[tokio::test]
async fn impossible_keys_are_refused() {
    let folder = Folder::new("keys");
    let store = open(&folder);
    for (changes, message) in [
        (vec![put("", "1")], "commit: a key has 0 bytes, 1 to 32768 are possible"),
        (vec![put("a", "1"), delete("a")], "commit: the key a is changed twice in one transaction"),
    ] {
        let error = store.commit(Transaction { changes, ..Transaction::default() }).await.unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn folders_that_cannot_be_used_are_named() {
    let folder = Folder::new("bad");
    let held = open(&folder);
    assert_eq!(refused(folder.path()), "opening the store FOLDER: it is in use by another process");
    drop(held);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(refused(&file), "creating the folder of the store FOLDER: File exists (os error 17)");
    let inside = file.join("inside");
    assert_eq!(refused(&inside), "creating the folder of the store FOLDER: Not a directory (os error 20)");
    assert!(
        refused(std::path::Path::new("/proc/skiff-store")).starts_with("creating the folder of the store FOLDER: ")
    );
}

#[tokio::test]
async fn a_damaged_log_is_an_error() {
    let folder = Folder::new("damaged");
    let store = open(&folder);
    commit(&*store, vec![put("a", "1")]).await;
    drop(store);
    std::fs::write(folder.path().join("version"), "what?").unwrap();
    let message = refused(folder.path());
    assert!(message.contains("it is corrupt") && message.contains("restore it from a backup"), "{message}");
}

#[tokio::test]
async fn a_snapshot_is_taken_while_others_write_and_restored_elsewhere() {
    let folder = Folder::new("snapshot");
    let store = open(&folder);
    let first = commit(&*store, vec![put("a", "1"), put("b", "1")]).await;
    let second = commit(&*store, vec![put("a", "2")]).await;
    let files = vec![("pki/ca.crt".to_owned(), suite::bytes("certificate"))];
    let snapshot = Snapshot::take(&*store, files).await.unwrap();
    let after = commit(&*store, vec![put("a", "3"), delete("b")]).await;
    let mut file = Vec::new();
    snapshot.write(&mut file).unwrap();
    let read = Snapshot::read(file.as_slice()).unwrap();
    assert_eq!(read, snapshot);

    let again = folder.path().join("again");
    EmbeddedStore::restore(&again, &read).unwrap();
    let restored = EmbeddedStore::open(&again, EmbeddedOptions::default()).unwrap();
    let now = restored.revision().await.unwrap();
    assert!(now > after, "revision {after} was seen once, and must not mean something else");
    assert_eq!(listed(&*restored, "", None, 0).await, format!("a=2@{first}:{second} b=1@{first}:{first} +0 at {now}"));
    assert!(matches!(restored.watch(KeyRange::prefix(""), after).await, Err(StoreError::Compacted { .. })));
    let refused = EmbeddedStore::restore(&again, &read).unwrap_err().to_string();
    assert!(refused.ends_with("it is there already"), "{refused}");

    let empty = EmbeddedStore::open(folder.path().join("empty"), EmbeddedOptions::default()).unwrap();
    read.restore_into(&*empty).await.unwrap();
    let values = |listed: &[skiff_store::KeyValue]| {
        listed.iter().map(|item| (item.key.clone(), item.value.clone())).collect::<Vec<_>>()
    };
    let found = empty.range(&KeyRange::prefix(""), None, 0).await.unwrap();
    assert_eq!(values(&found.items), values(&read.items));
    let refused = read.restore_into(&*empty).await.unwrap_err().to_string();
    assert_eq!(refused, "the store is not empty: it has a");
}
