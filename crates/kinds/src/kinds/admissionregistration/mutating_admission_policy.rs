//! `admissionregistration.k8s.io/v1` MutatingAdmissionPolicy: changes requests by expressions.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{admission_rules, policy_check, table};

/// `mutatingadmissionpolicies`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("admissionregistration.k8s.io"),
    plural: text("mutatingadmissionpolicies"),
    singular: text("mutatingadmissionpolicy"),
    kind: text("MutatingAdmissionPolicy"),
    list_kind: text("MutatingAdmissionPolicyList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy"),
    has_generation: true,
    unconditional_update: false,
    columns: list![
        NAME,
        column("Mutations", "integer", "The number of changes."),
        column("ParamKind", "string", "The kind of the policy's parameters."),
        AGE,
    ],
    default: admission_rules::policy_defaults,
    row,
    validate: policy_check::mutating_policy,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let count = object.list_at(&["spec", "mutations"]).len();
    cells![object.name(), count, admission_rules::param_kind(object), table::age(object, now)]
}
