//! Custom resources: a CustomResourceDefinition becomes the same struct that built-in kinds are, built at run time,
//! and takes the same path.
//! See <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/>.

pub mod convert;
pub mod definition;
mod formats;
mod jsonpath;
pub mod keeper;
pub mod rules;
pub mod schema;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_kinds::base::{ALL_METADATA, BASE};
use skiff_kinds::def::{Context, Custom, SelectableField, Text};
use skiff_kinds::rules::table;
use skiff_kinds::{Column, ResourceDef, Scope, Subresource};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

/// The kinds that a definition serves, one for each version. Versions of one schema share it: it is most of a kind.
pub fn kinds_of(definition: &Object) -> Vec<ResourceDef> {
    let mut kinds: Vec<ResourceDef> = Vec::new();
    for version in definition.list_at(&["spec", "versions"]).iter().filter(|version| version.bool_at(&["served"])) {
        let mut kind = kind_of(definition, version);
        if let Some(same) = kinds.iter().find(|known| known.inline_schema == kind.inline_schema) {
            kind.inline_schema = same.inline_schema.clone();
        }
        kinds.push(kind);
    }
    kinds
}

fn owned(text: &str) -> Text {
    Cow::Owned(text.to_owned())
}

fn texts(list: &[Value]) -> Cow<'static, [Text]> {
    list.iter().filter_map(Value::as_str).map(owned).collect()
}

fn kind_of(definition: &Object, version: &Value) -> ResourceDef {
    let name = |field: &str| owned(definition.str_at(&["spec", "names", field]));
    let schema =
        version.at(&["schema", "openAPIV3Schema"]).cloned().unwrap_or_else(|| Value::Object(Default::default()));
    let namespaced = definition.str_at(&["spec", "scope"]) != "Cluster";
    let selectable = version
        .list_at(&["selectableFields"])
        .iter()
        .map(|field| SelectableField { path: owned(field.str_at(&["jsonPath"]).trim_start_matches('.')), read: None });
    ResourceDef {
        group: owned(definition.str_at(&["spec", "group"])),
        version: owned(version.str_at(&["name"])),
        plural: name("plural"),
        singular: name("singular"),
        kind: name("kind"),
        list_kind: name("listKind"),
        short_names: texts(definition.list_at(&["spec", "names", "shortNames"])),
        categories: texts(definition.list_at(&["spec", "names", "categories"])),
        scope: if namespaced { Scope::Namespaced } else { Scope::Cluster },
        inline_schema: Some(Arc::new(schema)),
        custom: Some(Arc::new(facts(definition))),
        subresources: subresources(version),
        selectable: selectable.collect(),
        columns: columns(version),
        has_generation: true,
        unconditional_update: false,
        deprecation: deprecation(definition, version),
        prepare_create,
        status_keeps: ALL_METADATA,
        validate,
        row,
        ..BASE
    }
}

/// What requests for a deprecated version are warned of: its own words, or the usual ones.
fn deprecation(definition: &Object, version: &Value) -> Cow<'static, str> {
    if version.at(&["deprecated"]) != Some(&Value::Bool(true)) {
        return Cow::Borrowed("");
    }
    match version.str_at(&["deprecationWarning"]) {
        "" => {
            let (group, kind) = (definition.str_at(&["spec", "group"]), definition.str_at(&["spec", "names", "kind"]));
            Cow::Owned(format!("{group}/{} {kind} is deprecated", version.str_at(&["name"])))
        }
        own => owned(own),
    }
}

fn facts(definition: &Object) -> Custom {
    let versions = definition.list_at(&["spec", "versions"]);
    let storage = versions.iter().find(|version| version.bool_at(&["storage"]));
    let is_webhook = definition.str_at(&["spec", "conversion", "strategy"]) == "Webhook";
    Custom {
        source: format!("{}/{}", definition.uid(), definition.generation()),
        storage_version: storage.map_or("", |version| version.str_at(&["name"])).to_owned(),
        versions: versions.iter().map(|version| version.str_at(&["name"]).to_owned()).collect(),
        conversion: definition.at(&["spec", "conversion", "webhook"]).filter(|_| is_webhook).cloned(),
    }
}

fn subresources(version: &Value) -> Cow<'static, [Subresource]> {
    let mut list = Vec::new();
    if let Some(scale) = version.at(&["subresources", "scale"]) {
        list.push(Subresource::Scale {
            spec_replicas: owned(scale.str_at(&["specReplicasPath"])),
            status_replicas: owned(scale.str_at(&["statusReplicasPath"])),
            selector: owned(scale.str_at(&["labelSelectorPath"])),
        });
    }
    if version.at(&["subresources", "status"]).is_some() {
        list.push(Subresource::Status);
    }
    list.into()
}

/// The columns that the version names, behind the name; the age where it names none.
fn columns(version: &Value) -> Cow<'static, [Column]> {
    let age = Column { kind: owned("date"), path: owned(".metadata.creationTimestamp"), ..table::AGE };
    let own: Vec<Column> = version
        .list_at(&["additionalPrinterColumns"])
        .iter()
        .map(|column| Column {
            name: owned(column.str_at(&["name"])),
            kind: owned(column.str_at(&["type"])),
            format: owned(column.str_at(&["format"])),
            description: owned(column.str_at(&["description"])),
            priority: column.int_at(&["priority"]).unwrap_or(0) as i32,
            path: owned(column.str_at(&["jsonPath"])),
        })
        .collect();
    let rest = if own.is_empty() { vec![age] } else { own };
    std::iter::once(table::NAME).chain(rest).collect()
}

fn row(def: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let of = |column: &Column| match column.path.as_ref() {
        "" => object.name().into(),
        path => jsonpath::find(object, path).first().map_or(Value::Null, |found| cell(&column.kind, found, now)),
    };
    def.columns.iter().map(of).collect()
}

/// A value as a column of a type shows it; nothing where it is of another type.
fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", Value::Null) => Value::Null,
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => {
            number.as_i64().or(number.as_f64().map(|number| number as i64)).map_or(Value::Null, Value::from)
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) if text.parse::<Timestamp>().is_err() => "<invalid>".into(),
        ("date", Value::String(_)) => table::since(value, &[], now).into(),
        _ => Value::Null,
    }
}

fn prepare_create(context: &Context, object: &mut Object) {
    if context.def.has_status() {
        object.remove_at(&["status"]);
    }
    object.set_at(&["metadata", "generation"], 1);
}

fn validate(context: &Context, object: &Object) -> ErrorList {
    match &context.def.inline_schema {
        Some(schema) => schema::validate(schema, object),
        None => ErrorList::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_show_values_by_the_columns_type() {
        let now = "2026-01-02T03:04:05Z".parse().expect("a time");
        let check =
            |kind: &str, value: Value, expected: Value| assert_eq!(cell(kind, &value, now), expected, "{value}");
        check("string", json!("a"), json!("a"));
        check("string", json!(1), json!("1"));
        check("string", json!({"a": [1]}), json!(r#"{"a":[1]}"#));
        check("integer", json!(1.9), json!(1));
        check("integer", json!("1"), json!(null));
        check("number", json!(1.5), json!(1.5));
        check("boolean", json!(true), json!(true));
        check("date", json!("2026-01-02T03:03:05Z"), json!("60s"));
        check("date", json!("yesterday"), json!("<invalid>"));
    }
}
