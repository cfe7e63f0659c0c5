//! EndpointSlices: at most a hundred endpoints each, as few changed as possible.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_base::Timestamp;
use skiff_base::ids::Ids;
use skiff_client::slices::{SERVICE_NAME, SlicesOfServices, service_name, service_of};
use skiff_client::{Change, Index, Informer, ObjectKey};

use super::{
    HEADLESS, Port, Selecting, address_of, families, hostname, is_headless, is_ours, members, ports, publishes_unready,
};
use crate::meta::{Labels, controller_of, controller_reference, generated_name};
use crate::plan::{Action, Note, Plan};
use crate::pods::is_ready;
use crate::runner::{Controller, Failure, Setup};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Upstream's default, so that one change is a small message.
const MAX_ENDPOINTS: usize = 100;

/// What the decision rests on.
pub struct Observed {
    /// The Service.
    pub service: Arc<Service>,
    /// The pods of its namespace.
    pub pods: Vec<Arc<Pod>>,
    /// The zones of nodes.
    pub zones: HashMap<String, String>,
    /// The slices of the Service that are ours.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// What a slice holds, apart from its endpoints: they are kept apart by it.
type Shelf = (String, Vec<Port>);

/// What is to be done.
pub fn reconcile(observed: &Observed, ids: &Ids) -> Plan {
    let service = &*observed.service;
    let mut plan = Plan::nothing();
    if !is_ours(service) || service.metadata.deletion_timestamp.is_some() {
        for slice in &observed.slices {
            plan.then(Action::delete(&**slice));
        }
        return plan;
    }
    let mut drafts = Vec::new();
    let mut wanted = wanted(observed);
    for family in families(service) {
        let mut existing: Vec<_> = observed.slices.iter().filter(|slice| slice.address_type == family).collect();
        existing.sort_by_key(|slice| slice.metadata.name.clone());
        let shelves: Vec<_> = wanted.keys().filter(|(of, _)| *of == family).cloned().collect();
        let before = drafts.len();
        for shelf in shelves {
            let endpoints = wanted.remove(&shelf).unwrap_or_default();
            drafts.extend(fill(service, &shelf, endpoints, &existing, ids));
        }
        if drafts[before..].iter().all(Draft::is_gone) {
            keep_one_empty(service, &family, &existing, &mut drafts, ids);
        }
        // Slices for ports that no pod has any more.
        for slice in existing {
            let name = &slice.metadata.name;
            if !drafts.iter().any(|draft: &Draft| draft.slice.metadata.name == *name) {
                drafts.push(Draft { slice: (**slice).clone(), old: Some(slice.clone()), gone: true });
            }
        }
    }
    for slice in &observed.slices {
        if !families(service).contains(&slice.address_type) {
            drafts.push(Draft { slice: (**slice).clone(), old: Some(slice.clone()), gone: true });
        }
    }
    reuse(&mut drafts);
    write(service, drafts, &mut plan);
    plan
}

/// A slice that would go takes the place of one that would come: one write instead of two, and a name that stays.
fn reuse(drafts: &mut Vec<Draft>) {
    for at in 0..drafts.len() {
        if drafts[at].old.is_some() {
            continue;
        }
        let family = drafts[at].slice.address_type.clone();
        let spare = drafts.iter().position(|draft| draft.gone && draft.slice.address_type == family);
        let Some(old) = spare.and_then(|spare| drafts[spare].old.take()) else { continue };
        let labels = drafts[at].slice.metadata.labels.take();
        drafts[at].slice.metadata = ObjectMeta { labels, ..old.metadata.clone() };
        drafts[at].old = Some(old);
    }
    drafts.retain(|draft| !draft.gone || draft.old.is_some());
}

/// A slice as it is to be, and as it is.
struct Draft {
    slice: EndpointSlice,
    old: Option<Arc<EndpointSlice>>,
    gone: bool,
}

impl Draft {
    fn is_gone(&self) -> bool {
        self.gone
    }
}

/// Writes creations and additions before removals, so that no endpoint is missing for an instant.
fn write(service: &Service, drafts: Vec<Draft>, plan: &mut Plan) {
    let failed = |reason: &'static str, verb: &str| {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        Note::warning(service, reason, format!("Error {verb} Endpoint Slices for Service {namespace}/{name}: "))
    };
    let reason = "FailedToUpdateEndpointSlices";
    let (gone, kept): (Vec<_>, Vec<_>) = drafts.into_iter().partition(Draft::is_gone);
    for draft in kept {
        match &draft.old {
            None => plan.then(Action::create(&draft.slice).or_tell(failed(reason, "creating"))),
            Some(old) if plain(old) != plain(&draft.slice) => {
                plan.then(Action::update(&draft.slice).or_tell(failed(reason, "updating")));
            }
            Some(_) => {}
        }
    }
    for draft in gone {
        plan.then(Action::delete(&draft.slice).or_tell(failed(reason, "deleting")));
    }
}

