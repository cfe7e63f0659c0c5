//! From a claim to the volume that it is bound to, as a node sees it: pure. Who binds claims is a controller.
//! See <https://kubernetes.io/docs/concepts/storage/persistent-volumes/>.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec, Pod, Volume};

use crate::config::{Objects, name, namespace, paths::Paths, uid};
use crate::csi::{Growth, Wanted};

/// What a bound volume is on the node.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A path of the node, as it is.
    HostPath {
        /// Where.
        path: PathBuf,
        /// What it must be, `DirectoryOrCreate` for example.
        kind: Option<String>,
    },
    /// A folder or device of the node that is mounted for the Pod.
    Local {
        /// Where.
        path: PathBuf,
    },
    /// A folder of a file server.
    Nfs {
        /// The server.
        server: String,
        /// The folder.
        path: String,
        /// Not to be written.
        read_only: bool,
        /// For the mount.
        options: Vec<String>,
    },
    /// A volume of a driver.
    Csi(Box<Wanted>),
}

/// A claim's volume.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// The volume's name, of which its folder is made.
    pub volume: String,
    /// What it is.
    pub source: Source,
    /// Whether containers get it as a device rather than as files.
    pub is_block: bool,
    /// Whether the Pod may not write it.
    pub read_only: bool,
}

/// The name of the claim that a volume of the Pod refers to; generic ephemeral volumes have one of their own.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    volume.ephemeral.as_ref().map(|_| format!("{}-{}", name(pod), volume.name))
}

/// The volume behind a volume of the Pod that refers to a claim.
///
/// # Errors
/// The claim is missing, not bound, or bound to what this node cannot mount; the words are upstream's.
pub fn bound(pod: &Pod, volume: &Volume, objects: &Objects) -> Result<Bound, String> {
    let claim_name = claim_name(pod, volume).unwrap_or_default();
    let place = format!("{}/{claim_name}", namespace(pod));
    let failed = |why: String| format!("error processing PVC {place}: {why}");
    let claim = objects.claims.get(&claim_name).ok_or_else(|| {
        failed(format!("failed to fetch PVC from API server: persistentvolumeclaims {claim_name:?} not found"))
    })?;
    // A Pod that runs keeps what it has: the claim goes when the Pod does.
    if claim.metadata.deletion_timestamp.is_some() && !has_run(pod) {
        return Err(failed("PVC is being deleted".to_owned()));
    }
    if volume.ephemeral.is_some() {
        let owners = claim.metadata.owner_references.iter().flatten();
        if !owners.into_iter().any(|owner| owner.uid == uid(pod) && owner.controller == Some(true)) {
            return Err(failed(format!(
                "PVC {place} was not created for pod {}/{} (pod is not owner)",
                namespace(pod),
                name(pod)
            )));
        }
    }
    let spec = claim.spec.clone().unwrap_or_default();
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let Some(volume_name) = spec.volume_name.filter(|name| phase == Some("Bound") && !name.is_empty()) else {
        return Err(failed("PVC is not bound".to_owned()));
    };
    let failed = |why: String| format!("error processing PVC {place}: {why}");
    let found: &Arc<PersistentVolume> = objects.volumes.get(&volume_name).ok_or_else(|| {
        failed(format!("failed to get PV {volume_name}: persistentvolumes {volume_name:?} not found"))
    })?;
    let pv = found.spec.clone().unwrap_or_default();
    let holder = pv.claim_ref.as_ref().and_then(|claim| claim.uid.clone());
    if holder != claim.metadata.uid {
        return Err(failed(format!("PV {volume_name} is bound to another claim")));
    }
    let read_only = volume.persistent_volume_claim.as_ref().and_then(|source| source.read_only) == Some(true);
    let is_block = spec.volume_mode.as_deref() == Some("Block");
    let mut source = source(&volume_name, &pv, read_only).map_err(failed)?;
    if let Source::Csi(wanted) = &mut source {
        wanted.growth = Growth::of(claim, found);
    }
    Ok(Bound { volume: volume_name, source, is_block, read_only })
}

/// Whether a container of the Pod was started, which none is before the volumes are there.
fn has_run(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let mut told = lists.into_iter().flatten().flatten();
    told.any(|status| status.container_id.as_deref().is_some_and(|id| !id.is_empty()))
}

fn source(volume: &str, pv: &PersistentVolumeSpec, read_only: bool) -> Result<Source, String> {
    if let Some(host_path) = &pv.host_path {
        return Ok(Source::HostPath { path: PathBuf::from(&host_path.path), kind: host_path.type_.clone() });
    }
    if let Some(local) = &pv.local {
        return Ok(Source::Local { path: PathBuf::from(&local.path) });
    }
    if let Some(nfs) = &pv.nfs {
        return Ok(Source::Nfs {
            server: nfs.server.clone(),
            path: nfs.path.clone(),
            read_only: nfs.read_only == Some(true),
            options: pv.mount_options.clone().unwrap_or_default(),
        });
    }
    match &pv.csi {
        Some(csi) => Ok(Source::Csi(Box::new(Wanted::persistent(volume, pv, csi, read_only)))),
        None => Err("this node has no plugin for the volume's type".to_owned()),
    }
}

