//! Keeps PodGroups that Pods are in from vanishing under them: a finalizer stays until no Pod of the group is left to end.
//! See <https://kubernetes.io/docs/concepts/workloads/podgroup-api/>.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use skiff_base::Timestamp;
use skiff_client::{Change, Informer, ObjectKey};

use crate::finalizers::release;
use crate::plan::Plan;
use crate::pods::is_terminal;
use crate::runner::{Controller, Failure, Setup};

const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";

/// The group that a Pod is in.
pub fn group_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.scheduling_group.as_ref()?.pod_group_name.as_deref()
}

/// Guards groups.
pub struct PodGroups {
    groups: Informer<PodGroup>,
    pods: Informer<Pod>,
}

impl PodGroups {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let (groups, pods) = (setup.informer::<PodGroup>(), setup.informer::<Pod>());
        setup.for_each::<PodGroup>();
        setup.on_change::<Pod>(|change| {
            let pod = change.object();
            let ended = matches!(change, Change::Deleted(_)) || is_terminal(pod);
            let name = group_of(pod).filter(|_| ended);
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            name.map(|name| ObjectKey::new(namespace, name)).into_iter().collect()
        });
        Arc::new(Self { groups, pods })
    }
}

impl Controller for PodGroups {
    fn plan(&self, key: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let Some(group) = self.groups.by_key(key) else { return Plan::nothing() };
        let is_in = |pod: &Arc<Pod>| group_of(pod) == Some(key.name.as_str()) && !is_terminal(pod);
        let in_use =
            group.metadata.deletion_timestamp.is_some() && self.pods.list_namespace(&key.namespace).iter().any(is_in);
        release(&*group, FINALIZER, in_use)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::object;

    #[test]
    fn a_group_goes_when_nobody_is_in_it() {
        let check = |metadata: &str, in_use: bool, expected: Expect| {
            let group: PodGroup = object(&format!(
                "{{metadata: {{name: g, namespace: d, {metadata}}}, spec: {{schedulingPolicy: {{basic: {{}}}}}}}}"
            ));
            expected.assert_eq(&release(&group, FINALIZER, in_use).to_string());
        };
        let held = "finalizers: [scheduling.k8s.io/podgroup-protection, x.io/y]";
        let going = format!("deletionTimestamp: '2026-01-31T12:00:00Z', {held}");
        check(held, false, expect![""]);
        check(&going, true, expect![""]);
        check(
            &going,
            false,
            expect![[r#"
                update podgroups d/g {"metadata":{"deletionTimestamp":"2026-01-31T12:00:00Z","finalizers":["x.io/y"]},"spec":{"schedulingPolicy":{"basic":{}}}}
            "#]],
        );
        check("deletionTimestamp: '2026-01-31T12:00:00Z', finalizers: [x.io/y]", false, expect![""]);
    }
}
