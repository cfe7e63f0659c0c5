//! What every cluster begins with, written in one transaction.

use serde_json::json;
use skiff_base::clock;
use skiff_kinds::bootstrap::{priority_classes, rbac_objects};
use skiff_object::Object;
use skiff_object::meta::Meta;
use skiff_store::{Change, Compare, Outcome, Transaction};

use crate::codec;
use crate::config::Config;
use crate::failure::{Result, plain};
use crate::storage::catalogue::Catalogue;
use crate::storage::keys;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// How often the transaction is tried where another server starts at the same time.
const TRIES: usize = 5;

/// Writes what is not there yet.
pub async fn run(config: &Config, catalogue: &Catalogue) -> Result<()> {
    for _ in 0..TRIES {
        let mut transaction = Transaction::default();
        for object in objects(config) {
            add(config, catalogue, object, &mut transaction).await?;
        }
        if transaction.changes.is_empty() {
            return Ok(());
        }
        if let Outcome::Committed(_) = config.store.commit(transaction).await? {
            return Ok(());
        }
    }
    Err(plain(500, "writing the cluster's first objects: others keep changing them"))
}

async fn add(config: &Config, catalogue: &Catalogue, mut object: Object, transaction: &mut Transaction) -> Result<()> {
    let kind = skiff_object::GroupVersionKind::of(&object);
    let snapshot = catalogue.snapshot();
    let Some(served) = kind.and_then(|kind| snapshot.by_kind(&kind)) else { return Ok(()) };
    let key = keys::object(&served.cache.prefix, object.namespace(), object.name());
    let (_, found) = config.store.get(&key, None).await?;
    if found.is_some() {
        return Ok(());
    }
    (served.def.default)(&mut object);
    object.set_at(&["metadata", "uid"], config.ids.uid());
    object.set_at(&["metadata", "creationTimestamp"], clock::rfc3339(config.clock.now()));
    if served.def.has_generation {
        object.set_at(&["metadata", "generation"], 1);
    }
    transaction.compares.push(Compare { key: key.clone(), mod_revision: 0 });
    transaction.changes.push(Change::Put { key, value: codec::encode_stored(&object) });
    Ok(())
}

fn objects(_config: &Config) -> Vec<Object> {
    let namespaces = NAMESPACES.iter().map(|name| {
        json!({"kind": "Namespace", "apiVersion": "v1",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
    });
    namespaces.chain(rbac_objects()).chain(priority_classes()).collect()
}
