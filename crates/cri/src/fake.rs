//! A runtime that keeps everything in memory and runs nothing, with outcomes set by the test.
//! It answers as a real one would: unknown ids are `NotFound`, states only go forward, events follow changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;
use tokio::sync::mpsc;

use crate::*;

/// What a command run by [`RuntimeService::exec_sync`] shall answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutcome {
    /// What it prints.
    pub stdout: Vec<u8>,
    /// What it complains.
    pub stderr: Vec<u8>,
    /// How it ends.
    pub exit_code: i32,
}

/// The runtime and image service of tests.
pub struct FakeRuntime {
    clock: SharedClock,
    ids: Ids,
    state: Mutex<State>,
    line: tokio::sync::Mutex<()>,
    in_line: AtomicUsize,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, SandboxRecord>,
    containers: BTreeMap<String, ContainerRecord>,
    images: BTreeMap<String, Image>,
    calls: Vec<String>,
    failures: HashMap<String, VecDeque<CriError>>,
    pulls: HashMap<String, CriError>,
    execs: HashMap<String, ExecOutcome>,
    streams: String,
    network_ready: bool,
    events: Vec<mpsc::UnboundedSender<ContainerEventResponse>>,
}

struct SandboxRecord {
    status: PodSandboxStatus,
}

struct ContainerRecord {
    sandbox: String,
    config: ContainerConfig,
    status: ContainerStatus,
}

impl FakeRuntime {
    /// A runtime without images, sandboxes and containers, whose network is ready.
    pub fn new(clock: SharedClock) -> Self {
        let state = State { network_ready: true, streams: "127.0.0.1:1".into(), ..State::default() };
        Self {
            clock,
            ids: Ids::seeded(1),
            state: Mutex::new(state),
            line: tokio::sync::Mutex::default(),
            in_line: AtomicUsize::new(0),
        }
    }

    /// Puts an image on the node, as if it had been imported.
    pub fn add_image(&self, name: &str) {
        let image = fake_image(name);
        self.state.lock().images.insert(name.to_owned(), image);
    }

    /// Lets the next call of this RPC (`CreateContainer`) fail. Several failures queue up.
    pub fn fail_next(&self, rpc: &str, error: CriError) {
        self.state.lock().failures.entry(rpc.to_owned()).or_default().push_back(error);
    }

    /// Lets every pull of this image fail until [`FakeRuntime::mend_pull`].
    pub fn fail_pull(&self, image: &str, error: CriError) {
        self.state.lock().pulls.insert(image.to_owned(), error);
    }

    /// Lets pulls of this image succeed again.
    pub fn mend_pull(&self, image: &str) {
        self.state.lock().pulls.remove(image);
    }

    /// Sets what a command (its words joined by spaces) answers; others print nothing and end with zero.
    pub fn set_exec(&self, command: &str, outcome: ExecOutcome) {
        self.state.lock().execs.insert(command.to_owned(), outcome);
    }

    /// While it is held, those who stop containers or list what there is wait in a line, as for a connection. They are served
    /// in the order in which they came.
    pub async fn hold(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.line.lock().await
    }

    /// How many wait in the line.
    pub fn in_line(&self) -> usize {
        self.in_line.load(Ordering::Acquire)
    }

    async fn stand_in_line(&self) {
        self.in_line.fetch_add(1, Ordering::AcqRel);
        drop(self.line.lock().await);
        self.in_line.fetch_sub(1, Ordering::AcqRel);
    }

    /// Sets whether the runtime says that its network is ready.
    pub fn set_network_ready(&self, ready: bool) {
        self.state.lock().network_ready = ready;
    }

    /// Sets where the streams of exec, attach and port-forward are served.
    pub fn set_streams(&self, address: &str) {
        self.state.lock().streams = address.to_owned();
    }

    fn stream_url(&self, kind: &str, id: &str) -> String {
        format!("http://{}/{kind}/{id}", self.state.lock().streams)
    }

    /// Lets the newest container of this name end by itself, with the reason a real runtime gives.
    pub fn exit(&self, container_name: &str, exit_code: i32) {
        let reason = if exit_code == 0 { "Completed" } else { "Error" };
        self.exit_with_reason(container_name, exit_code, reason);
    }

