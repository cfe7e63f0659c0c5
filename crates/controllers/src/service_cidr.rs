//! ServiceCIDRs: ready while they stay, and held until no address of theirs is in use that no other range covers.
//! See <https://kubernetes.io/docs/tasks/network/extend-service-ip-ranges/>.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR, ServiceCIDRStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use skiff_base::{Cidr, Timestamp};
use skiff_client::{Informer, ObjectKey, Outlines};

use crate::meta::time;
use crate::plan::{Action, Note, Plan};
use crate::runner::{Controller, Failure, Setup};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Ready";
/// An address may have been taken from a range just before it began to go: it is let go only after this long.
const GRACE: Duration = Duration::from_secs(10);

/// What is to be done about a range; `held` tells how many addresses only this range covers.
pub fn reconcile(range: &ServiceCIDR, held: usize, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let finalizers = range.metadata.finalizers.clone().unwrap_or_default();
    let has = finalizers.iter().any(|name| name == FINALIZER);
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        if !has {
            let mut range = range.clone();
            range.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
            plan.then(Action::update(&range));
        }
        tell(range, true, "", "Kubernetes Service CIDR is ready", now, &mut plan);
        return plan;
    };
    if !has {
        return plan;
    }
    if held > 0 {
        let text =
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        tell(range, false, "Terminating", text, now, &mut plan);
        return plan;
    }
    let been = Duration::try_from(now.duration_since(deleted.0)).unwrap_or_default();
    if been < GRACE {
        plan.look_again(GRACE - been);
        return plan;
    }
    let mut range = range.clone();
    range.metadata.finalizers = Some(finalizers.into_iter().filter(|name| name != FINALIZER).collect());
    plan.then(Action::update(&range));
    plan
}

fn tell(range: &ServiceCIDR, ready: bool, reason: &str, message: &str, now: Timestamp, plan: &mut Plan) {
    let status = if ready { "True" } else { "False" };
    let conditions = range.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    if conditions.iter().any(|c| c.type_ == READY && c.status == status && c.message == message) {
        return;
    }
    let mut conditions: Vec<_> = conditions.into_iter().filter(|condition| condition.type_ != READY).collect();
    conditions.push(Condition {
        type_: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: None,
        last_transition_time: time(now),
    });
    let told = ServiceCIDR { status: Some(ServiceCIDRStatus { conditions: Some(conditions) }), ..range.clone() };
    let mut action = Action::update_status(&told);
    if !ready {
        action = action.and_tell(Note::warning(range, "KubernetesServiceCIDR", message));
    }
    plan.then(action);
}

fn covers_any(range: &ServiceCIDR, address: IpAddr) -> bool {
    range
        .spec
        .iter()
        .flat_map(|spec| spec.cidrs.iter().flatten())
        .filter_map(|text| text.parse::<Cidr>().ok())
        .any(|cidr| cidr.contains(address))
}

/// The controller.
pub struct ServiceCidrs {
    ranges: Informer<ServiceCIDR>,
    addresses: Outlines,
}

impl ServiceCidrs {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let ranges = setup.informer::<ServiceCIDR>();
        setup.for_each::<ServiceCIDR>();
        let known = ranges.clone();
        // Only a range on its way out cares about addresses, and about other ranges.
        // There is an address for each Service, whose name says all that is to be known of it.
        let addresses = setup.outlines::<IPAddress>(move |_| going(&known));
        let known = ranges.clone();
        setup.on_change::<ServiceCIDR>(move |_| going(&known));
        Arc::new(Self { ranges, addresses })
    }

    fn held(&self, range: &ServiceCIDR) -> usize {
        let others: Vec<_> = self
            .ranges
            .list()
            .into_iter()
            .filter(|other| other.metadata.uid != range.metadata.uid && other.metadata.deletion_timestamp.is_none())
            .collect();
        let all = self.addresses.keys();
        let parsed = all.iter().filter_map(|address| address.name.parse::<IpAddr>().ok());
        parsed.filter(|a| covers_any(range, *a) && !others.iter().any(|other| covers_any(other, *a))).count()
    }
}

impl Controller for ServiceCidrs {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let range = self.ranges.by_key(key);
        range.map_or_else(Plan::nothing, |range| reconcile(&range, self.held(&range), now))
    }
}

fn going(ranges: &Informer<ServiceCIDR>) -> Vec<ObjectKey> {
    let all = ranges.list();
    let going = all.iter().filter(|range| range.metadata.deletion_timestamp.is_some());
    going.map(|range| ObjectKey::of(&range.metadata)).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::{now, object};

    fn check(meta: &str, held: usize, expected: Expect) {
        let range: ServiceCIDR = object(&format!("{{metadata: {{name: c{meta}}}, spec: {{cidrs: [10.0.0.0/24]}}}}"));
        expected.assert_eq(&reconcile(&range, held, now()).to_string());
    }

    #[test]
    fn a_range_is_held_while_its_addresses_are_in_use() {
        check(
            "",
            0,
            expect![[r#"
            update servicecidrs c {"metadata":{"finalizers":["networking.k8s.io/service-cidr-finalizer"]},"spec":{"cidrs":["10.0.0.0/24"]}}
            update servicecidrs/status c {"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"Kubernetes Service CIDR is ready","reason":"","status":"True","type":"Ready"}]}
        "#]],
        );
        let going = format!(", finalizers: [{FINALIZER}], deletionTimestamp: '2026-01-31T11:59:00Z'");
        check(
            &going,
            2,
            expect![[r#"
            update servicecidrs/status c {"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR","reason":"Terminating","status":"False","type":"Ready"}]} [KubernetesServiceCIDR: There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR]
        "#]],
        );
        check(
            &going,
            0,
            expect![[r#"
            update servicecidrs c {"metadata":{"deletionTimestamp":"2026-01-31T11:59:00Z","finalizers":[]},"spec":{"cidrs":["10.0.0.0/24"]}}
        "#]],
        );
    }

    #[test]
    fn addresses_are_told_by_range() {
        let range: ServiceCIDR = object("{metadata: {name: c}, spec: {cidrs: [10.0.0.0/24, 'fd00::/112']}}");
        let is = |address: &str| covers_any(&range, address.parse().expect("an address"));
        assert!(is("10.0.0.255") && is("fd00::ffff") && !is("10.0.1.0") && !is("fd00::1:0"));
    }
}
