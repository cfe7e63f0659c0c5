//! `resource.k8s.io/v1` ResourceClaimTemplate: a description of claims to be, one for each Pod.

use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME};
use crate::rules::{device_check, table, tree, volume_check};

/// `resourceclaimtemplates`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("resource.k8s.io"),
    plural: text("resourceclaimtemplates"),
    singular: text("resourceclaimtemplate"),
    kind: text("ResourceClaimTemplate"),
    list_kind: text("ResourceClaimTemplateList"),
    schema: text("io.k8s.api.resource.v1.ResourceClaimTemplate"),
    columns: list![NAME, AGE],
    default: defaults,
    row: table::name_and_age,
    validate,
    validate_update,
    ..BASE
};

fn defaults(object: &mut Object) {
    if let Some(spec) = tree::node_mut(object, &["spec", "spec"]).filter(|node| node.is_object()) {
        super::resource_claim::spec_defaults(spec);
    }
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    volume_check::template_metadata(&mut faults, &spec.get("metadata"));
    device_check::claim(&mut faults, &spec.get("spec"));
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    faults.immutable(&At::top(new, "spec"), &At::top(old, "spec"));
    faults.into_list()
}
