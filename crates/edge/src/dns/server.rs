//! The name server: sockets, and the informers that tell it what there is.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::{RwLock, RwLockReadGuard};
use skiff_base::clock::SharedClock;
use skiff_client::{Change, Informer, Informers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::forward::Forwarder;
use super::listener::Listener;
use super::names::{Names, Zone};
use super::quick;
use super::wire::{Outcome, encode, respond};

const MAX_TCP_CONNECTIONS: usize = 128;
/// How long a TCP client may be silent.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// What the name server is made with.
pub struct DnsConfig {
    /// Where Services, EndpointSlices and Namespaces are read.
    pub informers: Informers,
    /// The zone.
    pub zone: Zone,
    /// Where to listen, by UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The file that names the resolvers for everything else, if there are any.
    pub resolv_conf: Option<PathBuf>,
    /// For the cache.
    pub clock: SharedClock,
}

/// The running name server; it ends when this is dropped.
pub struct Dns {
    shared: Arc<Shared>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    namespaces: Informer<Namespace>,
    listening: Vec<SocketAddr>,
    listeners: Vec<Listener>,
    tasks: Vec<AbortHandle>,
}

impl Dns {
    /// Binds the sockets, in the calling thread's network namespace, and begins to answer.
    ///
    /// # Errors
    /// An address cannot be bound; the error names it.
    pub fn start(config: DnsConfig) -> io::Result<Self> {
        let own: Vec<IpAddr> =
            config.listen.iter().map(SocketAddr::ip).chain(config.zone.servers.iter().copied()).collect();
        let shared = Arc::new(Shared {
            names: RwLock::new(Names::new(config.zone)),
            forwarder: Forwarder::new(config.resolv_conf, own, config.clock),
            rotation: AtomicUsize::new(0),
        });
        let services = config.informers.of::<Service>();
        let slices = config.informers.of::<EndpointSlice>();
        let namespaces = config.informers.of::<Namespace>();
        observe(&services, &slices, &namespaces, &shared);
        let (listening, listeners, tasks) = (Vec::new(), Vec::new(), Vec::new());
        let mut dns = Self { shared, services, slices, namespaces, listening, listeners, tasks };
        for address in config.listen {
            dns.listen(address)?;
        }
        Ok(dns)
    }

    /// Waits until everything that there is at the start is known.
    pub async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.namespaces.synced().await;
    }

    /// Where it listens; a port that was asked for as 0 is the one that was given.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    fn listen(&mut self, address: SocketAddr) -> io::Result<()> {
        let failed = |protocol: &'static str| {
            move |error: io::Error| {
                io::Error::new(error.kind(), format!("the DNS cannot listen on {address} ({protocol}): {error}"))
            }
        };
        let udp = UdpSocket::bind(address).map_err(failed("udp"))?;
        let address = udp.local_addr()?;
        let tcp = std::net::TcpListener::bind(address).map_err(failed("tcp"))?;
        tcp.set_nonblocking(true)?;
        let tcp = TcpListener::from_std(tcp)?;
        self.listening.push(address);
        self.listeners.push(Listener::start(udp, self.shared.clone(), Handle::current())?);
        self.tasks.push(tokio::spawn(serve_tcp(self.shared.clone(), tcp)).abort_handle());
        Ok(())
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What all who answer share.
pub(super) struct Shared {
    names: RwLock<Names>,
    forwarder: Forwarder,
    rotation: AtomicUsize,
}

fn observe(
    services: &Informer<Service>,
    slices: &Informer<EndpointSlice>,
    namespaces: &Informer<Namespace>,
    shared: &Arc<Shared>,
) {
    let of_services = shared.clone();
    services.on_change(move |change| match change {
        Change::Added(service) | Change::Updated { new: service, .. } => of_services.names.write().put_service(service),
        Change::Deleted(service) => of_services.names.write().forget_service(service),
    });
    let of_slices = shared.clone();
    slices.on_change(move |change| {
        let mut names = of_slices.names.write();
        match change {
            Change::Added(slice) => names.put_slice(slice),
            Change::Updated { old, new } => {
                names.forget_slice(old);
                names.put_slice(new);
            }
            Change::Deleted(slice) => names.forget_slice(slice),
        }
    });
    let of_namespaces = shared.clone();
    namespaces.on_change(move |change| {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        of_namespaces.names.write().put_namespace(&name, !matches!(change, Change::Deleted(_)));
    });
}

impl Shared {
    /// A look at what there is, for as many requests as are there.
    pub(super) fn look(&self) -> Look<'_> {
        Look { shared: self, names: self.names.read(), can_forward: self.forwarder.is_possible() }
    }

    /// The answer, once it is to be had.
    pub(super) async fn complete(&self, outcome: Outcome) -> Option<Message> {
        match outcome {
            Outcome::Silence => None,
            Outcome::Reply(reply) => Some(reply),
            Outcome::Forward(request) => Some(self.forwarder.forward(&request).await),
            Outcome::Continue { reply, target } => Some(self.follow(reply, target).await),
        }
    }

    /// Adds the records of the name that an alias leads to. Without them the alias is still an answer.
    async fn follow(&self, mut reply: Message, target: Name) -> Message {
        let Some(kind) = reply.queries.first().map(Query::query_type) else { return reply };
        if let Some(found) = self.forwarder.ask(&Query::query(target, kind)).await {
            reply.answers.extend(found.answers);
        }
        reply
    }
}

/// What there is at a moment; nothing changes while it is held.
pub(super) struct Look<'a> {
    shared: &'a Shared,
    names: RwLockReadGuard<'a, Names>,
    can_forward: bool,
}

impl Look<'_> {
    /// Writes the answer to a question that needs nothing but a look at the names.
    pub(super) fn answer_quickly(&self, request: &[u8], reply: &mut Vec<u8>) -> bool {
        quick::answer(request, &self.names, self.can_forward, reply)
    }

    /// What can be answered at once; the rest needs [`Shared::complete`].
    pub(super) fn begin(&self, request: &[u8]) -> Outcome {
        let rotation = self.shared.rotation.fetch_add(1, Ordering::Relaxed);
        respond(request, &self.names, self.can_forward, rotation)
    }
}

async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(MAX_TCP_CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve_connection(&shared, stream).await {
                        tracing::debug!(%client, %error, "a DNS connection broke");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a DNS connection failed");
                // Most likely out of descriptors: trying again at once would only burn time.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let length = match timeout(TCP_IDLE, stream.read_u16()).await {
            Err(_) => return Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(length) => length?,
        };
        let mut request = vec![0; length.into()];
        timeout(TCP_IDLE, stream.read_exact(&mut request)).await??;
        let outcome = shared.look().begin(&request);
        let Some(reply) = shared.complete(outcome).await else { return Ok(()) };
        let Some(bytes) = encode(reply, None) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        timeout(TCP_IDLE, stream.write_all(&[&length.to_be_bytes(), &bytes[..]].concat())).await??;
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
