//! Remembering who has what in a file, and telling the runtime.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use skiff_cri::{LinuxContainerResources, UpdateContainerResourcesRequest};
use tokio::sync::Notify;

use super::cpus::format;
use super::{Assignments, Machine, Refusal, Rules};
use crate::agent::Workers;
use crate::config::uid;
use crate::pod::spec;

/// The parts of the machine, and who has them.
pub struct Parts {
    /// How they are given out.
    pub rules: Rules,
    /// What there is.
    pub machine: Machine,
    held: Mutex<Assignments>,
    file: PathBuf,
    changed: Notify,
}

impl Parts {
    /// With what the file remembers; a file that is none is begun anew.
    pub fn load(rules: Rules, machine: Machine, file: PathBuf) -> Self {
        let held = match std::fs::read(&file) {
            Ok(bytes) if !rules.is_idle() => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "what was assigned is forgotten");
                Assignments::default()
            }),
            _ => Assignments::default(),
        };
        Self { rules, machine, held: Mutex::new(held), file, changed: Notify::new() }
    }

    /// Gives a Pod its parts.
    ///
    /// # Errors
    /// Not enough is free.
    pub fn assign(&self, pod: &Pod) -> Result<(), Refusal> {
        let mut held = self.held.lock();
        let next = held.assign(pod, &self.rules, &self.machine)?;
        if next != *held {
            *held = next;
            self.save(&held);
        }
        Ok(())
    }

    /// Takes back what Pods had that are gone.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut held = self.held.lock();
        if held.retain(is_there) {
            self.save(&held);
        }
    }

    fn save(&self, held: &Assignments) {
        self.changed.notify_one();
        let bytes = serde_json::to_vec(held).expect("assignments have only string keys");
        let staged = self.file.with_extension("new");
        let written = std::fs::write(&staged, bytes).and_then(|()| std::fs::rename(&staged, &self.file));
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "what is assigned cannot be remembered");
        }
    }

    /// Sets where a container runs.
    pub fn pin(&self, pod: &Pod, container: &str, linux: &mut LinuxContainerResources) {
        if self.rules.is_idle() {
            return;
        }
        let held = self.held.lock();
        let share = held.share(uid(pod), container);
        if self.rules.static_cpus {
            linux.cpuset_cpus = match &share.cpus {
                Some(own) => {
                    // Nobody else is there whom a quota would protect.
                    (linux.cpu_quota, linux.cpu_period) = (0, 0);
                    format(own)
                }
                None => format(&held.shared(&self.machine)),
            };
        }
        if let Some((nodes, _)) = &share.memory {
            linux.cpuset_mems = nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        }
    }

    /// Keeps the containers that share processors off those that others have for themselves, for ever.
    pub async fn keep(&self, workers: &Workers) {
        if !self.rules.static_cpus {
            return;
        }
        loop {
            self.changed.notified().await;
            for mailbox in workers.active() {
                let pod = mailbox.pod_with_status();
                for (name, id) in spec::running(&pod) {
                    self.repin(workers, &pod, &name, id).await;
                }
            }
        }
    }

    async fn repin(&self, workers: &Workers, pod: &Pod, name: &str, id: String) {
        let cpus = {
            let held = self.held.lock();
            match held.share(uid(pod), name).cpus {
                Some(_) => return,
                None => format(&held.shared(&self.machine)),
            }
        };
        let linux = LinuxContainerResources { cpuset_cpus: cpus, ..LinuxContainerResources::default() };
        let request = UpdateContainerResourcesRequest {
            container_id: id,
            linux: Some(linux),
            ..UpdateContainerResourcesRequest::default()
        };
        if let Err(error) = workers.node().runtime.update_container_resources(request).await {
            tracing::warn!(container = name, %error, "a container stays on processors that are another's now");
        }
    }
}
