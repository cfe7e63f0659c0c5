//! `admissionregistration.k8s.io/v1` ValidatingAdmissionPolicy: checks requests by expressions.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope, Subresource};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{admission_rules, policy_check, table};

/// `validatingadmissionpolicies`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("admissionregistration.k8s.io"),
    plural: text("validatingadmissionpolicies"),
    singular: text("validatingadmissionpolicy"),
    kind: text("ValidatingAdmissionPolicy"),
    list_kind: text("ValidatingAdmissionPolicyList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy"),
    subresources: list![Subresource::Status],
    has_generation: true,
    unconditional_update: false,
    columns: list![
        NAME,
        column("Validations", "integer", "The number of validations."),
        column("ParamKind", "string", "The kind of the policy's parameters."),
        AGE,
    ],
    default: admission_rules::policy_defaults,
    row,
    validate: policy_check::validating_policy,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let count = object.list_at(&["spec", "validations"]).len();
    cells![object.name(), count, admission_rules::param_kind(object), table::age(object, now)]
}
