//! Coming back: what the disk and the shims tell of the runtime's last life.

use std::path::Path;
use std::sync::Arc;

use skiff_cri::{CriError, CriResult, PodSandboxConfig};

use super::containers::Container;
use super::sandboxes::Sandbox;
use super::{Inner, internal};
use crate::client::ShimClient;
use crate::records::{self, ContainerRecord, SandboxRecord};
use crate::shim::proto::{Call, ContainerReport};

impl Inner {
    /// Takes in every sandbox that is on disk, and connects to the shims that live on.
    pub(super) async fn restore(self: &Arc<Self>) -> CriResult<()> {
        for id in names(&self.config.root.join("sandboxes"))? {
            match records::load::<SandboxRecord>(&self.sandbox_root(&id)) {
                Ok(record) => self.restore_sandbox(record).await?,
                Err(error) => {
                    // It was being made, or removed, when the runtime ended; nobody was told of it.
                    tracing::info!(sandbox = id, %error, "removing a sandbox that was never finished");
                    self.discard_unfinished(&id).await?;
                }
            }
        }
        let lost: Vec<_> =
            self.sandboxes.lock().values().filter(|sandbox| sandbox.is_lost()).map(|one| one.id.clone()).collect();
        for id in lost {
            self.release(&id).await;
        }
        Ok(())
    }

    async fn restore_sandbox(self: &Arc<Self>, record: SandboxRecord) -> CriResult<()> {
        let id = record.id.clone();
        let mut reports = Vec::new();
        let mut shim = None;
        if !record.stopped
            && let Ok(client) = ShimClient::connect(&id, &self.sandbox_run(&id), self.shim_events.clone())
            && let Ok(answer) = client.call(Call::List).await
        {
            reports = answer.containers;
            shim = Some(client);
        }
        self.sandboxes.lock().insert(id.clone(), Arc::new(Sandbox::new(record, shim)));
        for container in names(&self.sandbox_root(&id).join("containers"))? {
            let folder = self.container_root(&id, &container);
            match records::load::<ContainerRecord>(&folder) {
                Ok(record) => self.restore_container(record, &reports),
                Err(error) => {
                    tracing::info!(container, %error, "removing a container that was never finished");
                    super::sandboxes::remove_tree(&folder)?;
                }
            }
        }
        Ok(())
    }

    fn restore_container(self: &Arc<Self>, record: ContainerRecord, reports: &[ContainerReport]) {
        let report = reports.iter().find(|report| report.id == record.id);
        let ready = self.sandbox(&record.sandbox).is_ok_and(|sandbox| sandbox.is_ready());
        let container = Arc::new(Container::new(record));
        self.containers.lock().insert(container.record.id.clone(), container.clone());
        if let Some(report) = report {
            container.set_running(report.pid, report.started_at);
        }
        let exit = report.and_then(|report| report.exit.clone()).or_else(|| container.exit_on_disk(self));
        match exit {
            Some(exit) => self.container_ended(&container, exit),
            None if report.is_none() && !ready => {
                // Its shim is gone and left no word of it.
                self.cgroups.kill(&container.record.cgroup);
                self.container_ended(&container, container.unknown_exit(self.now()));
            }
            None => {}
        }
    }

    async fn discard_unfinished(self: &Arc<Self>, id: &str) -> CriResult<()> {
        if let Ok(shim) = ShimClient::connect(id, &self.sandbox_run(id), self.shim_events.clone())
            && let Err(error) = shim.call(Call::Shutdown).await
        {
            tracing::debug!(sandbox = id, %error, "its shim was on its way out");
        }
        // Addresses may have been handed out for it already; the plug-in knows by the id.
        if let Err(error) = self.network.teardown(id, None, &PodSandboxConfig::default()).await {
            tracing::warn!(sandbox = id, %error, "the network of an unfinished sandbox stays behind");
        }
        self.remove_sandbox_files(id)
    }
}

fn names(folder: &Path) -> CriResult<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(internal(format_args!("read {}", folder.display()))(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(internal(format_args!("read {}", folder.display())))?.file_name();
        names.push(name.into_string().map_err(|name| CriError::internal(format!("{name:?} is no id")))?);
    }
    Ok(names)
}
