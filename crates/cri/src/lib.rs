//! The Container Runtime Interface, v1: its messages and the two services as traits.
//! The kubelet knows these traits and never which runtime is behind them: one of this process, or one behind a socket
//! ([`CriClient`]). [`CriServer`] offers a runtime of this process on a socket.
//! Nothing here runs a container; [`fake`] only pretends to, for tests of those that call.

mod calls;
mod client;
pub mod fake;
mod messages;
mod server;
mod services;

pub use client::{CriClient, LONGEST_CALL};
pub use messages::*;
pub use server::CriServer;
pub use services::{EventStream, ImageService, PullProgress, RuntimeService};
pub use skiff_grpc as grpc;
pub use skiff_grpc::{Code, GrpcError as CriError, GrpcResult as CriResult};

/// The version of the interface that is spoken here, as `Version` answers it.
pub const RUNTIME_API_VERSION: &str = "v1";
