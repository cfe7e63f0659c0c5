//! Attaches the volumes of storage drivers to the nodes whose Pods use them, and detaches them when none does. The order is
//! a VolumeAttachment, which the driver's own controller carries out; the Node's status tells the node's agent what is there.
//! The agent says in the same status what it uses. Each of the two writes before it reads what the other has written, so that
//! nothing is detached that is being mounted.
//! See <https://github.com/kubernetes/design-proposals-archive/blob/main/storage/container-storage-interface.md#attaching-and-detaching>.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec, VolumeAttachmentStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use serde_json::json;
use skiff_base::Timestamp;
use skiff_client::volumes::{
    attached_name, attachment_name, attachment_of, claim_name, claim_names, claim_ref, is_for, volume_name,
};
use skiff_client::{Change, Index, Informer, ObjectKey, Patch};

use crate::meta::annotation;
use crate::node::health::is_ready;
use crate::plan::{Action, Note, Plan};
use crate::pod_gc::is_out_of_service;
use crate::pods::{by_node, is_terminal};
use crate::runner::{Controller, Failure, Setup};

/// A node whose agent leaves attaching to this controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// How long a node that is not well may go on using a volume that no Pod of it has any more; upstream's number.
const WAIT_FOR_UNMOUNT: Duration = Duration::from_secs(6 * 60);
/// How long a driver's controller may be silent before that is told; upstream's number.
const WAIT_FOR_DRIVER: Duration = Duration::from_secs(2 * 60);
/// The reason of all events that something is wrong.
const FAILED: &str = "FailedAttachVolume";

/// A volume that Pods of a node want to be there.
struct Wanted {
    volume: String,
    driver: String,
    handle: String,
    /// Whether it can be at one node only.
    exclusive: bool,
    pods: Vec<Arc<Pod>>,
}

/// Another node where a wanted volume is: its name, and the Pods there that use it.
struct Holder {
    node: String,
    pods: Vec<Arc<Pod>>,
}

/// What is known of one node.
struct Sight {
    node: String,
    object: Option<Arc<Node>>,
    /// What a node that is gone has used last; not known where this process never saw it.
    last_used: Option<Vec<String>>,
    /// By the name of the attachment that each is to have.
    wanted: BTreeMap<String, Wanted>,
    /// The node's attachments by name.
    attachments: BTreeMap<String, Arc<VolumeAttachment>>,
    /// Where else wanted volumes are, by volume.
    elsewhere: BTreeMap<String, Vec<Holder>>,
}

/// What is remembered beside what the caches show.
#[derive(Default)]
struct Memory {
    /// By node.
    nodes: HashMap<String, Notes>,
    /// The volumes that are just being ordered to a node, which no cache shows yet.
    ordered: HashMap<String, String>,
}

/// What is remembered of a node's attachments, by name.
#[derive(Default)]
struct Notes {
    /// Since when those that the node still uses are no Pod's.
    unwanted: HashMap<String, Timestamp>,
    /// What went wrong with them, as it was told.
    told: HashMap<String, String>,
    /// The volumes that wait to be detached elsewhere.
    blocked: BTreeSet<String>,
}

impl Memory {
    /// Forgets what is over of a node.
    fn tidy(&mut self, sight: &Sight) {
        let wants = |volume: &String| sight.wanted.values().find(|wanted| wanted.volume == *volume);
        let is_open = |wanted: &Wanted| !sight.attachments.contains_key(&wanted.name(&sight.node));
        self.ordered.retain(|volume, node| *node != sight.node || wants(volume).is_some_and(is_open));
        let Some(notes) = self.nodes.get_mut(&sight.node) else { return };
        notes.told.retain(|name, _| sight.wanted.contains_key(name));
        notes.unwanted.retain(|name, _| sight.attachments.contains_key(name) && !sight.wanted.contains_key(name));
        notes.blocked.clear();
        if notes.told.is_empty() && notes.unwanted.is_empty() {
            self.nodes.remove(&sight.node);
        }
    }

    fn notes(&mut self, node: &str) -> &mut Notes {
        self.nodes.entry(node.to_owned()).or_default()
    }

