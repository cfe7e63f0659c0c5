//! Running a container's postStart and preStop hooks.
//! See <https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/>.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use skiff_cri::ExecSyncRequest;

use crate::dial;
use crate::executor::Node;

const AGENT: &str = "kube-lifecycle/1.36";
/// Hooks without a limit of their own end after this at the latest.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Runs a hook to its end, or until the limit.
///
/// # Errors
/// The hook failed or took too long.
pub async fn run(
    node: &Node,
    container: &Container,
    handler: &LifecycleHandler,
    id: &str,
    ip: &str,
    limit: Option<Duration>,
) -> Result<(), String> {
    let bound = limit.unwrap_or(LONGEST);
    match tokio::time::timeout(bound, one(node, container, handler, id, ip, limit)).await {
        Ok(ended) => ended,
        Err(_) => Err(format!("hook did not end within {}s", bound.as_secs())),
    }
}

async fn one(
    node: &Node,
    container: &Container,
    handler: &LifecycleHandler,
    id: &str,
    ip: &str,
    limit: Option<Duration>,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let timeout = limit.map_or(0, |limit| i64::try_from(limit.as_secs()).unwrap_or(0));
        let cmd = exec.command.clone().unwrap_or_default();
        let shown = cmd.join(" ");
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        let response = node.runtime.exec_sync(request).await.map_err(|error| error.to_string())?;
        if response.exit_code == 0 {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&[response.stdout, response.stderr].concat()).into_owned();
        return Err(format!("command '{shown}' exited with {}: {output}", response.exit_code));
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(action) = &handler.http_get {
        // Any answer will do: the hook has been heard.
        return dial::http_get(container, action, ip, AGENT, limit.unwrap_or(LONGEST)).await.map(drop);
    }
    // A tcpSocket hook exists in the API only for old objects and does nothing, as upstream.
    Ok(())
}
