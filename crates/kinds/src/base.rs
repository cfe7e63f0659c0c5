//! What a plain kind is: the values that a kind's file states only where its own differ.

use std::borrow::Cow;

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::def::{Context, Deletion, List, ResourceDef, Scope, Subresource, Text};
use crate::rules;

/// A static text.
pub const fn text(value: &'static str) -> Text {
    Cow::Borrowed(value)
}

/// A static list.
macro_rules! list {
    ($($item:expr),* $(,)?) => {
        ::std::borrow::Cow::Borrowed(const { &[$($item),*] })
    };
}

/// A static list of texts.
macro_rules! texts {
    ($($item:literal),* $(,)?) => {
        ::std::borrow::Cow::Borrowed(const { &[$($crate::base::text($item)),*] })
    };
}

/// A static list of fields that field selectors may name.
macro_rules! selectable {
    ($($path:literal),* $(,)?) => {
        ::std::borrow::Cow::Borrowed(const {
            &[$($crate::def::SelectableField { path: $crate::base::text($path), read: None }),*]
        })
    };
}

pub(crate) use {list, selectable, texts};

/// `status_keeps` of kinds whose status is written without any metadata.
pub const ALL_METADATA: List<Text> = texts!["annotations", "finalizers", "labels"];

/// A `scale` subresource with the paths that all built-in kinds share.
pub const fn scale(selector: &'static str) -> Subresource {
    Subresource::Scale {
        spec_replicas: text(".spec.replicas"),
        status_replicas: text(".status.replicas"),
        selector: text(selector),
    }
}

/// A subresource that the API server answers by code of its own.
pub const fn special(
    name: &'static str,
    (group, version, kind): (&'static str, &'static str, &'static str),
    verbs: List<Text>,
) -> Subresource {
    Subresource::Special { name: text(name), kind: (text(group), text(version), text(kind)), verbs }
}

/// The verbs of a kind that is stored.
const STORED_VERBS: List<Text> =
    texts!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A namespaced, stored `v1` kind of the core group that goes at once when it is deleted and has no rules of its own.
///
/// Written without calls, so that the compiler sees that nothing in it needs to be dropped.
pub const BASE: ResourceDef = ResourceDef {
    group: Cow::Borrowed(""),
    version: Cow::Borrowed("v1"),
    gate: Cow::Borrowed(""),
    plural: Cow::Borrowed(""),
    singular: Cow::Borrowed(""),
    kind: Cow::Borrowed(""),
    list_kind: Cow::Borrowed(""),
    short_names: Cow::Borrowed(&[]),
    categories: Cow::Borrowed(&[]),
    scope: Scope::Namespaced,
    verbs: STORED_VERBS,
    schema: Cow::Borrowed(""),
    inline_schema: None,
    custom: None,
    storage: None,
    stored: true,
    subresources: Cow::Borrowed(&[]),
    selectable: Cow::Borrowed(&[]),
    columns: Cow::Borrowed(&[]),
    status_keeps: Cow::Borrowed(&[]),
    has_generation: false,
    create_on_update: false,
    unconditional_update: true,
    deletion: Deletion::Immediate,
    relaxed_durability: false,
    name_rule: names::dns_subdomain,
    default: no_defaults,
    prepare_create: rules::prepare::create,
    prepare_update: rules::prepare::update,
    validate: rules::schema_check::validate,
    validate_update: valid_update,
    deprecation: Cow::Borrowed(""),
    warnings: no_warnings,
    row: plain_row,
};

/// Sets nothing.
pub fn no_defaults(_: &mut Object) {}

/// Finds nothing wrong.
pub fn valid_update(_: &Context, _: &Object, _: &Object) -> ErrorList {
    ErrorList::new()
}

/// Warns of nothing.
pub fn no_warnings(_: &Object) -> Vec<String> {
    Vec::new()
}

/// The cells Name and Created At, which a kind without columns of its own has.
pub fn plain_row(_: &ResourceDef, object: &Object, _: Timestamp) -> Vec<Value> {
    vec![json!(object.name()), json!(object.str_at(&["metadata", "creationTimestamp"]))]
}
