//! `resource.k8s.io/v1` ResourceClaimTemplate: a description of claims to be, one for each Pod.

use skiff_object::Object;

use crate::base::{BASE, list, text};
use crate::def::ResourceDef;
use crate::rules::table::{AGE, NAME};
use crate::rules::{table, tree};

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
    ..BASE
};

fn defaults(object: &mut Object) {
    if let Some(spec) = tree::node_mut(object, &["spec", "spec"]).filter(|node| node.is_object()) {
        super::resource_claim::spec_defaults(spec);
    }
}
