//! gRPC over a unix socket: as much of it as the interfaces of Kubernetes to programs beside it use, on hyper's HTTP/2.
//! Messages go in and out as bytes or as `prost` values; which calls exist is no business of this crate.

mod channel;
mod error;
mod frame;
mod server;
#[cfg(test)]
mod tests;

pub use channel::{Channel, Streaming};
pub use error::{Code, GrpcError, GrpcResult};
pub use frame::{MAX_MESSAGE_BYTES, decode};
pub use server::{Handler, Reply, serve};
