//! The seam to the pod network: who gives a sandbox its interfaces and addresses.
//! The runtime brings the loopback up by itself and knows nothing else of networking.

use std::net::IpAddr;
use std::path::Path;

use async_trait::async_trait;
use skiff_cri::{CriResult, PodSandboxConfig};

/// Plugs sandboxes into the pod network.
#[async_trait]
pub trait NetworkPlugin: Send + Sync + 'static {
    /// Whether pods can get a network now; the message says why not.
    async fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    /// Gives the network namespace its interfaces; answers the pod's addresses, the first one first.
    async fn setup(&self, sandbox_id: &str, netns: &Path, config: &PodSandboxConfig) -> CriResult<Vec<IpAddr>>;

    /// Takes interfaces and addresses back. May be repeated. The namespace may be gone already.
    async fn teardown(&self, sandbox_id: &str, netns: Option<&Path>, config: &PodSandboxConfig) -> CriResult<()>;
}