/// A copy in which absent and empty lists are the same, as they are to clients.
fn plain(slice: &EndpointSlice) -> EndpointSlice {
    let mut slice = slice.clone();
    slice.endpoints.get_or_insert_default();
    slice.ports.get_or_insert_default();
    slice
}

fn wanted(observed: &Observed) -> BTreeMap<Shelf, Vec<Endpoint>> {
    let service = &*observed.service;
    let mut shelves: BTreeMap<Shelf, Vec<Endpoint>> = BTreeMap::new();
    let families = families(service);
    for pod in members(service, &observed.pods) {
        let ports = ports(service, &pod);
        for family in &families {
            let Some(address) = address_of(&pod, family) else { continue };
            let endpoint = endpoint(observed, &pod, address);
            shelves.entry((family.clone(), ports.clone())).or_default().push(endpoint);
        }
    }
    shelves
}

fn endpoint(observed: &Observed, pod: &Pod, address: &str) -> Endpoint {
    let (serving, terminating) = (is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    let ready = publishes_unready(&observed.service) || serving && !terminating;
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(&observed.service, pod),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        hints: hints(observed, ready, node_name.as_ref()),
        zone: node_name.as_ref().and_then(|node| observed.zones.get(node)).cloned(),
        node_name,
        ..Endpoint::default()
    }
}