    /// The nodes that wait for a volume to be detached.
    fn waiting(&self, volume: &str) -> Vec<ObjectKey> {
        let waiting = self.nodes.iter().filter(|(_, notes)| notes.blocked.contains(volume));
        waiting.map(|(node, _)| ObjectKey::new("", node.clone())).collect()
    }
}

impl Wanted {
    /// The name of its attachment to a node.
    fn name(&self, node: &str) -> String {
        attachment_name(&self.driver, &self.handle, node)
    }
}

fn is_going(attachment: &VolumeAttachment) -> bool {
    attachment.metadata.deletion_timestamp.is_some()
}

/// Whether the driver says that the volume is there, and nobody has ordered it away.
fn is_attached(attachment: &VolumeAttachment) -> bool {
    !is_going(attachment) && status(attachment).is_some_and(|status| status.attached)
}

fn status(attachment: &VolumeAttachment) -> Option<&VolumeAttachmentStatus> {
    attachment.status.as_ref()
}

/// Whether the name is one that this controller gives.
fn is_own(name: &str) -> bool {
    const HEX_DIGITS: usize = 64;
    name.strip_prefix("csi-").is_some_and(|hex| hex.len() == HEX_DIGITS && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl Sight {
    fn attached_names(&self) -> &[AttachedVolume] {
        let status = self.object.as_ref().and_then(|node| node.status.as_ref());
        status.and_then(|status| status.volumes_attached.as_deref()).unwrap_or_default()
    }

    /// The attachments that the node uses; `None` where nobody knows.
    fn used(&self) -> Option<BTreeSet<String>> {
        let told = match &self.object {
            Some(node) => node.status.as_ref().and_then(|status| status.volumes_in_use.as_deref()).unwrap_or_default(),
            None => self.last_used.as_deref()?,
        };
        Some(told.iter().filter_map(|name| attachment_of(name, &self.node)).collect())
    }
}

/// What is to be done about a node.
fn reconcile(sight: &Sight, memory: &mut Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if sight.object.as_ref().is_some_and(|node| annotation(&node.metadata, MANAGED) != Some("true")) {
        return plan;
    }
    memory.tidy(sight);
    for (name, wanted) in &sight.wanted {
        match sight.attachments.get(name) {
            // What is on its way out has to be gone before it can come back.
            Some(attachment) if is_going(attachment) => {}
            Some(attachment) if is_attached(attachment) => drop(memory.notes(&sight.node).told.remove(name)),
            Some(attachment) => tell_trouble((name, wanted), attachment, memory.notes(&sight.node), now, &mut plan),
            None if sight.object.is_none() => {}
            None => attach(sight, (name, wanted), memory, &mut plan),
        }
    }
    let leaving: Vec<_> = sight
        .attachments
        .iter()
        .filter(|(name, attachment)| is_own(name) && !is_going(attachment) && !sight.wanted.contains_key(*name))
        .filter(|(name, _)| may_leave(sight, name, memory.notes(&sight.node), now, &mut plan))
        .collect();
    report(sight, &leaving, &mut plan);
    for (_, attachment) in leaving {
        plan.then(Action::delete(&**attachment));
    }
    plan
}

fn attach(sight: &Sight, (name, wanted): (&String, &Wanted), memory: &mut Memory, plan: &mut Plan) {
    let ordered = memory.ordered.get(&wanted.volume).is_some_and(|node| wanted.exclusive && *node != sight.node);
    let holders = sight.elsewhere.get(&wanted.volume).map(Vec::as_slice).unwrap_or_default();
    if ordered || (wanted.exclusive && !holders.is_empty()) {
        let notes = memory.notes(&sight.node);
        notes.blocked.insert(wanted.volume.clone());
        let nodes = holders.iter().map(|holder| holder.node.as_str()).collect::<Vec<_>>().join(",");
        if notes.told.insert(name.clone(), nodes.clone()) != Some(nodes) {
            for pod in &wanted.pods {
                plan.then(Action::tell(Note::warning(&**pod, FAILED, multi_attach(pod, &wanted.volume, holders))));
            }
        }
        return;
    }
    let attachment = VolumeAttachment {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: wanted.driver.clone(),
            node_name: sight.node.clone(),
            source: VolumeAttachmentSource {
                persistent_volume_name: Some(wanted.volume.clone()),
                ..VolumeAttachmentSource::default()
            },
        },
        status: None,
    };
    let mut action = Action::create(&attachment);
    if let Some(pod) = wanted.pods.first() {
        action = action.or_tell(Note::warning(&**pod, FAILED, failure(&wanted.volume, "")));
    }
    plan.then(action);
    memory.ordered.insert(wanted.volume.clone(), sight.node.clone());
}

fn failure(volume: &str, why: &str) -> String {
    format!("AttachVolume.Attach failed for volume \"{volume}\" : {why}")
}

/// Who has the volume; a Pod is not told the names of Pods of other namespaces.
fn multi_attach(pod: &Pod, volume: &str, holders: &[Holder]) -> String {
    let others = || holders.iter().flat_map(|holder| &holder.pods);
    let is_near = |other: &&Arc<Pod>| other.metadata.namespace == pod.metadata.namespace;
    let near: Vec<_> = others().filter(is_near).filter_map(|pod| pod.metadata.name.as_deref()).collect();
    let far = others().count() - near.len();
    let why = match (near.is_empty(), far) {
        (true, 0) => "is already exclusively attached to one node and can't be attached to another".to_owned(),
        (true, _) => format!("is already used by {far} pod(s) in different namespaces"),
        (false, 0) => format!("is already used by pod(s) {}", near.join(", ")),
        (false, _) => {
            format!("is already used by pod(s) {} and {far} pod(s) in different namespaces", near.join(", "))
        }
    };
    format!("Multi-Attach error for volume \"{volume}\" Volume {why}")
}

/// Tells once what keeps a volume from being attached.
fn tell_trouble(
    (name, wanted): (&String, &Wanted),
    attachment: &VolumeAttachment,
    notes: &mut Notes,
    now: Timestamp,
    plan: &mut Plan,
) {
    let error = status(attachment).and_then(|status| status.attach_error.as_ref()?.message.clone());
    let why = error.or_else(|| {
        let since = attachment.metadata.creation_timestamp.as_ref()?.0;
        let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        if waited < WAIT_FOR_DRIVER {
            plan.look_again(WAIT_FOR_DRIVER - waited);
            return None;
        }
        let Wanted { driver, handle, .. } = wanted;
        Some(format!("timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}"))
    });
    let Some(why) = why else { return };
    if notes.told.insert(name.clone(), why.clone()).as_ref() != Some(&why) {
        for pod in &wanted.pods {
            plan.then(Action::tell(Note::warning(&**pod, FAILED, failure(&wanted.volume, &why))));
        }
    }
}

/// Whether a volume that no Pod wants may be detached: the node does not use it, is switched off, or was unwell for too long.
fn may_leave(sight: &Sight, name: &str, notes: &mut Notes, now: Timestamp, plan: &mut Plan) -> bool {
    let node = sight.object.as_deref();
    if sight.used().is_some_and(|used| !used.contains(name)) || node.is_some_and(is_out_of_service) {
        return true;
    }
    let since = *notes.unwanted.entry(name.to_owned()).or_insert(now);
    if node.is_some_and(is_ready) {
        return false;
    }
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    if waited < WAIT_FOR_UNMOUNT {
        plan.look_again(WAIT_FOR_UNMOUNT - waited);
    }
    waited >= WAIT_FOR_UNMOUNT
}

/// Has the Node's status tell what is attached and stays so, before anything is detached. The status must be as it was seen:
/// if the agent has just begun to use something, all of it is thought over.
fn report(sight: &Sight, leaving: &[(&String, &Arc<VolumeAttachment>)], plan: &mut Plan) {
    let Some(node) = &sight.object else { return };
    let stays = |name: &String| {
        let attached = sight.attachments.get(name).is_some_and(|attachment| is_attached(attachment));
        attached && !leaving.iter().any(|(going, _)| *going == name)
    };
    let before = sight.attached_names();
    let known: BTreeSet<_> = before.iter().filter_map(|one| attachment_of(&one.name, &sight.node)).collect();
    let kept = before.iter().filter(|one| attachment_of(&one.name, &sight.node).is_none_or(|name| stays(&name)));
    let new = sight.wanted.iter().filter(|(name, _)| !known.contains(*name) && stays(name));
    let entry = |(_, wanted): (&String, &Wanted)| AttachedVolume {
        name: attached_name(&wanted.driver, &wanted.handle),
        // Drivers tell the node itself where their devices are.
        device_path: String::new(),
    };
    let after: Vec<_> = kept.cloned().chain(new.clone().map(entry)).collect();
    if after == before {
        return;
    }
    let after = Some(after).filter(|after| !after.is_empty());
    let patch = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "status": {"volumesAttached": after},
    });
    plan.then(Action::patch_status::<Node>(&node.metadata, Patch::Merge(patch)));
    for (_, wanted) in new {
        for pod in &wanted.pods {
            let text = format!("AttachVolume.Attach succeeded for volume \"{}\" ", wanted.volume);
            plan.then(Action::tell(Note::normal(&**pod, "SuccessfulAttachVolume", text)));
        }
    }
}

