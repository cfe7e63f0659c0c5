//! `flowcontrol.apiserver.k8s.io/v1` PriorityLevelConfiguration: the share of the server that a level gets.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{ALL_METADATA, BASE, list, text};
use crate::def::{ResourceDef, Scope, Subresource};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{flow_check, table, tree};

/// `prioritylevelconfigurations`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("flowcontrol.apiserver.k8s.io"),
    plural: text("prioritylevelconfigurations"),
    singular: text("prioritylevelconfiguration"),
    kind: text("PriorityLevelConfiguration"),
    list_kind: text("PriorityLevelConfigurationList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration"),
    subresources: list![Subresource::Status],
    has_generation: true,
    unconditional_update: false,
    columns: list![
        NAME,
        column("Type", "string", "Whether requests are limited."),
        column("NominalConcurrencyShares", "string", "The share of the server's seats."),
        column("Queues", "string", "The number of queues."),
        column("HandSize", "string", "The number of queues that one flow uses."),
        column("QueueLengthLimit", "string", "How many requests wait in a queue."),
        AGE,
    ],
    default: defaults,
    row,
    validate: flow_check::priority_level,
    status_keeps: ALL_METADATA,
    ..BASE
};

const CONCURRENCY_SHARES: i64 = 30;
const QUEUES: i64 = 64;
const HAND_SIZE: i64 = 8;
const QUEUE_LENGTH_LIMIT: i64 = 50;

fn defaults(object: &mut Object) {
    let spec = tree::made_mut(object, &["spec"]);
    if let Some(limited) = tree::node_mut(spec, &["limited"]).filter(|node| node.is_object()) {
        limited.default_at(&["nominalConcurrencyShares"], CONCURRENCY_SHARES);
        limited.default_at(&["lendablePercent"], 0);
        if let Some(queuing) = tree::node_mut(limited, &["limitResponse", "queuing"]).filter(|node| node.is_object()) {
            for (field, number) in
                [("queues", QUEUES), ("handSize", HAND_SIZE), ("queueLengthLimit", QUEUE_LENGTH_LIMIT)]
            {
                if table::number(queuing, &[field]) == 0 {
                    queuing.set_at(&[field], number);
                }
            }
        }
    }
    if spec.str_at(&["type"]) == "Exempt" {
        spec.default_at(&["exempt", "nominalConcurrencyShares"], 0);
        spec.default_at(&["exempt", "lendablePercent"], 0);
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let kind = object.str_at(&["spec", "type"]);
    let queuing =
        |field: &str| table::number_or(object, &["spec", "limited", "limitResponse", "queuing", field], table::NONE);
    let part = if kind == "Exempt" { "exempt" } else { "limited" };
    cells![
        object.name(),
        kind,
        table::number_or(object, &["spec", part, "nominalConcurrencyShares"], table::NONE),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        table::age(object, now),
    ]
}