    /// The same with a reason of the test's choice, such as `OOMKilled`.
    pub fn exit_with_reason(&self, container_name: &str, exit_code: i32, reason: &str) {
        let mut state = self.state.lock();
        let id = state.newest(container_name).unwrap_or_else(|| panic!("no container named {container_name}"));
        state.end(&id, exit_code, reason, self.now());
    }

    /// Lets a sandbox die, as after a reboot: not ready, its containers gone with 255.
    pub fn kill_sandbox(&self, sandbox_id: &str) {
        let mut state = self.state.lock();
        state.stop_sandbox(sandbox_id, 255, self.now());
    }

    /// The id of the newest container of this name.
    pub fn container_id(&self, container_name: &str) -> Option<String> {
        self.state.lock().newest(container_name)
    }

    /// The configuration that the newest container of this name was made from.
    pub fn container_config(&self, container_name: &str) -> Option<ContainerConfig> {
        let state = self.state.lock();
        let id = state.newest(container_name)?;
        state.containers.get(&id).map(|record| record.config.clone())
    }

    /// The calls that change something, in order, as `CreateContainer web` or `PullImage busybox`;
    /// and forgets them.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().calls)
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).expect("the clock shows a year before 2262")
    }

    fn enter(&self, rpc: &str, what: &str) -> CriResult<parking_lot::MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        state.calls.push(format!("{rpc} {what}").trim_end().to_owned());
        match state.failures.get_mut(rpc).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(state),
        }
    }
}

impl State {
    fn newest(&self, name: &str) -> Option<String> {
        let of_name = self.containers.values().filter(|record| container_name(&record.config) == name);
        of_name
            .max_by_key(|record| (record.status.created_at, record.config.metadata.as_ref().map_or(0, |m| m.attempt)))
            .map(|record| record.status.id.clone())
    }

    fn container(&mut self, id: &str) -> CriResult<&mut ContainerRecord> {
        self.containers.get_mut(id).ok_or_else(|| no_such("container", id))
    }

    fn end(&mut self, id: &str, exit_code: i32, reason: &str, now: i64) {
        let Some(record) = self.containers.get_mut(id) else {
            return;
        };
        if record.status.state == ContainerState::ContainerExited as i32 {
            return;
        }
        record.status.state = ContainerState::ContainerExited as i32;
        record.status.finished_at = now;
        record.status.exit_code = exit_code;
        record.status.reason = reason.to_owned();
        self.tell(id, ContainerEventType::ContainerStoppedEvent, now);
    }

    fn stop_sandbox(&mut self, sandbox_id: &str, exit_code: i32, now: i64) {
        for id in self.containers_of(sandbox_id) {
            self.end(&id, exit_code, "Error", now);
        }
        if let Some(record) = self.sandboxes.get_mut(sandbox_id) {
            record.status.state = PodSandboxState::SandboxNotready as i32;
            self.tell(sandbox_id, ContainerEventType::ContainerStoppedEvent, now);
        }
    }

    fn containers_of(&self, sandbox_id: &str) -> Vec<String> {
        let of_sandbox = self.containers.iter().filter(|(_, record)| record.sandbox == sandbox_id);
        of_sandbox.map(|(id, _)| id.clone()).collect()
    }

    fn tell(&mut self, id: &str, kind: ContainerEventType, now: i64) {
        let sandbox = self.containers.get(id).map_or(id, |record| &record.sandbox);
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: now,
            pod_sandbox_status: self.sandboxes.get(sandbox).map(|record| record.status.clone()),
            containers_statuses: self
                .containers
                .values()
                .filter(|record| record.sandbox == sandbox)
                .map(|record| record.status.clone())
                .collect(),
        };
        self.events.retain(|listener| listener.send(event.clone()).is_ok());
    }
}

fn container_name(config: &ContainerConfig) -> &str {
    config.metadata.as_ref().map_or("", |metadata| &metadata.name)
}

fn no_such(what: &str, id: &str) -> CriError {
    CriError::not_found(format!("{what} with ID starting with {id} not found: ID does not exist"))
}