/// The controller. Its keys are nodes.
pub struct Attacher {
    pods: Index<Pod>,
    nodes: Informer<Node>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
    attachments: Index<VolumeAttachment>,
    attachments_of: Index<VolumeAttachment>,
    memory: Arc<Mutex<Memory>>,
    /// What nodes that are gone have used last.
    gone: Arc<Mutex<HashMap<String, Vec<String>>>>,
}

impl Attacher {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let (pods, nodes) = (setup.informer::<Pod>(), setup.informer::<Node>());
        let attachments = setup.informer::<VolumeAttachment>();
        let this = Arc::new(Self {
            pods: by_node(&pods),
            nodes,
            claims: setup.informer(),
            volumes: setup.informer(),
            drivers: setup.informer(),
            attachments: attachments.index("node", |one| Some(Cow::Borrowed(&one.spec.node_name))),
            attachments_of: attachments
                .index("volume", |one| one.spec.source.persistent_volume_name.as_deref().map(Cow::Borrowed)),
            memory: Arc::default(),
            gone: Arc::default(),
        });
        setup.on_change::<Pod>(of_pod);
        let gone = this.gone.clone();
        setup.on_change::<Node>(move |change| of_node(change, &gone));
        let (known, volumes) = (pods.clone(), this.volumes.clone());
        setup.on_change::<PersistentVolumeClaim>(move |change| {
            let claim = change.object();
            let is_known = matches!(change, Change::Updated { old, new } if binding(old) == binding(new));
            let is_of_driver = || volumes.get("", volume_name(claim)).is_some_and(|volume| has_driver(&volume));
            if is_known || !is_of_driver() { Vec::new() } else { of_claim(claim, &known) }
        });
        let (known, claims) = (pods, this.claims.clone());
        setup.on_change::<PersistentVolume>(move |change| {
            let is_known = matches!(change, Change::Updated { old, new } if old.spec == new.spec);
            let reference = claim_ref(change.object()).filter(|_| !is_known && has_driver(change.object()));
            let named = reference.and_then(|claim| Some((claim.namespace.as_deref()?, claim.name.as_deref()?)));
            let claim = named.and_then(|(namespace, name)| claims.get(namespace, name));
            claim.map(|claim| of_claim(&claim, &known)).unwrap_or_default()
        });
        let memory = this.memory.clone();
        setup.on_change::<VolumeAttachment>(move |change| {
            let spec = &change.object().spec;
            let mut keys = vec![ObjectKey::new("", spec.node_name.clone())];
            if let (Change::Deleted(_), Some(volume)) = (change, &spec.source.persistent_volume_name) {
                keys.extend(memory.lock().waiting(volume));
            }
            keys
        });
        let nodes = this.nodes.clone();
        setup.on_change::<CSIDriver>(move |_| nodes.list().iter().map(|node| ObjectKey::of(&node.metadata)).collect());
        this
    }

    /// The volume of a driver behind a volume of a Pod, where it has to be attached.
    fn volume(&self, pod: &Pod, volume: &k8s_openapi::api::core::v1::Volume) -> Option<Arc<PersistentVolume>> {
        let claim = self.claims.get(pod.metadata.namespace.as_deref()?, &claim_name(pod, volume)?)?;
        let bound = claim.status.as_ref()?.phase.as_deref() == Some("Bound");
        if !bound || !is_for(pod, volume, &claim) {
            return None;
        }
        let volume = self.volumes.get("", volume_name(&claim))?;
        let driver = &volume.spec.as_ref()?.csi.as_ref()?.driver;
        let attaches = self.drivers.get("", driver).is_none_or(|driver| driver.spec.attach_required != Some(false));
        let is_its = claim_ref(&volume)?.uid == claim.metadata.uid;
        (attaches && is_its).then_some(volume)
    }

    /// The volumes that the Pods of a node want, by the names of their attachments.
    fn wanted(&self, node: &str) -> BTreeMap<String, Wanted> {
        let mut all: BTreeMap<String, Wanted> = BTreeMap::new();
        for pod in self.pods.of(node).into_iter().filter(|pod| !has_ended(pod)) {
            for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
                let Some(found) = self.volume(&pod, volume) else { continue };
                let Some(wanted) = wanted(&found) else { continue };
                let name = wanted.name(node);
                let pods = &mut all.entry(name).or_insert(wanted).pods;
                if !pods.iter().any(|known| Arc::ptr_eq(known, &pod)) {
                    pods.push(pod.clone());
                }
            }
        }
        all
    }

    /// The other nodes that a volume is at.
    fn elsewhere(&self, volume: &str, node: &str) -> Vec<Holder> {
        let attachments = self.attachments_of.of(volume);
        let others = attachments.iter().map(|one| &one.spec.node_name).filter(|other| *other != node);
        let holder = |other: &String| {
            let found = self.wanted(other).into_values().find(|wanted| wanted.volume == volume);
            Holder { node: other.clone(), pods: found.map(|wanted| wanted.pods).unwrap_or_default() }
        };
        others.map(holder).collect()
    }
}

