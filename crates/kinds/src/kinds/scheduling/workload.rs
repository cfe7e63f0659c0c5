//! `scheduling.k8s.io/v1alpha2` Workload: the templates of the PodGroups that a workload consists of. It has to be asked for.
//! See <https://kubernetes.io/docs/concepts/workloads/workload-api/>.

use std::collections::BTreeSet;

use skiff_base::gates;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::group_check;
use crate::rules::table::{AGE, NAME, name_and_age};

/// `workloads`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("scheduling.k8s.io"),
    version: text("v1alpha2"),
    gate: text(gates::GENERIC_WORKLOAD),
    plural: text("workloads"),
    singular: text("workload"),
    kind: text("Workload"),
    list_kind: text("WorkloadList"),
    schema: text("io.k8s.api.scheduling.v1alpha2.Workload"),
    columns: list![NAME, AGE],
    row: name_and_age,
    validate,
    validate_update,
    ..BASE
};

/// How many templates there may be.
const TEMPLATES_LIMIT: usize = 8;

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    // No part of a Workload changes once it is there.
    if !object.resource_version().is_empty() {
        return faults.into_list();
    }
    let controller = spec.get("controllerRef");
    if controller.is_set() {
        faults.name(&controller.get("apiGroup"), names::check_dns_subdomain);
        faults.needs_name(&controller.get("kind"), names::check_path_segment);
        faults.needs_name(&controller.get("name"), names::check_path_segment);
    }
    let templates = spec.get("podGroupTemplates");
    if faults.needs(&templates) && faults.at_most_items(&templates, TEMPLATES_LIMIT) {
        let mut seen = BTreeSet::new();
        for template in templates.items() {
            if !seen.insert(template.get("name").text()) {
                faults.duplicate(&template);
            }
        }
        for template in templates.items() {
            faults.needs_name(&template.get("name"), names::check_dns_label);
            group_check::group(&mut faults, &template);
        }
    }
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let spec = |object| At::top(object, "spec");
    group_check::unchanged(&mut faults, &spec(new), &spec(old), &["controllerRef", "podGroupTemplates"]);
    faults.into_list()
}
