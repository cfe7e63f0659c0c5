//! Volumes that have grown: a driver's controller has made the volume larger and says so on its PersistentVolume; the node
//! lets the driver do the same to the file system, and then the claim has it.
//! See <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#csi-volume-expansion>.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::{Value, json};
use skiff_client::volumes::capacity;
use skiff_client::{Client, Patch};
use skiff_cri::{Code, CriError};

use super::Wanted;
use super::keeper::{Driver, secret};
use super::messages::{
    CapacityRange, EXPAND_VOLUME, NodeExpandVolumeRequest, NodeExpandVolumeResponse, VolumeCapability,
};

/// The conditions of a claim that grows.
const CONDITIONS: [&str; 2] = ["Resizing", "FileSystemResizePending"];

/// A claim whose volume is larger than the claim knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Growth {
    /// The claim.
    pub claim: Arc<PersistentVolumeClaim>,
    /// The volume's size as it is written there.
    size: String,
    /// The same in bytes.
    pub bytes: i64,
}

impl Growth {
    /// How far the volume of a claim has to grow on the node.
    pub fn of(claim: &Arc<PersistentVolumeClaim>, volume: &PersistentVolume) -> Option<Self> {
        let told = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?.0.parse().ok()?;
        let has = capacity(volume).filter(|has| *has > told)?;
        let size = volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?.0.clone();
        Some(Self { claim: claim.clone(), size, bytes: has.value() })
    }

    fn is_given_up(&self) -> bool {
        let statuses = self.claim.status.as_ref().and_then(|status| status.allocated_resource_statuses.as_ref());
        statuses.and_then(|all| all.get("storage")).is_some_and(|status| status == "NodeResizeInfeasible")
    }

    async fn tell(&self, client: &Client, status: Value) -> Result<(), String> {
        let meta = &self.claim.metadata;
        let (namespace, name) =
            (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let patch = Patch::Strategic(json!({ "status": status }));
        let told = client.patch::<PersistentVolumeClaim>(namespace, name, "status", &patch).await;
        told.map(drop).map_err(|error| format!("cannot tell the size of claim {namespace}/{name}: {error}"))
    }
}

/// What a claim says that grows on the node, or cannot.
fn progress(state: &str) -> Value {
    json!({"allocatedResourceStatuses": {"storage": state}})
}

/// What a claim says that has grown. Conditions are taken away whether or not they were seen: they may be younger than
/// what is known of the claim.
pub fn grown(size: &Value) -> Value {
    json!({
        "capacity": {"storage": size},
        "allocatedResources": {"storage": size},
        "allocatedResourceStatuses": {"storage": null},
        "conditions": CONDITIONS.map(|condition| json!({"$patch": "delete", "type": condition})),
    })
}

/// What came of a volume that was to grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grown {
    /// Why it has not.
    pub refused: Option<String>,
    /// Whether it is of no use to ask again.
    pub in_vain: bool,
}

impl Grown {
    fn from(outcome: Result<(), String>) -> Self {
        Self { refused: outcome.err(), in_vain: false }
    }
}

/// Has the driver grow a volume that is there already; nothing where it need not.
pub(super) async fn grow(
    client: &Client,
    driver: &Driver,
    (wanted, growth): (&Wanted, &Growth),
    (target, staged_at): (&str, &str),
    capability: &VolumeCapability,
) -> Option<Grown> {
    if !driver.can(EXPAND_VOLUME) || wanted.read_only || growth.is_given_up() {
        return None;
    }
    let secrets = match secret(client, wanted.expand_secret.as_ref()).await {
        Ok(secrets) => secrets,
        Err(error) => return Some(Grown::from(Err(error))),
    };
    let request = NodeExpandVolumeRequest {
        volume_id: wanted.handle.clone(),
        volume_path: target.to_owned(),
        capacity_range: Some(CapacityRange { required_bytes: growth.bytes }),
        staging_target_path: staged_at.to_owned(),
        volume_capability: Some(capability.clone()),
        secrets,
    };
    if let Err(error) = growth.tell(client, progress("NodeResizeInProgress")).await {
        return Some(Grown::from(Err(error)));
    }
    let asked: Result<NodeExpandVolumeResponse, CriError> = driver.call("NodeExpandVolume", &request).await;
    match asked {
        Ok(_) => Some(Grown::from(growth.tell(client, grown(&json!(growth.size))).await)),
        Err(error) => {
            let in_vain = matches!(error.code, Code::InvalidArgument | Code::OutOfRange | Code::NotFound);
            let told = if in_vain { growth.tell(client, progress("NodeResizeInfeasible")).await } else { Ok(()) };
            let why = format!("NodeExpandVolume failed for volume {:?} : {error}", wanted.name);
            Some(Grown { refused: Some(told.err().map_or(why.clone(), |also| format!("{why}; {also}"))), in_vain })
        }
    }
}
