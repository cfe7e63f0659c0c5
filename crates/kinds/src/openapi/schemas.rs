//! Types as JSON schemas, in the form in which upstream writes them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Dialect;
use super::operations::schema_name;
use crate::def::ResourceDef;
use crate::schema::descriptions::Descriptions;
use crate::schema::{Definition, Field, ListType, MapType, Shape, Type, definition};

/// A built-in kind like any other.
const TYPICAL: &str = "io.k8s.api.core.v1.ConfigMap";
/// Where the fields of all kinds are explained.
const CONVENTIONS: &str = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";

/// The schemas that a document refers to, and all that these refer to.
pub(super) struct Schemas {
    dialect: Dialect,
    wanted: BTreeSet<String>,
    descriptions: Descriptions,
}

impl Schemas {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { dialect, wanted: BTreeSet::new(), descriptions: Descriptions::default() }
    }

    /// A reference to a definition, which the document will then contain.
    pub(super) fn reference(&mut self, name: &str) -> Value {
        self.wanted.insert(name.to_owned());
        json!({"$ref": self.pointer(name)})
    }

    fn pointer(&self, name: &str) -> String {
        match self.dialect {
            Dialect::V2 => format!("#/definitions/{name}"),
            Dialect::V3 => format!("#/components/schemas/{name}"),
        }
    }

    /// All schemas, by name.
    pub(super) fn finish(mut self, defs: &[&ResourceDef]) -> BTreeMap<String, Value> {
        let mut done = BTreeMap::new();
        for def in defs {
            if let Some(schema) = &def.inline_schema {
                let name = schema_name(def);
                done.insert(format!("{name}List"), self.custom_list(def, &name));
                done.insert(name, self.custom(def, schema));
            }
        }
        while let Some(name) = self.wanted.pop_first() {
            if done.contains_key(&name) {
                continue;
            }
            if let Some(definition) = definition(&name) {
                let schema = self.definition(definition);
                done.insert(name, schema);
            }
        }
        done
    }

    fn custom(&mut self, def: &ResourceDef, schema: &Value) -> Value {
        let kinds = json!([gvk(&def.gvk())]);
        if self.dialect == Dialect::V2 && schema["x-kubernetes-preserve-unknown-fields"] == true {
            // Readers of v2 take every field for unknown as soon as one is named.
            return json!({"type": "object", "x-kubernetes-group-version-kind": kinds});
        }
        let mut schema = schema.clone();
        if self.dialect == Dialect::V2 {
            simplify(&mut schema);
        }
        let own = self.object_fields();
        self.embed(&mut schema, &own);
        if let Some(map) = schema.as_object_mut() {
            map.insert("x-kubernetes-group-version-kind".to_owned(), kinds);
            map.extend(selectable(def));
            add_properties(map, own);
        }
        schema
    }

    /// Objects within objects have the fields of all objects too, and must name their kind.
    fn embed(&self, schema: &mut Value, own: &Map<String, Value>) {
        let Some(map) = schema.as_object_mut() else { return };
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = map.get_mut(key) {
                self.embed(inner, own);
            }
        }
        if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
            properties.values_mut().for_each(|inner| self.embed(inner, own));
        }
        let is_open = self.dialect == Dialect::V2 && is_set(map, "x-kubernetes-preserve-unknown-fields");
        if !is_set(map, "x-kubernetes-embedded-resource") || is_open {
            return;
        }
        add_properties(map, own.clone());
        if let Some(required) = map.entry("required").or_insert_with(|| json!([])).as_array_mut() {
            for name in ["kind", "apiVersion"].map(Value::from) {
                if !required.contains(&name) {
                    required.push(name);
                }
            }
        }
    }

    fn custom_list(&mut self, def: &ResourceDef, name: &str) -> Value {
        let metadata = self.reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
        let mut own = self.type_fields(metadata, "Standard list metadata.");
        let item = self.whole(json!({"$ref": self.pointer(name)}));
        let words = format!("List of {}. More info: {CONVENTIONS}", def.plural);
        own.insert("items".to_owned(), json!({"description": words, "type": "array", "items": item}));
        let mut kind = def.gvk();
        kind.kind = def.list_kind.to_string();
        let mut schema = json!({
            "description": format!("{} is a list of {}", def.list_kind, def.kind),
            "type": "object",
            "required": ["items"],
            "properties": own,
            "x-kubernetes-group-version-kind": [gvk(&kind)],
        });
        schema.as_object_mut().expect("it was made a map above").extend(selectable(def));
        schema
    }

    /// The fields of all objects.
    fn object_fields(&mut self) -> Map<String, Value> {
        let metadata = self.reference("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        self.type_fields(metadata, "Standard object's metadata.")
    }

    /// The fields that every kind has, with the words that built-in kinds have for them.
    fn type_fields(&mut self, metadata: Value, words: &str) -> Map<String, Value> {
        let mut metadata = self.whole(metadata);
        metadata["description"] = format!("{words} More info: {CONVENTIONS}#metadata").into();
        let mut fields = Map::from_iter([("metadata".to_owned(), metadata)]);
        for name in ["apiVersion", "kind"] {
            let mut field = json!({"type": "string"});
            if let Some(words) = definition(TYPICAL).and_then(|typical| self.words(typical, name)) {
                field["description"] = words.into();
            }
            fields.insert(name.to_owned(), field);
        }
        fields
    }

    /// A reference that may have siblings: v3 wraps it.
    fn whole(&self, reference: Value) -> Value {
        match self.dialect {
            Dialect::V2 => reference,
            Dialect::V3 => json!({"allOf": [reference]}),
        }
    }

    fn definition(&mut self, definition: &'static Definition) -> Value {
        let mut out = match definition.shape {
            Shape::Struct | Shape::Raw => json!({"type": "object"}),
            Shape::Any => any(definition),
            Shape::Time | Shape::MicroTime => json!({"type": "string", "format": "date-time"}),
            Shape::Quantity if self.dialect == Dialect::V2 => json!({"type": "string"}),
            Shape::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Shape::IntOrString if self.dialect == Dialect::V2 => json!({"type": "string", "format": "int-or-string"}),
            Shape::IntOrString => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
        };
        let map = out.as_object_mut().expect("every arm above makes a map");
        if let Some(words) = self.words(definition, "") {
            map.insert("description".to_owned(), json!(words));
        }
        if !definition.fields.is_empty() {
            let fields = definition.fields.iter().map(|field| (field.name.to_owned(), self.field(definition, field)));
            map.insert("properties".to_owned(), Value::Object(fields.collect()));
        }
        let required: Vec<_> =
            definition.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
        if !required.is_empty() {
            map.insert("required".to_owned(), json!(required));
        }
        if !definition.kinds.is_empty() {
            let kinds: Vec<_> = definition.kinds.iter().map(gvk).collect();
            map.insert("x-kubernetes-group-version-kind".to_owned(), json!(kinds));
        }
        if definition.atomic {
            map.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
        }
        if let Some(unions) = &definition.unions {
            map.insert("x-kubernetes-unions".to_owned(), unions.clone());
        }
        out
    }

    fn words(&mut self, definition: &Definition, field: &str) -> Option<String> {
        let (package, kind) = (definition.package(), definition.short_name());
        if let Some(words) = self.descriptions.get(package, kind, field) {
            return Some(words.to_owned());
        }
        // Lists have no words of their own in the table.
        let kind = kind.strip_suffix("List")?;
        match field {
            "" => Some(format!("{kind}List is a list of {kind} objects.")),
            "items" => Some(format!("items is the list of {kind} objects.")),
            "metadata" => Some("Standard list metadata.".to_owned()),
            field => self.descriptions.get(package, kind, field).map(str::to_owned),
        }
    }

    fn field(&mut self, definition: &Definition, field: &Field) -> Value {
        let mut out = self.field_type(field);
        let map = out.as_object_mut().expect("a type is a map");
        let mut insert = |key: &str, value: Value| map.insert(key.to_owned(), value);
        if let Some(mut words) = self.words(definition, field.name) {
            if !field.allowed.is_empty() && matches!(field.ty, Type::String) {
                words.push_str("\n\nPossible enum values:");
                words.extend(field.allowed.iter().map(|value| format!("\n - `{value:?}`")));
            }
            insert("description", json!(words));
        }
        if let Some(default) = field.default.as_ref().filter(|_| self.dialect == Dialect::V3) {
            insert("default", default.clone());
        }
        match &field.list {
            None => {}
            Some(ListType::Atomic) => drop(insert("x-kubernetes-list-type", json!("atomic"))),
            Some(ListType::Set) => drop(insert("x-kubernetes-list-type", json!("set"))),
            Some(ListType::Map(keys)) => {
                insert("x-kubernetes-list-type", json!("map"));
                insert("x-kubernetes-list-map-keys", json!(keys));
            }
        }
        match field.map {
            None => {}
            Some(MapType::Atomic) => drop(insert("x-kubernetes-map-type", json!("atomic"))),
            Some(MapType::Granular) => drop(insert("x-kubernetes-map-type", json!("granular"))),
        }
        let strategies = [(field.merge, "merge"), (field.replace, "replace"), (field.retain_keys, "retainKeys")];
        let strategies: Vec<_> = strategies.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
        if !strategies.is_empty() {
            insert("x-kubernetes-patch-strategy", json!(strategies.join(",")));
        }
        if let Some(key) = field.merge_key {
            insert("x-kubernetes-patch-merge-key", json!(key));
        }
        out
    }

    fn field_type(&mut self, field: &Field) -> Value {
        let allowed = |mut schema: Value| {
            if !field.allowed.is_empty() {
                schema["enum"] = json!(field.allowed);
            }
            schema
        };
        match &field.ty {
            Type::String => allowed(json!({"type": "string"})),
            Type::List(item) if **item == Type::String => {
                let item = self.item(item);
                json!({"type": "array", "items": allowed(item)})
            }
            Type::Map(value) if **value == Type::String => {
                let value = self.item(value);
                json!({"type": "object", "additionalProperties": allowed(value)})
            }
            Type::Ref(_) => {
                let reference = self.plain(&field.ty);
                self.whole(reference)
            }
            ty => self.plain(ty),
        }
    }

    /// A type without default, description or siblings.
    fn plain(&mut self, ty: &Type) -> Value {
        match ty {
            Type::String => json!({"type": "string"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Double => json!({"type": "number", "format": "double"}),
            Type::List(item) => json!({"type": "array", "items": self.item(item)}),
            Type::Map(value) => json!({"type": "object", "additionalProperties": self.item(value)}),
            Type::Ref(_) => {
                let name = ty.definition().map_or("", |definition| definition.name);
                self.reference(name)
            }
        }
    }

    /// An item of a list or a value of a map; v3 states what an absent one is.
    fn item(&mut self, ty: &Type) -> Value {
        let mut schema = self.plain(ty);
        if self.dialect == Dialect::V2 {
            return schema;
        }
        match ty {
            Type::String => schema["default"] = json!(""),
            Type::Int32 | Type::Int64 | Type::Double => schema["default"] = json!(0),
            Type::Bool => schema["default"] = json!(false),
            Type::Ref(_) if ty.definition().is_some_and(|definition| definition.shape == Shape::Struct) => {
                return json!({"allOf": [schema], "default": {}});
            }
            _ => {}
        }
        schema
    }
}

/// Takes out of a custom schema what v2 has no words for, or what its readers would take for more than it means.
fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let is_open = is_set(map, "x-kubernetes-preserve-unknown-fields") || is_set(map, "nullable");
    if is_open || is_set(map, "x-kubernetes-int-or-string") {
        map.remove("type");
    }
    let wordless = ["allOf", "anyOf", "oneOf", "not", "nullable"];
    let beyond = ["properties", "items", "additionalProperties", "required"];
    let is_said = |key: &str| wordless.contains(&key) || (is_open && beyond.contains(&key));
    map.retain(|key, _| !is_said(key));
    forgive_null(map);
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            simplify(inner);
        }
    }
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(simplify);
    }
}

