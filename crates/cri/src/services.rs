//! The two services of the interface as traits that can be handed around as `dyn`.
//! A method is the RPC's name in snake case, its request in, its response out.

use std::pin::Pin;

use async_trait::async_trait;
use futures_util::Stream;

use crate::*;

/// What happened to containers, as it happens. It ends when the runtime goes away.
pub type EventStream = Pin<Box<dyn Stream<Item = CriResult<ContainerEventResponse>> + Send>>;

/// How far a pull has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// What is being done: `Resolving`, `Downloading`, `Extracting`, `Done`.
    pub phase: &'static str,
    /// Bytes fetched so far, over all layers.
    pub done_bytes: u64,
    /// Bytes to fetch in all; zero while that is not known.
    pub total_bytes: u64,
    /// Layers that are in place.
    pub done_layers: u32,
    /// Layers of the image.
    pub total_layers: u32,
}

fn not_offered<T>(call: &str) -> CriResult<T> {
    Err(CriError::unimplemented(format!("this runtime does not offer {call}")))
}

/// Sandboxes, containers, and commands inside them.
#[async_trait]
pub trait RuntimeService: Send + Sync + 'static {
    /// The runtime's name and version.
    async fn version(&self, request: VersionRequest) -> CriResult<VersionResponse>;
    /// Makes a sandbox and its network; it is ready when this returns.
    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> CriResult<RunPodSandboxResponse>;
    /// Ends what runs in the sandbox and gives its network back. May be repeated.
    async fn stop_pod_sandbox(&self, request: StopPodSandboxRequest) -> CriResult<StopPodSandboxResponse>;
    /// Removes the sandbox and its containers. May be repeated.
    async fn remove_pod_sandbox(&self, request: RemovePodSandboxRequest) -> CriResult<RemovePodSandboxResponse>;
    /// One sandbox; `NotFound` when there is none.
    async fn pod_sandbox_status(&self, request: PodSandboxStatusRequest) -> CriResult<PodSandboxStatusResponse>;
    /// The sandboxes that match.
    async fn list_pod_sandbox(&self, request: ListPodSandboxRequest) -> CriResult<ListPodSandboxResponse>;
    /// Makes a container in a sandbox without starting it.
    async fn create_container(&self, request: CreateContainerRequest) -> CriResult<CreateContainerResponse>;
    /// Starts a container that was made.
    async fn start_container(&self, request: StartContainerRequest) -> CriResult<StartContainerResponse>;
    /// Asks the container to end, and ends it when the time is over. May be repeated.
    async fn stop_container(&self, request: StopContainerRequest) -> CriResult<StopContainerResponse>;
    /// Removes a container, ending it if it runs. May be repeated.
    async fn remove_container(&self, request: RemoveContainerRequest) -> CriResult<RemoveContainerResponse>;
    /// The containers that match.
    async fn list_containers(&self, request: ListContainersRequest) -> CriResult<ListContainersResponse>;
    /// One container; `NotFound` when there is none.
    async fn container_status(&self, request: ContainerStatusRequest) -> CriResult<ContainerStatusResponse>;
    /// Changes the limits of a container.
    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> CriResult<UpdateContainerResourcesResponse>;
    /// Opens the log file anew, after it was rotated.
    async fn reopen_container_log(&self, request: ReopenContainerLogRequest) -> CriResult<ReopenContainerLogResponse>;
    /// Runs a command in a container and waits for it.
    async fn exec_sync(&self, request: ExecSyncRequest) -> CriResult<ExecSyncResponse>;
    /// The address of a stream that runs a command.
    async fn exec(&self, request: ExecRequest) -> CriResult<ExecResponse>;
    /// The address of a stream to a container's own input and output.
    async fn attach(&self, request: AttachRequest) -> CriResult<AttachResponse>;
    /// The address of a stream to ports of a sandbox.
    async fn port_forward(&self, request: PortForwardRequest) -> CriResult<PortForwardResponse>;
    /// What one container uses.
    async fn container_stats(&self, request: ContainerStatsRequest) -> CriResult<ContainerStatsResponse>;
    /// What the running containers use.
    async fn list_container_stats(&self, request: ListContainerStatsRequest) -> CriResult<ListContainerStatsResponse>;
    /// What one sandbox uses.
    async fn pod_sandbox_stats(&self, request: PodSandboxStatsRequest) -> CriResult<PodSandboxStatsResponse>;
    /// What the matching sandboxes use.
    async fn list_pod_sandbox_stats(
        &self,
        request: ListPodSandboxStatsRequest,
    ) -> CriResult<ListPodSandboxStatsResponse>;
    /// Tells the runtime the node's pod range.
    async fn update_runtime_config(
        &self,
        request: UpdateRuntimeConfigRequest,
    ) -> CriResult<UpdateRuntimeConfigResponse>;
    /// Whether runtime and network are ready, and what they can do.
    async fn status(&self, request: StatusRequest) -> CriResult<StatusResponse>;
    /// What happens to containers from now on.
    async fn get_container_events(&self, request: GetEventsRequest) -> CriResult<EventStream>;
    /// Which cgroup driver the runtime uses.
    async fn runtime_config(&self, request: RuntimeConfigRequest) -> CriResult<RuntimeConfigResponse>;

    /// Writes a running container to disk.
    async fn checkpoint_container(
        &self,
        _request: CheckpointContainerRequest,
    ) -> CriResult<CheckpointContainerResponse> {
        not_offered("CheckpointContainer")
    }
    /// The metrics that [`RuntimeService::list_pod_sandbox_metrics`] gives.
    async fn list_metric_descriptors(
        &self,
        _request: ListMetricDescriptorsRequest,
    ) -> CriResult<ListMetricDescriptorsResponse> {
        not_offered("ListMetricDescriptors")
    }
    /// Metrics of all sandboxes.
    async fn list_pod_sandbox_metrics(
        &self,
        _request: ListPodSandboxMetricsRequest,
    ) -> CriResult<ListPodSandboxMetricsResponse> {
        not_offered("ListPodSandboxMetrics")
    }
    /// Says that the pod's own limits changed; the caller has set its cgroup already.
    async fn update_pod_sandbox_resources(
        &self,
        _request: UpdatePodSandboxResourcesRequest,
    ) -> CriResult<UpdatePodSandboxResourcesResponse> {
        not_offered("UpdatePodSandboxResources")
    }
}

/// The images of the node.
#[async_trait]
pub trait ImageService: Send + Sync + 'static {
    /// The images that match.
    async fn list_images(&self, request: ListImagesRequest) -> CriResult<ListImagesResponse>;
    /// One image; a response without an image when there is none.
    async fn image_status(&self, request: ImageStatusRequest) -> CriResult<ImageStatusResponse>;
    /// Fetches an image.
    async fn pull_image(&self, request: PullImageRequest) -> CriResult<PullImageResponse>;
    /// Removes an image with all its names. May be repeated.
    async fn remove_image(&self, request: RemoveImageRequest) -> CriResult<RemoveImageResponse>;
    /// What the images take on disk.
    async fn image_fs_info(&self, request: ImageFsInfoRequest) -> CriResult<ImageFsInfoResponse>;

    /// Fetches an image and tells how far it has come. A runtime behind a socket cannot tell.
    async fn pull_image_with_progress(
        &self,
        request: PullImageRequest,
        _progress: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> CriResult<PullImageResponse> {
        self.pull_image(request).await
    }
}
