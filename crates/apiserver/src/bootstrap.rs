//! What every cluster begins with.

use bytes::Bytes;
use serde_json::json;
use skiff_base::clock;
use skiff_kinds::bootstrap::{
    flow_control_objects, gateway_definitions, ingress_classes, is_untouched, priority_classes, rbac_objects,
    storage_classes,
};
use skiff_object::meta::Meta;
use skiff_object::{GroupVersionKind, Object};
use skiff_store::{Change, Compare, KeyValue, Outcome, Transaction};

use crate::aggregation::local;
use crate::alloc::{Allocators, Claims};
use crate::codec;
use crate::config::Config;
use crate::custom::keeper::establish;
use crate::endpoints;
use crate::failure::{Result, plain};
use crate::storage::catalogue::Catalogue;
use crate::storage::keys;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// How often the transaction is tried where another server starts at the same time.
const TRIES: usize = 5;

/// Writes what is not there yet.
pub async fn run(config: &Config, catalogue: &Catalogue, allocators: &Allocators) -> Result<()> {
    let addresses = endpoints::at_start(config).await?;
    for _ in 0..TRIES {
        let mut transaction = Transaction::default();
        for object in objects(config) {
            let claims = if object["kind"] == "Service" { Allocators::of_first(&object) } else { Claims::default() };
            let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
            if add(config, catalogue, object, &mut transaction).await? {
                claims.add_to(allocators, &namespace, &name, &mut transaction);
            }
        }
        for definition in config.gateway_api.then(gateway_definitions).into_iter().flatten() {
            renew(config, catalogue, definition, &mut transaction).await?;
        }
        // Unlike the rest these follow the configuration at every start.
        for object in endpoints::objects(config, &addresses).into_iter().chain(authentication(config)) {
            put(config, catalogue, object, &mut transaction).await?;
        }
        if write_parts(config, transaction).await? {
            return Ok(());
        }
    }
    Err(plain(500, "writing the cluster's first objects: others keep changing them"))
}

/// Writes those of some objects that say something else than what is stored.
pub async fn publish(config: &Config, catalogue: &Catalogue, objects: &[Object]) -> Result<()> {
    let mut transaction = Transaction::default();
    for object in objects {
        put(config, catalogue, object.clone(), &mut transaction).await?;
    }
    // Whoever came in between wrote the same, or it is done the next time.
    write_parts(config, transaction).await.map(drop)
}

/// Writes as much at a time as a transaction may hold; says whether nobody came in between.
async fn write_parts(config: &Config, whole: Transaction) -> Result<bool> {
    let limit = config.store.transaction_limit();
    // Each change has its comparison, in the same order.
    let (mut compares, mut changes) = (whole.compares.into_iter(), whole.changes.into_iter());
    loop {
        let part = Transaction {
            compares: compares.by_ref().take(limit).collect(),
            changes: changes.by_ref().take(limit).collect(),
            durability: whole.durability,
        };
        if part.changes.is_empty() {
            return Ok(true);
        }
        if let Outcome::Failed { .. } = config.store.commit(part).await? {
            return Ok(false);
        }
    }
}

/// Adds an object where it is not there; says whether it was not.
async fn add(config: &Config, catalogue: &Catalogue, object: Object, transaction: &mut Transaction) -> Result<bool> {
    let Some((key, found)) = find(config, catalogue, &object).await? else { return Ok(false) };
    let missing = found.is_none();
    if missing {
        write(config, catalogue, object, None, key, transaction);
    }
    Ok(missing)
}

/// Adds an object, or replaces it where it says something else than it should.
async fn put(config: &Config, catalogue: &Catalogue, object: Object, transaction: &mut Transaction) -> Result<()> {
    let Some((key, found)) = find(config, catalogue, &object).await? else { return Ok(()) };
    let differs = |stored: &KeyValue| {
        let old: Object = serde_json::from_slice(&stored.value).unwrap_or_default();
        ["subsets", "endpoints", "ports", "data"].iter().any(|part| object.get(part) != old.get(part))
    };
    if found.as_ref().is_none_or(differs) {
        write(config, catalogue, object, found, key, transaction);
    }
    Ok(())
}

/// Adds a definition, or brings one up to date that an older version of this program wrote; one that somebody changed
/// or brought along is left as it is.
async fn renew(config: &Config, catalogue: &Catalogue, mut new: Object, transaction: &mut Transaction) -> Result<()> {
    let Some((key, found)) = find(config, catalogue, &new).await? else { return Ok(()) };
    let Some(stored) = found else {
        establish(&mut new, &clock::rfc3339(config.clock.now()));
        write(config, catalogue, new, None, key, transaction);
        return Ok(());
    };
    let old: Object = serde_json::from_slice(&stored.value).unwrap_or_default();
    // Mostly it is this very one, and needs no closer look.
    if bears_same_mark(&old, &new) || !is_untouched(&old) {
        return Ok(());
    }
    let mut object = old;
    object["spec"] = new["spec"].take();
    object["metadata"]["annotations"] = new["metadata"]["annotations"].take();
    let generation = object.generation() + 1;
    object.set_at(&["metadata", "generation"], generation);
    transaction.compares.push(Compare { key: key.clone(), mod_revision: stored.mod_revision });
    transaction.changes.push(Change::Put { key, value: codec::encode_stored(&object) });
    Ok(())
}

