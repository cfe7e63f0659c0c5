//! `discovery.k8s.io/v1` EndpointSlice: a part of the addresses behind a Service.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{network_check, table, tree};

/// `endpointslices`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("discovery.k8s.io"),
    plural: text("endpointslices"),
    singular: text("endpointslice"),
    kind: text("EndpointSlice"),
    list_kind: text("EndpointSliceList"),
    schema: text("io.k8s.api.discovery.v1.EndpointSlice"),
    has_generation: true,
    columns: list![
        NAME,
        column("AddressType", "string", "The type of the addresses."),
        column("Ports", "string", "The ports."),
        column("Endpoints", "string", "The addresses."),
        AGE,
    ],
    default: defaults,
    row,
    validate,
    validate_update,
    ..BASE
};

const SHOWN_LIMIT: usize = 3;

fn defaults(object: &mut Object) {
    for port in tree::items_mut(object, &["ports"]) {
        port.default_at(&["name"], "");
        port.default_at(&["protocol"], "TCP");
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let ports: Vec<_> = object.list_at(&["ports"]).iter().map(port_text).collect();
    let endpoints = object.list_at(&["endpoints"]).iter();
    let addresses = endpoints.flat_map(|endpoint| endpoint.list_at(&["addresses"]));
    let addresses: Vec<_> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    let listed = |all: &[String]| {
        if all.is_empty() { table::UNSET.to_owned() } else { table::listed_with_more(all, SHOWN_LIMIT, ",") }
    };
    cells![object.name(), object.str_at(&["addressType"]), listed(&ports), listed(&addresses), table::age(object, now)]
}

fn port_text(port: &Value) -> String {
    match port.int_at(&["port"]) {
        Some(number) => number.to_string(),
        None => table::text_or(port, &["name"], "*").to_owned(),
    }
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    network_check::endpoint_slice(&mut faults, &At::root(object));
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    faults.immutable(&At::top(new, "addressType"), &At::top(old, "addressType"));
    faults.into_list()
}
