//! The calls of the two services, declared once: the client and the server are both made from these lists.
//! A call is its name on the wire, its method, its request, its response, and how long it may take.

/// Hands the calls of the runtime service that have one answer to a macro.
macro_rules! runtime_calls {
    ($then:ident) => {
        $then! {
            Version version VersionRequest VersionResponse usual;
            RunPodSandbox run_pod_sandbox RunPodSandboxRequest RunPodSandboxResponse twice;
            StopPodSandbox stop_pod_sandbox StopPodSandboxRequest StopPodSandboxResponse usual;
            RemovePodSandbox remove_pod_sandbox RemovePodSandboxRequest RemovePodSandboxResponse usual;
            PodSandboxStatus pod_sandbox_status PodSandboxStatusRequest PodSandboxStatusResponse usual;
            ListPodSandbox list_pod_sandbox ListPodSandboxRequest ListPodSandboxResponse usual;
            CreateContainer create_container CreateContainerRequest CreateContainerResponse usual;
            StartContainer start_container StartContainerRequest StartContainerResponse usual;
            StopContainer stop_container StopContainerRequest StopContainerResponse beyond_grace;
            RemoveContainer remove_container RemoveContainerRequest RemoveContainerResponse usual;
            ListContainers list_containers ListContainersRequest ListContainersResponse usual;
            ContainerStatus container_status ContainerStatusRequest ContainerStatusResponse usual;
            UpdateContainerResources update_container_resources
                UpdateContainerResourcesRequest UpdateContainerResourcesResponse usual;
            ReopenContainerLog reopen_container_log ReopenContainerLogRequest ReopenContainerLogResponse usual;
            ExecSync exec_sync ExecSyncRequest ExecSyncResponse beyond_command;
            Exec exec ExecRequest ExecResponse usual;
            Attach attach AttachRequest AttachResponse usual;
            PortForward port_forward PortForwardRequest PortForwardResponse usual;
            ContainerStats container_stats ContainerStatsRequest ContainerStatsResponse usual;
            ListContainerStats list_container_stats ListContainerStatsRequest ListContainerStatsResponse usual;
            PodSandboxStats pod_sandbox_stats PodSandboxStatsRequest PodSandboxStatsResponse usual;
            ListPodSandboxStats list_pod_sandbox_stats ListPodSandboxStatsRequest ListPodSandboxStatsResponse usual;
            UpdateRuntimeConfig update_runtime_config UpdateRuntimeConfigRequest UpdateRuntimeConfigResponse usual;
            Status status StatusRequest StatusResponse usual;
            CheckpointContainer checkpoint_container CheckpointContainerRequest CheckpointContainerResponse usual;
            ListMetricDescriptors list_metric_descriptors
                ListMetricDescriptorsRequest ListMetricDescriptorsResponse usual;
            ListPodSandboxMetrics list_pod_sandbox_metrics
                ListPodSandboxMetricsRequest ListPodSandboxMetricsResponse usual;
            RuntimeConfig runtime_config RuntimeConfigRequest RuntimeConfigResponse usual;
            UpdatePodSandboxResources update_pod_sandbox_resources
                UpdatePodSandboxResourcesRequest UpdatePodSandboxResourcesResponse usual;
        }
    };
}

/// The same for the image service.
macro_rules! image_calls {
    ($then:ident) => {
        $then! {
            ListImages list_images ListImagesRequest ListImagesResponse usual;
            ImageStatus image_status ImageStatusRequest ImageStatusResponse usual;
            PullImage pull_image PullImageRequest PullImageResponse unlimited;
            RemoveImage remove_image RemoveImageRequest RemoveImageResponse usual;
            ImageFsInfo image_fs_info ImageFsInfoRequest ImageFsInfoResponse usual;
        }
    };
}

pub(crate) use {image_calls, runtime_calls};

/// The runtime service on the wire.
pub(crate) const RUNTIME_SERVICE: &str = "runtime.v1.RuntimeService";
/// The image service on the wire.
pub(crate) const IMAGE_SERVICE: &str = "runtime.v1.ImageService";
/// The one call with a stream of answers.
pub(crate) const CONTAINER_EVENTS: &str = "GetContainerEvents";
