//! The Container Runtime Interface, v1: its messages and the two services as traits.
//! The kubelet knows these traits and never which runtime is behind them.
//! Nothing here runs a container; [`fake`] only pretends to, for tests of those that call.

mod error;
pub mod fake;
mod messages;
mod services;

pub use error::{Code, CriError, CriResult};
pub use messages::*;
pub use services::{EventStream, ImageService, PullProgress, RuntimeService};

/// The version of the interface that is spoken here, as `Version` answers it.
pub const RUNTIME_API_VERSION: &str = "v1";
