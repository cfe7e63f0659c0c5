//! What the tests share: an object with its schema, tables, and how values are shown.
#![allow(dead_code, reason = "each test uses a part")]

use std::sync::LazyLock;

use expect_test::Expect;
use serde_json::{Value as Json, json};
use skiff_cel::value::Map;
use skiff_cel::{Env, Machine, Schema, Value, compile};

pub const LIMIT: u64 = 1_000_000;

pub static SCHEMA: LazyLock<std::sync::Arc<Schema>> = LazyLock::new(|| {
    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 10},
        "spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"},
            "when": {"type": "string", "format": "date-time"},
            "wait": {"type": "string", "format": "duration"},
            "blob": {"type": "string", "format": "byte"},
            "ratio": {"type": "number"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "ports": {"type": "array", "maxItems": 5, "items": {"type": "object", "properties": {
                "name": {"type": "string"}, "port": {"type": "integer"}}}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "missing": {"type": "string"},
            "nothing": {"type": "integer", "nullable": true},
            "namespace": {"type": "string"},
            "a-b": {"type": "integer"},
            "port": {"x-kubernetes-int-or-string": true},
            "hidden": {"x-kubernetes-preserve-unknown-fields": true},
        }},
    }});
    Schema::read(&schema, true, "selfType")
});

pub static OBJECT: LazyLock<Json> = LazyLock::new(|| {
    json!({"name": "web", "kind": "Widget", "metadata": {"name": "w"}, "spec": {
        "replicas": 3, "when": "2024-01-01T00:00:00Z", "wait": "1m30s", "ratio": 2, "blob": "aGk=",
        "labels": {"app": "x"}, "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}],
        "set": ["a", "b"], "nothing": null, "namespace": "n", "a-b": 1, "port": 8080, "hidden": {"x": 1},
    }})
});

pub fn env() -> Env {
    let decl = SCHEMA.decl.clone().expect("the schema has a type");
    Env::new().with("self", decl.clone()).with("oldSelf", decl)
}

/// What an expression gives, or why it gives nothing.
pub fn evaluate(text: &str) -> String {
    let program = match compile(&env(), text) {
        Ok(program) => program,
        Err(_) => return "compile error".into(),
    };
    let variables = vec![("self", Value::json(&OBJECT, Some(&SCHEMA)))];
    match program.run(&variables, None, LIMIT).value {
        Ok(value) => {
            let empty = Vec::new();
            show(&value, &mut Machine::new(&program, &empty, None, LIMIT))
        }
        Err(error) => format!("error: {error}"),
    }
}

pub fn show<'a>(value: &Value<'a>, machine: &mut Machine<'a>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => format!("{value}u"),
        Value::Double(value) => format!("{value:?}"),
        Value::String(text) => format!("{text:?}"),
        Value::Bytes(bytes) => {
            format!("b\"{}\"", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        Value::Timestamp(time) => format!("timestamp({time})"),
        Value::Duration(nanos) => format!("duration({})", skiff_cel::time::duration_text(*nanos)),
        Value::List(list) => {
            let items: Vec<String> = list.iter().map(|item| show(&item, machine)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => show_map(map, machine),
        Value::Optional(None) => "none".into(),
        Value::Optional(Some(inner)) => format!("some({})", show(inner, machine)),
        Value::Type(ty) => format!("type({ty})"),
        Value::Opaque(opaque) => opaque.type_name().into(),
    }
}

fn show_map<'a>(map: &Map<'a>, machine: &mut Machine<'a>) -> String {
    let mut entries = Vec::new();
    for key in map.keys() {
        let key = key.value();
        let value = map.get(&key, machine).expect("a key of the map").expect("a value");
        entries.push(format!("{}: {}", show(&key, machine), show(&value, machine)));
    }
    format!("{{{}}}", entries.join(", "))
}

/// Lines of `expression => what it gives`; all that differ are told at once.
pub fn check_table(table: &str) {
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")) {
        let (text, wanted) = line.split_once(" => ").expect("expression => value");
        count += 1;
        let given = evaluate(text);
        if given != wanted {
            wrong.push(format!("{text} => {given}   (wanted {wanted})"));
        }
    }
    assert!(count > 0, "a table without lines");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

pub fn compile_error(text: &str, wanted: Expect) {
    let error = compile(&env(), text).expect_err("the expression is wrong");
    wanted.assert_eq(&error.to_string());
}
