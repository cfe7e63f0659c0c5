//! The rules of metadata that hold for every kind, with upstream's texts and paths, and the checks that many kinds share
//! (labels, label selectors, conditions, field managers). Names are checked in [`crate::names`].

use std::collections::BTreeSet;

use serde_json::Value;

use crate::meta::Meta;
use crate::{ErrorList, FieldError, FieldPath, Object, names};

/// The most bytes that all annotations of an object may have together.
pub const ANNOTATIONS_LIMIT_BYTES: usize = 256 * 1024;
/// The longest name of a field manager.
pub const FIELD_MANAGER_LIMIT_BYTES: usize = 128;
/// The longest name of a subresource in managed fields.
const SUBRESOURCE_LIMIT_BYTES: usize = 256;
/// The longest reason and message of a condition.
const REASON_LIMIT_BYTES: usize = 1024;
const MESSAGE_LIMIT_BYTES: usize = 32 * 1024;
/// Finalizers that need no domain in front.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// What a kind says of its objects' metadata.
#[derive(Clone, Copy)]
pub struct MetaRules {
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Checks `name` and (with `true`) `generateName`.
    pub name: fn(name: &str, prefix: bool) -> Vec<String>,
    /// Built-in kinds take only finalizers that are known or have a domain.
    pub builtin: bool,
}

/// What is wrong with an object's metadata.
pub fn metadata(object: &Object, rules: MetaRules) -> ErrorList {
    let path = FieldPath::new("metadata");
    let mut errors = ErrorList::new();
    let prefix = object.str_at(&["metadata", "generateName"]);
    if !prefix.is_empty() {
        invalid(&mut errors, &path.child("generateName"), prefix, (rules.name)(prefix, true));
    }
    match object.name() {
        "" => errors.push(FieldError::required(&path.child("name"), "name or generateName is required")),
        name => invalid(&mut errors, &path.child("name"), name, (rules.name)(name, false)),
    }
    match (rules.namespaced, object.namespace()) {
        (true, "") => errors.push(FieldError::required(&path.child("namespace"), "")),
        (true, namespace) => {
            invalid(&mut errors, &path.child("namespace"), namespace, names::check_dns_label(namespace))
        }
        (false, "") => {}
        (false, _) => errors.push(FieldError::forbidden(&path.child("namespace"), "not allowed on this type")),
    }
    if object.generation() < 0 {
        let words = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(&path.child("generation"), object.generation(), words));
    }
    errors.extend(parts(object, &path));
    errors.extend(finalizers(object, &path.child("finalizers"), rules.builtin));
    errors
}

/// What is wrong with a change of an object's metadata, beside what [`metadata`] says of the result.
pub fn metadata_update(new: &Object, old: &Object) -> ErrorList {
    let path = FieldPath::new("metadata");
    let mut errors = ErrorList::new();
    if old.is_deleting() {
        errors.extend(no_new_finalizers(new, old, &path.child("finalizers")));
    }
    if new.resource_version().is_empty() {
        errors.push(FieldError::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    if new.generation() < old.generation() {
        errors.push(FieldError::invalid(&path.child("generation"), new.generation(), "must not be decremented"));
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let at = ["metadata", field];
        errors.extend(immutable(new.at(&at), old.at(&at), &path.child(field)));
    }
    errors
}

/// `field is immutable`, where it changed; absent and null are the same.
pub fn immutable(new: Option<&Value>, old: Option<&Value>, path: &FieldPath) -> Option<FieldError> {
    let (new, old) = (new.unwrap_or(&Value::Null), old.unwrap_or(&Value::Null));
    let blank = |value: &Value| value.is_null() || value.as_str() == Some("");
    if new == old || (blank(new) && blank(old)) {
        return None;
    }
    Some(FieldError::invalid(path, new.clone(), "field is immutable"))
}

/// Labels, annotations, owners and managed fields.
fn parts(object: &Object, path: &FieldPath) -> ErrorList {
    let mut errors = labels(object.at(&["metadata", "labels"]), &path.child("labels"));
    errors.extend(annotations(object.at(&["metadata", "annotations"]), &path.child("annotations")));
    errors.extend(owner_references(object, &path.child("ownerReferences")));
    errors.extend(managed_fields(object, &path.child("managedFields")));
    errors
}

fn invalid(errors: &mut ErrorList, path: &FieldPath, value: &str, faults: Vec<String>) {
    errors.extend(faults.into_iter().map(|fault| FieldError::invalid(path, value, fault)));
}

/// What is wrong with a map of labels.
pub fn labels(labels: Option<&Value>, path: &FieldPath) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        invalid(&mut errors, path, key, names::check_label_key(key));
        let value = value.as_str().unwrap_or("");
        invalid(&mut errors, path, value, names::check_label_value(value));
    }
    errors
}