impl Bound {
    /// Where the volume is on the node once it is set up.
    pub fn path(&self, pod: &Pod, paths: &Paths) -> PathBuf {
        match &self.source {
            Source::HostPath { path, .. } => path.clone(),
            Source::Local { .. } if self.is_block => device_link(paths, pod, &self.volume),
            Source::Local { .. } => paths.volume(uid(pod), "kubernetes.io~local-volume", &self.volume),
            Source::Nfs { .. } => paths.volume(uid(pod), "kubernetes.io~nfs", &self.volume),
            Source::Csi(wanted) => wanted.target(pod, paths),
        }
    }
}

/// The link to the device of a block volume of a Pod.
pub fn device_link(paths: &Paths, pod: &Pod, volume: &str) -> PathBuf {
    paths.pod(uid(pod)).join("volumeDevices").join("kubernetes.io~local-volume").join(Path::new(volume))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(claim: &str, volume: &str) -> Objects {
        let parse =
            |text: &str| serde_json::to_value(skiff_object::yaml::parse(text.as_bytes()).expect("YAML").into_value());
        let claim: Vec<k8s_openapi::api::core::v1::PersistentVolumeClaim> =
            serde_json::from_value(parse(claim).expect("a tree")).expect("claims");
        let volume: Vec<PersistentVolume> = serde_json::from_value(parse(volume).expect("a tree")).expect("volumes");
        Objects {
            claims: claim
                .into_iter()
                .map(|one| (one.metadata.name.clone().unwrap_or_default(), Arc::new(one)))
                .collect(),
            volumes: volume
                .into_iter()
                .map(|one| (one.metadata.name.clone().unwrap_or_default(), Arc::new(one)))
                .collect(),
            ..Objects::default()
        }
    }

    fn check(claim: &str, volume: &str, expected: Result<&str, &str>) {
        let pod: Pod = serde_saphyr::from_str(
            "{metadata: {name: web, namespace: default, uid: u}, spec: {containers: [],
              volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]}}",
        )
        .expect("a valid Pod");
        let bound =
            bound(&pod, &pod.spec.clone().expect("a spec").volumes.expect("volumes")[0], &objects(claim, volume));
        let paths = Paths { root: "/k".into(), logs: "/l".into() };
        let found = bound.map(|bound| bound.path(&pod, &paths).display().to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_claim_that_is_being_deleted_is_kept_by_those_who_run_with_it() {
        let objects = objects(
            "[{metadata: {name: data, uid: c, deletionTimestamp: '2026-01-01T00:00:00Z'}, spec: {volumeName: pv}, status: {phase: Bound}}]",
            "[{metadata: {name: pv}, spec: {claimRef: {uid: c}, hostPath: {path: /srv/data}}}]",
        );
        let bound = |status: &str| {
            let pod: Pod = serde_saphyr::from_str(&format!(
                "{{metadata: {{name: web, namespace: default, uid: u}}, spec: {{containers: [],
                  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]}}, status: {status}}}"
            ))
            .expect("a valid Pod");
            let volume = pod.spec.clone().expect("a spec").volumes.expect("volumes").remove(0);
            super::bound(&pod, &volume, &objects).map(|bound| bound.volume)
        };
        let refused = "error processing PVC default/data: PVC is being deleted";
        assert_eq!(bound("{}"), Err(refused.to_owned()));
        let waiting = "{name: a, image: '', imageID: '', ready: false, restartCount: 0}";
        assert_eq!(bound(&format!("{{containerStatuses: [{waiting}]}}")), Err(refused.to_owned()));
        let running = waiting.replace("image: ''", "image: '', containerID: 'skiff://1'");
        assert_eq!(bound(&format!("{{containerStatuses: [{running}]}}")), Ok("pv".to_owned()));
    }

    #[test]
    fn a_claim_leads_to_its_volume_once_it_is_bound() {
        const CLAIM: &str = "[{metadata: {name: data, uid: c}, spec: {volumeName: pv}, status: {phase: Bound}}]";
        let volume = |source: &str| format!("[{{metadata: {{name: pv}}, spec: {{claimRef: {{uid: c}}, {source}}}}}]");
        check(
            "[]",
            "[]",
            Err(
                "error processing PVC default/data: failed to fetch PVC from API server: persistentvolumeclaims \"data\" not found",
            ),
        );
        check(
            "[{metadata: {name: data}, status: {phase: Pending}}]",
            "[]",
            Err("error processing PVC default/data: PVC is not bound"),
        );
        check(CLAIM, &volume("hostPath: {path: /srv/data}"), Ok("/srv/data"));
        check(CLAIM, &volume("local: {path: /srv/data}"), Ok("/k/pods/u/volumes/kubernetes.io~local-volume/pv"));
        check(CLAIM, &volume("nfs: {server: s, path: /p}"), Ok("/k/pods/u/volumes/kubernetes.io~nfs/pv"));
        check(
            CLAIM,
            &volume("csi: {driver: d.example, volumeHandle: h}"),
            Ok("/k/pods/u/volumes/kubernetes.io~csi/pv/mount"),
        );
        check(
            CLAIM,
            "[{metadata: {name: pv}, spec: {claimRef: {uid: other}}}]",
            Err("error processing PVC default/data: PV pv is bound to another claim"),
        );
    }
}
