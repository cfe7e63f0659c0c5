//! ServiceAccount: every Pod runs under an account of its namespace and gets its token.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use skiff_base::ids::Ids;
use skiff_object::Object;
use skiff_object::meta::Meta;

use super::{MIRROR, find};
use crate::admission::{Attributes, Operation};
use crate::failure::Result;

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_VOLUME: &str = "kube-api-access-";

/// Completes a Pod that is created.
pub fn mutate<'a>(attributes: &'a Attributes<'_>, pod: &'a mut Object) -> BoxFuture<'a, Result<()>> {
    if attributes.is("", "pods") && attributes.operation == Operation::Create {
        service_account(attributes, pod).boxed()
    } else {
        std::future::ready(Ok(())).boxed()
    }
}

async fn service_account(attributes: &Attributes<'_>, pod: &mut Object) -> Result<()> {
    if pod.annotation(MIRROR).is_some() {
        if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
            return Err(attributes.forbidden("a mirror pod may not reference service accounts"));
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
        attributes.forbidden(why)
    };
    find(attributes, "", "serviceaccounts", name).await?.ok_or_else(missing)
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
