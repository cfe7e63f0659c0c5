//! The runtime as the interface sees it: each call finds its sandbox or container and passes on.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream;
use skiff_cri::*;
use tokio::sync::broadcast::error::RecvError;

use super::EmbeddedRuntime;
use super::sandboxes::HANDLERS;

fn handler(name: &str) -> RuntimeHandler {
    let features = RuntimeHandlerFeatures {
        recursive_read_only_mounts: true,
        user_namespaces: crate::userns::supported().is_ok(),
    };
    RuntimeHandler { name: name.to_owned(), features: Some(features) }
}

fn matches_labels(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[async_trait]
impl RuntimeService for EmbeddedRuntime {
    async fn version(&self, _: VersionRequest) -> CriResult<VersionResponse> {
        Ok(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "skiff".to_owned(),
            runtime_version: self.inner.config.version.clone(),
            runtime_api_version: RUNTIME_API_VERSION.to_owned(),
        })
    }

    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> CriResult<RunPodSandboxResponse> {
        Ok(RunPodSandboxResponse { pod_sandbox_id: self.inner.run_sandbox(request).await? })
    }

    async fn stop_pod_sandbox(&self, request: StopPodSandboxRequest) -> CriResult<StopPodSandboxResponse> {
        self.inner.stop_sandbox(&request.pod_sandbox_id).await?;
        Ok(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(&self, request: RemovePodSandboxRequest) -> CriResult<RemovePodSandboxResponse> {
        self.inner.remove_sandbox(&request.pod_sandbox_id).await?;
        Ok(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(&self, request: PodSandboxStatusRequest) -> CriResult<PodSandboxStatusResponse> {
        let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
        let mut info = HashMap::new();
        if request.verbose {
            let netns = sandbox.netns().map(|path| path.display().to_string()).unwrap_or_default();
            info.insert("info".to_owned(), serde_json::json!({ "networkNamespace": netns }).to_string());
        }
        Ok(PodSandboxStatusResponse {
            status: Some(sandbox.status()),
            info,
            containers_statuses: self
                .inner
                .containers_of(&sandbox.id)
                .iter()
                .map(|container| container.status())
                .collect(),
            timestamp: self.inner.now(),
        })
    }

    async fn list_pod_sandbox(&self, request: ListPodSandboxRequest) -> CriResult<ListPodSandboxResponse> {
        let filter = request.filter.unwrap_or_default();
        let matches = |sandbox: &&Arc<super::sandboxes::Sandbox>| {
            (filter.id.is_empty() || sandbox.id == filter.id)
                && matches_labels(&filter.label_selector, &sandbox.config.labels)
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == sandbox.state_number())
        };
        let sandboxes: Vec<_> = self.inner.sandboxes.lock().values().filter(matches).cloned().collect();
        Ok(ListPodSandboxResponse { items: sandboxes.iter().map(|sandbox| sandbox.summary()).collect() })
    }

    async fn create_container(&self, request: CreateContainerRequest) -> CriResult<CreateContainerResponse> {
        Ok(CreateContainerResponse { container_id: self.inner.create(request).await? })
    }

    async fn start_container(&self, request: StartContainerRequest) -> CriResult<StartContainerResponse> {
        self.inner.start(&request.container_id).await?;
        Ok(StartContainerResponse {})
    }

    async fn stop_container(&self, request: StopContainerRequest) -> CriResult<StopContainerResponse> {
        if let Ok(container) = self.inner.container(&request.container_id) {
            self.inner.stop(&container, request.timeout).await?;
        }
        Ok(StopContainerResponse {})
    }

    async fn remove_container(&self, request: RemoveContainerRequest) -> CriResult<RemoveContainerResponse> {
        if let Ok(container) = self.inner.container(&request.container_id) {
            self.inner.remove(&container).await?;
        }
        Ok(RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: ListContainersRequest) -> CriResult<ListContainersResponse> {
        let filter = request.filter.unwrap_or_default();
        // Only what matches is copied: whoever follows one pod asks for its few of all the node's.
        let matches = |container: &&Arc<super::containers::Container>| {
            let record = &container.record;
            (filter.id.is_empty() || record.id == filter.id)
                && (filter.pod_sandbox_id.is_empty() || record.sandbox == filter.pod_sandbox_id)
                && matches_labels(&filter.label_selector, &container.config().labels)
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == container.state_number())
        };
        let containers: Vec<_> = self.inner.containers.lock().values().filter(matches).cloned().collect();
        Ok(ListContainersResponse { containers: containers.iter().map(|container| container.summary()).collect() })
    }

    async fn container_status(&self, request: ContainerStatusRequest) -> CriResult<ContainerStatusResponse> {
        let container = self.inner.container(&request.container_id)?;
        let mut info = HashMap::new();
        if request.verbose {
            info.insert(
                "info".to_owned(),
                serde_json::json!({ "sandboxID": container.record.sandbox, "pid": container.pid() }).to_string(),
            );
        }
        Ok(ContainerStatusResponse { status: Some(container.status()), info })
    }

    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> CriResult<UpdateContainerResourcesResponse> {
        self.inner.update_resources(request).await?;
        Ok(UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(&self, request: ReopenContainerLogRequest) -> CriResult<ReopenContainerLogResponse> {
        self.inner.reopen_log(&request.container_id).await?;
        Ok(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: ExecSyncRequest) -> CriResult<ExecSyncResponse> {
        self.inner.exec_sync(request).await
    }

    async fn exec(&self, request: ExecRequest) -> CriResult<ExecResponse> {
        self.inner.container(&request.container_id)?;
        Ok(ExecResponse { url: self.streams.exec_url(request)? })
    }

    async fn attach(&self, request: AttachRequest) -> CriResult<AttachResponse> {
        self.inner.container(&request.container_id)?;
        Ok(AttachResponse { url: self.streams.attach_url(request)? })
    }

    async fn port_forward(&self, request: PortForwardRequest) -> CriResult<PortForwardResponse> {
        self.inner.sandbox(&request.pod_sandbox_id)?;
        Ok(PortForwardResponse { url: self.streams.port_forward_url(request)? })
    }

    async fn container_stats(&self, request: ContainerStatsRequest) -> CriResult<ContainerStatsResponse> {
        let container = self.inner.container(&request.container_id)?;
        Ok(ContainerStatsResponse { stats: Some(self.inner.container_stats(&container)) })
    }

    async fn list_container_stats(&self, request: ListContainerStatsRequest) -> CriResult<ListContainerStatsResponse> {
        let filter = request.filter.unwrap_or_default();
        let containers: Vec<_> = self.inner.containers.lock().values().cloned().collect();
        let matching = containers.iter().filter(|container| {
            container.is_running()
                && (filter.id.is_empty() || container.record.id == filter.id)
                && (filter.pod_sandbox_id.is_empty() || container.record.sandbox == filter.pod_sandbox_id)
                && matches_labels(&filter.label_selector, &container.config().labels)
        });
        Ok(ListContainerStatsResponse {
            stats: matching.map(|container| self.inner.container_stats(container)).collect(),
        })
    }

    async fn pod_sandbox_stats(&self, request: PodSandboxStatsRequest) -> CriResult<PodSandboxStatsResponse> {
        let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
        Ok(PodSandboxStatsResponse { stats: Some(self.inner.sandbox_stats(&sandbox)) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: ListPodSandboxStatsRequest,
    ) -> CriResult<ListPodSandboxStatsResponse> {
        let filter = request.filter.unwrap_or_default();
        let sandboxes: Vec<_> = self.inner.sandboxes.lock().values().cloned().collect();
        let matching = sandboxes.iter().filter(|sandbox| {
            sandbox.is_ready()
                && (filter.id.is_empty() || sandbox.id == filter.id)
                && matches_labels(&filter.label_selector, &sandbox.config.labels)
        });
        Ok(ListPodSandboxStatsResponse { stats: matching.map(|sandbox| self.inner.sandbox_stats(sandbox)).collect() })
    }

    async fn update_runtime_config(&self, _: UpdateRuntimeConfigRequest) -> CriResult<UpdateRuntimeConfigResponse> {
        // The pod range is the network's business, and it reads it from the Node itself.
        Ok(UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, _: StatusRequest) -> CriResult<StatusResponse> {
        let condition = |name: &str, result: Result<(), String>, reason: &str| RuntimeCondition {
            r#type: name.to_owned(),
            status: result.is_ok(),
            reason: if result.is_ok() { String::new() } else { reason.to_owned() },
            message: result.err().unwrap_or_default(),
        };
        let network = self.inner.network.ready().await;
        let conditions =
            vec![condition("RuntimeReady", Ok(()), ""), condition("NetworkReady", network, "NetworkPluginNotReady")];
        Ok(StatusResponse {
            status: Some(RuntimeStatus { conditions }),
            info: HashMap::new(),
            runtime_handlers: HANDLERS.into_iter().map(handler).collect(),
            features: Some(RuntimeFeatures { supplemental_groups_policy: true, user_namespaces_host_network: false }),
        })
    }

    async fn get_container_events(&self, _: GetEventsRequest) -> CriResult<EventStream> {
        let receiver = self.inner.events.subscribe();
        let stream = stream::unfold(receiver, |mut receiver| async move {
            let item = match receiver.recv().await {
                Ok(event) => Ok(event),
                Err(RecvError::Lagged(missed)) => {
                    Err(CriError::unavailable(format!("{missed} events were missed; list again")))
                }
                Err(RecvError::Closed) => return None,
            };
            Some((item, receiver))
        });
        Ok(Box::pin(stream))
    }

    async fn runtime_config(&self, _: RuntimeConfigRequest) -> CriResult<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs as i32 };
        Ok(RuntimeConfigResponse { linux: Some(linux) })
    }

    async fn list_metric_descriptors(
        &self,
        _: ListMetricDescriptorsRequest,
    ) -> CriResult<ListMetricDescriptorsResponse> {
        Ok(ListMetricDescriptorsResponse { descriptors: super::metrics::descriptors() })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: ListPodSandboxMetricsRequest,
    ) -> CriResult<ListPodSandboxMetricsResponse> {
        let sandboxes: Vec<_> = self.inner.sandboxes.lock().values().cloned().collect();
        let ready = sandboxes.iter().filter(|sandbox| sandbox.is_ready());
        Ok(ListPodSandboxMetricsResponse { pod_metrics: ready.map(|sandbox| self.inner.metrics(sandbox)).collect() })
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: UpdatePodSandboxResourcesRequest,
    ) -> CriResult<UpdatePodSandboxResourcesResponse> {
        // The pod's cgroup is the caller's, and set already; there is nothing here that depends on it.
        self.inner.sandbox(&request.pod_sandbox_id)?;
        Ok(UpdatePodSandboxResourcesResponse {})
    }
}
