//! `serviceaccounts/token` and `TokenReview`.
//! See <https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/>.

use serde_json::{Value, json};
use skiff_base::clock;
use skiff_object::meta::Meta;
use skiff_object::{FieldError, FieldPath, GroupKind, GroupResource, Object, Status};

use crate::authn::service_account_name;
use crate::authz::node;
use crate::call::Call;
use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::server::ApiServer;
use crate::sub;
use crate::sub::node_token;
use crate::write::{Target, decode};

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// Projected tokens of this life (the one that admission asks for) live for a year, and warn after it: clients
/// that never read their token again go on working.
const EXTENDED_FROM_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// Answers `POST .../serviceaccounts/NAME/token`.
pub async fn answer(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    let target = Target::of(server, call)?;
    let mut request = decode::as_kind(call, sub::definition("authentication.k8s.io", "v1", "TokenRequest")?, body)?;
    server.hub.fresh().await?;
    let account = call.served.cache.object(&target.namespace, &target.name)?.ok_or_else(|| target.not_found())?;
    must_be_same(&request, &account)?;
    if let Some(node) = node::node_of(&call.user) {
        node_token::check(server, call, node, &request, &account).await?;
    }
    let signer = server.authenticator.signer().ok_or_else(|| Status::internal("no signing key is configured"))?;
    let audiences = match request.list_at(&["spec", "audiences"]) {
        [] => vec![signer.issuer.clone()],
        given => given.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    };
    let seconds = request.int_at(&["spec", "expirationSeconds"]).unwrap_or(DEFAULT_SECONDS);
    check_seconds(seconds)?;
    let bound = bound_claims(server, &request, &account)?;
    let now = call.now.as_second();
    let mut own = json!({"namespace": account.namespace(),
        "serviceaccount": {"name": account.name(), "uid": account.uid()}});
    let mut life = seconds;
    if seconds == EXTENDED_FROM_SECONDS && bound.get("pod").is_some() && audiences == [signer.issuer.clone()] {
        own["warnafter"] = (now + seconds).into();
        life = EXTENDED_SECONDS;
    }
    for (key, value) in bound.as_object().into_iter().flatten() {
        own[key] = value.clone();
    }
    let claims = json!({"iss": signer.issuer, "sub": service_account_name(account.namespace(), account.name()),
        "aud": audiences, "iat": now, "nbf": now, "exp": now + life, "jti": server.ids().uid(), "kubernetes.io": own});
    let token = signer.sign(&claims).map_err(Status::internal)?;
    let expires = call.now + std::time::Duration::from_secs(seconds.unsigned_abs());
    request.set_at(&["metadata", "name"], account.name());
    request.set_at(&["metadata", "namespace"], account.namespace());
    request.set_at(&["metadata", "uid"], account.uid());
    request.set_at(&["metadata", "creationTimestamp"], clock::rfc3339(call.now));
    request.set_at(&["spec", "audiences"], json!(audiences));
    request.set_at(&["spec", "expirationSeconds"], seconds);
    request["status"] = json!({"token": token, "expirationTimestamp": clock::rfc3339(expires)});
    Ok(answer::tree(201, &request, &call.accepted))
}

/// What a request says of its account must be so: another account may have come to have the name.
fn must_be_same(request: &Object, account: &Object) -> Result<()> {
    let kind = GroupKind::new("authentication.k8s.io", "TokenRequest");
    for (field, own) in [("name", account.name()), ("namespace", account.namespace())] {
        let given = request.str_at(&["metadata", field]);
        if !given.is_empty() && given != own {
            let path = FieldPath::new(format!("metadata.{field}"));
            let error =
                FieldError::invalid(&path, given, format!("must match the service account {field} if specified"));
            return Err(Status::invalid(&kind, account.name(), &vec![error]).into());
        }
    }
    let given = request.str_at(&["metadata", "uid"]);
    if !given.is_empty() && given != account.uid() {
        let why = format!(
            "the UID in the token request ({given}) does not match the UID of the service account ({})",
            account.uid()
        );
        let resource = GroupResource::new("authentication.k8s.io", "TokenRequest");
        return Err(Status::conflict(&resource, account.name(), why).into());
    }
    Ok(())
}

fn check_seconds(seconds: i64) -> Result<()> {
    let path = FieldPath::new("spec.expirationSeconds");
    let error = if seconds < MIN_SECONDS {
        FieldError::invalid(&path, seconds, "may not specify a duration less than 10 minutes")
    } else if seconds > MAX_SECONDS {
        FieldError::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds")
    } else {
        return Ok(());
    };
    Err(Status::invalid(&GroupKind::new("authentication.k8s.io", "TokenRequest"), "", &vec![error]).into())
}

/// The claims that tie a token to a Pod, a Secret or a Node, as the request asks.
fn bound_claims(server: &ApiServer, request: &Object, account: &Object) -> Result<Object> {
    let Some(reference) = request.at(&["spec", "boundObjectRef"]).filter(|reference| reference.is_object()) else {
        return Ok(json!({}));
    };
    let (kind, name) = (reference.str_at(&["kind"]), reference.str_at(&["name"]));
    let (resource, namespace) = match (reference.str_at(&["apiVersion"]), kind) {
        ("v1" | "", "Pod") => ("pods", account.namespace()),
        ("v1" | "", "Secret") => ("secrets", account.namespace()),
        ("v1" | "", "Node") => ("nodes", ""),
        _ => {
            return Err(
                Status::bad_request(format!("cannot bind token for serviceaccount to object of type {kind}")).into()
            );
        }
    };
    let group_resource = GroupResource::new("", resource);
    let cache = server.catalogue.cache("", resource).ok_or_else(Status::no_such_path)?;
    let object = cache.object(namespace, name)?.ok_or_else(|| Status::not_found(&group_resource, name))?;
    let wanted = reference.str_at(&["uid"]);
    if !wanted.is_empty() && wanted != object.uid() {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(&group_resource, name, why).into());
    }
    let facts = |object: &Object| json!({"name": object.name(), "uid": object.uid()});
    let mut claims = json!({kind.to_lowercase(): facts(&object)});
    if kind == "Pod" {
        if object.str_at(&["spec", "serviceAccountName"]) != account.name() {
            let text = format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                account.name()
            );
            return Err(Status::bad_request(text).into());
        }
        let node_name = object.str_at(&["spec", "nodeName"]);
        let nodes = server.catalogue.cache("", "nodes");
        if let Some(node) = nodes.map(|nodes| nodes.object("", node_name)).transpose()?.flatten() {
            claims["node"] = facts(&node);
        }
    }
    Ok(claims)
}

/// Answers a `TokenReview`.
pub async fn review(server: &ApiServer, mut review: Object) -> Result<Object> {
    let token = review.str_at(&["spec", "token"]).to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication").into());
    }
    let asked: Vec<String> =
        review.list_at(&["spec", "audiences"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    server.hub.fresh().await?;
    let is_fresh = std::future::ready(Ok(()));
    review["status"] = match server.authenticator.token(&token, &asked, is_fresh).await {
        Ok((user, audiences)) => {
            let mut status = json!({"authenticated": true, "user": sub::user_tree(&user)});
            if !audiences.is_empty() {
                status["audiences"] = json!(audiences);
            }
            status
        }
        Err(error) if error.is_empty() => json!({"user": {}, "error": "invalid bearer token"}),
        Err(error) => json!({"user": {}, "error": format!("[invalid bearer token, {error}]")}),
    };
    review.map_mut(&["metadata"]);
    Ok(review)
}
