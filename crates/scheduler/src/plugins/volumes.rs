//! Rules of storage: nodes that can reach a pod's volumes, or on which volumes can be found or made for it.
//! What was found is decided with the node and written before the binding ([`Claim`]).
//! See <https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode>.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::StorageClass;
use skiff_client::volumes::{
    NO_PROVISIONER, SELECTED_NODE, annotation, best_match, claim_class, claim_name, is_bound, is_for, node_terms,
    volume_name, waits_for_consumer,
};

use super::{Event, Filter, MadeFilter, Plugin, Score, Verdict};
use crate::pod::PodInfo;
use crate::selectors::node_matches_any;
use crate::snapshot::NodeInfo;

const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
const MISSING_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const ALONE_CONFLICT: &str =
    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
const ZONE_CONFLICT: &str = "node(s) had no available volume zone";
/// Labels of volumes that name where they are.
const ZONE_LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Storage as the scheduler sees it.
#[derive(Debug, Default, Clone)]
pub struct Storage {
    /// Claims by namespace and name.
    pub claims: HashMap<(String, String), Arc<PersistentVolumeClaim>>,
    /// Volumes by name.
    pub volumes: BTreeMap<String, Arc<PersistentVolume>>,
    /// Classes by name.
    pub classes: HashMap<String, Arc<StorageClass>>,
    /// Volumes that were decided for a claim, until that is seen, by the claim's UID.
    pub reserved: HashMap<String, String>,
}

/// What has to be written about a claim before its pod is bound.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// The claim gets this volume.
    Take(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    /// A volume is to be made where the pod goes.
    Make(Arc<PersistentVolumeClaim>),
    /// Nothing; it is only to be waited for.
    Wait(Arc<PersistentVolumeClaim>),
}

impl Storage {
    /// The claims of a pod.
    ///
    /// # Errors
    /// One is missing, going or lost, or waits for a volume that does not wait for the pod: in upstream's words.
    fn claims_of(&self, pod: &PodInfo) -> Result<Vec<Arc<PersistentVolumeClaim>>, String> {
        let mut claims = Vec::new();
        let mut immediate = false;
        let spec = pod.pod.spec.iter();
        for volume in spec.flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(name) = claim_name(&pod.pod, volume) else { continue };
            let Some(claim) = self.claims.get(&(pod.namespace().to_owned(), name.clone())) else {
                return Err(if volume.ephemeral.is_some() {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                } else {
                    format!("persistentvolumeclaim \"{name}\" not found")
                });
            };
            if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
                let lost = volume_name(claim);
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{lost}\""
                ));
            }
            if !is_for(&pod.pod, volume, claim) {
                let (space, own) = (pod.namespace(), pod.name());
                return Err(format!("PVC {space}/{name} was not created for pod {space}/{own} (pod is not owner)"));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            immediate |= !is_bound(claim) && !self.waits(claim);
            claims.push(claim.clone());
        }
        if immediate { Err("pod has unbound immediate PersistentVolumeClaims".to_owned()) } else { Ok(claims) }
    }

    fn class(&self, claim: &PersistentVolumeClaim) -> Option<&Arc<StorageClass>> {
        self.classes.get(claim_class(claim)?)
    }

    fn waits(&self, claim: &PersistentVolumeClaim) -> bool {
        self.class(claim).is_some_and(|class| waits_for_consumer(class))
    }

    /// What the claims of a pod need on a node.
    ///
    /// # Errors
    /// The reasons why they cannot be had there.
    fn decide(&self, claims: &[Arc<PersistentVolumeClaim>], node: &NodeInfo) -> Result<Vec<Claim>, Vec<&'static str>> {
        let (mut decided, mut reasons) = (Vec::new(), Vec::new());
        let mut taken: Vec<&str> = self.reserved.values().map(String::as_str).collect();
        for claim in claims {
            match self.decide_one(claim, node, &taken) {
                Ok(None) => {}
                Ok(Some(needed)) => {
                    if let Claim::Take(_, volume) = &needed
                        && let Some((name, _)) =
                            self.volumes.get_key_value(volume.metadata.name.as_deref().unwrap_or(""))
                    {
                        taken.push(name);
                    }
                    decided.push(needed);
                }
                Err(reason) if reasons.contains(&reason) => {}
                Err(reason) => reasons.push(reason),
            }
        }
        if reasons.is_empty() { Ok(decided) } else { Err(reasons) }
    }

    fn decide_one(
        &self,
        claim: &Arc<PersistentVolumeClaim>,
        node: &NodeInfo,
        taken: &[&str],
    ) -> Result<Option<Claim>, &'static str> {
        if is_bound(claim) {
            let volume = self.volumes.get(volume_name(claim)).ok_or(MISSING_VOLUME)?;
            return if reaches(node, volume) { Ok(None) } else { Err(NODE_CONFLICT) };
        }
        if let Some(chosen) = annotation(&claim.metadata, SELECTED_NODE) {
            // A volume is being made there already.
            return if chosen == node.name() { Ok(Some(Claim::Wait(claim.clone()))) } else { Err(BIND_CONFLICT) };
        }
        let own = claim.metadata.uid.as_ref().and_then(|uid| self.reserved.get(uid));
        let free = |volume: &PersistentVolume| {
            let name = volume.metadata.name.as_ref();
            reaches(node, volume) && (name == own || name.is_none_or(|name| !taken.contains(&name.as_str())))
        };
        if let Some(volume) = best_match(claim, self.volumes.values(), free) {
            return Ok(Some(Claim::Take(claim.clone(), volume.clone())));
        }
        let class = self.class(claim).filter(|class| class.provisioner != NO_PROVISIONER).ok_or(BIND_CONFLICT)?;
        let terms = class.allowed_topologies.as_deref().unwrap_or_default();
        let allowed = terms.is_empty() || terms.iter().any(|term| is_allowed(term, node));
        if allowed { Ok(Some(Claim::Make(claim.clone()))) } else { Err(BIND_CONFLICT) }
    }

    /// What has to be written before the pod can be bound to the node; volumes that are taken stay reserved.
    pub fn reserve(&mut self, pod: &PodInfo, node: &NodeInfo) -> Vec<Claim> {
        let decided = self.claims_of(pod).ok().and_then(|claims| self.decide(&claims, node).ok()).unwrap_or_default();
        for needed in &decided {
            if let Claim::Take(claim, volume) = needed
                && let (Some(uid), Some(name)) = (claim.metadata.uid.clone(), volume.metadata.name.clone())
            {
                self.reserved.insert(uid, name);
            }
        }
        decided
    }

    /// The claim was seen bound, or its pod goes elsewhere.
    pub fn release(&mut self, uid: Option<&String>) {
        if let Some(uid) = uid {
            self.reserved.remove(uid);
        }
    }
}

