//! A runtime of this process on a CRI socket, so that `crictl` and other programs can speak to it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use prost::Message;
use tokio::net::UnixListener;

use crate::calls::{CONTAINER_EVENTS, IMAGE_SERVICE, RUNTIME_SERVICE, image_calls, runtime_calls};
use crate::grpc::{self, Handler, Reply, decode};
use crate::*;

/// The services behind the socket.
struct Served {
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
}

/// A socket that is served until this is dropped.
#[derive(Debug)]
pub struct CriServer {
    task: tokio::task::JoinHandle<()>,
}

impl CriServer {
    /// Serves both services on a socket that only root can open; one that an earlier run left is replaced.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(socket: &Path, runtime: Arc<dyn RuntimeService>, images: Arc<dyn ImageService>) -> io::Result<Self> {
        let named = |what: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{what} {}: {error}", socket.display()))
        };
        if let Some(folder) = socket.parent() {
            std::fs::create_dir_all(folder).map_err(|error| named("make the folder of", error))?;
        }
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named("remove", error)),
            _ => {}
        }
        let listener = UnixListener::bind(socket).map_err(|error| named("listen on", error))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(socket, private).map_err(|error| named("protect", error))?;
        let task = tokio::spawn(grpc::serve(listener, Arc::new(Served { runtime, images })));
        Ok(Self { task })
    }
}

impl Drop for CriServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

macro_rules! answer_runtime {
    ($($name:ident $method:ident $request:ident $response:ident $limit:ident;)*) => {
        impl Served {
            async fn runtime_call(&self, method: &str, message: &[u8]) -> CriResult<Reply> {
                match method {
                    $(stringify!($name) => {
                        let request: $request = decode(message)?;
                        Ok(Reply::message(&self.runtime.$method(request).await?))
                    })*
                    CONTAINER_EVENTS => {
                        let events = self.runtime.get_container_events(decode(message)?).await?;
                        Ok(Reply::Many(Box::pin(events.map(|event| Ok(event?.encode_to_vec().into())))))
                    }
                    _ => Err(unknown(RUNTIME_SERVICE, method)),
                }
            }
        }
    };
}

macro_rules! answer_images {
    ($($name:ident $method:ident $request:ident $response:ident $limit:ident;)*) => {
        impl Served {
            async fn image_call(&self, method: &str, message: &[u8]) -> CriResult<Reply> {
                match method {
                    $(stringify!($name) => {
                        let request: $request = decode(message)?;
                        Ok(Reply::message(&self.images.$method(request).await?))
                    })*
                    _ => Err(unknown(IMAGE_SERVICE, method)),
                }
            }
        }
    };
}

runtime_calls!(answer_runtime);
image_calls!(answer_images);

fn unknown(service: &str, method: &str) -> CriError {
    CriError::unimplemented(format!("unknown method {method} for service {service}"))
}

#[async_trait]
impl Handler for Served {
    async fn call(&self, service: &str, method: &str, message: Bytes) -> CriResult<Reply> {
        match service {
            RUNTIME_SERVICE => self.runtime_call(method, &message).await,
            IMAGE_SERVICE => self.image_call(method, &message).await,
            _ => Err(CriError::unimplemented(format!("unknown service {service}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use skiff_base::SystemClock;

    use super::*;
    use crate::fake::FakeRuntime;

    #[tokio::test]
    async fn a_runtime_behind_a_socket_is_as_good_as_the_runtime() {
        let folder = std::env::temp_dir().join(format!("skiff-cri-{}", std::process::id()));
        let socket = folder.join("cri.sock");
        let fake = Arc::new(FakeRuntime::new(SystemClock::shared()));
        let _server = CriServer::start(&socket, fake.clone(), fake).expect("serves");
        let client = CriClient::new(socket.to_str().expect("text")).expect("an endpoint");
        let mut events = client.get_container_events(GetEventsRequest {}).await.expect("events");
        let metadata = PodSandboxMetadata { name: "p".into(), uid: "u".into(), ..Default::default() };
        let config = PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
        let run = RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let id = client.run_pod_sandbox(run).await.expect("runs").pod_sandbox_id;
        let listed = client.list_pod_sandbox(ListPodSandboxRequest::default()).await.expect("a list").items;
        assert_eq!(listed.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), [id.as_str()]);
        let event = events.next().await.expect("an event").expect("no failure");
        assert_eq!(event.container_id, id);
        let missing = ContainerStatusRequest { container_id: "none".into(), verbose: false };
        assert!(client.container_status(missing).await.expect_err("there is none").is_not_found());
        let checkpoint = client.checkpoint_container(CheckpointContainerRequest::default()).await;
        assert_eq!(checkpoint.expect_err("not offered").code, Code::Unimplemented);
        assert!(client.list_images(ListImagesRequest::default()).await.expect("a list").images.is_empty());
        std::fs::remove_dir_all(folder).expect("the folder goes");
    }
}
