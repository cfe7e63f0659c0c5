//! What RoleBindings and ClusterRoleBindings share.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::list;
use crate::def::{Column, List, ResourceDef};
use crate::rules::table::{self, AGE, NAME, cells, column, wide};
use crate::rules::tree::{default_text, items_mut};

/// The group of roles, and of the users and groups that they are bound to.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The columns of a binding.
pub const BINDING_COLUMNS: List<Column> = list![
    NAME,
    column("Role", "string", "The role that is bound."),
    AGE,
    wide("Users", "string", "The users that have the role."),
    wide("Groups", "string", "The groups that have the role."),
    wide("ServiceAccounts", "string", "The service accounts that have the role."),
];

/// Sets the API groups of a binding's role and subjects.
pub fn binding_defaults(binding: &mut Object) {
    default_text(binding, &["roleRef", "apiGroup"], GROUP);
    for subject in items_mut(binding, &["subjects"]) {
        if matches!(subject.str_at(&["kind"]), "User" | "Group") {
            default_text(subject, &["apiGroup"], GROUP);
        }
    }
}

/// The cells of a binding.
pub fn binding_row(_: &ResourceDef, binding: &Object, now: Timestamp) -> Vec<Value> {
    let of_kind = |kind: &str| {
        let subjects = binding.list_at(&["subjects"]).iter().filter(|subject| subject.str_at(&["kind"]) == kind);
        subjects.map(subject_text).collect::<Vec<_>>().join(", ")
    };
    cells![
        binding.name(),
        format!("{}/{}", binding.str_at(&["roleRef", "kind"]), binding.str_at(&["roleRef", "name"])),
        table::age(binding, now),
        of_kind("User"),
        of_kind("Group"),
        of_kind("ServiceAccount"),
    ]
}

fn subject_text(subject: &Value) -> String {
    match (subject.str_at(&["kind"]), subject.str_at(&["name"])) {
        ("ServiceAccount", name) => format!("{}/{name}", subject.str_at(&["namespace"])),
        (_, name) => name.to_owned(),
    }
}
