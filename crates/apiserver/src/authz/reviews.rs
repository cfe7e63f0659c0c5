//! Questions to the authorizer: `SelfSubjectAccessReview` and its kin.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access>.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, Object, Status};

use crate::authz::{Action, Term};
use crate::call::{Call, UserInfo};
use crate::failure::Result;
use crate::server::ApiServer;

/// `SelfSubjectAccessReview`, `SubjectAccessReview` and `LocalSubjectAccessReview`.
pub async fn access(server: &ApiServer, call: &Call, mut review: Object) -> Result<Object> {
    let action = action_of(call, &review)?;
    let own = call.served.def.kind == "SelfSubjectAccessReview";
    let user = if own { call.user.as_ref().clone() } else { subject_of(&review)? };
    let decision = server.authorizer.decide(&user, &action).await;
    let mut status = json!({"allowed": decision.allowed});
    if decision.denied {
        status["denied"] = true.into();
    }
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    if !decision.error.is_empty() {
        status["evaluationError"] = decision.error.into();
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
            let place = FieldPath::new("spec.resourceAttributes");
            let fields = selector(resource, "fieldSelector", &place, &["In", "NotIn"], Term::of_fields);
            let known = ["In", "NotIn", "Exists", "DoesNotExist"];
            let labels = selector(resource, "labelSelector", &place, &known, Term::of_labels);
            let (fields, labels) = match (fields, labels) {
                (Ok(fields), Ok(labels)) => (fields, labels),
                (fields, labels) => {
                    let errors = [fields.err(), labels.err()].into_iter().flatten().flatten().collect();
                    return Err(Status::invalid(&call.served.def.group_kind(), "", &errors).into());
                }
            };
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
                fields,
                labels,
            })
        }
    }
}

/// What a review says of a selector: its text, or its requirements.
fn selector(
    resource: &Value,
    field: &str,
    place: &FieldPath,
    operators: &[&'static str],
    read: fn(&str) -> Vec<Term>,
) -> Result<Vec<Term>, ErrorList> {
    let Some(own) = resource.get(field).filter(|own| own.is_object()) else { return Ok(Vec::new()) };
    let path = place.child(field);
    let (raw, requirements) = (own.str_at(&["rawSelector"]), own.list_at(&["requirements"]));
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => {
            let why = "may not specified at the same time as requirements";
            return Err(vec![FieldError::invalid(&path.child("rawSelector"), raw, why)]);
        }
        (true, true) => {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            return Err(vec![FieldError::required(&path.child("requirements"), why)]);
        }
        (false, true) => return Ok(read(raw)),
        (true, false) => {}
    }
    let (mut terms, mut errors) = (Vec::new(), ErrorList::new());
    for (index, requirement) in requirements.iter().enumerate() {
        let path = path.child("requirements").index(index);
        let values: Vec<String> =
            requirement.list_at(&["values"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let (key, operator) = (requirement.str_at(&["key"]), requirement.str_at(&["operator"]));
        if key.is_empty() {
            errors.push(FieldError::required(&path.child("key"), "must be specified"));
        }
        match (operator, values.is_empty()) {
            ("In" | "NotIn", true) => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(&path.child("values"), why));
            }
            ("Exists" | "DoesNotExist", false) => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(&path.child("values"), why));
            }
            _ => {}
        }
        // What an authorizer does not know cannot narrow what is asked for.
        if let Some(known) = operators.iter().find(|known| **known == operator) {
            terms.push(Term { key: key.to_owned(), operator: known, values });
        }
    }
    if errors.is_empty() { Ok(terms) } else { Err(errors) }
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
    let (rules, lacking) = server.authorizer.rules(&call.user, &namespace);
    let (on_resources, on_paths): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|rule| rule.non_resource_urls.is_empty());
    let mut status =
        json!({"resourceRules": on_resources, "nonResourceRules": on_paths, "incomplete": lacking.is_some()});
    if let Some(lacking) = lacking {
        status["evaluationError"] = lacking.into();
    }
    review["status"] = status;
    review.map_mut(&["metadata"]);
    Ok(review)
}
