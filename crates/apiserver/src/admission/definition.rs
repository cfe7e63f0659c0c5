//! What is wrong with the expressions that webhook configurations and admission policies carry, told when they are
//! written.

use serde_json::Value as Json;
use skiff_cel::Type;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldPath, Object};

use super::conditions::{CONDITION_ENV, check_conditions, check_expression};
use super::policy::{base_env, with_variables};

/// Checks the expressions of an object of `admissionregistration.k8s.io`; those that were there before are let pass.
pub fn check(kind: &str, object: &Object, old: Option<&Object>) -> ErrorList {
    let mut errors = match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => webhooks(object),
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => policy(object),
        _ => return ErrorList::new(),
    };
    if let Some(old) = old.filter(|_| !errors.is_empty()) {
        let known = check(kind, old, None);
        errors.retain(|error| !known.contains(error));
    }
    errors
}

fn webhooks(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    for (index, hook) in object.list_at(&["webhooks"]).iter().enumerate() {
        let path = FieldPath::new("webhooks").index(index).child("matchConditions");
        check_conditions(&CONDITION_ENV, hook.list_at(&["matchConditions"]), &path, &mut errors);
    }
    errors
}

fn policy(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = FieldPath::new("spec");
    let base = base_env(object);
    let conditions = object.list_at(&["spec", "matchConditions"]);
    check_conditions(&base, conditions, &spec.child("matchConditions"), &mut errors);
    let env = with_variables(base, object, |text, env, index| {
        let path = spec.child("variables").index(index).child("expression");
        check_expression(env, text, &[], &path, &mut errors)
    });
    let expression = |json: &Json, field: &str, types: &[Type], path: &FieldPath, errors: &mut ErrorList| {
        check_expression(&env, json.str_at(&[field]), types, &path.child(field), errors);
    };
    for (index, validation) in object.list_at(&["spec", "validations"]).iter().enumerate() {
        let path = spec.child("validations").index(index);
        expression(validation, "expression", &[Type::Bool], &path, &mut errors);
        expression(validation, "messageExpression", &[Type::String], &path, &mut errors);
    }
    for (index, annotation) in object.list_at(&["spec", "auditAnnotations"]).iter().enumerate() {
        let path = spec.child("auditAnnotations").index(index);
        expression(annotation, "valueExpression", &[Type::String, Type::Null], &path, &mut errors);
    }
    for (index, mutation) in object.list_at(&["spec", "mutations"]).iter().enumerate() {
        let path = spec.child("mutations").index(index);
        for field in ["applyConfiguration", "jsonPatch"] {
            if let Some(node) = mutation.get(field) {
                expression(node, "expression", &[], &path.child(field), &mut errors);
            }
        }
    }
    errors
}
