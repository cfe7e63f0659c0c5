//! Subresources and reviews that need code of their own. All of them write through the one pipeline.

pub mod binding;
pub mod eviction;
mod node_token;
pub mod scale;
pub mod token;

use std::sync::Arc;

use http::request::Parts;
use serde_json::json;
use skiff_kinds::ResourceDef;
use skiff_object::meta::Meta;
use skiff_object::{GroupVersionKind, Object, Status};

use crate::authz::reviews;
use crate::call::Call;
use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::body::Body;
use crate::http::request::RequestInfo;
use crate::read;
use crate::server::{ApiServer, check_verb};
use crate::tunnel;
use crate::write::{Target, decode, patch, update};

/// Whether a request's answer is not an object of the API but whatever stands behind it.
pub fn is_tunnel(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "exec" | "attach" | "log" | "portforward" | "proxy")
}

/// Answers a subresource by its name.
pub async fn answer(server: &Arc<ApiServer>, call: &Call, parts: &mut Parts, body: Body) -> Result<Answer> {
    if is_tunnel(&call.info) {
        return tunnel::answer(server, call, parts, body).await;
    }
    let (body, verb) = (call.read(body).await?, call.info.verb.as_str());
    match (call.info.subresource.as_str(), verb) {
        ("binding", _) => binding::answer(server, call, &body).await,
        ("eviction", _) => eviction::answer(server, call, &body).await,
        ("token", _) => token::answer(server, call, &body).await,
        // The rest shows and changes a part of the object itself; the kind knows which.
        (_, "get") => read::get(server, call).await,
        (_, "update") => update::update(server, call, &body).await,
        (_, "patch") => patch::patch(server, call, &body).await,
        _ => Err(Status::no_such_path().into()),
    }
}

/// Answers what is posted and never stored.
pub async fn answer_review(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    if call.info.verb != "create" {
        return match call.served.def.kind.as_ref() {
            "ComponentStatus" => component_statuses(call),
            _ => Err(check_verb(false).expect_err("nothing else is answered")),
        };
    }
    let review = decode::checked(&Target::of(server, call)?, body)?;
    let answered = match call.served.def.kind.as_ref() {
        "Binding" => return binding::bind(server, call, review).await,
        "SelfSubjectReview" => who_am_i(call, review),
        "TokenReview" => token::review(server, review).await?,
        "SelfSubjectRulesReview" => reviews::rules(server, call, review)?,
        "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            reviews::access(server, call, review).await?
        }
        _ => return Err(Status::no_such_path().into()),
    };
    Ok(answer::tree(201, &answered, &call.accepted))
}

fn who_am_i(call: &Call, mut review: Object) -> Object {
    review["status"] = json!({"userInfo": user_tree(&call.user)});
    review.set_at(&["metadata", "creationTimestamp"], skiff_base::clock::rfc3339(call.now));
    review
}

/// A user as the reviews show it.
pub fn user_tree(user: &crate::UserInfo) -> Object {
    let mut tree = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        tree["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        tree["extra"] = json!(user.extra);
    }
    tree
}

/// The deprecated list of the parts of the control plane: all in this process, hence as well as the answer.
fn component_statuses(call: &Call) -> Result<Answer> {
    let one = |name: &str| {
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
    };
    let names = ["scheduler", "controller-manager", "etcd-0"];
    if call.info.verb == "get" {
        let known = names.contains(&call.info.name.as_str());
        let missing = || Status::not_found(&call.served.def.group_resource(), &call.info.name);
        let object = known.then(|| one(&call.info.name)).ok_or_else(missing)?;
        return read::present::object_answer(call, 200, &object);
    }
    let items = names.map(one);
    Ok(read::present::list_answer(call, &items))
}

/// The definition of a kind that is served as a subresource only.
pub fn definition(group: &str, version: &str, kind: &str) -> Result<&'static ResourceDef> {
    let found = skiff_kinds::by_kind(&GroupVersionKind::new(group, version, kind));
    found.ok_or_else(|| Status::internal(format_args!("{kind} is not declared")).into())
}

/// The Status that says that something was done and there is nothing to show for it.
pub fn done(call: &Call, code: u16) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code});
    answer::tree(code, &status, &call.accepted)
}
