//! Random histories against the simplest model: a list of all states that ever were.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod suite;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use proptest::prelude::*;
use skiff_store::{
    Compare, Durability, EmbeddedOptions, EmbeddedStore, HistoryLimits, KeyRange, Outcome, Store, StoreError,
    Transaction, WatchItem,
};
use suite::{Folder, bytes, delete, put};

#[derive(Debug, Clone)]
enum Step {
    Change { keys: Vec<(u8, Option<u8>)>, relaxed: bool },
    Swap { key: u8, stale: bool },
    Compact { back: u8 },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = prop::collection::btree_map(0..6u8, prop::option::of(any::<u8>()), 1..4);
    let change =
        (keys, any::<bool>()).prop_map(|(keys, relaxed)| Step::Change { keys: keys.into_iter().collect(), relaxed });
    let swap = (0..6u8, any::<bool>()).prop_map(|(key, stale)| Step::Swap { key, stale });
    let step = prop_oneof![12 => change, 4 => swap, 1 => (0..8u8).prop_map(|back| Step::Compact { back }), 1 => Just(Step::Reopen)];
    prop::collection::vec(step, 1..60)
}

type Snapshot = BTreeMap<String, (String, u64)>;

/// All states by revision.
struct Model {
    states: BTreeMap<u64, Snapshot>,
}

impl Model {
    fn now(&self) -> (u64, &Snapshot) {
        let (revision, snapshot) = self.states.last_key_value().unwrap();
        (*revision, snapshot)
    }

    fn change(&mut self, keys: &[(String, Option<String>)]) -> u64 {
        let (revision, mut next) = (self.now().0 + 1, self.now().1.clone());
        let mut changed = false;
        for (key, value) in keys {
            changed |= match value {
                Some(value) => {
                    next.insert(key.clone(), (value.clone(), revision));
                    true
                }
                None => next.remove(key).is_some(),
            };
        }
        if changed {
            self.states.insert(revision, next);
        }
        self.now().0
    }
}

fn options(history: HistoryLimits) -> EmbeddedOptions {
    EmbeddedOptions { history, ..EmbeddedOptions::default() }
}

async fn check(steps: Vec<Step>, history: HistoryLimits) {
    let folder = Folder::new("model");
    let mut store = EmbeddedStore::open(folder.path(), options(history)).unwrap();
    let mut model = Model { states: BTreeMap::from([(store.revision().await.unwrap(), Snapshot::new())]) };
    for step in steps {
        match step {
            Step::Change { keys, relaxed } => {
                let name = |key: u8| format!("k{key}");
                let keys: Vec<_> =
                    keys.into_iter().map(|(key, value)| (name(key), value.map(|value| value.to_string()))).collect();
                let changes = keys
                    .iter()
                    .map(|(key, value)| value.as_ref().map_or(delete(key), |value| put(key, value)))
                    .collect();
                let durability = if relaxed { Durability::Relaxed } else { Durability::Durable };
                let outcome =
                    store.commit(Transaction { changes, durability, ..Transaction::default() }).await.unwrap();
                assert_eq!(outcome, Outcome::Committed(model.change(&keys)));
            }
            Step::Swap { key, stale } => {
                let key = format!("k{key}");
                let present = model.now().1.get(&key).map_or(0, |(_, revision)| *revision);
                let compares = vec![Compare { key: bytes(&key), mod_revision: present + u64::from(stale) }];
                let outcome = store
                    .commit(Transaction { compares, changes: vec![put(&key, "swap")], ..Transaction::default() })
                    .await
                    .unwrap();
                if !stale {
                    assert_eq!(outcome, Outcome::Committed(model.change(&[(key, Some("swap".into()))])));
                } else {
                    assert!(matches!(outcome, Outcome::Failed { revision, .. } if revision == model.now().0));
                }
            }
            Step::Compact { back } => match store.compact(model.now().0.saturating_sub(u64::from(back))).await {
                Ok(()) | Err(StoreError::Compacted { .. }) => {}
                Err(error) => panic!("{error}"),
            },
            Step::Reopen => {
                drop(store);
                store = EmbeddedStore::open(folder.path(), options(history)).unwrap();
            }
        }
    }
    compare(&store, &model).await;
    drop(store);
    compare(&EmbeddedStore::open(folder.path(), options(history)).unwrap(), &model).await;
}

async fn compare(store: &Arc<EmbeddedStore>, model: &Model) {
    assert_eq!(store.revision().await.unwrap(), model.now().0);
    for (revision, snapshot) in &model.states {
        let found = match store.range(&KeyRange::prefix("k"), Some(*revision), 0).await {
            Err(StoreError::Compacted { oldest }) if *revision < oldest && oldest <= model.now().0 => {
                continue;
            }
            found => found.unwrap(),
        };
        let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let found: Snapshot =
            found.items.iter().map(|value| (text(&value.key), (text(&value.value), value.mod_revision))).collect();
        assert_eq!(&found, snapshot, "at revision {revision}");
        assert_eq!(replayed(store, model, *revision).await, *model.now().1, "watched from revision {revision}");
    }
}

/// The state at `from`, with all that a watch shows after it applied: the present state, if nothing is missing.
async fn replayed(store: &Arc<EmbeddedStore>, model: &Model, from: u64) -> Snapshot {
    let mut snapshot = model.states[&from].clone();
    let mut watch = store.watch(KeyRange::prefix("k"), from).await.unwrap();
    let mut at = from;
    while at < model.now().0 {
        let WatchItem::Events(events) = watch.next().await.unwrap().unwrap() else {
            continue;
        };
        assert!(events[0].revision > at, "revision {} came twice", events[0].revision);
        at = events[0].revision;
        for event in events {
            let key = String::from_utf8(event.key.to_vec()).unwrap();
            assert_eq!(
                event.previous.map(|previous| previous.mod_revision),
                snapshot.get(&key).map(|(_, revision)| *revision)
            );
            match event.value {
                Some(value) => snapshot.insert(key, (String::from_utf8(value.value.to_vec()).unwrap(), at)),
                None => snapshot.remove(&key),
            };
        }
    }
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_is_kept(steps in steps(), short in any::<bool>()) {
        let history = HistoryLimits { revisions: if short { 8 } else { 1000 }, ..HistoryLimits::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(steps, history));
    }
}
