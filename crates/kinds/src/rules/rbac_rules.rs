//! What RoleBindings and ClusterRoleBindings share.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{Object, names};

use crate::base::list;
use crate::def::{Column, List, ResourceDef};
use crate::rules::check::{At, Faults};
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

/// Checks the rules of a role.
pub fn check_rules(faults: &mut Faults, rules: &At, is_namespaced: bool) {
    for rule in rules.items() {
        let (verbs, urls) = (rule.get("verbs"), rule.get("nonResourceURLs"));
        let (groups, resources, names) = (rule.get("apiGroups"), rule.get("resources"), rule.get("resourceNames"));
        if verbs.is_blank() {
            faults.required(&verbs, "verbs must contain at least one value");
        }
        if !urls.is_blank() {
            if is_namespaced {
                faults.invalid(&urls, "namespaced rules cannot apply to non-resource URLs");
            }
            if !groups.is_blank() || !resources.is_blank() || !names.is_blank() {
                faults.invalid(&urls, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if groups.is_blank() {
            faults.required(&groups, "resource rules must supply at least one api group");
        }
        if resources.is_blank() {
            faults.required(&resources, "resource rules must supply at least one resource");
        }
    }
}

/// Checks a binding: what role, and whose.
pub fn check_binding(faults: &mut Faults, binding: &Object, is_namespaced: bool) {
    let role = At::top(binding, "roleRef");
    if role.get("apiGroup").text() != GROUP {
        faults.not_supported(&role.get("apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = if is_namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.get("kind").text()) {
        faults.not_supported(&role.get("kind"), kinds);
    }
    faults.needs_name(&role.get("name"), names::check_path_segment);
    for subject in At::top(binding, "subjects").items() {
        check_subject(faults, &subject, is_namespaced);
    }
}

fn check_subject(faults: &mut Faults, subject: &At, is_namespaced: bool) {
    let (kind, group, name) = (subject.get("kind"), subject.get("apiGroup"), subject.get("name"));
    faults.needs(&name);
    match kind.text() {
        "ServiceAccount" => {
            faults.name(&name, names::check_dns_subdomain);
            if !group.is_blank() {
                faults.not_supported(&group, &[""]);
            }
            if !is_namespaced {
                faults.needs(&subject.get("namespace"));
            }
        }
        "User" | "Group" => {
            if group.text() != GROUP {
                faults.not_supported(&group, &[GROUP]);
            }
        }
        _ => faults.not_supported(&kind, &["ServiceAccount", "User", "Group"]),
    }
}

/// A binding cannot change its role.
pub fn check_binding_update(faults: &mut Faults, new: &Object, old: &Object) {
    let (role, was) = (At::top(new, "roleRef"), At::top(old, "roleRef"));
    if role.value() != was.value() {
        faults.invalid(&role, "cannot change roleRef");
    }
}
