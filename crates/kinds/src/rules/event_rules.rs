//! The row of an Event, in either of the two groups that serve Events; their fields differ in name alone.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::list;
use crate::def::{Column, Context, List, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table::{self, cells, column, wide};

/// The columns of an Event.
pub const COLUMNS: List<Column> = list![
    column("Last Seen", "string", "The time since it last happened."),
    column("Type", "string", "Normal or Warning."),
    column("Reason", "string", "What happened, in one word."),
    column("Object", "string", "What it happened to."),
    wide("Subobject", "string", "The part that it happened to."),
    wide("Source", "string", "Who tells of it."),
    column("Message", "string", "What happened."),
    wide("First Seen", "string", "The time since it first happened."),
    wide("Count", "string", "How often it happened."),
    wide("Name", "string", "The name of the event."),
];

/// The cells of an Event.
pub fn row(_: &ResourceDef, event: &Object, now: Timestamp) -> Vec<Value> {
    let first = seen(event, &["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"], now);
    let first = first.unwrap_or_else(|| table::UNKNOWN.to_owned());
    let last = seen(event, &["lastTimestamp", "deprecatedLastTimestamp"], now).unwrap_or_else(|| first.clone());
    let series = event.get("series");
    let (last, count) = match series {
        Some(series) => (table::since(series, &["lastObservedTime"], now), table::number(series, &["count"])),
        None => (last, either(event, "count", "deprecatedCount").and_then(Value::as_i64).unwrap_or(0).max(1)),
    };
    let target = either(event, "involvedObject", "regarding").unwrap_or(&Value::Null);
    let message = either(event, "message", "note").and_then(Value::as_str).unwrap_or("").trim();
    cells![
        last,
        event.str_at(&["type"]),
        event.str_at(&["reason"]),
        format!("{}/{}", target.str_at(&["kind"]).to_lowercase(), target.str_at(&["name"])),
        target.str_at(&["fieldPath"]),
        source(event),
        message,
        first,
        count,
        event.name(),
    ]
}

fn either<'a>(event: &'a Object, name: &str, other: &str) -> Option<&'a Value> {
    event.get(name).or_else(|| event.get(other))
}

fn seen(event: &Object, fields: &[&str], now: Timestamp) -> Option<String> {
    let field = fields.iter().find(|field| table::time_at(event, &[field]).is_some())?;
    Some(table::since(event, &[field], now))
}

fn source(event: &Object) -> String {
    let source = either(event, "source", "deprecatedSource").unwrap_or(&Value::Null);
    let reporter = |name: &str, other: &str| either(event, name, other).and_then(Value::as_str).unwrap_or("");
    let component = match source.str_at(&["component"]) {
        "" => reporter("reportingComponent", "reportingController"),
        component => component,
    };
    let host = match source.str_at(&["host"]) {
        "" => reporter("reportingInstance", "reportingInstance"),
        host => host,
    };
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

const TEXT_LIMIT_BYTES: usize = 128;
const MESSAGE_LIMIT_BYTES: usize = 1024;

/// The namespace of an Event is that of what it is about; what is cluster-wide has its Events in `default`.
pub fn check_namespace(faults: &mut Faults, event: &Object, target: &At) {
    let about = target.get("namespace");
    let agrees = match about.text() {
        "" => matches!(event.namespace(), "" | "default" | "kube-system"),
        namespace => namespace == event.namespace(),
    };
    if !agrees {
        let at = about.renamed(skiff_object::FieldPath::new("involvedObject.namespace"));
        faults.invalid_as(&at, about.text(), "does not match event.namespace");
    }
}

/// Checks an Event of the newer group, whose fields must be told. The messages name them as the older group does.
pub fn validate(_: &Context, event: &Object) -> ErrorList {
    let mut faults = Faults::new();
    check_namespace(&mut faults, event, &At::top(event, "regarding"));
    if !At::top(event, "eventTime").is_set() {
        faults.required(&At::top(event, "eventTime"), "");
    }
    let series = At::top(event, "series");
    if series.is_set() && series.get("count").int().unwrap_or(0) < 2 {
        faults.invalid_as(&series.get("count"), "", "should be at least 2");
    }
    if series.is_set() && !series.get("lastObservedTime").is_set() {
        faults.required(&series.get("lastObservedTime"), "");
    }
    let controller = At::top(event, "reportingController");
    if faults.needs(&controller) {
        faults.all_invalid(&controller, names::check_label_key(controller.text()));
    }
    for field in ["reportingInstance", "action", "reason"] {
        let at = At::top(event, field);
        if faults.needs(&at) && at.text().len() > TEXT_LIMIT_BYTES {
            faults.invalid_as(&at, "", format!("can have at most {TEXT_LIMIT_BYTES} characters"));
        }
    }
    let note = At::top(event, "note");
    if note.text().len() > MESSAGE_LIMIT_BYTES {
        let at = note.renamed(skiff_object::FieldPath::new("message"));
        faults.invalid_as(&at, "", format!("can have at most {MESSAGE_LIMIT_BYTES} characters"));
    }
    let kind = At::top(event, "type");
    if !matches!(kind.text(), "Normal" | "Warning") {
        faults.invalid_as(&kind, "", format!("has invalid value: {}", kind.text()));
    }
    faults.into_list()
}

/// Of an Event of the newer group only the series goes on.
pub fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    const FIXED: [(&str, &str); 12] = [
        ("regarding", "involvedObject"),
        ("reason", "reason"),
        ("note", "message"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingController", "reportingController"),
    ];
    let mut faults = Faults::new();
    for (field, shown) in FIXED {
        let at = At::top(new, field).renamed(skiff_object::FieldPath::new(shown));
        faults.immutable(&at, &At::top(old, field));
    }
    faults.into_list()
}