/// A volume of a driver that no Pod is known to want yet.
fn wanted(volume: &PersistentVolume) -> Option<Wanted> {
    let spec = volume.spec.as_ref()?;
    let source = spec.csi.as_ref()?;
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let shared = modes.is_empty() || modes.iter().any(|mode| matches!(mode.as_str(), "ReadWriteMany" | "ReadOnlyMany"));
    Some(Wanted {
        volume: volume.metadata.name.clone()?,
        driver: source.driver.clone(),
        handle: source.volume_handle.clone(),
        exclusive: !shared,
        pods: Vec::new(),
    })
}

/// Whether nothing of the Pod runs any more, or ever will.
fn has_ended(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let mut states = statuses.iter().map(|status| status.state.as_ref());
    // What nothing is known of may run.
    let runs = states.any(|state| state.is_none_or(|state| state.terminated.is_none() && state.waiting.is_none()));
    is_terminal(pod) || (pod.metadata.deletion_timestamp.is_some() && !runs)
}

fn node_key(pod: &Pod) -> Option<ObjectKey> {
    let node = pod.spec.as_ref()?.node_name.clone().filter(|node| !node.is_empty())?;
    Some(ObjectKey::new("", node))
}

fn of_pod(change: &Change<Pod>) -> Vec<ObjectKey> {
    let pod = change.object();
    if claim_names(pod).is_empty() {
        return Vec::new();
    }
    match change {
        Change::Updated { old, new } if has_ended(old) == has_ended(new) && node_key(old) == node_key(new) => {
            Vec::new()
        }
        _ => node_key(pod).into_iter().collect(),
    }
}

