//! `flowcontrol.apiserver.k8s.io/v1` FlowSchema: sorts requests into priority levels.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{ALL_METADATA, BASE, list, text};
use crate::def::{ResourceDef, Scope, Subresource};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{flow_check, table};

/// `flowschemas`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("flowcontrol.apiserver.k8s.io"),
    plural: text("flowschemas"),
    singular: text("flowschema"),
    kind: text("FlowSchema"),
    list_kind: text("FlowSchemaList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.flowcontrol.v1.FlowSchema"),
    subresources: list![Subresource::Status],
    has_generation: true,
    unconditional_update: false,
    columns: list![
        NAME,
        column("PriorityLevel", "string", "The priority level of the requests."),
        column("MatchingPrecedence", "string", "The order in which schemas are tried."),
        column("DistinguisherMethod", "string", "How requests are told apart into flows."),
        AGE,
        column("MissingPL", "string", "Whether there is no such priority level."),
    ],
    default: defaults,
    row,
    validate: flow_check::flow_schema,
    status_keeps: ALL_METADATA,
    ..BASE
};

const MATCHING_PRECEDENCE: i64 = 1000;

fn defaults(object: &mut Object) {
    if table::number(object, &["spec", "matchingPrecedence"]) == 0 {
        object.set_at(&["spec", "matchingPrecedence"], MATCHING_PRECEDENCE);
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let missing = table::condition(object, "Dangling").map_or("?", |condition| condition.str_at(&["status"]));
    cells![
        object.name(),
        object.str_at(&["spec", "priorityLevelConfiguration", "name"]),
        table::number(object, &["spec", "matchingPrecedence"]),
        table::text_or(object, &["spec", "distinguisherMethod", "type"], table::NONE),
        table::age(object, now),
        missing,
    ]
}
