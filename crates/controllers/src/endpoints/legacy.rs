//! Endpoints: one object for each Service, kept for clients that know nothing newer.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_base::Timestamp;
use skiff_client::{Informer, ObjectKey};

use super::{
    HEADLESS, Port, Selecting, address_of, families, hostname, is_headless, is_ours, members, ports, publishes_unready,
};
use crate::meta::Labels;
use crate::plan::{Action, Note, Plan};
use crate::pods::is_ready;
use crate::runner::{Controller, Failure, Setup};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// More addresses are cut off: one object would grow without bound.
const MAX_ADDRESSES: usize = 1000;

/// What is to be done about the Endpoints of a Service (or of one that is gone).
pub fn reconcile(service: Option<&Service>, pods: &[Arc<Pod>], present: Option<&Endpoints>) -> Plan {
    let mut plan = Plan::nothing();
    let Some(service) = service else {
        if let Some(present) = present.filter(|present| is_managed(present)) {
            plan.then(Action::delete(present));
        }
        return plan;
    };
    if !is_ours(service) {
        return plan;
    }
    let (subsets, cut) = subsets(service, pods);
    let mut wanted = present.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    wanted.metadata.labels = Some(labels(service));
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    if cut {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    if annotations.is_empty() {
        wanted.metadata.annotations = None;
    }
    match present {
        None => plan.then(Action::create(&wanted).or_tell(failed(service, "FailedToCreateEndpoint", "create"))),
        Some(present) if *present != wanted => {
            plan.then(Action::update(&wanted).or_tell(failed(service, "FailedToUpdateEndpoint", "update")));
        }
        Some(_) => {}
    }
    plan
}

fn failed(service: &Service, reason: &'static str, verb: &str) -> Note {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    Note::warning(service, reason, format!("Failed to {verb} endpoint {namespace}/{name}: "))
}

fn is_managed(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))
}

fn labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// The subsets, and whether addresses were cut off.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let mut groups: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let (mut count, mut cut) = (0, false);
    for pod in members(service, pods) {
        let unready_too = publishes_unready(service);
        if pod.metadata.deletion_timestamp.is_some() && !unready_too {
            continue;
        }
        let ports = ports(service, &pod);
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        let Some(ip) = address_in(service, &pod) else { continue };
        count += 1;
        if count > MAX_ADDRESSES {
            cut = true;
            break;
        }
        let (ready, unready) = groups.entry(ports).or_default();
        let list = if unready_too || is_ready(&pod) { ready } else { unready };
        list.push(address(service, &pod, ip));
    }
    let subsets = groups.into_iter().map(|(ports, (mut ready, mut unready))| {
        ready.sort_by(|a, b| a.ip.cmp(&b.ip));
        unready.sort_by(|a, b| a.ip.cmp(&b.ip));
        let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
        let ports: Vec<_> = ports.iter().map(endpoint_port).collect();
        let ports = (!ports.is_empty()).then_some(ports);
        EndpointSubset { addresses: some(ready), not_ready_addresses: some(unready), ports }
    });
    (subsets.collect(), cut)
}

fn endpoint_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        port: port.number,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

/// The pod's address of the Service's first family: these objects have no place for others.
fn address_in<'a>(service: &Service, pod: &'a Pod) -> Option<&'a str> {
    address_of(pod, families(service).first()?)
}

fn address(service: &Service, pod: &Pod, ip: &str) -> EndpointAddress {
    EndpointAddress {
        ip: ip.to_owned(),
        hostname: hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

/// The controller.
pub struct LegacyEndpoints {
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
}

impl LegacyEndpoints {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let services = setup.informer::<Service>();
        setup.for_each::<Service>();
        setup.for_each::<Endpoints>();
        let selecting = Selecting::new(&services);
        setup.on_change::<Pod>(move |change| selecting.concerned_by(change));
        Arc::new(Self { services, pods: setup.informer(), endpoints: setup.informer() })
    }
}

impl Controller for LegacyEndpoints {
    fn plan(&self, key: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let service = self.services.by_key(key);
        let has_pods = service.as_deref().is_some_and(is_ours);
        let pods = if has_pods { self.pods.list_namespace(&key.namespace) } else { Vec::new() };
        reconcile(service.as_deref(), &pods, self.endpoints.by_key(key).as_deref())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::object;

    fn check(service: &str, pods: &[&str], expected: Expect) {
        let service: Service = object(service);
        let pods: Vec<_> = pods.iter().map(|yaml| Arc::new(object::<Pod>(yaml))).collect();
        expected.assert_eq(&reconcile(Some(&service), &pods, None).to_string());
    }

    const SERVICE: &str =
        "{metadata: {name: web, namespace: d}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}";

    fn pod(name: &str, ip: &str, ready: bool) -> String {
        let ready = if ready { "True" } else { "False" };
        format!(
            "{{metadata: {{name: {name}, namespace: d, uid: {name}, labels: {{app: web}}}}, spec: {{nodeName: n1, containers: []}}, status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: '{ready}'}}]}}}}"
        )
    }

    #[test]
    fn ready_and_unready_addresses_are_kept_apart() {
        check(
            SERVICE,
            &[&pod("b", "10.0.0.2", true), &pod("a", "10.0.0.1", true), &pod("c", "10.0.0.3", false)],
            expect![[r#"
                create endpoints d/web {"metadata":{"labels":{"endpoints.kubernetes.io/managed-by":"endpoint-controller"}},"subsets":[{"addresses":[{"ip":"10.0.0.1","nodeName":"n1","targetRef":{"kind":"Pod","name":"a","namespace":"d","uid":"a"}},{"ip":"10.0.0.2","nodeName":"n1","targetRef":{"kind":"Pod","name":"b","namespace":"d","uid":"b"}}],"notReadyAddresses":[{"ip":"10.0.0.3","nodeName":"n1","targetRef":{"kind":"Pod","name":"c","namespace":"d","uid":"c"}}],"ports":[{"port":8080,"protocol":"TCP"}]}]}
            "#]],
        );
    }

    #[test]
    fn addresses_are_of_the_services_first_family() {
        let service = "{metadata: {name: web, namespace: d}, spec: {selector: {app: web}, ipFamilies: [IPv6, IPv4], ports: [{port: 80}]}}";
        let both = "{metadata: {name: a, namespace: d, uid: a, labels: {app: web}}, spec: {containers: []}, status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], conditions: [{type: Ready, status: 'True'}]}}";
        check(
            service,
            &[both, &pod("b", "10.0.0.2", true)],
            expect![[r#"
            create endpoints d/web {"metadata":{"labels":{"endpoints.kubernetes.io/managed-by":"endpoint-controller"}},"subsets":[{"addresses":[{"ip":"fd00::1","targetRef":{"kind":"Pod","name":"a","namespace":"d","uid":"a"}}],"ports":[{"port":80,"protocol":"TCP"}]}]}
        "#]],
        );
    }

    #[test]
    fn those_of_a_service_that_is_gone_go() {
        let ours: Endpoints = object(
            "{metadata: {name: web, namespace: d, labels: {endpoints.kubernetes.io/managed-by: endpoint-controller}}}",
        );
        let others: Endpoints = object("{metadata: {name: kubernetes, namespace: d}}");
        assert_eq!(reconcile(None, &[], Some(&ours)).steps.len(), 1);
        assert_eq!(reconcile(None, &[], Some(&others)).steps.len(), 0);
    }
}