/// Most changes of Nodes are of no concern here.
fn of_node(change: &Change<Node>, gone: &Mutex<HashMap<String, Vec<String>>>) -> Vec<ObjectKey> {
    let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
    let used = |node: &Node| node.status.as_ref().and_then(|status| status.volumes_in_use.clone()).unwrap_or_default();
    let attached = |node: &Node| node.status.as_ref().and_then(|status| status.volumes_attached.clone());
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    let same = |old: &Node, new: &Node| {
        used(old) == used(new)
            && attached(old) == attached(new)
            && taints(old) == taints(new)
            && is_ready(old) == is_ready(new)
            && annotation(&old.metadata, MANAGED) == annotation(&new.metadata, MANAGED)
    };
    match change {
        Change::Updated { old, new } if same(old, new) => return Vec::new(),
        Change::Deleted(node) => drop(gone.lock().insert(name(node), used(node))),
        Change::Added(node) => drop(gone.lock().remove(&name(node))),
        Change::Updated { .. } => {}
    }
    vec![ObjectKey::of(&change.object().metadata)]
}

fn has_driver(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some())
}

/// What of a claim decides whether its volume is wanted.
fn binding(claim: &PersistentVolumeClaim) -> (Option<&str>, &str) {
    (claim.status.as_ref().and_then(|status| status.phase.as_deref()), volume_name(claim))
}

