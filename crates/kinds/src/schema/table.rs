//! Reading the facts in `data/types.txt`. The text is part of the binary; each definition in it is parsed once, on demand.

use std::sync::{LazyLock, OnceLock};

use skiff_object::GroupVersionKind;

use super::{Definition, Field, ListType, MapType, Presence, Shape, Type};

pub(super) static FACTS: &str = include_str!("../../data/types.txt");

struct Entry {
    name: &'static str,
    text: &'static str,
    parsed: OnceLock<Definition>,
}

static TABLE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let mut entries: Vec<Entry> = Vec::new();
    let mut start = None;
    let mut offset = 0;
    for line in FACTS.split_inclusive('\n') {
        if !line.starts_with([' ', '#']) {
            close(&mut entries, start.replace(offset), offset);
        }
        offset += line.len();
    }
    close(&mut entries, start, offset);
    entries
});

fn close(entries: &mut Vec<Entry>, start: Option<usize>, end: usize) {
    let Some(start) = start else { return };
    let text = &FACTS[start..end];
    let name = text.split([' ', '\n']).next().unwrap_or(text);
    entries.push(Entry { name, text, parsed: OnceLock::new() });
}

fn index_of(name: &str) -> Option<usize> {
    TABLE.binary_search_by(|entry| entry.name.cmp(name)).ok()
}

/// The definition of that name, `io.k8s.api.apps.v1.Deployment`.
pub fn definition(name: &str) -> Option<&'static Definition> {
    index_of(name).map(definition_at)
}

/// The names of all definitions, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|entry| entry.name)
}

pub(super) fn definition_at(index: usize) -> &'static Definition {
    let entry = &TABLE[index];
    entry.parsed.get_or_init(|| parse(entry.name, entry.text))
}

fn parse(name: &'static str, text: &'static str) -> Definition {
    let mut lines = text.lines();
    let head = lines.next().unwrap_or("");
    let package = name.rsplit_once('.').map_or("", |(package, _)| package);
    let mut definition = Definition {
        name,
        shape: shape(name),
        fields: lines.map(|line| field(package, line)).collect(),
        wire_order: Vec::new(),
        kinds: Vec::new(),
        atomic: false,
        unions: None,
    };
    let mut wire_order: Vec<usize> = (0..definition.fields.len()).collect();
    wire_order.retain(|index| !definition.fields[*index].numbers.is_empty());
    wire_order.sort_by(|left, right| definition.fields[*left].numbers.cmp(&definition.fields[*right].numbers));
    definition.wire_order = wire_order;
    for attribute in head.split(' ').skip(1) {
        match attribute.split_once('=') {
            Some(("gvk", kinds)) => definition.kinds = kinds.split(',').filter_map(kind).collect(),
            Some(("map", how)) => definition.atomic = how == "atomic",
            Some(("unions", json)) => definition.unions = serde_json::from_str(json).ok(),
            _ => {}
        }
    }
    definition
}

fn shape(name: &str) -> Shape {
    match name.rsplit_once('.').map_or(name, |(_, short)| short) {
        "Quantity" => Shape::Quantity,
        "IntOrString" => Shape::IntOrString,
        "Time" => Shape::Time,
        "MicroTime" => Shape::MicroTime,
        "RawExtension" | "FieldsV1" => Shape::Raw,
        "JSON"
        | "JSONSchemaPropsOrArray"
        | "JSONSchemaPropsOrBool"
        | "JSONSchemaPropsOrStringArray"
        | "Patch"
        | "CustomResourceSubresourceStatus" => Shape::Any,
        _ => Shape::Struct,
    }
}

fn kind(text: &str) -> Option<GroupVersionKind> {
    let mut parts = text.split('/');
    Some(GroupVersionKind::new(parts.next()?, parts.next()?, parts.next()?))
}

