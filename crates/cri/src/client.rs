//! Any runtime behind a CRI socket (containerd, CRI-O) as the two services.

use std::time::Duration;

use async_trait::async_trait;

use crate::calls::{CONTAINER_EVENTS, IMAGE_SERVICE, RUNTIME_SERVICE, image_calls, runtime_calls};
use crate::grpc::{Channel, Streaming};
use crate::*;

/// How long a call may take, unless it is said otherwise; upstream's `--runtime-request-timeout`.
const USUAL: Duration = Duration::from_secs(120);
/// How long making a sandbox may take, the longest of the calls that are bounded and do not wait for containers.
pub const LONGEST_CALL: Duration = USUAL.saturating_mul(2);

/// The services of a runtime that listens on a unix socket.
#[derive(Debug)]
pub struct CriClient {
    channel: Channel,
}

impl CriClient {
    /// The runtime at an endpoint such as `unix:///run/containerd/containerd.sock`. It is connected to when it is
    /// first asked something, and again whenever it was restarted.
    ///
    /// # Errors
    /// It is another kind of endpoint.
    pub fn new(endpoint: &str) -> CriResult<Self> {
        Ok(Self { channel: Channel::new(endpoint)? })
    }
}

/// The time that a call of this kind may take.
macro_rules! limit {
    (usual $request:ident) => {
        Some(USUAL)
    };
    (twice $request:ident) => {
        Some(LONGEST_CALL)
    };
    (unlimited $request:ident) => {
        None
    };
    (beyond_grace $request:ident) => {
        Some(USUAL + seconds($request.timeout))
    };
    (beyond_command $request:ident) => {
        // A command without a limit may run for ever.
        ($request.timeout > 0).then(|| USUAL + seconds($request.timeout))
    };
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

macro_rules! runtime_client {
    ($($name:ident $method:ident $request:ident $response:ident $limit:ident;)*) => {
        #[async_trait]
        impl RuntimeService for CriClient {
            $(async fn $method(&self, request: $request) -> CriResult<$response> {
                let limit = limit!($limit request);
                self.channel.unary(concat!("/runtime.v1.RuntimeService/", stringify!($name)), &request, limit).await
            })*

            async fn get_container_events(&self, request: GetEventsRequest) -> CriResult<EventStream> {
                let call = format!("/{RUNTIME_SERVICE}/{CONTAINER_EVENTS}");
                let events: Streaming<ContainerEventResponse> = self.channel.streaming(&call, &request).await?;
                Ok(Box::pin(events))
            }
        }
    };
}

macro_rules! image_client {
    ($($name:ident $method:ident $request:ident $response:ident $limit:ident;)*) => {
        #[async_trait]
        impl ImageService for CriClient {
            $(async fn $method(&self, request: $request) -> CriResult<$response> {
                let limit = limit!($limit request);
                self.channel.unary(&format!("/{IMAGE_SERVICE}/{}", stringify!($name)), &request, limit).await
            })*
        }
    };
}

runtime_calls!(runtime_client);
image_calls!(image_client);