fn fake_image(name: &str) -> Image {
    let id = format!("sha256:{}", name.bytes().map(|byte| format!("{byte:02x}")).collect::<String>());
    Image {
        repo_digests: vec![format!("{}@{id}", name.rsplit_once(':').map_or(name, |(repository, _)| repository))],
        id,
        repo_tags: vec![name.to_owned()],
        size: 1,
        ..Image::default()
    }
}

fn matches_labels(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[async_trait]
impl RuntimeService for FakeRuntime {
    async fn version(&self, _: VersionRequest) -> CriResult<VersionResponse> {
        Ok(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "0.1.0".into(),
            runtime_api_version: RUNTIME_API_VERSION.into(),
        })
    }

    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> CriResult<RunPodSandboxResponse> {
        let config = request.config.ok_or_else(|| CriError::invalid_argument("sandbox config must be set"))?;
        let metadata = config.metadata.clone().unwrap_or_default();
        let mut state = self.enter("RunPodSandbox", &metadata.name)?;
        let id = self.ids.hex(64);
        let namespaces = config.linux.and_then(|linux| linux.security_context).and_then(|c| c.namespace_options);
        let on_host = namespaces.as_ref().is_some_and(|options| options.network == NamespaceMode::Node as i32);
        let number = state.sandboxes.len() + 2;
        let status = PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: PodSandboxState::SandboxReady as i32,
            created_at: self.now(),
            network: (!on_host)
                .then(|| PodSandboxNetworkStatus { ip: format!("10.244.0.{number}"), additional_ips: vec![] }),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options: namespaces }) }),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: request.runtime_handler,
        };
        state.sandboxes.insert(id.clone(), SandboxRecord { status });
        state.tell(&id, ContainerEventType::ContainerCreatedEvent, self.now());
        state.tell(&id, ContainerEventType::ContainerStartedEvent, self.now());
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(&self, request: StopPodSandboxRequest) -> CriResult<StopPodSandboxResponse> {
        let mut state = self.enter("StopPodSandbox", "")?;
        state.stop_sandbox(&request.pod_sandbox_id, 137, self.now());
        Ok(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(&self, request: RemovePodSandboxRequest) -> CriResult<RemovePodSandboxResponse> {
        let mut state = self.enter("RemovePodSandbox", "")?;
        let id = request.pod_sandbox_id;
        state.stop_sandbox(&id, 137, self.now());
        for container in state.containers_of(&id) {
            state.containers.remove(&container);
        }
        if state.sandboxes.remove(&id).is_some() {
            state.tell(&id, ContainerEventType::ContainerDeletedEvent, self.now());
        }
        Ok(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(&self, request: PodSandboxStatusRequest) -> CriResult<PodSandboxStatusResponse> {
        let state = self.state.lock();
        let id = &request.pod_sandbox_id;
        let record = state.sandboxes.get(id).ok_or_else(|| no_such("sandbox", id))?;
        let of_sandbox = state.containers.values().filter(|container| container.sandbox == *id);
        Ok(PodSandboxStatusResponse {
            status: Some(record.status.clone()),
            containers_statuses: of_sandbox.map(|container| container.status.clone()).collect(),
            timestamp: self.now(),
            ..PodSandboxStatusResponse::default()
        })
    }

    async fn list_pod_sandbox(&self, request: ListPodSandboxRequest) -> CriResult<ListPodSandboxResponse> {
        self.stand_in_line().await;
        let filter = request.filter.unwrap_or_default();
        let state = self.state.lock();
        let matching = state.sandboxes.values().map(|record| &record.status).filter(|status| {
            (filter.id.is_empty() || status.id == filter.id)
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == status.state)
                && matches_labels(&filter.label_selector, &status.labels)
        });
        let items = matching.cloned().map(|status| PodSandbox {
            id: status.id,
            metadata: status.metadata,
            state: status.state,
            created_at: status.created_at,
            labels: status.labels,
            annotations: status.annotations,
            runtime_handler: status.runtime_handler,
        });
        Ok(ListPodSandboxResponse { items: items.collect() })
    }

    async fn create_container(&self, request: CreateContainerRequest) -> CriResult<CreateContainerResponse> {
        let config = request.config.ok_or_else(|| CriError::invalid_argument("container config must be set"))?;
        let mut state = self.enter("CreateContainer", container_name(&config))?;
        let sandbox = request.pod_sandbox_id;
        let ready = state.sandboxes.get(&sandbox).ok_or_else(|| no_such("sandbox", &sandbox))?.status.state;
        if ready != PodSandboxState::SandboxReady as i32 {
            return Err(CriError::failed_precondition(format!("sandbox {sandbox} is not ready")));
        }
        let image = config.image.clone().unwrap_or_default();
        let known =
            state.images.values().find(|known| known.id == image.image || known.repo_tags.contains(&image.image));
        let known = known.ok_or_else(|| no_such("image", &image.image))?;
        let id = self.ids.hex(64);
        let status = ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: ContainerState::ContainerCreated as i32,
            created_at: self.now(),
            image_ref: known.repo_digests.first().cloned().unwrap_or_default(),
            image_id: known.id.clone(),
            image: Some(image),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            ..ContainerStatus::default()
        };
        state.containers.insert(id.clone(), ContainerRecord { sandbox, config, status });
        state.tell(&id, ContainerEventType::ContainerCreatedEvent, self.now());
        Ok(CreateContainerResponse { container_id: id })
    }

    async fn start_container(&self, request: StartContainerRequest) -> CriResult<StartContainerResponse> {
        let now = self.now();
        let name =
            self.state.lock().containers.get(&request.container_id).map(|c| container_name(&c.config).to_owned());
        let mut state = self.enter("StartContainer", &name.unwrap_or_default())?;
        let record = state.container(&request.container_id)?;
        if record.status.state != ContainerState::ContainerCreated as i32 {
            return Err(CriError::failed_precondition(format!(
                "container {} is not in created state",
                request.container_id
            )));
        }
        record.status.state = ContainerState::ContainerRunning as i32;
        record.status.started_at = now;
        state.tell(&request.container_id, ContainerEventType::ContainerStartedEvent, now);
        Ok(StartContainerResponse {})
    }

    async fn stop_container(&self, request: StopContainerRequest) -> CriResult<StopContainerResponse> {
        self.stand_in_line().await;
        let name =
            self.state.lock().containers.get(&request.container_id).map(|c| container_name(&c.config).to_owned());
        let what = format!("{} {}s", name.unwrap_or_default(), request.timeout);
        let mut state = self.enter("StopContainer", &what)?;
        let (code, reason) = if request.timeout > 0 { (143, "Error") } else { (137, "Error") };
        state.end(&request.container_id, code, reason, self.now());
        Ok(StopContainerResponse {})
    }

    async fn remove_container(&self, request: RemoveContainerRequest) -> CriResult<RemoveContainerResponse> {
        let name =
            self.state.lock().containers.get(&request.container_id).map(|c| container_name(&c.config).to_owned());
        let mut state = self.enter("RemoveContainer", &name.unwrap_or_default())?;
        state.end(&request.container_id, 137, "Error", self.now());
        if state.containers.contains_key(&request.container_id) {
            state.tell(&request.container_id, ContainerEventType::ContainerDeletedEvent, self.now());
            state.containers.remove(&request.container_id);
        }
        Ok(RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: ListContainersRequest) -> CriResult<ListContainersResponse> {
        self.stand_in_line().await;
        let filter = request.filter.unwrap_or_default();
        let state = self.state.lock();
        let matching = state.containers.values().filter(|record| {
            (filter.id.is_empty() || record.status.id == filter.id)
                && (filter.pod_sandbox_id.is_empty() || record.sandbox == filter.pod_sandbox_id)
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == record.status.state)
                && matches_labels(&filter.label_selector, &record.status.labels)
        });
        let containers = matching.map(|record| {
            let status = record.status.clone();
            Container {
                id: status.id,
                pod_sandbox_id: record.sandbox.clone(),
                metadata: status.metadata,
                image: status.image,
                image_ref: status.image_ref,
                state: status.state,
                created_at: status.created_at,
                labels: status.labels,
                annotations: status.annotations,
                image_id: status.image_id,
            }
        });
        Ok(ListContainersResponse { containers: containers.collect() })
    }

    async fn container_status(&self, request: ContainerStatusRequest) -> CriResult<ContainerStatusResponse> {
        let mut state = self.state.lock();
        let record = state.container(&request.container_id)?;
        Ok(ContainerStatusResponse { status: Some(record.status.clone()), info: HashMap::new() })
    }

    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> CriResult<UpdateContainerResourcesResponse> {
        let mut state = self.enter("UpdateContainerResources", "")?;
        let record = state.container(&request.container_id)?;
        record.status.resources = Some(ContainerResources { linux: request.linux });
        Ok(UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(&self, request: ReopenContainerLogRequest) -> CriResult<ReopenContainerLogResponse> {
        self.enter("ReopenContainerLog", "")?.container(&request.container_id)?;
        Ok(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: ExecSyncRequest) -> CriResult<ExecSyncResponse> {
        let command = request.cmd.join(" ");
        let mut state = self.enter("ExecSync", &command)?;
        let running = state.container(&request.container_id)?.status.state;
        if running != ContainerState::ContainerRunning as i32 {
            return Err(CriError::failed_precondition(format!("container {} is not running", request.container_id)));
        }
        let outcome = state.execs.get(&command).cloned().unwrap_or_default();
        Ok(ExecSyncResponse { stdout: outcome.stdout, stderr: outcome.stderr, exit_code: outcome.exit_code })
    }

    async fn exec(&self, request: ExecRequest) -> CriResult<ExecResponse> {
        Ok(ExecResponse { url: self.stream_url("exec", &request.container_id) })
    }

    async fn attach(&self, request: AttachRequest) -> CriResult<AttachResponse> {
        Ok(AttachResponse { url: self.stream_url("attach", &request.container_id) })
    }

    async fn port_forward(&self, request: PortForwardRequest) -> CriResult<PortForwardResponse> {
        Ok(PortForwardResponse { url: self.stream_url("portforward", &request.pod_sandbox_id) })
    }

    async fn container_stats(&self, request: ContainerStatsRequest) -> CriResult<ContainerStatsResponse> {
        let filter = ContainerStatsFilter { id: request.container_id.clone(), ..ContainerStatsFilter::default() };
        let list = self.list_container_stats(ListContainerStatsRequest { filter: Some(filter) }).await?;
        let stats = list.stats.into_iter().next().ok_or_else(|| no_such("container", &request.container_id))?;
        Ok(ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(&self, request: ListContainerStatsRequest) -> CriResult<ListContainerStatsResponse> {
        let filter = request.filter.unwrap_or_default();
        let listed = ContainerFilter {
            id: filter.id,
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
            state: None,
        };
        let containers = self.list_containers(ListContainersRequest { filter: Some(listed) }).await?.containers;
        let stats = containers.into_iter().map(|container| ContainerStats {
            attributes: Some(ContainerAttributes {
                id: container.id,
                metadata: container.metadata,
                labels: container.labels,
                annotations: container.annotations,
            }),
            ..ContainerStats::default()
        });
        Ok(ListContainerStatsResponse { stats: stats.collect() })
    }

    async fn pod_sandbox_stats(&self, request: PodSandboxStatsRequest) -> CriResult<PodSandboxStatsResponse> {
        Err(no_such("sandbox", &request.pod_sandbox_id))
    }

    async fn list_pod_sandbox_stats(&self, _: ListPodSandboxStatsRequest) -> CriResult<ListPodSandboxStatsResponse> {
        Ok(ListPodSandboxStatsResponse::default())
    }

    async fn update_runtime_config(&self, _: UpdateRuntimeConfigRequest) -> CriResult<UpdateRuntimeConfigResponse> {
        Ok(UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, _: StatusRequest) -> CriResult<StatusResponse> {
        let condition =
            |name: &str, status| RuntimeCondition { r#type: name.into(), status, ..RuntimeCondition::default() };
        let network_ready = self.state.lock().network_ready;
        let conditions = vec![condition("RuntimeReady", true), condition("NetworkReady", network_ready)];
        Ok(StatusResponse { status: Some(RuntimeStatus { conditions }), ..StatusResponse::default() })
    }

    async fn get_container_events(&self, _: GetEventsRequest) -> CriResult<EventStream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state.lock().events.push(sender);
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let event = receiver.recv().await?;
            Some((Ok(event), receiver))
        });
        Ok(Box::pin(stream))
    }

    async fn runtime_config(&self, _: RuntimeConfigRequest) -> CriResult<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs as i32 };
        Ok(RuntimeConfigResponse { linux: Some(linux) })
    }
}

#[async_trait]
impl ImageService for FakeRuntime {
    async fn list_images(&self, _: ListImagesRequest) -> CriResult<ListImagesResponse> {
        Ok(ListImagesResponse { images: self.state.lock().images.values().cloned().collect() })
    }

    async fn image_status(&self, request: ImageStatusRequest) -> CriResult<ImageStatusResponse> {
        let name = request.image.unwrap_or_default().image;
        let state = self.state.lock();
        let image = state.images.values().find(|image| image.id == name || image.repo_tags.contains(&name));
        Ok(ImageStatusResponse { image: image.cloned(), info: HashMap::new() })
    }

    async fn pull_image(&self, request: PullImageRequest) -> CriResult<PullImageResponse> {
        let name = request.image.unwrap_or_default().image;
        let mut state = self.enter("PullImage", &name)?;
        if let Some(error) = state.pulls.get(&name) {
            return Err(error.clone());
        }
        let image = fake_image(&name);
        let image_ref = image.id.clone();
        state.images.insert(name, image);
        Ok(PullImageResponse { image_ref })
    }

    async fn remove_image(&self, request: RemoveImageRequest) -> CriResult<RemoveImageResponse> {
        let name = request.image.unwrap_or_default().image;
        let mut state = self.enter("RemoveImage", &name)?;
        state.images.retain(|_, image| image.id != name && !image.repo_tags.contains(&name));
        Ok(RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _: ImageFsInfoRequest) -> CriResult<ImageFsInfoResponse> {
        Ok(ImageFsInfoResponse::default())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use skiff_base::Timestamp;
    use skiff_base::clock::ManualClock;

    use super::*;

    async fn started(fake: &FakeRuntime) -> String {
        fake.add_image("app:1");
        let sandbox = fake
            .run_pod_sandbox(RunPodSandboxRequest { config: Some(PodSandboxConfig::default()), ..Default::default() });
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "web".into(), attempt: 0 }),
            image: Some(ImageSpec { image: "app:1".into(), ..Default::default() }),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.await.expect("a sandbox").pod_sandbox_id,
            config: Some(config),
            ..Default::default()
        };
        let id = fake.create_container(request).await.expect("a container").container_id;
        fake.start_container(StartContainerRequest { container_id: id.clone() }).await.expect("starts");
        id
    }

    #[tokio::test]
    async fn a_container_runs_and_ends_as_told() {
        let fake = FakeRuntime::new(std::sync::Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH)));
        let mut events = fake.get_container_events(GetEventsRequest {}).await.expect("events");
        let id = started(&fake).await;
        fake.exit("web", 3);
        let status = fake.container_status(ContainerStatusRequest { container_id: id, verbose: false }).await;
        let status = status.expect("a status").status.expect("is set");
        assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
        let mut kinds = Vec::new();
        for _ in 0..5 {
            kinds.push(events.next().await.expect("an event").expect("no error").container_event_type);
        }
        assert_eq!(kinds, [0, 1, 0, 1, 2]);
    }

    #[tokio::test]
    async fn scripted_failures_come_once_and_pulls_fail_until_mended() {
        let fake = FakeRuntime::new(std::sync::Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH)));
        fake.fail_next("RunPodSandbox", CriError::internal("no network"));
        let request = RunPodSandboxRequest { config: Some(PodSandboxConfig::default()), ..Default::default() };
        assert_eq!(fake.run_pod_sandbox(request.clone()).await, Err(CriError::internal("no network")));
        assert!(fake.run_pod_sandbox(request).await.is_ok());
        fake.fail_pull("a:1", CriError::not_found("manifest unknown"));
        let pull = PullImageRequest {
            image: Some(ImageSpec { image: "a:1".into(), ..Default::default() }),
            ..Default::default()
        };
        assert!(fake.pull_image(pull.clone()).await.is_err_and(|error| error.is_not_found()));
        fake.mend_pull("a:1");
        assert!(fake.pull_image(pull).await.is_ok());
        assert_eq!(fake.take_calls(), ["RunPodSandbox", "RunPodSandbox", "PullImage a:1", "PullImage a:1"]);
    }
}