/// The nodes of the Pods that use a claim. All Pods of the namespace are looked at: asked only where a driver's volume
/// comes or goes.
fn of_claim(claim: &PersistentVolumeClaim, pods: &Informer<Pod>) -> Vec<ObjectKey> {
    let pods = pods.list_namespace(claim.metadata.namespace.as_deref().unwrap_or_default());
    let users = pods.iter().filter(|pod| skiff_client::volumes::uses(pod, claim));
    users.filter_map(|pod| node_key(pod)).collect::<BTreeSet<_>>().into_iter().collect()
}

impl Controller for Attacher {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let node = &key.name;
        // Two nodes that want the same volume are thought over one after the other.
        let mut memory = self.memory.lock();
        let wanted = self.wanted(node);
        let attachments: BTreeMap<_, _> =
            self.attachments.of(node).into_iter().filter_map(|one| Some((one.metadata.name.clone()?, one))).collect();
        let missing = wanted.iter().filter(|(name, wanted)| wanted.exclusive && !attachments.contains_key(*name));
        let elsewhere = missing.map(|(_, one)| (one.volume.clone(), self.elsewhere(&one.volume, node))).collect();
        let sight = Sight {
            node: node.clone(),
            object: self.nodes.by_key(key),
            last_used: self.gone.lock().get(node).cloned(),
            wanted,
            attachments,
            elsewhere,
        };
        if sight.object.is_none() && sight.attachments.is_empty() {
            self.gone.lock().remove(node);
        }
        reconcile(&sight, &mut memory, now)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::{now, object};

    const NODE: &str = "metadata: {name: n1, resourceVersion: '7', annotations: \
        {volumes.kubernetes.io/controller-managed-attach-detach: 'true'}}";
    const READY: &str = "conditions: [{type: Ready, status: 'True'}]";
    const USES: &str = "volumesInUse: [kubernetes.io/csi/d.x^h]";
    const TELLS: &str = "volumesAttached: [{name: kubernetes.io/csi/d.x^h, devicePath: ''}]";

    /// The attachment of the one volume of these tests.
    fn attachment(rest: &str) -> Arc<VolumeAttachment> {
        let name = attachment_name("d.x", "h", "n1");
        let spec = "spec: {attacher: d.x, nodeName: n1, source: {persistentVolumeName: pv}}";
        Arc::new(object(&format!("{{metadata: {{name: {name}, uid: a{rest}}}, {spec}}}")))
    }

    fn attached(attachment: Arc<VolumeAttachment>) -> Arc<VolumeAttachment> {
        let mut attachment = VolumeAttachment::clone(&attachment);
        attachment.status = Some(VolumeAttachmentStatus { attached: true, ..VolumeAttachmentStatus::default() });
        Arc::new(attachment)
    }

    fn pod(name: &str, namespace: &str) -> Arc<Pod> {
        Arc::new(object(&format!("{{metadata: {{name: {name}, namespace: {namespace}}}, spec: {{containers: []}}}}")))
    }

