//! `networking.k8s.io/v1` ServiceCIDR: a range that Service addresses come from.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef, Scope, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};

/// `servicecidrs`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("servicecidrs"),
    singular: text("servicecidr"),
    kind: text("ServiceCIDR"),
    list_kind: text("ServiceCIDRList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.networking.v1.ServiceCIDR"),
    subresources: list![Subresource::Status],
    columns: list![NAME, column("CIDRs", "string", "The ranges of addresses."), AGE],
    row,
    validate,
    validate_update,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), table::joined(object.list_at(&["spec", "cidrs"])), table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let ranges = At::top(object, "spec").get("cidrs");
    match ranges.items().len() {
        0 => faults.required(&ranges, "at least one CIDR required"),
        count if count > CIDRS_LIMIT => faults.invalid(&ranges, "may only hold up to 2 values"),
        _ => ranges.items().iter().for_each(|range| faults.cidr(range)),
    }
    faults.into_list()
}

/// One range of each family.
const CIDRS_LIMIT: usize = 2;

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let ranges = |object| At::top(object, "spec").get("cidrs");
    let (new, old) = (ranges(new), ranges(old));
    let kept = old.items().iter().zip(new.items()).all(|(old, new)| old.value() == new.value());
    if !kept || new.items().len() < old.items().len() {
        faults.invalid(&new, "field is immutable, except for converting from single to dual-stack");
    }
    faults.into_list()
}
