//! The upgraded connections of exec, attach and port-forward: SPDY/3.1 and the WebSocket channel protocols, served
//! as plain streams of bytes. What the bytes mean to a container is not known here.
//!
//! [`accept_command`] and [`accept_port_forward`] negotiate, give the response that switches protocols, and give the
//! session once the connection is upgraded.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#websockets> and KEP-4006.

mod session;
pub mod spdy;
mod upgrade;
mod websocket;

pub use session::{ExitStatus, ForwardedConnection, Output, PortForward, RemoteCommand, Streams, TerminalSize};
pub use upgrade::{Accepted, UpgradeError, accept_command, accept_port_forward};
