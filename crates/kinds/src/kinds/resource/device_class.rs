//! `resource.k8s.io/v1` DeviceClass: a choice of devices.

use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME};
use crate::rules::{device_check, resource_check, table};

/// `deviceclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("resource.k8s.io"),
    plural: text("deviceclasses"),
    singular: text("deviceclass"),
    kind: text("DeviceClass"),
    list_kind: text("DeviceClassList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.resource.v1.DeviceClass"),
    has_generation: true,
    columns: list![NAME, AGE],
    row: table::name_and_age,
    validate,
    ..BASE
};

const CONFIGS_LIMIT: usize = 32;

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    device_check::selectors(&mut faults, &spec.get("selectors"));
    let configs = spec.get("config");
    faults.at_most_items(&configs, CONFIGS_LIMIT);
    configs.items().iter().for_each(|config| device_check::configuration(&mut faults, config));
    let name = spec.get("extendedResourceName");
    if name.is_set() && !resource_check::is_extended(name.text()) {
        faults.invalid(&name, "must be a valid extended resource name");
    }
    faults.into_list()
}