/// What is wrong with a map of annotations.
pub fn annotations(annotations: Option<&Value>, path: &FieldPath) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size_bytes = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        invalid(&mut errors, path, key, names::check_label_key(&key.to_lowercase()));
        size_bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if size_bytes > ANNOTATIONS_LIMIT_BYTES {
        errors.push(FieldError::too_long(path, ANNOTATIONS_LIMIT_BYTES));
    }
    errors
}

fn owner_references(object: &Object, path: &FieldPath) -> ErrorList {
    let mut errors = ErrorList::new();
    let owners = object.list_at(&["metadata", "ownerReferences"]);
    let mut controller: Option<String> = None;
    for owner in owners {
        let text = |field: &str| owner.str_at(&[field]);
        let version = text("apiVersion").rsplit('/').next().unwrap_or("");
        if version.is_empty() {
            errors.push(FieldError::invalid(
                &path.child("apiVersion"),
                text("apiVersion"),
                "version must not be empty",
            ));
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.push(FieldError::invalid(&path.child(field), "", "must not be empty"));
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            errors.push(FieldError::invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.bool_at(&["controller"]) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let words = "Only one reference can have Controller set to true. Found \"true\" in references for";
                    errors.push(FieldError::invalid(path, owners.to_vec(), format!("{words} {first} and {this}")));
                }
            }
        }
    }
    errors
}

fn finalizers(object: &Object, path: &FieldPath, builtin: bool) -> ErrorList {
    let finalizers = object.finalizers();
    let mut errors = ErrorList::new();
    for finalizer in &finalizers {
        invalid(&mut errors, path, finalizer, names::check_label_key(finalizer));
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        let words = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, Value::from(finalizers.clone()), words));
    }
    for (index, finalizer) in finalizers.iter().enumerate().filter(|_| builtin) {
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(finalizer) {
            let words = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&path.index(index), *finalizer, words));
        }
    }
    errors
}

fn no_new_finalizers(new: &Object, old: &Object, path: &FieldPath) -> Option<FieldError> {
    let old: BTreeSet<_> = old.finalizers().into_iter().collect();
    let added: BTreeSet<_> = new.finalizers().into_iter().filter(|finalizer| !old.contains(finalizer)).collect();
    if added.is_empty() {
        return None;
    }
    let quoted: Vec<_> = added.iter().map(|finalizer| format!("{finalizer:?}")).collect();
    let words = "no new finalizers can be added if the object is being deleted, found new finalizers";
    Some(FieldError::forbidden(path, format!("{words} []string{{{}}}", quoted.join(", "))))
}

fn managed_fields(object: &Object, path: &FieldPath) -> ErrorList {
    let mut errors = ErrorList::new();
    for (index, entry) in object.list_at(&["metadata", "managedFields"]).iter().enumerate() {
        let path = path.index(index);
        let text = |field: &str| entry.str_at(&[field]);
        if !matches!(text("operation"), "Apply" | "Update") {
            let words = "must be `Apply` or `Update`";
            errors.push(FieldError::invalid(&path.child("operation"), text("operation"), words));
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            errors.push(FieldError::invalid(&path.child("fieldsType"), text("fieldsType"), "must be `FieldsV1`"));
        }
        errors.extend(field_manager(text("manager"), &path.child("manager")));
        if text("subresource").len() > SUBRESOURCE_LIMIT_BYTES {
            errors.push(FieldError::too_long(&path.child("subresource"), SUBRESOURCE_LIMIT_BYTES));
        }
    }
    errors
}

/// What is wrong with the name of a field manager.
pub fn field_manager(name: &str, path: &FieldPath) -> ErrorList {
    let mut errors = ErrorList::new();
    if name.len() > FIELD_MANAGER_LIMIT_BYTES {
        errors.push(FieldError::too_long(path, FIELD_MANAGER_LIMIT_BYTES));
    }
    for (at, char) in name.char_indices().filter(|(_, char)| char.is_control()) {
        let words = format!("invalid character U+{:04X} (at position {at})", u32::from(char));
        errors.push(FieldError::invalid(path, name, words));
    }
    errors
}

