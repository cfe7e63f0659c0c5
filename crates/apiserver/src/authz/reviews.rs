//! Questions to the authorizer: `SelfSubjectAccessReview` and its kin.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access>.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skiff_object::meta::Meta;
use skiff_object::{FieldError, FieldPath, Object, Status};

use crate::authz::Action;
use crate::call::{Call, UserInfo};
use crate::failure::Result;
use crate::server::ApiServer;

/// `SelfSubjectAccessReview`, `SubjectAccessReview` and `LocalSubjectAccessReview`.
pub fn access(server: &ApiServer, call: &Call, mut review: Object) -> Result<Object> {
    let action = action_of(call, &review)?;
    let own = call.served.def.kind == "SelfSubjectAccessReview";
    let user = if own { call.user.as_ref().clone() } else { subject_of(&review)? };
    let decision = server.authorizer.decide(&user, &action);
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    review["status"] = status;
    review.map_mut(&["metadata"]);
    Ok(review)
}

fn action_of(call: &Call, review: &Object) -> Result<Action> {
    let (resource, path) = (review.at(&["spec", "resourceAttributes"]), review.at(&["spec", "nonResourceAttributes"]));
    let spec = FieldPath::new("spec.resourceAttributes");
    let refuse = |error| Err(Status::invalid(&call.served.def.group_kind(), "", &vec![error]).into());
    match (resource, path) {
        (Some(_), Some(_)) => {
            let path = FieldPath::new("spec.nonResourceAttributes");
            refuse(FieldError::invalid(
                &path,
                Value::Null,
                "cannot be specified in combination with resourceAttributes",
            ))
        }
        (None, None) => refuse(FieldError::invalid(
            &spec,
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        (None, Some(path)) => Ok(Action {
            verb: path.str_at(&["verb"]).to_owned(),
            path: path.str_at(&["path"]).to_owned(),
            ..Action::default()
        }),
        (Some(resource), None) => {
            let text = |key: &str| resource.str_at(&[key]).to_owned();
            let namespace =
                if call.info.namespace.is_empty() { text("namespace") } else { call.info.namespace.clone() };
            Ok(Action {
                verb: text("verb"),
                group: text("group"),
                version: text("version"),
                resource: text("resource"),
                subresource: text("subresource"),
                name: text("name"),
                namespace,
                path: String::new(),
            })
        }
    }
}

fn subject_of(review: &Object) -> Result<UserInfo> {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra: BTreeMap<String, Vec<String>> =
        spec.map_at(&["extra"]).into_iter().flatten().map(|(key, value)| (key.clone(), strings(value))).collect();
    let user = UserInfo {
        name: spec.str_at(&["user"]).to_owned(),
        uid: spec.str_at(&["uid"]).to_owned(),
        groups: spec.get("groups").map(strings).unwrap_or_default(),
        extra,
    };
    if user.name.is_empty() && user.groups.is_empty() {
        let text = "at least one of user or group must be specified";
        let error = FieldError::invalid(&FieldPath::new("spec.user"), "", text);
        let kind = skiff_object::GroupKind::new("authorization.k8s.io", "SubjectAccessReview");
        return Err(Status::invalid(&kind, "", &vec![error]).into());
    }
    Ok(user)
}

/// `SelfSubjectRulesReview`.
pub fn rules(server: &ApiServer, call: &Call, mut review: Object) -> Result<Object> {
    let namespace = review.str_at(&["spec", "namespace"]).to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request").into());
    }
    let rules = server.authorizer.rules(&call.user, &namespace);
    let (on_resources, on_paths): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|rule| rule.non_resource_urls.is_empty());
    review["status"] = json!({"resourceRules": on_resources, "nonResourceRules": on_paths, "incomplete": false});
    review.map_mut(&["metadata"]);
    Ok(review)
}
