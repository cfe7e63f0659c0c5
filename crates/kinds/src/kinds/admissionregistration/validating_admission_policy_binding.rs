//! `admissionregistration.k8s.io/v1` ValidatingAdmissionPolicyBinding: puts a validating policy into force.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{admission_rules, policy_check, table};

/// `validatingadmissionpolicybindings`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("admissionregistration.k8s.io"),
    plural: text("validatingadmissionpolicybindings"),
    singular: text("validatingadmissionpolicybinding"),
    kind: text("ValidatingAdmissionPolicyBinding"),
    list_kind: text("ValidatingAdmissionPolicyBindingList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding"),
    has_generation: true,
    unconditional_update: false,
    columns: list![
        NAME,
        column("PolicyName", "string", "The policy that is bound."),
        column("ParamRef", "string", "The policy's parameters."),
        AGE,
    ],
    default: admission_rules::binding_defaults,
    row,
    validate: policy_check::validating_binding,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let policy = object.str_at(&["spec", "policyName"]);
    cells![object.name(), policy, admission_rules::param_ref(object), table::age(object, now)]
}
