//! One probe of one container. When probes are due and what their answers mean is decided by the Pod state machine.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, GRPCAction, Pod};
use skiff_cri::{Code, ExecSyncRequest};

use crate::dial;
use crate::executor::Node;
use crate::pod::spec;
use crate::pod::types::{ProbeKind, ProbeResult};

const AGENT: &str = "kube-probe/1.36";
/// The most of a command's output that an event tells.
const MAX_OUTPUT_BYTES: usize = 10 << 10;

/// Probes a container once.
pub async fn run(node: &Node, pod: &Pod, name: &str, id: &str, kind: ProbeKind, ip: &str) -> (ProbeResult, String) {
    let Some(spec) = spec::container(pod, name) else { return (ProbeResult::Unknown, "no such container".to_owned()) };
    let Some(probe) = spec.probe(kind) else { return (ProbeResult::Unknown, "no such probe".to_owned()) };
    let seconds = probe.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(1).max(1);
    let limit = Duration::from_secs(seconds);
    let container = &spec.container;
    if let Some(action) = &probe.exec {
        return exec(node, id, action.command.clone().unwrap_or_default(), seconds).await;
    }
    if let Some(action) = &probe.http_get {
        return match dial::http_get(container, action, ip, AGENT, limit).await {
            Ok(answer) if (200..400).contains(&answer.code) => (ProbeResult::Success, String::new()),
            Ok(answer) => (ProbeResult::Failure, format!("HTTP probe failed with statuscode: {}", answer.code)),
            Err(error) => (ProbeResult::Failure, error),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(ip);
        let port = match dial::port(container, &action.port) {
            Ok(port) => port,
            Err(error) => return (ProbeResult::Unknown, error),
        };
        return match dial::connect(host, port, limit).await {
            Ok(_) => (ProbeResult::Success, String::new()),
            Err(error) => (ProbeResult::Failure, error),
        };
    }
    if let Some(action) = &probe.grpc {
        return grpc(container, action, ip, limit).await;
    }
    (ProbeResult::Unknown, "missing probe handler".to_owned())
}

async fn exec(node: &Node, id: &str, cmd: Vec<String>, seconds: u64) -> (ProbeResult, String) {
    let timeout = i64::try_from(seconds).unwrap_or(i64::MAX);
    let shown = cmd.join(" ");
    let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
    match node.runtime.exec_sync(request).await {
        Ok(response) if response.exit_code == 0 => (ProbeResult::Success, String::new()),
        Ok(response) => {
            let mut output = [response.stdout, response.stderr].concat();
            output.truncate(MAX_OUTPUT_BYTES);
            (ProbeResult::Failure, String::from_utf8_lossy(&output).into_owned())
        }
        Err(error) if error.code == Code::DeadlineExceeded => {
            (ProbeResult::Failure, format!("command timed out: {shown:?} timed out after {seconds}s"))
        }
        Err(error) => (ProbeResult::Unknown, error.to_string()),
    }
}

/// The standard health check: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.
async fn grpc(container: &Container, action: &GRPCAction, ip: &str, limit: Duration) -> (ProbeResult, String) {
    let port = match u16::try_from(action.port) {
        Ok(port) => port,
        Err(_) => return (ProbeResult::Unknown, format!("invalid port number: {}", action.port)),
    };
    let service = action.service.as_deref().unwrap_or("");
    match tokio::time::timeout(limit, check_health(ip, port, service, limit)).await {
        Ok(Ok(1)) => (ProbeResult::Success, String::new()),
        Ok(Ok(status)) => {
            let word = match status {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            (ProbeResult::Failure, format!("service unhealthy (responded with {word:?})"))
        }
        Ok(Err(error)) => (ProbeResult::Failure, error),
        Err(_) => {
            let seconds = limit.as_secs();
            tracing::trace!(container = %container.name, "a gRPC probe took too long");
            (
                ProbeResult::Failure,
                format!("timeout: failed to connect service {:?} within {seconds}s", dial::join(ip, port)),
            )
        }
    }
}

async fn check_health(ip: &str, port: u16, service: &str, limit: Duration) -> Result<u8, String> {
    let address = dial::join(ip, port);
    let stream = dial::connect(ip, port, limit).await?;
    let text = |error: hyper::Error| format!("error: health rpc failed: {error}");
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(text)?;
    let driver = tokio::spawn(connection);
    // HealthCheckRequest has one field, the service's name; before it, gRPC's flag and length.
    let mut message = Vec::new();
    if !service.is_empty() {
        let length = u8::try_from(service.len()).map_err(|_| "the service's name is too long".to_owned())?;
        message.extend([0x0a, length & 0x7f]);
        message.extend(service.as_bytes());
    }
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    body.extend(message);
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header("te", "trailers")
        .header(http::header::USER_AGENT, AGENT)
        .body(Full::new(Bytes::from(body)));
    let answer = sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(text)?;
    let head = answer.headers().get("grpc-status").cloned();
    let collected = answer.into_body().collect().await.map_err(text)?;
    let trailer = collected.trailers().and_then(|trailers| trailers.get("grpc-status").cloned());
    driver.abort();
    match trailer.or(head).and_then(|status| status.to_str().ok()?.parse::<u32>().ok()) {
        Some(0) => {}
        Some(12) => {
            return Err(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()
            );
        }
        other => return Err(format!("error: health rpc failed: status {other:?}")),
    }
    // HealthCheckResponse: field 1, the status; absent means UNKNOWN.
    let bytes = collected.to_bytes();
    Ok(match bytes.get(5..7) {
        Some([0x08, status]) => *status,
        _ => 0,
    })
}
