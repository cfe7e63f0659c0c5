//! The name server: sockets, and the informers that tell it what there is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use skiff_base::clock::SharedClock;
use skiff_client::{Change, Informer, Informers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::batch::{self, Replies, Requests, Socket};
use super::forward::Forwarder;
use super::names::{Names, Zone};
use super::quick;
use super::wire::{Outcome, encode, respond, udp_limit};

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
        let mut dns = Self { shared, services, slices, namespaces, listening: Vec::new(), tasks: Vec::new() };
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
        let udp = std::net::UdpSocket::bind(address).map_err(failed("udp"))?;
        let address = udp.local_addr()?;
        let tcp = std::net::TcpListener::bind(address).map_err(failed("tcp"))?;
        tcp.set_nonblocking(true)?;
        let (udp, tcp) = (batch::socket(udp)?, TcpListener::from_std(tcp)?);
        self.listening.push(address);
        self.tasks.push(tokio::spawn(serve_udp(self.shared.clone(), Arc::new(udp))).abort_handle());
        self.tasks.push(tokio::spawn(serve_tcp(self.shared.clone(), tcp)).abort_handle());
        Ok(())
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

struct Shared {
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
    /// What can be answered at once; the rest needs [`Shared::complete`].
    fn begin(&self, request: &[u8]) -> Outcome {
        let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
        respond(request, &self.names.read(), self.forwarder.is_possible(), rotation)
    }

    /// Writes the answer to a question that needs nothing but a look at the names.
    fn answer_quickly(&self, request: &[u8], reply: &mut Vec<u8>) -> bool {
        quick::answer(request, &self.names.read(), self.forwarder.is_possible(), reply)
    }

    async fn complete(&self, outcome: Outcome) -> Option<Message> {
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

async fn serve_udp(shared: Arc<Shared>, socket: Arc<Socket>) {
    let (mut requests, mut replies) = (Requests::new(), Replies::default());
    loop {
        if let Err(error) = requests.receive(&socket).await {
            // An ICMP error that an earlier response earned; it is not about this socket.
            tracing::debug!(%error, "receiving DNS requests failed");
            continue;
        }
        for (request, client) in requests.all() {
            if replies.add(client, |reply| shared.answer_quickly(request, reply)) {
                continue;
            }
            let limit = udp_limit(request);
            match shared.begin(request) {
                Outcome::Silence => {}
                Outcome::Reply(reply) => {
                    replies.add_encoded(client, reply, limit);
                }
                outcome => {
                    let (shared, socket) = (shared.clone(), socket.clone());
                    tokio::spawn(async move {
                        if let Some(reply) = shared.complete(outcome).await {
                            let mut replies = Replies::default();
                            replies.add_encoded(client, reply, limit);
                            replies.send(&socket).await;
                        }
                    });
                }
            }
        }
        replies.send(&socket).await;
        if requests.is_full() {
            // Whoever else is served by this thread has a turn.
            tokio::task::yield_now().await;
        }
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
        let outcome = shared.begin(&request);
        let Some(reply) = shared.complete(outcome).await else { return Ok(()) };
        let Some(bytes) = encode(reply, None) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        timeout(TCP_IDLE, stream.write_all(&[&length.to_be_bytes(), &bytes[..]].concat())).await??;
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
