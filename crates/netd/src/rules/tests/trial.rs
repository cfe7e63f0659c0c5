//! A cluster with NetworkPolicies, planned without a kernel.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::Expect;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::json;
use skiff_client::ObjectKey;

use super::tracer::{Packet, is_pod, trace};
use super::*;
use crate::rules::policy::{Planner, PodFacts, World, api};

/// A small cluster; this node has the addresses `10.244.0.x`.
pub(super) const PODS: &[&str] = &[
    "default/web 10.244.0.5 app=web http:8080 dns:53/UDP",
    "default/web-2 10.244.1.5 app=web http:9090",
    "default/client 10.244.0.6 app=client",
    "default/far 10.244.1.6 app=client",
    "other/client 10.244.0.7 app=client",
    "other/db 10.244.1.7 app=db sql:5432",
    "default/on-host host app=client",
];
const NAMESPACES: &[&str] = &["default", "other team=b"];

/// A cluster as it is told of, and what is planned for it. It is told of in IPv4, whatever its family.
pub(super) struct Trial {
    family: Family,
    /// The same in the other family.
    twin: Option<Box<Trial>>,
    pub(super) pods: BTreeMap<ObjectKey, PodFacts>,
    policies: BTreeSet<ObjectKey>,
    planner: Planner,
    pub(super) ruleset: Ruleset,
}

impl World for BTreeMap<ObjectKey, PodFacts> {
    fn pod(&self, key: &ObjectKey, _family: Family) -> Option<PodFacts> {
        self.get(key).cloned()
    }

    fn pods_of(&self, namespace: &str) -> Vec<ObjectKey> {
        self.keys().filter(|key| key.namespace == namespace).cloned().collect()
    }

    fn pods(&self) -> Vec<ObjectKey> {
        self.keys().cloned().collect()
    }
}

pub(super) fn key(name: &str) -> ObjectKey {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    ObjectKey::new(namespace, name)
}

/// Labels as `a=b` and named ports as `name:number/PROTOCOL`.
fn pod(words: &[&str], family: Family) -> Option<PodFacts> {
    let labels: BTreeMap<_, _> = words.iter().filter_map(|word| word.split_once('=')).collect();
    let ports = words[2..].iter().filter_map(|word| word.split_once(':')).map(|(name, port)| {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "TCP"));
        json!({ "name": name, "containerPort": number.parse::<u16>().expect("a port"), "protocol": protocol })
    });
    let node = if words[1].parse().is_ok_and(is_pod) { NODE } else { "node-2" };
    let spec = json!({
        "nodeName": node,
        "hostNetwork": words[1] == "host",
        "containers": [{ "name": "c", "ports": ports.collect::<Vec<_>>() }],
    });
    let object = json!({ "metadata": { "labels": labels }, "spec": spec, "status": { "podIP": words[1] } });
    PodFacts::of(&serde_json::from_value(object).expect("a pod"), NODE, family, &[])
}

impl Trial {
    pub(super) fn new() -> Self {
        Self { twin: Some(Box::new(Self::of(Family::V6))), ..Self::of(Family::V4) }
    }

    pub(super) fn of(family: Family) -> Self {
        let mut trial = Self {
            family,
            twin: None,
            pods: BTreeMap::new(),
            policies: BTreeSet::new(),
            planner: Planner::new(family),
            ruleset: Ruleset::new(frame_of(&[family]), family),
        };
        NAMESPACES.iter().for_each(|namespace| trial.set_namespace(namespace));
        trial.set_pods(PODS);
        trial
    }

    pub(super) fn set_namespace(&mut self, text: &str) {
        self.twin.iter_mut().for_each(|twin| twin.set_namespace(text));
        let mut words = text.split(' ');
        let name = words.next().expect("a name");
        let labels = words.filter_map(|word| word.split_once('=')).map(|(key, value)| (key.into(), value.into()));
        self.planner.set_namespace(name, Some(labels.collect()));
    }

    /// Brings these pods to this state, and says what changes.
    pub(super) fn set_pods(&mut self, pods: &[&str]) -> Transaction {
        self.twin.iter_mut().for_each(|twin| drop(twin.set_pods(pods)));
        let mut changed = BTreeSet::new();
        for text in pods {
            let text = said(self.family, text);
            let words: Vec<&str> = text.split(' ').collect();
            let key = key(words[0]);
            match if words.len() > 1 { pod(&words, self.family) } else { None } {
                Some(pod) => drop(self.pods.insert(key.clone(), pod)),
                None => drop(self.pods.remove(&key)),
            }
            changed.insert(key);
        }
        self.plan(changed)
    }

    /// Brings the policies to these, documents with a name `namespace/name` on the first line.
    pub(super) fn set_policies(&mut self, policies: &[&str]) -> Transaction {
        self.twin.iter_mut().for_each(|twin| drop(twin.set_policies(policies)));
        let mut gone = std::mem::take(&mut self.policies);
        for text in policies {
            let text = said(self.family, text);
            let (name, spec) = text.trim().split_once('\n').expect("a name and a specification");
            let key = key(name.trim());
            let spec: serde_json::Value = serde_saphyr::from_str(spec).expect("a specification");
            let object: NetworkPolicy = serde_json::from_value(json!({ "spec": spec })).expect("a policy");
            self.planner.set_policy(key.clone(), Some(api::policy(&object, &key.namespace, self.family)));
            gone.remove(&key);
            self.policies.insert(key);
        }
        gone.into_iter().for_each(|key| self.planner.set_policy(key, None));
        self.plan(BTreeSet::new())
    }

    pub(super) fn plan(&mut self, changed: BTreeSet<ObjectKey>) -> Transaction {
        self.twin.iter_mut().for_each(|twin| drop(twin.plan(changed.clone())));
        let fragments = self.planner.plan(changed, &self.pods);
        self.ruleset.replace(fragments)
    }

    /// Adds Services.
    pub(super) fn serve(&mut self, text: &str) {
        self.twin.iter_mut().for_each(|twin| twin.serve(text));
        let services = ruleset_of(&[self.family], self.family, &said(self.family, text));
        let of = |owner: &str| (owner.to_owned(), services.fragment(owner).cloned().expect("it is an owner"));
        self.ruleset.replace(services.owners().map(of));
    }

    pub(super) fn check(&self, packets: &[&str], expected: Expect) {
        let fates = |trial: &Self| -> Vec<String> {
            let fate = |packet: &str| trace(&trial.ruleset, Packet::parse(&said(trial.family, packet)));
            packets.iter().map(|packet| fate(packet)).collect()
        };
        let told = fates(self);
        let lines = packets.iter().zip(&told).map(|(packet, fate)| format!("{packet}: {fate}\n"));
        expected.assert_eq(&lines.collect::<String>());
        if let Some(twin) = &self.twin {
            let translated: Vec<String> = told.iter().map(|fate| said(twin.family, fate)).collect();
            assert_eq!(fates(twin), translated, "of {packets:?}");
        }
    }
}

pub(super) fn trial(policies: &[&str]) -> Trial {
    let mut trial = Trial::new();
    trial.set_policies(policies);
    trial
}
