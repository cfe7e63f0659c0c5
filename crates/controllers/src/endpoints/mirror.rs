//! Endpoints that somebody keeps by hand, mirrored into EndpointSlices for those who read only these.
//! See <https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors>.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_base::Timestamp;
use skiff_base::ids::Ids;
use skiff_client::slices::{SERVICE_NAME, service_of};
use skiff_client::{Change, Index, Informer, ObjectKey};

use crate::meta::{annotation, controller_reference, generated_name, is_controlled_by};
use crate::plan::{Action, Note, Plan};
use crate::runner::{Controller, Failure, Setup};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// The label by which an owner says that slices of its own are there.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// What elections of leaders used to be kept in.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that say something of the Endpoints object only.
const NOT_COPIED: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];
/// More addresses of a subset than these are not mirrored; upstream's default.
const MAX_ADDRESSES: usize = 1000;

/// What the decision rests on.
pub struct Observed {
    /// The Endpoints object.
    pub endpoints: Option<Arc<Endpoints>>,
    /// The Service of the same name.
    pub service: Option<Arc<Service>>,
    /// The slices that mirror it.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// Whether the object is to be mirrored.
fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let meta = &endpoints.metadata;
    let skips = meta.labels.as_ref().and_then(|labels| labels.get(SKIP)).is_some_and(|value| value == "true");
    let by_hand = service.is_some_and(|service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_none_or(|selector| selector.is_empty())
    });
    !skips && by_hand && annotation(meta, LEADER).is_none() && meta.deletion_timestamp.is_none()
}

/// What is to be done.
pub fn reconcile(observed: &Observed, ids: &Ids) -> Plan {
    let mut plan = Plan::nothing();
    let mirrored = observed.endpoints.as_ref().filter(|e| is_mirrored(e, observed.service.as_deref()));
    let Some(endpoints) = mirrored else {
        observed.slices.iter().for_each(|slice| plan.then(Action::delete(&**slice)));
        return plan;
    };
    let mut left: Vec<_> = observed.slices.iter().collect();
    let failed = |text: &str| Note::warning(&**endpoints, "FailedToUpdateEndpointSlices", text.to_owned());
    for wanted in wanted(endpoints, ids) {
        let same_shelf =
            |slice: &&Arc<EndpointSlice>| slice.address_type == wanted.address_type && slice.ports == wanted.ports;
        match left.iter().position(same_shelf).map(|at| left.remove(at)) {
            None => plan.then(Action::create(&wanted).or_tell(failed("Error creating EndpointSlice: "))),
            Some(old) => {
                let mut new = (**old).clone();
                new.endpoints = wanted.endpoints;
                new.metadata.labels = wanted.metadata.labels;
                new.metadata.annotations = wanted.metadata.annotations;
                if new != **old {
                    plan.then(Action::update(&new).or_tell(failed("Error updating EndpointSlice: ")));
                }
            }
        }
    }
    for slice in left {
        plan.then(Action::delete(&**slice).or_tell(failed("Error deleting EndpointSlice: ")));
    }
    plan
}

/// A slice for each subset and kind of address.
fn wanted(endpoints: &Endpoints, ids: &Ids) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        for family in ["IPv4", "IPv6"] {
            let all = addresses(subset, family == "IPv6");
            if !all.is_empty() {
                slices.push(slice(endpoints, subset, family, all, ids));
            }
        }
    }
    slices
}

fn addresses(subset: &EndpointSubset, v6: bool) -> Vec<Endpoint> {
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    let all = ready.chain(unready).filter(|(address, _)| address.ip.contains(':') == v6);
    all.take(MAX_ADDRESSES).map(|(address, ready)| endpoint(address, ready)).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(endpoints: &Endpoints, subset: &EndpointSubset, family: &str, all: Vec<Endpoint>, ids: &Ids) -> EndpointSlice {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let base = format!("{name}-");
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    });
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(generated_name(&base, ids)),
            generate_name: Some(base),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_reference(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(all),
        ports: Some(ports.collect()),
    }
}

/// The controller.
pub struct Mirrors {
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    /// Those that mirror something, by what.
    slices: Index<EndpointSlice>,
    ids: Arc<Ids>,
}

impl Mirrors {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        setup.for_each::<Endpoints>();
        setup.for_each::<Service>();
        setup.on_change::<EndpointSlice>(|change: &Change<EndpointSlice>| {
            mirrored_by(change.object()).into_iter().collect()
        });
        let slices = setup.informer::<EndpointSlice>();
        let slices = slices.index("mirrored", |slice| mirrored_by(slice).map(|key| Cow::Owned(key.to_string())));
        Arc::new(Self { endpoints: setup.informer(), services: setup.informer(), slices, ids: setup.ids.clone() })
    }
}

impl Controller for Mirrors {
    fn plan(&self, key: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let endpoints = self.endpoints.by_key(key);
        let mut slices = self.slices.of(&key.to_string());
        let uid = endpoints.as_ref().and_then(|endpoints| endpoints.metadata.uid.clone());
        // Those of an object that is gone are the garbage collector's.
        slices.retain(|slice| uid.is_some() && is_controlled_by(&slice.metadata, uid.as_ref()));
        reconcile(&Observed { endpoints, service: self.services.by_key(key), slices }, &self.ids)
    }
}

/// The Endpoints object that a slice mirrors.
fn mirrored_by(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    service_of(slice).filter(|_| ours)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::object;

    #[test]
    fn what_is_kept_by_hand_is_mirrored() {
        let endpoints = |more: &str| -> Arc<Endpoints> {
            Arc::new(object(&format!(
                "{{metadata: {{name: db, namespace: d, uid: u{more}}}, subsets: [{{addresses: [{{ip: 192.0.2.1}}, {{ip: '2001:db8::1'}}], notReadyAddresses: [{{ip: 192.0.2.2}}], ports: [{{port: 5432}}]}}]}}"
            )))
        };
        let service: Arc<Service> = Arc::new(object("{metadata: {name: db, namespace: d}, spec: {}}"));
        let check = |endpoints: Arc<Endpoints>, slices: Vec<Arc<EndpointSlice>>| {
            let observed = Observed { endpoints: Some(endpoints), service: Some(service.clone()), slices };
            reconcile(&observed, &Ids::seeded(1)).to_string()
        };
        expect![[r#"
            create endpointslices d/db-h8q24 {"addressType":"IPv4","endpoints":[{"addresses":["192.0.2.1"],"conditions":{"ready":true}},{"addresses":["192.0.2.2"],"conditions":{"ready":false}}],"metadata":{"generateName":"db-","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslicemirroring-controller.k8s.io","kubernetes.io/service-name":"db"},"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Endpoints","name":"db","uid":"u"}]},"ports":[{"name":"","port":5432,"protocol":"TCP"}]}
            create endpointslices d/db-6mqbz {"addressType":"IPv6","endpoints":[{"addresses":["2001:db8::1"],"conditions":{"ready":true}}],"metadata":{"generateName":"db-","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslicemirroring-controller.k8s.io","kubernetes.io/service-name":"db"},"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Endpoints","name":"db","uid":"u"}]},"ports":[{"name":"","port":5432,"protocol":"TCP"}]}
        "#]].assert_eq(&check(endpoints(""), Vec::new()));
        let there: Vec<_> = wanted(&endpoints(""), &Ids::seeded(2)).into_iter().map(Arc::new).collect();
        assert_eq!(check(endpoints(""), there.clone()), "", "nothing is left to do");
        let skipped = endpoints(", labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}");
        assert_eq!(check(skipped, there).lines().count(), 2, "both slices go");
    }
}