fn reaches(node: &NodeInfo, volume: &PersistentVolume) -> bool {
    node_terms(volume).is_none_or(|terms| node_matches_any(terms, &node.node))
}

fn is_allowed(term: &TopologySelectorTerm, node: &NodeInfo) -> bool {
    let requirements = term.match_label_expressions.iter().flatten();
    requirements.into_iter().all(|r| node.label(&r.key).is_some_and(|value| r.values.iter().any(|v| v == value)))
}

/// Volumes that are bound, to be found, or to be made.
pub const BINDING: Plugin = Plugin {
    name: "VolumeBinding",
    check: Some(|ask| if ask.pod.has_claims { ask.snapshot.storage.claims_of(ask.pod).err() } else { None }),
    filter: Filter::Cluster(|ask| {
        if !ask.pod.has_claims {
            return None;
        }
        let storage = &ask.snapshot.storage;
        let claims = storage.claims_of(ask.pod).unwrap_or_default();
        Some(Box::new(move |node: &NodeInfo| match storage.decide(&claims, node) {
            Ok(_) => Verdict::Pass,
            Err(reasons) => Verdict::RejectForGood(reasons.into_iter().map(Into::into).collect()),
        }) as MadeFilter)
    }),
    score: Score::None,
    weight: 0,
    wakes_on: |_, event| matches!(event, Event::Storage | Event::Node(_)),
};

/// A claim that one pod alone may use.
pub const RESTRICTIONS: Plugin = Plugin {
    name: "VolumeRestrictions",
    check: None,
    filter: Filter::Cluster(|ask| {
        let (pod, snapshot) = (ask.pod, ask.snapshot);
        if !pod.has_claims {
            return None;
        }
        let claims = snapshot.storage.claims_of(pod).unwrap_or_default();
        let alone = |claim: &Arc<PersistentVolumeClaim>| {
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref());
            modes.into_iter().flatten().any(|mode| mode == "ReadWriteOncePod")
        };
        let names: Vec<_> = claims.into_iter().filter(alone).filter_map(|claim| claim.metadata.name.clone()).collect();
        if names.is_empty() {
            return None;
        }
        let uses = move |other: &Arc<PodInfo>| {
            other.namespace() == pod.namespace()
                && skiff_client::volumes::claim_names(&other.pod).iter().any(|name| names.contains(name))
        };
        let in_use = snapshot.nodes().iter().any(|node| node.load.pods.iter().any(&uses));
        in_use.then(|| {
            Box::new(move |node: &NodeInfo| {
                // Where the other one runs, evicting it would help; elsewhere it would not.
                let here = node.load.pods.iter().any(&uses);
                let reasons = vec![ALONE_CONFLICT.into()];
                if here { Verdict::Reject(reasons) } else { Verdict::RejectForGood(reasons) }
            }) as MadeFilter
        })
    }),
    score: Score::None,
    weight: 0,
    wakes_on: |_, event| matches!(event, Event::PodGone(..) | Event::Storage),
};

/// Bound volumes that carry the labels of a zone or region.
pub const ZONE: Plugin = Plugin {
    name: "VolumeZone",
    check: None,
    filter: Filter::Cluster(|ask| {
        let (pod, snapshot) = (ask.pod, ask.snapshot);
        if !pod.has_claims {
            return None;
        }
        let mut wanted: Vec<(&str, Vec<String>)> = Vec::new();
        for claim in snapshot.storage.claims_of(pod).unwrap_or_default() {
            let Some(volume) = snapshot.storage.volumes.get(volume_name(&claim)) else { continue };
            let Some(labels) = &volume.metadata.labels else { continue };
            let zones = ZONE_LABELS.iter().filter_map(|key| Some((*key, labels.get(*key)?)));
            wanted.extend(zones.map(|(key, value)| (key, value.split("__").map(str::to_owned).collect())));
        }
        (!wanted.is_empty()).then(|| {
            Box::new(move |node: &NodeInfo| {
                // A node without any such label is of a cluster without zones.
                let zoned = ZONE_LABELS.iter().any(|key| node.label(key).is_some());
                let in_zone = |(key, values): &(&str, Vec<String>)| {
                    node.label(key).is_some_and(|value| values.iter().any(|v| v == value))
                };
                Verdict::pass_or_for_good(!zoned || wanted.iter().all(in_zone), ZONE_CONFLICT)
            }) as MadeFilter
        })
    }),
    score: Score::None,
    weight: 0,
    wakes_on: |_, event| matches!(event, Event::Storage | Event::Node(_)),
};