/// Who should be served by the endpoint, where the Service wants its traffic to stay near.
/// See <https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-distribution>.
fn hints(observed: &Observed, ready: bool, node: Option<&String>) -> Option<EndpointHints> {
    let wish = observed.service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let near = matches!(wish, "PreferClose" | "PreferSameZone" | "PreferSameNode");
    let (zone, node) = (observed.zones.get(node?), node?);
    if !near || !ready {
        return None;
    }
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.clone() }]);
    let for_nodes = (wish == "PreferSameNode").then(|| vec![ForNode { name: node.clone() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

fn identity(endpoint: &Endpoint) -> (Option<String>, Option<String>) {
    let target = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (target, endpoint.addresses.first().cloned())
}

/// Puts the endpoints of one shelf into slices: where they are already, then where room is left, then into new ones.
fn fill(
    service: &Service,
    shelf: &Shelf,
    endpoints: Vec<Endpoint>,
    existing: &[&Arc<EndpointSlice>],
    ids: &Ids,
) -> Vec<Draft> {
    let wanted_ports = slice_ports(&shelf.1);
    let mut homeless: HashMap<_, _> = endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut drafts = Vec::new();
    for slice in existing.iter().filter(|slice| slice.ports.clone().unwrap_or_default() == wanted_ports) {
        let old = slice.endpoints.iter().flatten();
        let kept = old.filter_map(|old| homeless.remove(&identity(old))).collect();
        let mut new = (***slice).clone();
        new.endpoints = Some(kept);
        new.metadata.labels = Some(labels(service));
        drafts.push(Draft { slice: new, old: Some((*slice).clone()), gone: false });
    }
    let mut endpoints: Vec<_> = homeless.into_values().collect();
    endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    // Fuller slices first, so that few stay half empty.
    drafts.sort_by_key(|draft| std::cmp::Reverse(len(&draft.slice)));
    for draft in &mut drafts {
        let room = MAX_ENDPOINTS.saturating_sub(len(&draft.slice)).min(endpoints.len());
        draft.slice.endpoints.get_or_insert_default().extend(endpoints.drain(..room));
    }
    while !endpoints.is_empty() {
        let rest = endpoints.split_off(endpoints.len().min(MAX_ENDPOINTS));
        let slice = EndpointSlice { endpoints: Some(endpoints), ..empty_slice(service, &shelf.0, &shelf.1, ids) };
        drafts.push(Draft { slice, old: None, gone: false });
        endpoints = rest;
    }
    for draft in &mut drafts {
        draft.gone = len(&draft.slice) == 0;
    }
    drafts
}

fn len(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

/// A Service without endpoints keeps one empty slice, by which clients know that it was looked at.
fn keep_one_empty(
    service: &Service,
    family: &str,
    existing: &[&Arc<EndpointSlice>],
    drafts: &mut Vec<Draft>,
    ids: &Ids,
) {
    let name = existing.first().map(|slice| slice.metadata.name.clone());
    let draft =
        match (existing.first(), drafts.iter_mut().find(|draft| Some(&draft.slice.metadata.name) == name.as_ref())) {
            (_, Some(draft)) => {
                draft.gone = false;
                return;
            }
            (Some(old), None) => {
                let mut slice = (***old).clone();
                slice.endpoints = Some(Vec::new());
                slice.metadata.labels = Some(labels(service));
                Draft { slice, old: Some((*old).clone()), gone: false }
            }
            (None, None) => Draft { slice: empty_slice(service, family, &[], ids), old: None, gone: false },
        };
    drafts.push(draft);
}

fn empty_slice(service: &Service, family: &str, ports: &[Port], ids: &Ids) -> EndpointSlice {
    let base = format!("{}-", service.metadata.name.as_deref().unwrap_or_default());
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(generated_name(&base, ids)),
            generate_name: Some(base),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(slice_ports(ports)),
    }
}

fn slice_ports(ports: &[Port]) -> Vec<EndpointPort> {
    let port = |port: &Port| EndpointPort {
        // Upstream writes the name also where it is empty.
        name: Some(port.name.clone()),
        port: Some(port.number),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    };
    ports.iter().map(port).collect()
}

fn labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// The controller.
pub struct EndpointSlices {
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: SlicesOfServices,
    /// Ours whose label names another Service than the one that controls them, by that one's UID.
    strayed: Index<EndpointSlice>,
    ids: Arc<Ids>,
}

impl EndpointSlices {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let services = setup.informer::<Service>();
        setup.for_each::<Service>();
        let selecting = Selecting::new(&services);
        setup.on_change::<Pod>(move |change| selecting.concerned_by(change));
        setup.on_change::<EndpointSlice>(service_of_slice);
        let known = services.clone();
        setup.on_change::<Node>(move |change| all_if_zone_changed(change, &known));
        let slices = setup.informer::<EndpointSlice>();
        Arc::new(Self {
            services,
            pods: setup.informer(),
            nodes: setup.informer(),
            slices: SlicesOfServices::new(&slices),
            strayed: slices.index("strayed", strayed_from),
            ids: setup.ids.clone(),
        })
    }

    fn observe(&self, key: &ObjectKey) -> Option<Observed> {
        let service = self.services.by_key(key)?;
        let mut slices = self.slices.of(key);
        slices.retain(|slice| is_managed(slice));
        let strayed = self.strayed.of(service.metadata.uid.as_deref().unwrap_or_default());
        slices.extend(strayed.into_iter().filter(|slice| service_of(slice).as_ref() != Some(key)));
        if !is_ours(&service) {
            return Some(Observed { service, pods: Vec::new(), zones: HashMap::new(), slices });
        }
        let zones =
            self.nodes.list().iter().filter_map(|node| Some((node.metadata.name.clone()?, zone(node)?))).collect();
        Some(Observed { service, pods: self.pods.list_namespace(&key.namespace), zones, slices })
    }
}

impl Controller for EndpointSlices {
    fn plan(&self, key: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        self.observe(key).map_or_else(Plan::nothing, |observed| reconcile(&observed, &self.ids))
    }
}

fn is_managed(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
}

/// The UID of the Service that controls a slice of ours, where its label names another one or none.
fn strayed_from(slice: &EndpointSlice) -> Option<Cow<'_, str>> {
    let owner = controller_of(&slice.metadata)?;
    (is_managed(slice) && service_name(slice) != Some(&owner.name)).then_some(Cow::Borrowed(&owner.uid))
}

fn service_of_slice(change: &Change<EndpointSlice>) -> Vec<ObjectKey> {
    let slice = change.object();
    service_of(slice).filter(|_| is_managed(slice)).into_iter().collect()
}

fn zone(node: &Node) -> Option<String> {
    node.metadata.labels.as_ref()?.get(ZONE).cloned()
}

fn all_if_zone_changed(change: &Change<Node>, services: &Informer<Service>) -> Vec<ObjectKey> {
    let changed = match change {
        Change::Updated { old, new } => zone(old) != zone(new),
        Change::Added(node) | Change::Deleted(node) => zone(node).is_some(),
    };
    if !changed {
        return Vec::new();
    }
    services.list().iter().map(|service| ObjectKey::of(&service.metadata)).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;
    use crate::testing::{World, object};

    fn pod(text: &str) -> Arc<Pod> {
        let mut words = text.split_whitespace();
        let (name, ip) = (words.next().expect("a name"), words.next().expect("an address"));
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIPs": ip.split(',').map(|ip| json!({"ip": ip})).collect::<Vec<_>>()},
        });
        for word in words {
            match word {
                "ready" => pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]),
                "terminating" => pod["metadata"]["deletionTimestamp"] = json!("2026-01-31T11:59:59Z"),
                "done" => pod["status"]["phase"] = json!("Succeeded"),
                _ => pod["metadata"]["labels"]["app"] = json!(word),
            }
        }
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn service(more: &str) -> Arc<Service> {
        object(&format!(
            "{{metadata: {{name: web, namespace: d, uid: s, labels: {{team: x}}}}, spec: {{selector: {{app: web}}, clusterIP: 10.96.0.7, ports: [{{port: 80, targetPort: http, protocol: TCP}}]{more}}}}}"
        ))
    }

    fn observed(world: &World, service: Arc<Service>, pods: &[&str]) -> Observed {
        let zones = HashMap::from([("n1".to_owned(), "z1".to_owned())]);
        Observed { service, pods: pods.iter().map(|text| pod(text)).collect(), zones, slices: world.list() }
    }

    /// The plans for one set of pods after the other.
    fn check(more: &str, rounds: &[&[&str]], expected: Expect) {
        let (mut world, ids, mut text) = (World::default(), Ids::seeded(1), String::new());
        for pods in rounds {
            let plan = reconcile(&observed(&world, service(more), pods), &ids);
            text.push_str(&format!("{plan}--\n"));
            for action in plan.actions() {
                apply(&mut world, &action.write);
            }
            let again = reconcile(&observed(&world, service(more), pods), &ids);
            assert!(again.steps.is_empty(), "not converged: {again}");
        }
        expected.assert_eq(&text);
    }

    fn apply(world: &mut World, write: &crate::plan::Write) {
        use crate::plan::Write;
        match write {
            Write::Create(_, body) | Write::Update(_, body) => {
                world.put::<EndpointSlice>(&serde_json::from_value(body.clone()).expect("a slice"));
            }
            Write::Delete(target, _) => world.remove::<EndpointSlice>(&target.key.name),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        check(
            "",
            &[&[], &["a 10.0.0.1 ready"], &[]],
            expect![[r#"
                create endpointslices d/web-h8q24 {"addressType":"IPv4","endpoints":[],"metadata":{"generateName":"web-","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web","team":"x"},"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Service","name":"web","uid":"s"}]},"ports":[]}
                --
                update endpointslices d/web-h8q24 {"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"n1","targetRef":{"kind":"Pod","name":"a","namespace":"d","uid":"a"},"zone":"z1"}],"metadata":{"generateName":"web-","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web","team":"x"},"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Service","name":"web","uid":"s"}]},"ports":[{"name":"","port":8080,"protocol":"TCP"}]}
                --
                update endpointslices d/web-h8q24 {"addressType":"IPv4","endpoints":[],"metadata":{"generateName":"web-","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web","team":"x"},"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Service","name":"web","uid":"s"}]},"ports":[{"name":"","port":8080,"protocol":"TCP"}]}
                --
            "#]],
        );
    }

    #[test]
    fn terminating_pods_leave_ready_at_once_and_ended_ones_leave() {
        check(
            "",
            &[
                &["a 10.0.0.1 ready", "b 10.0.0.2", "c 10.0.0.3 ready other"],
                &["a 10.0.0.1 ready terminating", "b 10.0.0.2 done"],
            ],
            expect![[r#"
                create endpointslices d/web-h8q24 {"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"n1","targetRef":{"kind":"Pod","name":"a","namespace":"d","uid":"a"},"zone":"z1"},{"addresses":["10.0.0.2"],"conditions":{"ready":false,"serving":false,"terminating":false},"nodeName":"n1","targetRef":{"kind":"Pod","name":"b","namespace":"d","uid":"b"},"zone":"z1"}],"metadata":{"generateName":"web-","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web","team":"x"},"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Service","name":"web","uid":"s"}]},"ports":[{"name":"","port":8080,"protocol":"TCP"}]}
                --
                update endpointslices d/web-h8q24 {"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":false,"serving":true,"terminating":true},"nodeName":"n1","targetRef":{"kind":"Pod","name":"a","namespace":"d","uid":"a"},"zone":"z1"}],"metadata":{"generateName":"web-","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web","team":"x"},"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Service","name":"web","uid":"s"}]},"ports":[{"name":"","port":8080,"protocol":"TCP"}]}
                --
            "#]],
        );
    }

    #[test]
    fn unready_pods_are_published_where_asked_for() {
        check(
            ", publishNotReadyAddresses: true",
            &[&["a 10.0.0.1"]],
            expect![[r#"
            create endpointslices d/web-h8q24 {"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true,"serving":false,"terminating":false},"nodeName":"n1","targetRef":{"kind":"Pod","name":"a","namespace":"d","uid":"a"},"zone":"z1"}],"metadata":{"generateName":"web-","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web","team":"x"},"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Service","name":"web","uid":"s"}]},"ports":[{"name":"","port":8080,"protocol":"TCP"}]}
            --
        "#]],
        );
    }

    #[test]
    fn a_service_of_both_families_has_slices_of_both() {
        let single = ", ipFamilies: [IPv4]";
        let both = ", ipFamilies: [IPv6, IPv4]";
        let pods = ["a 10.0.0.1,fd00::1 ready", "b 10.0.0.2 ready"].map(pod).to_vec();
        let (mut world, ids, mut text) = (World::default(), Ids::seeded(1), String::new());
        for families in [single, both, ", ipFamilies: [IPv6]"] {
            let seen = Observed { pods: pods.clone(), ..observed(&world, service(families), &[]) };
            let plan = reconcile(&seen, &ids);
            plan.actions().for_each(|action| apply(&mut world, &action.write));
            let mut lines: Vec<_> = world.list::<EndpointSlice>().iter().map(|slice| shown(slice)).collect();
            lines.sort();
            text.push_str(&format!("{families}: {}\n", lines.join(" ")));
        }
        expect![[r#"
            , ipFamilies: [IPv4]: IPv4=["10.0.0.1", "10.0.0.2"]
            , ipFamilies: [IPv6, IPv4]: IPv4=["10.0.0.1", "10.0.0.2"] IPv6=["fd00::1"]
            , ipFamilies: [IPv6]: IPv6=["fd00::1"]
        "#]]
        .assert_eq(&text);
    }

    fn shown(slice: &EndpointSlice) -> String {
        let addresses = slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.clone());
        format!("{}={:?}", slice.address_type, addresses.collect::<Vec<_>>())
    }

    #[test]
    fn a_hundred_endpoints_fill_a_slice() {
        let texts: Vec<_> = (0..250).map(|n| format!("p{n} 10.0.{}.{} ready", n / 200, n % 200)).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let (mut world, ids) = (World::default(), Ids::seeded(1));
        let sizes = |world: &World| world.list::<EndpointSlice>().iter().map(|slice| len(slice)).sum::<usize>();
        for pods in [&texts[..], &texts[..120], &texts[..130]] {
            let plan = reconcile(&observed(&world, service(""), pods), &ids);
            for action in plan.actions() {
                apply(&mut world, &action.write);
            }
            assert_eq!(sizes(&world), pods.len());
            assert!(world.list::<EndpointSlice>().iter().all(|slice| (1..=100).contains(&len(slice))));
        }
    }
}
