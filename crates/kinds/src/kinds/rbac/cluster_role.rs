//! `rbac.authorization.k8s.io/v1` ClusterRole: permissions, for the cluster or for any namespace.

use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, text};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
use crate::rules::rbac_rules;

/// `clusterroles`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("rbac.authorization.k8s.io"),
    plural: text("clusterroles"),
    singular: text("clusterrole"),
    kind: text("ClusterRole"),
    list_kind: text("ClusterRoleList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.rbac.v1.ClusterRole"),
    create_on_update: true,
    name_rule: names::path_segment,
    validate,
    ..BASE
};

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    rbac_rules::check_rules(&mut faults, &At::top(object, "rules"), false);
    let aggregation = At::top(object, "aggregationRule");
    let selectors = aggregation.get("clusterRoleSelectors");
    if aggregation.is_set() && selectors.is_blank() {
        let words = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        faults.required(&selectors, words);
    }
    selectors.items().iter().for_each(|selector| faults.selector(selector));
    faults.into_list()
}
