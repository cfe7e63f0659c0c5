//! Which tokens a node may ask for: those of its own Pods, each bound to the Pod, and for audiences that the Pod wants in a
//! volume or that somebody has given nodes the right to ask for.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/node/#service-account-token-audience-restriction>.

use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{Object, Status};

use crate::authz::Action;
use crate::call::Call;
use crate::failure::Result;
use crate::server::ApiServer;

/// The right to ask for tokens of an account for an audience that is in no volume.
const VERB: &str = "request-serviceaccounts-token-audience";

/// Refuses a node's request for a token of an account that is not its business; the words are upstream's.
pub async fn check(server: &ApiServer, call: &Call, node: &str, request: &Object, account: &Object) -> Result<()> {
    let refused = |why: String| Err(Status::forbidden(&call.served.def.group_resource(), account.name(), why).into());
    let bound = |field: &str| request.str_at(&["spec", "boundObjectRef", field]);
    if bound("apiVersion") != "v1" || bound("kind") != "Pod" || bound("name").is_empty() {
        return refused("node requested token not bound to a pod".to_owned());
    }
    if bound("uid").is_empty() {
        return refused("node requested token with a pod binding without a uid".to_owned());
    }
    // One that is not there is told of where the claims are made.
    let Some(pod) = found(server, "", "pods", account.namespace(), bound("name"))? else { return Ok(()) };
    if pod.str_at(&["spec", "nodeName"]) != node {
        return refused("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    let audience = match request.list_at(&["spec", "audiences"]) {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return refused("node may only request 0 or 1 audiences".to_owned()),
    };
    if wants(server, &pod, audience)? {
        return Ok(());
    }
    let action = Action {
        verb: VERB.to_owned(),
        resource: audience.to_owned(),
        namespace: account.namespace().to_owned(),
        name: account.name().to_owned(),
        ..Action::default()
    };
    if server.authorizer.decide(&call.user, &action).await.allowed {
        return Ok(());
    }
    refused(format!("audience {audience:?} not found in pod spec volume"))
}

/// Whether a volume of the Pod has tokens for an audience, or one's driver is given them.
fn wants(server: &ApiServer, pod: &Object, audience: &str) -> Result<bool> {
    let is_it = |token: &Value| token.str_at(&["audience"]) == audience;
    for volume in pod.list_at(&["spec", "volumes"]) {
        let sources = volume.list_at(&["projected", "sources"]).iter();
        if sources.filter_map(|source| source.get("serviceAccountToken")).any(is_it) {
            return Ok(true);
        }
        let claim = match volume.str_at(&["persistentVolumeClaim", "claimName"]) {
            "" if volume.get("ephemeral").is_some() => format!("{}-{}", pod.name(), volume.str_at(&["name"])),
            name => name.to_owned(),
        };
        let driver = match volume.str_at(&["csi", "driver"]) {
            "" if claim.is_empty() => continue,
            "" => driver_of(server, pod.namespace(), &claim)?,
            driver => driver.to_owned(),
        };
        let driver = found(server, "storage.k8s.io", "csidrivers", "", &driver)?;
        if driver.is_some_and(|driver| driver.list_at(&["spec", "tokenRequests"]).iter().any(is_it)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The driver of the volume that a claim is bound to; empty where there is none.
fn driver_of(server: &ApiServer, namespace: &str, claim: &str) -> Result<String> {
    let claim = found(server, "", "persistentvolumeclaims", namespace, claim)?;
    let volume = claim.map(|claim| claim.str_at(&["spec", "volumeName"]).to_owned()).unwrap_or_default();
    let volume = found(server, "", "persistentvolumes", "", &volume)?;
    Ok(volume.map(|volume| volume.str_at(&["spec", "csi", "driver"]).to_owned()).unwrap_or_default())
}

fn found(server: &ApiServer, group: &str, plural: &str, namespace: &str, name: &str) -> Result<Option<Object>> {
    let cache = server.catalogue.cache(group, plural).ok_or_else(Status::no_such_path)?;
    cache.object(namespace, name)
}
