//! Words to write schemas with, and the pieces that several kinds of the Gateway API have in common.

use serde_json::{Map, Value, json};

const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const DNS_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const GROUP: &str = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const KIND: &str = "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$";
const HOSTNAME: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const CONTROLLER: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$";
const CONDITION_TYPE: &str =
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$";
const REASON: &str = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";
const HEADER_NAME: &str = "^[A-Za-z0-9!#$%&'*+\\-.^_\\x60|~]+$";
const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// The time of conditions that nobody has looked at yet.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// One schema and what else is said of it.
pub fn with(mut schema: Value, more: Value) -> Value {
    if let (Some(schema), Value::Object(more)) = (schema.as_object_mut(), more) {
        schema.extend(more);
    }
    schema
}

/// An object with these fields; the ones with a `!` at the end are required.
pub fn object(fields: &[(&str, Value)]) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, schema) in fields {
        let bare = name.trim_end_matches('!');
        if bare.len() < name.len() {
            required.push(bare);
        }
        properties.insert(bare.to_owned(), schema.clone());
    }
    let schema = json!({"type": "object", "properties": properties});
    if required.is_empty() { schema } else { with(schema, json!({"required": required})) }
}

/// The rules of an expression each, with what is said where it is not kept.
pub fn rules(schema: Value, rules: &[(&str, &str)]) -> Value {
    let rules: Vec<Value> = rules.iter().map(|(message, rule)| json!({"message": message, "rule": rule})).collect();
    with(schema, json!({"x-kubernetes-validations": rules}))
}

/// A list that is replaced as a whole.
pub fn list(items: Value, most: u32) -> Value {
    json!({"type": "array", "items": items, "maxItems": most, "x-kubernetes-list-type": "atomic"})
}

/// A list whose items are told apart by a field.
pub fn map(items: Value, most: u32, key: &str) -> Value {
    json!({"type": "array", "items": items, "maxItems": most, "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": [key]})
}

pub fn text(least: u32, most: u32) -> Value {
    let schema = json!({"type": "string", "maxLength": most});
    if least == 0 { schema } else { with(schema, json!({"minLength": least})) }
}

fn shaped(least: u32, most: u32, pattern: &str) -> Value {
    with(text(least, most), json!({"pattern": pattern}))
}

pub fn number(least: i64, most: i64) -> Value {
    json!({"type": "integer", "format": "int32", "minimum": least, "maximum": most})
}

pub fn one_of(values: &[&str]) -> Value {
    json!({"type": "string", "enum": values})
}

pub fn or(schema: Value, default: Value) -> Value {
    with(schema, json!({"default": default}))
}

pub fn port() -> Value {
    number(1, 65535)
}

pub fn name() -> Value {
    text(1, 253)
}

pub fn namespace() -> Value {
    shaped(1, 63, DNS_LABEL)
}

pub fn section() -> Value {
    shaped(1, 253, DNS_NAME)
}

pub fn group() -> Value {
    shaped(0, 253, GROUP)
}

pub fn kind() -> Value {
    shaped(1, 63, KIND)
}

pub fn hostname() -> Value {
    shaped(1, 253, HOSTNAME)
}

pub fn precise_hostname() -> Value {
    shaped(1, 253, DNS_NAME)
}

pub fn controller() -> Value {
    shaped(1, 253, CONTROLLER)
}

pub fn header_name() -> Value {
    shaped(1, 256, HEADER_NAME)
}

pub fn duration() -> Value {
    json!({"type": "string", "pattern": DURATION})
}

/// Labels or annotations.
pub fn texts(values: Value, most: u32) -> Value {
    json!({"type": "object", "additionalProperties": values, "maxProperties": most})
}

/// A selector of labels.
pub fn selector() -> Value {
    let expression = object(&[
        ("key!", json!({"type": "string"})),
        ("operator!", json!({"type": "string"})),
        ("values", json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "atomic"})),
    ]);
    let schema = object(&[
        ("matchLabels", json!({"type": "object", "additionalProperties": {"type": "string"}})),
        ("matchExpressions", json!({"type": "array", "items": expression, "x-kubernetes-list-type": "atomic"})),
    ]);
    with(schema, json!({"x-kubernetes-map-type": "atomic"}))
}

