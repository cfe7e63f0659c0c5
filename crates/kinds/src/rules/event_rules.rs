//! The row of an Event, in either of the two groups that serve Events; their fields differ in name alone.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::list;
use crate::def::{Column, List, ResourceDef};
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