/// Whether both bear the same mark.
fn bears_same_mark(old: &Object, new: &Object) -> bool {
    old["metadata"]["annotations"] == new["metadata"]["annotations"]
}

async fn find(config: &Config, catalogue: &Catalogue, object: &Object) -> Result<Option<(Bytes, Option<KeyValue>)>> {
    let snapshot = catalogue.snapshot();
    let kind = GroupVersionKind::of(object);
    let Some(served) = kind.and_then(|kind| snapshot.by_kind(&kind)) else { return Ok(None) };
    let key = keys::object(&served.cache.prefix, object.namespace(), object.name());
    let (_, found) = config.store.get(&key, None).await?;
    Ok(Some((key, found)))
}

fn write(
    config: &Config,
    catalogue: &Catalogue,
    mut object: Object,
    found: Option<KeyValue>,
    key: Bytes,
    transaction: &mut Transaction,
) {
    let snapshot = catalogue.snapshot();
    let kind = GroupVersionKind::of(&object);
    if let Some(served) = kind.and_then(|kind| snapshot.by_kind(&kind)) {
        (served.def.default)(&mut object);
        if served.def.has_generation {
            object.set_at(&["metadata", "generation"], 1);
        }
    }
    // What was there before stays the same object.
    let old: Object = found.as_ref().and_then(|pair| serde_json::from_slice(&pair.value).ok()).unwrap_or_default();
    let (uid, since) = (old.uid(), old.str_at(&["metadata", "creationTimestamp"]));
    let or = |known: &str, new: String| if known.is_empty() { new } else { known.to_owned() };
    object.set_at(&["metadata", "uid"], or(uid, config.ids.uid()));
    object.set_at(&["metadata", "creationTimestamp"], or(since, clock::rfc3339(config.clock.now())));
    let mod_revision = found.map_or(0, |pair| pair.mod_revision);
    transaction.compares.push(Compare { key: key.clone(), mod_revision });
    transaction.changes.push(Change::Put { key, value: codec::encode_stored(&object) });
}

fn objects(config: &Config) -> Vec<Object> {
    let namespaces = NAMESPACES.iter().map(|name| {
        json!({"kind": "Namespace", "apiVersion": "v1",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
    });
    let own = [service(config), service_cidr(config)];
    let usage = crate::usage::objects(config.clock.now());
    let first = namespaces.chain(rbac_objects(&config.gates)).chain(priority_classes()).chain(own);
    let flows = flow_control_objects().into_iter().map(|object| with_flow_status(object, config));
    let versions = local::of_builtin(config.kinds.iter().copied());
    let versions = versions.iter().map(|version| version.first_object(config.clock.now()));
    let others = config.first_objects.iter().cloned();
    let first = first.chain(flows).chain(storage_classes()).chain(ingress_classes());
    first.chain(usage).chain(versions).chain(others).collect()
}

/// The first flow schemas lead to levels that are there, and say so.
fn with_flow_status(mut object: Object, config: &Config) -> Object {
    if object["kind"] == "FlowSchema" {
        let level = object.str_at(&["spec", "priorityLevelConfiguration", "name"]);
        let message =
            format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists");
        object["status"] = json!({"conditions": [{"type": "Dangling", "status": "False", "reason": "Found",
            "message": message, "lastTransitionTime": clock::rfc3339(config.clock.now())}]});
    }
    object
}

/// The `kubernetes` Service has the first address of the primary range, and no other.
fn service(config: &Config) -> Object {
    let range = config.service_cidrs.first();
    let address = range.and_then(|range| range.nth(1)).map(|address| address.to_string());
    let family = range.map(|range| range.family().name());
    json!({"kind": "Service", "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "sessionAffinity": "None",
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.advertise.port()}]},
        "status": {"loadBalancer": {}}})
}

fn service_cidr(config: &Config) -> Object {
    let ranges: Vec<String> = config.service_cidrs.iter().map(ToString::to_string).collect();
    json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ranges},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "",
            "message": "Kubernetes Service CIDR is ready", "lastTransitionTime": clock::rfc3339(config.clock.now())}]}})
}

/// What an aggregated API server reads to know whom to believe: the authorities of clients and of the server that passes
/// requests on, and the headers by which that one tells who asks.
pub fn authentication(config: &Config) -> Option<Object> {
    let proxy = config.front_proxy.as_ref()?;
    let changing = config.client_authorities.as_ref().map(|authorities| authorities.own_pem());
    let client_authority = changing.as_ref().unwrap_or(&proxy.client_authority);
    let list = |text: &str| json!([text]).to_string();
    Some(json!({"kind": "ConfigMap", "apiVersion": "v1",
    "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
    "data": {
        "client-ca-file": client_authority,
        "requestheader-allowed-names": list(&proxy.name),
        "requestheader-client-ca-file": proxy.authority,
        "requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
        "requestheader-group-headers": list("X-Remote-Group"),
        "requestheader-uid-headers": list("X-Remote-Uid"),
        "requestheader-username-headers": list("X-Remote-User"),
    }}))
}