/// Conditions; those named are unknown until a controller has looked.
pub fn conditions(pending: &[&str]) -> Value {
    let condition = object(&[
        ("type!", shaped(0, 316, CONDITION_TYPE)),
        ("status!", one_of(&["True", "False", "Unknown"])),
        ("observedGeneration", json!({"type": "integer", "format": "int64", "minimum": 0})),
        ("lastTransitionTime!", json!({"type": "string", "format": "date-time"})),
        ("reason!", shaped(1, 1024, REASON)),
        ("message!", text(0, 32768)),
    ]);
    let schema = map(condition, 8, "type");
    if pending.is_empty() { schema } else { or(schema, waiting(pending)) }
}

/// Conditions that say that no controller has looked yet.
pub fn waiting(types: &[&str]) -> Value {
    let wait = |kind: &&str| {
        json!({"type": kind, "status": "Unknown", "reason": "Pending", "message": "Waiting for controller",
            "lastTransitionTime": EPOCH})
    };
    types.iter().map(wait).collect()
}

/// What a route hangs on.
fn parent_ref() -> Value {
    object(&[
        ("group", or(group(), json!("gateway.networking.k8s.io"))),
        ("kind", or(kind(), json!("Gateway"))),
        ("namespace", namespace()),
        ("name!", name()),
        ("sectionName", section()),
        ("port", port()),
    ])
}

/// The Gateways that a route wants to be part of.
pub fn parent_refs() -> Value {
    // Two references mean the same parent where group, kind, name and namespace are the same.
    const SAME: &str = "p1.group == p2.group && p1.kind == p2.kind && p1.name == p2.name && \
        (((!has(p1.__namespace__) || p1.__namespace__ == '') && (!has(p2.__namespace__) || p2.__namespace__ == '')) || \
        (has(p1.__namespace__) && has(p2.__namespace__) && p1.__namespace__ == p2.__namespace__))";
    const SECTION: &str = "(((!has(p1.sectionName) || p1.sectionName == '') && (!has(p2.sectionName) || \
        p2.sectionName == '')) || (has(p1.sectionName) && has(p2.sectionName) && p1.sectionName == p2.sectionName)) \
        && (((!has(p1.port) || p1.port == 0) && (!has(p2.port) || p2.port == 0)) || \
        (has(p1.port) && has(p2.port) && p1.port == p2.port))";
    let given = format!(
        "self.all(p1, self.all(p2, {SAME} ? ((!has(p1.sectionName) || p1.sectionName == '') == \
        (!has(p2.sectionName) || p2.sectionName == '')) && ((!has(p1.port) || p1.port == 0) == \
        (!has(p2.port) || p2.port == 0)) : true))"
    );
    let unique = format!("self.all(p1, self.exists_one(p2, {SAME} && {SECTION}))");
    rules(
        list(parent_ref(), 32),
        &[
            (
                "sectionName or port must be specified when parentRefs includes 2 or more references to the same parent",
                &given,
            ),
            (
                "sectionName or port must be unique when parentRefs includes 2 or more references to the same parent",
                &unique,
            ),
        ],
    )
}

/// Who answers, without a weight.
fn backend_fields() -> Vec<(&'static str, Value)> {
    vec![
        ("group", or(group(), json!(""))),
        ("kind", or(kind(), json!("Service"))),
        ("name!", name()),
        ("namespace", namespace()),
        ("port", port()),
    ]
}

const NEEDS_PORT: (&str, &str) = (
    "Must have port for Service reference",
    "(size(self.group) == 0 && self.kind == 'Service') ? has(self.port) : true",
);

/// Who answers; `more` are fields that the kind adds.
pub fn backend_ref(more: Vec<(&'static str, Value)>) -> Value {
    let weight = ("weight", or(number(0, 1_000_000), json!(1)));
    let fields: Vec<_> = backend_fields().into_iter().chain([weight]).chain(more).collect();
    rules(object(&fields), &[NEEDS_PORT])
}

/// Who gets a copy.
pub fn mirror_ref() -> Value {
    rules(object(&backend_fields()), &[NEEDS_PORT])
}

/// What each parent says of a route.
pub fn route_status() -> Value {
    let parent = object(&[
        ("parentRef!", parent_ref()),
        ("controllerName!", controller()),
        ("conditions!", with(conditions(&[]), json!({"minItems": 1}))),
    ]);
    object(&[("parents!", list(parent, 32))])
}
