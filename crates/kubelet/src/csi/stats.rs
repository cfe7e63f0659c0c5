//! How full drivers' volumes are, and whether they are well: as the drivers say.

use k8s_openapi::api::core::v1::Pod;
use skiff_cri::CriError;

use super::keeper::Drivers;
use super::messages::{
    BYTES, GET_VOLUME_STATS, INODES, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, VolumeUsage,
};
use super::{Memory, Wanted};
use crate::config::uid;
use crate::volumes::figures::Figures;

/// What a driver says of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// How full it is.
    pub figures: Figures,
    /// Whether something is wrong with it, where the driver tells that.
    pub abnormal: Option<bool>,
}

impl Drivers {
    /// What the driver says of a Pod's volume; `None` where it says nothing, or the volume is not there yet.
    pub async fn stats(&self, pod: &Pod, wanted: &Wanted) -> Option<Stats> {
        let place = wanted.place(pod, &self.paths);
        let memory: Memory = Memory::find(&place.memory).ok()??;
        let driver = self.find(&wanted.driver).filter(|driver| driver.can(GET_VOLUME_STATS))?;
        let staging = memory.staging(&self.paths);
        let request = NodeGetVolumeStatsRequest {
            volume_id: wanted.handle.clone(),
            volume_path: place.target.display().to_string(),
            staging_target_path: if staging.exists() { staging.display().to_string() } else { String::new() },
        };
        let asked: Result<NodeGetVolumeStatsResponse, CriError> = driver.call("NodeGetVolumeStats", &request).await;
        match asked {
            Ok(answer) => Some(stats(&answer)),
            Err(error) => {
                tracing::debug!(pod = uid(pod), volume = wanted.name, %error, "a driver does not say how full a volume is");
                None
            }
        }
    }
}

fn stats(answer: &NodeGetVolumeStatsResponse) -> Stats {
    let of = |unit: i32| answer.usage.iter().find(|usage| usage.unit == unit);
    let (bytes, inodes) = (of(BYTES), of(INODES));
    let told = |usage: Option<&VolumeUsage>, field: fn(&VolumeUsage) -> i64| usage.map(field);
    Stats {
        figures: Figures {
            capacity_bytes: told(bytes, |usage| usage.total),
            available_bytes: told(bytes, |usage| usage.available),
            used_bytes: told(bytes, |usage| usage.used),
            inodes: told(inodes, |usage| usage.total),
            inodes_free: told(inodes, |usage| usage.available),
            inodes_used: told(inodes, |usage| usage.used),
        },
        abnormal: answer.volume_condition.as_ref().map(|condition| condition.abnormal),
    }
}
