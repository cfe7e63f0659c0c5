//! What every store must do: one suite for all back ends.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod etcd;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use skiff_store::{
    Change, Compare, Durability, KeyRange, KeyValue, Outcome, Store, StoreError, Transaction, WatchItem, WatchStream,
};

/// How long a watch may take to show what has happened; far beyond what it takes.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A folder that is gone when the test is.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("skiff-store-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("removing {}: {error}", self.0.display());
        }
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> Change {
    Change::Put { key: bytes(key), value: bytes(value) }
}

pub fn delete(key: &str) -> Change {
    Change::Delete { key: bytes(key) }
}

pub async fn commit(store: &dyn Store, changes: Vec<Change>) -> u64 {
    match store.commit(Transaction { changes, ..Transaction::default() }).await.unwrap() {
        Outcome::Committed(revision) => revision,
        failed => panic!("no comparison was asked for: {failed:?}"),
    }
}

/// `key=value@created:modified`, the way the assertions write a key.
pub fn shown(value: &KeyValue) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}={}@{}:{}", text(&value.key), text(&value.value), value.create_revision, value.mod_revision)
}

pub async fn listed(store: &dyn Store, prefix: &str, at: Option<u64>, limit: usize) -> String {
    match store.range(&KeyRange::prefix(bytes(prefix)), at, limit).await {
        Ok(found) => {
            let items: Vec<String> = found.items.iter().map(shown).collect();
            format!("{} +{} at {}", items.join(" "), found.remaining, found.revision)
        }
        Err(error) => error.to_string(),
    }
}

/// The next item of a watch that is no mere progress.
pub async fn event(watch: &mut WatchStream) -> String {
    loop {
        let item = tokio::time::timeout(PATIENCE, watch.next())
            .await
            .expect("the watch shows nothing")
            .expect("the watch ended");
        match item {
            Ok(WatchItem::Progress(_)) => {}
            Ok(WatchItem::Events(events)) => {
                let mut texts: Vec<String> = events
                    .iter()
                    .map(|event| {
                        let side = |value: &Option<KeyValue>| value.as_ref().map_or("-".into(), shown);
                        format!("{}: {} -> {}", event.revision, side(&event.previous), side(&event.value))
                    })
                    .collect();
                texts.sort();
                return texts.join(", ");
            }
            Err(error) => return error.to_string(),
        }
    }
}

/// Waits until the watch says that it has seen everything up to `revision`.
pub async fn progress(watch: &mut WatchStream, revision: u64) {
    loop {
        match tokio::time::timeout(PATIENCE, watch.next())
            .await
            .expect("no progress")
            .expect("the watch ended")
            .unwrap()
        {
            WatchItem::Progress(at) if at >= revision => return,
            WatchItem::Progress(_) => {}
            WatchItem::Events(events) => panic!("unexpected {events:?}"),
        }
    }
}

/// Runs the whole suite; `make` gives an empty store each time.
pub async fn run<F: AsyncFn() -> Arc<dyn Store>>(make: F) {
    revisions_move_with_changes_only(&*make().await).await;
    comparisons_guard_transactions(&*make().await).await;
    ranges_are_ordered_and_paged(&*make().await).await;
    the_past_can_be_read_until_it_is_compacted(&*make().await).await;
    watches_show_the_past_and_the_present(&*make().await).await;
    quiet_watches_move_on(&*make().await).await;
    nothing_is_lost_between_concurrent_writers(make().await).await;
}

async fn revisions_move_with_changes_only(store: &dyn Store) {
    let start = store.revision().await.unwrap();
    assert_eq!(store.get(b"a", None).await.unwrap(), (start, None));
    let first = commit(store, vec![put("a", "1"), put("b", "1")]).await;
    assert_eq!(first, start + 1);
    assert_eq!(commit(store, vec![]).await, first, "nothing to change");
    assert_eq!(commit(store, vec![delete("none")]).await, first, "removing an absent key is no change");
    let second = commit(store, vec![put("a", "1")]).await;
    assert_eq!(second, first + 1, "the same value is a change");
    assert_eq!(listed(store, "", None, 0).await, format!("a=1@{first}:{second} b=1@{first}:{first} +0 at {second}"));
    let third = commit(store, vec![delete("a")]).await;
    let fourth = commit(store, vec![put("a", "2")]).await;
    assert_eq!((third, fourth), (second + 1, second + 2));
    assert_eq!(shown(&store.get(b"a", None).await.unwrap().1.unwrap()), format!("a=2@{fourth}:{fourth}"));
}

