//! ClusterRoles that are made of others: their rules are those of all roles that their selectors choose.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles>.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;
use skiff_base::Timestamp;
use skiff_client::{Informer, ObjectKey, Patch};

use crate::meta::{selector, selects};
use crate::plan::{Action, Plan};
use crate::runner::{Controller, Failure, Setup};

/// What is to be done about a role.
pub fn reconcile(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Plan {
    let mut plan = Plan::nothing();
    let Some(aggregation) = &role.aggregation_rule else { return plan };
    let mut rules: Vec<PolicyRule> = Vec::new();
    for raw in aggregation.cluster_role_selectors.iter().flatten() {
        let chosen = selector(Some(raw));
        let others = all.iter().filter(|other| other.metadata.name != role.metadata.name);
        for other in others.filter(|other| selects(&chosen, &other.metadata)) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    if role.rules.clone().unwrap_or_default() != rules {
        let version = &role.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "rules": rules});
        plan.then(Action::patch::<ClusterRole>(&role.metadata, Patch::Merge(patch)));
    }
    plan
}

/// The controller.
pub struct Roles {
    roles: Informer<ClusterRole>,
}

impl Roles {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let roles = setup.informer::<ClusterRole>();
        let known = roles.clone();
        setup.on_change::<ClusterRole>(move |_| {
            let all = known.list();
            let made_of_others = all.iter().filter(|role| role.aggregation_rule.is_some());
            made_of_others.map(|role| ObjectKey::of(&role.metadata)).collect()
        });
        Arc::new(Self { roles })
    }
}

impl Controller for Roles {
    fn plan(&self, key: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        // The cache is ordered by name, which makes the order of the rules the same each time.
        self.roles.by_key(key).map_or_else(Plan::nothing, |role| reconcile(&role, &self.roles.list()))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::object;

    #[test]
    fn rules_are_collected_once() {
        let role = |yaml: &str| Arc::new(object::<ClusterRole>(yaml));
        let view = role(
            "{metadata: {name: view, resourceVersion: '1'}, aggregationRule: {clusterRoleSelectors: [{matchLabels: {to: view}}]}}",
        );
        let pods = "rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]";
        let all = [
            role(&format!("{{metadata: {{name: a, labels: {{to: view}}}}, {pods}}}")),
            role(&format!("{{metadata: {{name: b, labels: {{to: view}}}}, {pods}}}")),
            role(&format!("{{metadata: {{name: c, labels: {{to: edit}}}}, {pods}}}")),
            view.clone(),
        ];
        expect![[r#"
            patch clusterroles view {"metadata":{"resourceVersion":"1"},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}
        "#]].assert_eq(&reconcile(&view, &all).to_string());
    }
}