fn field(package: &str, line: &'static str) -> Field {
    let mut words = line.trim_start().split(' ');
    let name = words.next().unwrap_or("");
    let presence = match (name.ends_with("*!"), name.ends_with('!'), name.ends_with('*')) {
        (true, _, _) => Presence::Nullable,
        (_, true, _) => Presence::Always,
        (_, _, true) => Presence::Pointer,
        _ => Presence::OmitEmpty,
    };
    let mut field = Field {
        name: name.trim_end_matches(['!', '*']),
        ty: type_of(package, words.next().unwrap_or("")),
        presence,
        required: false,
        default: None,
        allowed: Vec::new(),
        list: None,
        map: None,
        merge: false,
        replace: false,
        retain_keys: false,
        merge_key: None,
        numbers: Vec::new(),
        via: None,
        go: None,
    };
    for attribute in words {
        match attribute.split_once('=') {
            None => match attribute.strip_prefix('#') {
                Some(numbers) => field.numbers = numbers.split('.').filter_map(|part| part.parse().ok()).collect(),
                None => field.required |= attribute == "required",
            },
            Some(("default", json)) => field.default = serde_json::from_str(json).ok(),
            Some(("enum", json)) => field.allowed = serde_json::from_str(json).unwrap_or_default(),
            Some(("list", how)) => field.list = Some(list_type(how)),
            Some(("map", how)) => {
                field.map = Some(if how == "atomic" { MapType::Atomic } else { MapType::Granular });
            }
            Some(("patch", how)) => {
                field.merge = how.split(',').any(|strategy| strategy == "merge");
                field.replace = how == "replace";
                field.retain_keys = how.split(',').any(|strategy| strategy == "retainKeys");
            }
            Some(("key", key)) => field.merge_key = Some(key),
            Some(("via", via)) => field.via = Some(via),
            Some(("go", go)) => field.go = Some(go),
            Some(_) => {}
        }
    }
    field
}

fn list_type(text: &'static str) -> ListType {
    match text.strip_prefix("map(").and_then(|keys| keys.strip_suffix(')')) {
        Some(keys) => ListType::Map(keys.split(',').collect()),
        None if text == "set" => ListType::Set,
        None => ListType::Atomic,
    }
}

fn type_of(package: &str, text: &str) -> Type {
    if let Some(item) = text.strip_prefix("[]") {
        return Type::List(Box::new(type_of(package, item)));
    }
    if let Some(value) = text.strip_prefix("{}") {
        return Type::Map(Box::new(type_of(package, value)));
    }
    match text {
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "bool" => Type::Bool,
        "double" => Type::Double,
        name => {
            let index = if name.contains('.') { index_of(name) } else { index_of(&format!("{package}.{name}")) };
            Type::Ref(index.expect("a test checks that the facts name no type that they do not define"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_facts_can_be_read() {
        let mut fields = 0;
        for index in 0..TABLE.len() {
            let definition = definition_at(index);
            fields += definition.fields.len();
            assert!(definition.fields.is_sorted_by_key(|field| field.name), "{}", definition.name);
        }
        assert!(TABLE.is_sorted_by_key(|entry| entry.name));
        assert_eq!((TABLE.len(), fields), (618, 2568));
    }

    #[test]
    fn fields_have_their_attributes() {
        let container = definition("io.k8s.api.core.v1.Container").expect("it is in the facts");
        let ports = container.field("ports").expect("it has ports");
        assert_eq!(ports.list, Some(ListType::Map(vec!["containerPort", "protocol"])));
        assert_eq!((ports.merge, ports.merge_key), (true, Some("containerPort")));
        let policy = container.field("imagePullPolicy").expect("it has a pull policy");
        assert_eq!(policy.allowed, ["Always", "IfNotPresent", "Never"]);
        let spec = definition("io.k8s.api.apps.v1.DeploymentSpec").expect("it is in the facts");
        assert!(spec.field("strategy").is_some_and(|field| field.retain_keys));
        let deployment = definition("io.k8s.api.apps.v1.Deployment").expect("it is in the facts");
        assert_eq!(deployment.kinds, [GroupVersionKind::new("apps", "v1", "Deployment")]);
        assert_eq!(deployment.go_type(), "v1.Deployment");
    }
}
