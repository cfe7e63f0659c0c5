//! What the cluster adds to every Pod on its way in: a service account with its token, a priority, tolerations.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>,
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/> and
//! <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#defaulttolerationseconds>.

use serde_json::{Value, json};
use skiff_base::ids::Ids;
use skiff_object::meta::Meta;
use skiff_object::{Object, Status};

use crate::admission::Attributes;
use crate::failure::Result;
use crate::storage::cache::ResourceCache;
use crate::storage::filter::Filter;
use crate::storage::keys;

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_VOLUME: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";
const DEFAULT_TOLERATION_SECONDS: i64 = 300;

/// Completes a Pod that is created.
pub async fn mutate(attributes: &Attributes<'_>, pod: &mut Object) -> Result<()> {
    service_account(attributes, pod).await?;
    priority(attributes, pod)?;
    tolerations(pod);
    Ok(())
}

fn forbidden(attributes: &Attributes<'_>, why: String) -> Status {
    Status::forbidden(&attributes.def.group_resource(), attributes.name, why)
}

async fn service_account(attributes: &Attributes<'_>, pod: &mut Object) -> Result<()> {
    if pod.annotation(MIRROR).is_some() {
        if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
            return Err(forbidden(attributes, "a mirror pod may not reference service accounts".into()).into());
        }
        return Ok(());
    }
    let name = match pod.str_at(&["spec", "serviceAccountName"]) {
        "" => "default".to_owned(),
        name => name.to_owned(),
    };
    pod.set_at(&["spec", "serviceAccountName"], name.as_str());
    pod.set_at(&["spec", "serviceAccount"], name.as_str());
    let account = find_account(attributes, &name).await?;
    let choice = |object: &Object, path: &[&str]| object.at(path).and_then(Value::as_bool);
    let automount = choice(pod, &["spec", "automountServiceAccountToken"])
        .or_else(|| choice(&account, &["automountServiceAccountToken"]))
        .unwrap_or(true);
    if automount {
        mount_token(pod, attributes.server.ids());
    }
    if pod.list_at(&["spec", "imagePullSecrets"]).is_empty()
        && let Some(secrets) =
            account.get("imagePullSecrets").filter(|secrets| secrets.as_array().is_some_and(|list| !list.is_empty()))
    {
        pod.set_at(&["spec", "imagePullSecrets"], secrets.clone());
    }
    Ok(())
}

async fn find_account(attributes: &Attributes<'_>, name: &str) -> Result<Object> {
    let namespace = attributes.namespace;
    let missing = || {
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        forbidden(attributes, why)
    };
    let cache = attributes.server.catalogue.cache("", "serviceaccounts").ok_or_else(missing)?;
    if let Some(account) = cache.object(namespace, name)? {
        return Ok(account);
    }
    // It may be younger than what the cache shows.
    let (_, found) = attributes.server.store().get(&keys::object(&cache.prefix, namespace, name), None).await?;
    let pair = found.ok_or_else(missing)?;
    crate::codec::decode_stored(&cache.def, &pair.value, pair.mod_revision)
}

/// Mounts the token into every container that has nothing at its place.
fn mount_token(pod: &mut Object, ids: &Ids) {
    let existing = pod.list_at(&["spec", "volumes"]).iter().find(|volume| {
        let tokens = |source: &Value| source.get("serviceAccountToken").is_some();
        volume.str_at(&["name"]).starts_with(TOKEN_VOLUME)
            && volume.list_at(&["projected", "sources"]).iter().any(tokens)
    });
    let existing = existing.map(|volume| volume.str_at(&["name"]).to_owned());
    let is_new = existing.is_none();
    let name = existing.unwrap_or_else(|| format!("{TOKEN_VOLUME}{}", ids.suffix(5)));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut)
        else {
            continue;
        };
        for container in containers {
            let mut mounts = container.list_at(&["volumeMounts"]).to_vec();
            if mounts.iter().any(|mount| mount.str_at(&["mountPath"]) == TOKEN_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
            container.set_at(&["volumeMounts"], mounts);
            needed = true;
        }
    }
    if needed && is_new {
        let mut volumes = pod.list_at(&["spec", "volumes"]).to_vec();
        volumes.push(token_volume(&name));
        pod.set_at(&["spec", "volumes"], volumes);
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn priority(attributes: &Attributes<'_>, pod: &mut Object) -> Result<()> {
    let Some(classes) = attributes.server.catalogue.cache("scheduling.k8s.io", "priorityclasses") else {
        return Ok(());
    };
    let name = pod.str_at(&["spec", "priorityClassName"]).to_owned();
    let class = if name.is_empty() { global_default(&classes)? } else { classes.object("", &name)? };
    let (value, policy) = match &class {
        Some(class) => (class.int_at(&["value"]).unwrap_or(0), class.str_at(&["preemptionPolicy"]).to_owned()),
        None if name.is_empty() => (0, String::new()),
        None => return Err(forbidden(attributes, format!("no PriorityClass with name {name} was found")).into()),
    };
    if let (true, Some(class)) = (name.is_empty(), &class) {
        pod.set_at(&["spec", "priorityClassName"], class.name());
    }
    if let Some(given) = pod.int_at(&["spec", "priority"]).filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(forbidden(attributes, why).into());
    }
    pod.set_at(&["spec", "priority"], value);
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { &policy };
    pod.default_at(&["spec", "preemptionPolicy"], policy);
    Ok(())
}

/// The class for Pods that name none: of several the one with the lowest value.
fn global_default(classes: &ResourceCache) -> Result<Option<Object>> {
    let all = classes.objects(&Filter::default())?.into_iter();
    Ok(all.filter(|class| class.bool_at(&["globalDefault"])).min_by_key(|class| class.int_at(&["value"])))
}

/// A Pod stays for a while on a node that is not ready or cannot be reached, unless it says otherwise.
fn tolerations(pod: &mut Object) {
    let mut tolerations = pod.list_at(&["spec", "tolerations"]).to_vec();
    let before = tolerations.len();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |toleration: &Value| {
            let own = toleration.str_at(&["key"]);
            (own.is_empty() || own == key) && matches!(toleration.str_at(&["effect"]), "" | "NoExecute")
        };
        if !tolerations[..before].iter().any(covers) {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": DEFAULT_TOLERATION_SECONDS}));
        }
    }
    if tolerations.len() > before {
        pod.set_at(&["spec", "tolerations"], tolerations);
    }
}
