//! Paths and requests as OpenAPI writes them, in both versions.

use serde_json::{Map, Value, json};

use super::Dialect;
use super::operations::{ANSWERS, Operation, Parameter, PathItem, STREAMS};
use super::schemas::Schemas;

pub(super) fn path_item(item: &PathItem, dialect: Dialect, schemas: &mut Schemas) -> Value {
    let mut out = Map::new();
    for operation in &item.operations {
        let rendered = match dialect {
            Dialect::V2 => operation_v2(operation, schemas),
            Dialect::V3 => operation_v3(operation, schemas),
        };
        out.insert(operation.method.to_owned(), rendered);
    }
    if !item.parameters.is_empty() {
        out.insert("parameters".to_owned(), parameters(&item.parameters, dialect));
    }
    Value::Object(out)
}

fn parameters(all: &[&Parameter], dialect: Dialect) -> Value {
    all.iter().map(|one| parameter(one, dialect)).collect()
}

fn parameter(one: &Parameter, dialect: Dialect) -> Value {
    let place = if one.in_path { "path" } else { "query" };
    let mut out = json!({"name": one.name, "in": place, "description": one.description});
    match dialect {
        Dialect::V2 => out["type"] = json!(one.kind),
        Dialect::V3 => out["schema"] = json!({"type": one.kind}),
    }
    if dialect == Dialect::V2 || one.in_path {
        out["uniqueItems"] = json!(true);
    }
    if dialect == Dialect::V3 {
        out.as_object_mut().expect("it was made a map above").remove("uniqueItems");
        out["schema"]["uniqueItems"] = json!(true);
    }
    if one.in_path {
        out["required"] = json!(true);
    }
    out
}

/// What both versions say alike.
fn common(operation: &Operation, dialect: Dialect) -> Value {
    let mut out = json!({
        "operationId": operation.id,
        "description": operation.summary,
        "tags": [operation.tag],
    });
    if !operation.parameters.is_empty() {
        out["parameters"] = parameters(&operation.parameters, dialect);
    }
    if let Some(action) = operation.action {
        out["x-kubernetes-action"] = json!(action);
    }
    if let Some(kind) = &operation.kind {
        out["x-kubernetes-group-version-kind"] =
            json!({"group": kind.group, "kind": kind.kind, "version": kind.version});
    }
    out
}

fn answer_types(operation: &Operation) -> Vec<&'static str> {
    if operation.answer.is_none() {
        return vec!["*/*"];
    }
    // Protobuf does not know custom kinds.
    let is_custom = operation.kind.as_ref().is_some_and(|kind| crate::by_kind(kind).is_none());
    let streams = if operation.streams { STREAMS } else { &[] };
    let all = ANSWERS.iter().chain(streams).copied();
    all.filter(|name| !is_custom || !name.starts_with(crate::protobuf::MEDIA_TYPE)).collect()
}

fn answer_schema(operation: &Operation, schemas: &mut Schemas) -> Value {
    match &operation.answer {
        Some(name) => schemas.reference(name),
        None => json!({"type": "string"}),
    }
}

fn content(types: &[&str], schema: &Value) -> Value {
    let types = types.iter().map(|media_type| ((*media_type).to_owned(), json!({"schema": schema})));
    Value::Object(types.collect())
}

fn operation_v3(operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut out = common(operation, Dialect::V3);
    if let Some(body) = &operation.body {
        let schema = schemas.reference(body);
        out["requestBody"] = json!({"content": content(operation.consumes, &schema)});
        if operation.body_required {
            out["requestBody"]["required"] = json!(true);
        }
    }
    let schema = answer_schema(operation, schemas);
    let content = content(&answer_types(operation), &schema);
    let mut responses = Map::new();
    for (code, words) in operation.codes {
        responses.insert(code.to_string(), json!({"description": words, "content": content}));
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    out["responses"] = Value::Object(responses);
    out
}

fn operation_v2(operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut out = common(operation, Dialect::V2);
    out["consumes"] = json!(operation.consumes);
    out["produces"] = json!(answer_types(operation));
    out["schemes"] = json!(["https"]);
    if let Some(body) = &operation.body {
        let mut parameter = json!({"in": "body", "name": "body", "schema": schemas.reference(body)});
        if operation.body_required {
            parameter["required"] = json!(true);
        }
        match out["parameters"].as_array_mut() {
            Some(parameters) => parameters.push(parameter),
            None => out["parameters"] = json!([parameter]),
        }
    }
    let schema = answer_schema(operation, schemas);
    let mut responses = Map::new();
    for (code, words) in operation.codes {
        responses.insert(code.to_string(), json!({"description": words, "schema": schema}));
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    out["responses"] = Value::Object(responses);
    out
}