/// What is wrong with a `metav1.LabelSelector`.
pub fn label_selector(selector: Option<&Value>, path: &FieldPath) -> ErrorList {
    let Some(selector) = selector.filter(|selector| !selector.is_null()) else { return ErrorList::new() };
    let mut errors = labels(selector.get("matchLabels"), &path.child("matchLabels"));
    for (index, requirement) in selector.list_at(&["matchExpressions"]).iter().enumerate() {
        errors.extend(label_requirement(requirement, &path.child("matchExpressions").index(index)));
    }
    errors
}

fn label_requirement(requirement: &Value, path: &FieldPath) -> ErrorList {
    let mut errors = ErrorList::new();
    let values = requirement.list_at(&["values"]);
    match (requirement.str_at(&["operator"]), values.is_empty()) {
        ("In" | "NotIn", true) => {
            let words = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&path.child("values"), words));
        }
        ("Exists" | "DoesNotExist", false) => {
            let words = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&path.child("values"), words));
        }
        ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
        (operator, _) => {
            errors.push(FieldError::invalid(&path.child("operator"), operator, "not a valid selector operator"));
        }
    }
    let key = requirement.str_at(&["key"]);
    invalid(&mut errors, &path.child("key"), key, names::check_label_key(key));
    for (index, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or("");
        invalid(&mut errors, &path.child("values").index(index), value, names::check_label_value(value));
    }
    errors
}

/// What is wrong with a list of `metav1.Condition`.
pub fn conditions(conditions: &[Value], path: &FieldPath) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let kind = condition.str_at(&["type"]);
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(&path.child("type"), kind));
        }
        errors.extend(condition_faults(condition, &path));
    }
    errors
}