async fn comparisons_guard_transactions(store: &dyn Store) {
    let swap = async |key: &str, mod_revision, value: &str| {
        let compares = vec![Compare { key: bytes(key), mod_revision }];
        store
            .commit(Transaction { compares, changes: vec![put(key, value)], durability: Durability::Durable })
            .await
            .unwrap()
    };
    let Outcome::Committed(first) = swap("a", 0, "1").await else { panic!("a is absent") };
    let Outcome::Failed { revision, current } = swap("a", 0, "2").await else { panic!("a is present") };
    assert_eq!(revision, first);
    assert_eq!(current.iter().flatten().map(shown).collect::<Vec<_>>(), [format!("a=1@{first}:{first}")]);
    assert_eq!(swap("a", first, "2").await, Outcome::Committed(first + 1));
    let Outcome::Failed { current, .. } = swap("b", first, "2").await else { panic!("b is absent") };
    assert_eq!(current, [None]);
    let compares =
        vec![Compare { key: bytes("a"), mod_revision: first + 1 }, Compare { key: bytes("b"), mod_revision: 7 }];
    let both = Transaction { compares, changes: vec![delete("a")], durability: Durability::Relaxed };
    let Outcome::Failed { current, .. } = store.commit(both).await.unwrap() else { panic!("b is absent") };
    assert_eq!(current.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
}

async fn ranges_are_ordered_and_paged(store: &dyn Store) {
    let at = commit(store, vec![put("p/b", "2"), put("p/a", "1"), put("p/c", "3"), put("q", "4"), put("o", "0")]).await;
    let (a, b, c) = (format!("p/a=1@{at}:{at}"), format!("p/b=2@{at}:{at}"), format!("p/c=3@{at}:{at}"));
    assert_eq!(listed(store, "p/", None, 0).await, format!("{a} {b} {c} +0 at {at}"));
    assert_eq!(listed(store, "p/", None, 2).await, format!("{a} {b} +1 at {at}"));
    let rest = KeyRange { start: bytes("p/b\0"), end: bytes("p0") };
    assert_eq!(store.range(&rest, Some(at), 2).await.unwrap().items.iter().map(shown).collect::<Vec<_>>(), [c]);
    let inverted = KeyRange { start: bytes("z"), end: bytes("a") };
    assert_eq!(store.range(&inverted, None, 0).await.unwrap().items, []);
}

async fn the_past_can_be_read_until_it_is_compacted(store: &dyn Store) {
    let first = commit(store, vec![put("a", "1"), put("b", "1")]).await;
    let second = commit(store, vec![delete("a"), put("c", "1")]).await;
    let third = commit(store, vec![put("a", "2"), put("b", "2")]).await;
    let at_first = format!("a=1@{first}:{first} b=1@{first}:{first} +0 at {first}");
    assert_eq!(listed(store, "", Some(first), 0).await, at_first);
    assert_eq!(listed(store, "", Some(second), 1).await, format!("b=1@{first}:{first} +1 at {second}"));
    assert_eq!(store.get(b"a", Some(second)).await.unwrap(), (second, None));
    let future = store.get(b"a", Some(third + 5)).await.unwrap_err();
    assert!(
        matches!(future, StoreError::Future { asked, current } if asked == third + 5 && current == third),
        "{future}"
    );
    store.compact(second).await.unwrap();
    let compacted = store.get(b"a", Some(first)).await.unwrap_err();
    assert!(matches!(compacted, StoreError::Compacted { oldest } if oldest == second), "{compacted}");
    assert!(matches!(store.compact(first).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.compact(third + 1).await, Err(StoreError::Future { .. })));
    assert_eq!(
        listed(store, "", Some(second), 0).await,
        format!("b=1@{first}:{first} c=1@{second}:{second} +0 at {second}")
    );
    let now = format!("a=2@{third}:{third} b=2@{first}:{third} c=1@{second}:{second} +0 at {third}");
    assert_eq!(listed(store, "", None, 0).await, now);
    assert!(matches!(store.watch(KeyRange::prefix(""), first).await, Err(StoreError::Compacted { .. })));
    let mut watch = store.watch(KeyRange::prefix(""), second).await.unwrap();
    assert_eq!(
        event(&mut watch).await,
        format!("{third}: - -> a=2@{third}:{third}, {third}: b=1@{first}:{first} -> b=2@{first}:{third}")
    );
}

async fn watches_show_the_past_and_the_present(store: &dyn Store) {
    let start = store.revision().await.unwrap();
    let first = commit(store, vec![put("w/a", "1"), put("x", "1")]).await;
    let second = commit(store, vec![put("w/a", "2")]).await;
    let mut all = store.watch(KeyRange::prefix("w/"), start).await.unwrap();
    let mut late = store.watch(KeyRange::prefix("w/"), first).await.unwrap();
    assert_eq!(event(&mut all).await, format!("{first}: - -> w/a=1@{first}:{first}"));
    let change = format!("{second}: w/a=1@{first}:{first} -> w/a=2@{first}:{second}");
    assert_eq!(event(&mut all).await, change);
    assert_eq!(event(&mut late).await, change);
    commit(store, vec![put("x", "2")]).await;
    let relaxed =
        Transaction { changes: vec![delete("w/a")], durability: Durability::Relaxed, ..Transaction::default() };
    let Outcome::Committed(third) = store.commit(relaxed).await.unwrap() else { panic!("no comparison was asked for") };
    let removal = format!("{third}: w/a=2@{first}:{second} -> -");
    assert_eq!(event(&mut all).await, removal);
    assert_eq!(event(&mut late).await, removal);
    let fourth = commit(store, vec![put("w/a", "3"), put("w/b", "1")]).await;
    let two = format!("{fourth}: - -> w/a=3@{fourth}:{fourth}, {fourth}: - -> w/b=1@{fourth}:{fourth}");
    assert_eq!(event(&mut all).await, two);
    assert!(matches!(store.watch(KeyRange::prefix("w/"), fourth + 1).await, Err(StoreError::Future { .. })));
}

async fn quiet_watches_move_on(store: &dyn Store) {
    let start = store.revision().await.unwrap();
    let mut quiet = store.watch(KeyRange::prefix("quiet/"), start).await.unwrap();
    let mut last = start;
    for _ in 0..3 {
        last = commit(store, vec![put("loud", "1")]).await;
    }
    store.request_progress().await.unwrap();
    progress(&mut quiet, last).await;
    let next = commit(store, vec![put("quiet/a", "1")]).await;
    assert_eq!(event(&mut quiet).await, format!("{next}: - -> quiet/a=1@{next}:{next}"));
}

async fn nothing_is_lost_between_concurrent_writers(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 25;
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(KeyRange::prefix("n"), start).await.unwrap();
    let increment = async |store: Arc<dyn Store>| {
        for _ in 0..EACH {
            loop {
                let now = store.get(b"n", None).await.unwrap().1;
                let number: u64 =
                    now.as_ref().map_or(0, |now| std::str::from_utf8(&now.value).unwrap().parse().unwrap());
                let compares = vec![Compare { key: bytes("n"), mod_revision: now.map_or(0, |now| now.mod_revision) }];
                let changes = vec![put("n", &(number + 1).to_string())];
                let outcome =
                    store.commit(Transaction { compares, changes, durability: Durability::Durable }).await.unwrap();
                if matches!(outcome, Outcome::Committed(_)) {
                    break;
                }
            }
        }
    };
    futures_util::future::join_all((0..WRITERS).map(|_| increment(store.clone()))).await;
    for number in 1..=WRITERS * EACH {
        let seen = event(&mut watch).await;
        assert!(seen.contains(&format!("-> n={number}@")), "{number} is missing: {seen}");
    }
}
