//! `v1` Binding: puts a Pod on a node; never stored.

use skiff_object::{ErrorList, Object};

use crate::base::{BASE, text, texts};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};

/// `bindings`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("bindings"),
    singular: text("binding"),
    kind: text("Binding"),
    verbs: texts!["create"],
    schema: text("io.k8s.api.core.v1.Binding"),
    stored: false,
    validate,
    ..BASE
};

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (target, mut faults) = (At::top(object, "target"), Faults::new());
    if !target.get("kind").is_blank() {
        faults.choice(&target.get("kind"), &["Node", "<empty>"]);
    }
    faults.needs(&target.get("name"));
    faults.into_list()
}