fn condition_faults(condition: &Value, path: &FieldPath) -> ErrorList {
    let text = |field: &str| condition.str_at(&[field]);
    let mut errors = ErrorList::new();
    invalid(&mut errors, &path.child("type"), text("type"), names::check_label_key(text("type")));
    if !matches!(text("status"), "True" | "False" | "Unknown") {
        errors.push(FieldError::not_supported(&path.child("status"), text("status"), &["False", "True", "Unknown"]));
    }
    if let Some(generation) = condition.int_at(&["observedGeneration"]).filter(|generation| *generation < 0) {
        let words = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(&path.child("observedGeneration"), generation, words));
    }
    if text("lastTransitionTime").is_empty() {
        errors.push(FieldError::required(&path.child("lastTransitionTime"), ""));
    }
    match text("reason") {
        "" => errors.push(FieldError::required(&path.child("reason"), "")),
        reason if reason.len() > REASON_LIMIT_BYTES => {
            errors.push(FieldError::too_long(&path.child("reason"), REASON_LIMIT_BYTES));
        }
        reason => invalid(&mut errors, &path.child("reason"), reason, names::check_condition_reason(reason)),
    }
    if text("message").len() > MESSAGE_LIMIT_BYTES {
        errors.push(FieldError::too_long(&path.child("message"), MESSAGE_LIMIT_BYTES));
    }
    errors
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn lines(errors: ErrorList) -> String {
        errors.iter().map(|error| format!("{error}\n")).collect()
    }

    fn check(object: Value, namespaced: bool, want: Expect) {
        let rules = MetaRules { namespaced, name: names::dns_label, builtin: true };
        want.assert_eq(&lines(metadata(&object, rules)));
    }

    fn check_update(new: Value, old: Value, want: Expect) {
        want.assert_eq(&lines(metadata_update(&new, &old)));
    }

    #[test]
    fn good_metadata() {
        let object = json!({"metadata": {"name": "a", "namespace": "b", "labels": {"a/b": "", "c": "d"},
            "annotations": {"Example.com/A": "any text"}, "finalizers": ["orphan", "example.com/x"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]}});
        check(object, true, expect![""]);
    }

    #[test]
    fn bad_metadata() {
        check(
            json!({"metadata": {"generateName": "A-"}}),
            true,
            expect![[r#"
            metadata.name: Required value: name or generateName is required
            metadata.namespace: Required value
        "#]],
        );
        check(
            json!({"metadata": {"name": "a.b", "namespace": "x", "generation": -1, "labels": {"-": "a b"},
                "annotations": {"a/b/c": "x"}, "finalizers": ["nope", "a b"]}}),
            false,
            expect![[r#"
                metadata.name: Invalid value: "a.b": must not contain dots
                metadata.namespace: Forbidden: not allowed on this type
                metadata.generation: Invalid value: -1: must be greater than or equal to 0
                metadata.labels: Invalid value: "-": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                metadata.labels: Invalid value: "a b": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
                metadata.annotations: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
                metadata.finalizers: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                metadata.finalizers[0]: Invalid value: "nope": name is neither a standard finalizer name nor is it fully qualified
                metadata.finalizers[1]: Invalid value: "a b": name is neither a standard finalizer name nor is it fully qualified
            "#]],
        );
        let owner =
            |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true});
        check(
            json!({"metadata": {"name": "a", "ownerReferences": [{"apiVersion": "apps/"}, owner("a"), owner("b")]}}),
            false,
            expect![[r#"
                metadata.ownerReferences.apiVersion: Invalid value: "apps/": version must not be empty
                metadata.ownerReferences.kind: Invalid value: "": must not be empty
                metadata.ownerReferences.name: Invalid value: "": must not be empty
                metadata.ownerReferences.uid: Invalid value: "": must not be empty
                metadata.ownerReferences: Invalid value: [{"apiVersion":"apps/"},{"apiVersion":"v1","controller":true,"kind":"Pod","name":"a","uid":"u"},{"apiVersion":"v1","controller":true,"kind":"Pod","name":"b","uid":"u"}]: Only one reference can have Controller set to true. Found "true" in references for Pod/a and Pod/b
            "#]],
        );
        let big = "x".repeat(ANNOTATIONS_LIMIT_BYTES);
        check(
            json!({"metadata": {"name": "a", "annotations": {"a": big}}}),
            false,
            expect![[r#"
            metadata.annotations: Too long: may not be more than 262144 bytes
        "#]],
        );
    }

    #[test]
    fn updates() {
        let old = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "1", "generation": 2,
            "creationTimestamp": "t", "deletionTimestamp": "t", "deletionGracePeriodSeconds": 5, "finalizers": ["a/b"]}});
        check_update(old.clone(), old.clone(), expect![""]);
        check_update(
            json!({"metadata": {"name": "b", "finalizers": ["c/d", "a/b"], "generation": 1}}),
            old,
            expect![[r#"
                metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"c/d"}
                metadata.resourceVersion: Invalid value: "": must be specified for an update
                metadata.generation: Invalid value: 1: must not be decremented
                metadata.name: Invalid value: "b": field is immutable
                metadata.uid: Invalid value: null: field is immutable
                metadata.creationTimestamp: Invalid value: null: field is immutable
                metadata.deletionTimestamp: Invalid value: null: field is immutable
                metadata.deletionGracePeriodSeconds: Invalid value: null: field is immutable
            "#]],
        );
    }

    #[test]
    fn selectors() {
        let selector = json!({"matchLabels": {"a": "b c"}, "matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "", "operator": "Exists", "values": ["x"]}, {"key": "a", "operator": "Near"}]});
        expect![[r#"
            spec.selector.matchLabels: Invalid value: "b c": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
            spec.selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'
            spec.selector.matchExpressions[1].key: Invalid value: "": name part must be non-empty
            spec.selector.matchExpressions[1].key: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.selector.matchExpressions[2].operator: Invalid value: "Near": not a valid selector operator
        "#]].assert_eq(&lines(label_selector(Some(&selector), &FieldPath::new("spec.selector"))));
        assert!(label_selector(None, &FieldPath::new("spec.selector")).is_empty());
    }

    #[test]
    fn condition_lists() {
        let list = [
            json!({"type": "A", "status": "True", "lastTransitionTime": "t", "reason": "Ok"}),
            json!({"type": "A", "status": "Yes", "observedGeneration": -1, "reason": "not ok"}),
        ];
        expect![[r#"
            status.conditions[1].type: Duplicate value: "A"
            status.conditions[1].status: Unsupported value: "Yes": supported values: "False", "True", "Unknown"
            status.conditions[1].observedGeneration: Invalid value: -1: must be greater than or equal to zero
            status.conditions[1].lastTransitionTime: Required value
            status.conditions[1].reason: Invalid value: "not ok": a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')
        "#]].assert_eq(&lines(conditions(&list, &FieldPath::new("status.conditions"))));
    }
}
