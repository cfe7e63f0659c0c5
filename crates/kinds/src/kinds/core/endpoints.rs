//! `v1` Endpoints: the addresses behind a Service, in the old shape.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{network_check, table, tree};

/// `endpoints`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("endpoints"),
    singular: text("endpoints"),
    kind: text("Endpoints"),
    list_kind: text("EndpointsList"),
    short_names: texts!["ep"],
    schema: text("io.k8s.api.core.v1.Endpoints"),
    create_on_update: true,
    columns: list![NAME, column("Endpoints", "string", "The addresses and ports."), AGE],
    default: defaults,
    row,
    validate,
    deprecation: text("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    ..BASE
};

const SHOWN_LIMIT: usize = 3;

fn defaults(object: &mut Object) {
    for subset in tree::items_mut(object, &["subsets"]) {
        for port in tree::items_mut(subset, &["ports"]) {
            tree::default_text(port, &["protocol"], "TCP");
        }
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let all: Vec<_> = object.list_at(&["subsets"]).iter().flat_map(addresses).collect();
    let shown = if object.list_at(&["subsets"]).is_empty() {
        table::NONE.to_owned()
    } else {
        table::listed_with_more(&all, SHOWN_LIMIT, ",")
    };
    cells![object.name(), shown, table::age(object, now)]
}

fn addresses(subset: &Value) -> Vec<String> {
    let ips: Vec<_> = subset.list_at(&["addresses"]).iter().map(|address| address.str_at(&["ip"])).collect();
    let ports = subset.list_at(&["ports"]);
    if ports.is_empty() {
        return ips.into_iter().map(str::to_owned).collect();
    }
    let with_port = |port: &Value| {
        let number = table::number(port, &["port"]);
        let join = |ip: &&str| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") };
        ips.iter().map(join).collect::<Vec<_>>()
    };
    ports.iter().flat_map(with_port).collect()
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    network_check::endpoints(&mut faults, &At::top(object, "subsets"));
    faults.into_list()
}