    /// A node of this status; a Pod of it wants the volume, or none does.
    fn sight(status: &str, wants: bool, attachments: &[Arc<VolumeAttachment>]) -> Sight {
        let volume: PersistentVolume =
            object("{metadata: {name: pv}, spec: {accessModes: [ReadWriteOnce], csi: {driver: d.x, volumeHandle: h}}}");
        let mut one = wanted(&volume).expect("it is a driver's");
        one.pods.push(pod("p", "d"));
        let wanted = wants.then(|| (attachment_name("d.x", "h", "n1"), one)).into_iter().collect();
        let named = |one: &Arc<VolumeAttachment>| (one.metadata.name.clone().expect("it has one"), one.clone());
        Sight {
            node: "n1".to_owned(),
            object: Some(Arc::new(object(&format!("{{{NODE}, status: {{{status}}}}}")))),
            last_used: None,
            wanted,
            attachments: attachments.iter().map(named).collect(),
            elsewhere: BTreeMap::new(),
        }
    }

    fn check(sight: &Sight, memory: &mut Memory, expected: Expect) {
        let name = attachment_name("d.x", "h", "n1");
        expected.assert_eq(&reconcile(sight, memory, now()).to_string().replace(&name, "csi-HASH"));
    }

    #[test]
    fn a_volume_is_attached_and_told_of() {
        let memory = &mut Memory::default();
        check(
            &sight(READY, true, &[]),
            memory,
            expect![[r#"
            create volumeattachments csi-HASH {"metadata":{},"spec":{"attacher":"d.x","nodeName":"n1","source":{"persistentVolumeName":"pv"}}}
        "#]],
        );
        check(&sight(READY, true, &[attachment("")]), memory, expect![[""]]);
        check(
            &sight(READY, true, &[attached(attachment(""))]),
            memory,
            expect![[r#"
            patch nodes/status n1 {"metadata":{"resourceVersion":"7"},"status":{"volumesAttached":[{"devicePath":"","name":"kubernetes.io/csi/d.x^h"}]}}
            tell [SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume "pv" ]
        "#]],
        );
        check(&sight(&format!("{READY}, {TELLS}"), true, &[attached(attachment(""))]), memory, expect![[""]]);
    }

    #[test]
    fn what_keeps_a_volume_from_being_attached_is_told_once() {
        let memory = &mut Memory::default();
        let old = attachment(", creationTimestamp: '2026-01-31T11:00:00Z'");
        check(
            &sight(READY, true, std::slice::from_ref(&old)),
            memory,
            expect![[r#"
            tell [FailedAttachVolume: AttachVolume.Attach failed for volume "pv" : timed out waiting for external-attacher of d.x CSI driver to attach volume h]
        "#]],
        );
        check(&sight(READY, true, std::slice::from_ref(&old)), memory, expect![[""]]);
        let mut refused = VolumeAttachment::clone(&old);
        refused.status = Some(object("{attached: false, attachError: {message: the disk is lost}}"));
        check(
            &sight(READY, true, &[Arc::new(refused)]),
            memory,
            expect![[r#"
            tell [FailedAttachVolume: AttachVolume.Attach failed for volume "pv" : the disk is lost]
        "#]],
        );
        let going = attachment(", deletionTimestamp: '2026-01-31T11:00:00Z'");
        check(
            &sight(&format!("{READY}, {TELLS}"), true, &[attached(going)]),
            memory,
            expect![[r#"
            patch nodes/status n1 {"metadata":{"resourceVersion":"7"},"status":{"volumesAttached":null}}
        "#]],
        );
    }

    #[test]
    fn a_volume_for_one_node_waits_for_the_other_to_let_it_go() {
        let memory = &mut Memory::default();
        let held = |pods: Vec<Arc<Pod>>| {
            let mut sight = sight(READY, true, &[]);
            sight.elsewhere = [("pv".to_owned(), vec![Holder { node: "n2".to_owned(), pods }])].into();
            sight
        };
        check(
            &held(vec![pod("q", "d"), pod("r", "other")]),
            memory,
            expect![[r#"
            tell [FailedAttachVolume: Multi-Attach error for volume "pv" Volume is already used by pod(s) q and 1 pod(s) in different namespaces]
        "#]],
        );
        check(&held(vec![pod("q", "d")]), memory, expect![[""]]);
        assert_eq!(memory.waiting("pv").len(), 1);
        check(
            &held(vec![]),
            &mut Memory::default(),
            expect![[r#"
            tell [FailedAttachVolume: Multi-Attach error for volume "pv" Volume is already exclusively attached to one node and can't be attached to another]
        "#]],
        );
        check(
            &held(vec![pod("r", "other")]),
            &mut Memory::default(),
            expect![[r#"
            tell [FailedAttachVolume: Multi-Attach error for volume "pv" Volume is already used by 1 pod(s) in different namespaces]
        "#]],
        );
        check(
            &sight(READY, true, &[]),
            memory,
            expect![[r#"
            create volumeattachments csi-HASH {"metadata":{},"spec":{"attacher":"d.x","nodeName":"n1","source":{"persistentVolumeName":"pv"}}}
        "#]],
        );
        assert_eq!(memory.waiting("pv").len(), 0);
        // No cache shows yet that it was ordered there.
        let mut other = sight(READY, true, &[]);
        other.node = "n3".to_owned();
        assert_eq!(reconcile(&other, memory, now()).actions().filter(|a| a.done.is_none()).count(), 0);
        memory.tidy(&sight(READY, false, &[]));
        assert!(memory.ordered.is_empty());
    }

    #[test]
    fn a_volume_is_detached_once_the_node_does_not_use_it() {
        let memory = &mut Memory::default();
        let there = [attached(attachment(""))];
        check(&sight(&format!("{READY}, {TELLS}, {USES}"), false, &there), memory, expect![[""]]);
        check(
            &sight(&format!("{READY}, {TELLS}"), false, &there),
            memory,
            expect![[r#"
            patch nodes/status n1 {"metadata":{"resourceVersion":"7"},"status":{"volumesAttached":null}}
            delete volumeattachments csi-HASH
        "#]],
        );
        check(
            &sight(READY, false, &there),
            memory,
            expect![[r#"
            delete volumeattachments csi-HASH
        "#]],
        );
        check(
            &sight(&format!("{READY}, {TELLS}"), false, &[]),
            memory,
            expect![[r#"
            patch nodes/status n1 {"metadata":{"resourceVersion":"7"},"status":{"volumesAttached":null}}
        "#]],
        );
        let others = VolumeAttachment {
            metadata: ObjectMeta { name: Some("by-hand".to_owned()), ..ObjectMeta::default() },
            ..VolumeAttachment::clone(&there[0])
        };
        check(&sight(READY, false, &[Arc::new(others)]), memory, expect![[""]]);
    }

    #[test]
    fn a_node_that_is_unwell_loses_its_volumes_in_the_end() {
        let memory = &mut Memory::default();
        let there = [attached(attachment(""))];
        let unwell = format!("conditions: [{{type: Ready, status: Unknown}}], {TELLS}, {USES}");
        check(
            &sight(&unwell, false, &there),
            memory,
            expect![[r#"
            look again in 360 s
        "#]],
        );
        let name = attachment_name("d.x", "h", "n1");
        memory.notes("n1").unwanted.insert(name, "2026-01-31T11:54:00Z".parse().expect("a time"));
        check(
            &sight(&unwell, false, &there),
            memory,
            expect![[r#"
            patch nodes/status n1 {"metadata":{"resourceVersion":"7"},"status":{"volumesAttached":null}}
            delete volumeattachments csi-HASH
        "#]],
        );
        let mut off = sight(&unwell, false, &there);
        let mut node = Node::clone(off.object.as_ref().expect("it is there"));
        node.spec = Some(object("{taints: [{key: node.kubernetes.io/out-of-service, effect: NoExecute}]}"));
        off.object = Some(Arc::new(node));
        check(
            &off,
            &mut Memory::default(),
            expect![[r#"
            patch nodes/status n1 {"metadata":{"resourceVersion":"7"},"status":{"volumesAttached":null}}
            delete volumeattachments csi-HASH
        "#]],
        );
        let mut gone = sight("", false, &there);
        gone.object = None;
        check(
            &gone,
            &mut Memory::default(),
            expect![[r#"
            look again in 360 s
        "#]],
        );
        gone.last_used = Some(vec![]);
        check(
            &gone,
            &mut Memory::default(),
            expect![[r#"
            delete volumeattachments csi-HASH
        "#]],
        );
    }
}