/// What may be null cannot be required where nothing says that it may be.
fn forgive_null(map: &mut Map<String, Value>) {
    let may_be_null = |schema: &Value| schema["nullable"] == true;
    if map.get("additionalProperties").is_some_and(may_be_null) {
        map.remove("required");
    }
    let Some(mut required) = map.remove("required") else { return };
    if let (Some(names), Some(properties)) = (required.as_array_mut(), map.get("properties")) {
        names.retain(|name| !name.as_str().and_then(|name| properties.get(name)).is_some_and(may_be_null));
    }
    if required.as_array().is_none_or(|names| !names.is_empty()) {
        map.insert("required".to_owned(), required);
    }
}

fn is_set(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key) == Some(&Value::Bool(true))
}

fn add_properties(schema: &mut Map<String, Value>, own: Map<String, Value>) {
    if let Some(properties) = schema.entry("properties").or_insert_with(|| json!({})).as_object_mut() {
        properties.extend(own);
    }
}

/// By which of its own fields a custom kind is selected.
fn selectable(def: &ResourceDef) -> Option<(String, Value)> {
    let fields: Vec<Value> = def.selectable.iter().map(|field| json!({"fieldPath": field.path})).collect();
    (!fields.is_empty()).then(|| ("x-kubernetes-selectable-fields".to_owned(), fields.into()))
}

/// Types whose values are kept as they are; a patch is an object all the same.
fn any(definition: &Definition) -> Value {
    if definition.short_name() == "Patch" { json!({"type": "object"}) } else { Value::Object(Map::new()) }
}

fn gvk(kind: &skiff_object::GroupVersionKind) -> Value {
    json!({"group": kind.group, "kind": kind.kind, "version": kind.version})
}
