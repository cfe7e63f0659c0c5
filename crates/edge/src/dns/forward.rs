//! Asks the host's resolvers for names that are not ours, and remembers what they said for a while.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::wire::{failure, reply_to};

const DNS_PORT: u16 = 53;
/// How long a resolver is waited for; clients themselves wait five seconds as a rule.
const PATIENCE: Duration = Duration::from_millis(1800);
const ROUNDS: usize = 2;
/// Questions under way at a time; more are refused at once instead of piling up.
const MAX_UNDER_WAY: usize = 256;
const CACHE_ENTRIES: usize = 1024;
/// Answers are kept for as long as they say, but no longer than this.
const MAX_CACHE_TIME: Duration = Duration::from_secs(300);
/// What there is not, is believed for so long at most.
const MAX_NEGATIVE_CACHE_TIME: Duration = Duration::from_secs(30);
/// How often it is looked whether the file with the resolvers changed.
const FILE_CHECK: Duration = Duration::from_secs(5);
/// As many as the C library takes from the file.
const MAX_RESOLVERS: usize = 3;
const RECEIVE_BYTES: usize = 4096;

/// The way to the host's resolvers.
pub(super) struct Forwarder {
    resolvers: Mutex<Resolvers>,
    cache: Mutex<HashMap<CacheKey, Cached>>,
    under_way: Semaphore,
    clock: SharedClock,
}

type CacheKey = (String, RecordType);

struct Cached {
    reply: Message,
    stored: Duration,
    expires: Duration,
}

struct Resolvers {
    file: Option<PathBuf>,
    own: Vec<IpAddr>,
    checked: Option<Duration>,
    modified: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Forwarder {
    /// Forwards to the resolvers that `file` (in the format of resolv.conf) names, except our own addresses.
    pub(super) fn new(file: Option<PathBuf>, own: Vec<IpAddr>, clock: SharedClock) -> Self {
        let resolvers = Resolvers { file, own, checked: None, modified: None, servers: Vec::new() };
        Self {
            resolvers: Mutex::new(resolvers),
            cache: Mutex::default(),
            under_way: Semaphore::new(MAX_UNDER_WAY),
            clock,
        }
    }

    /// Whether there is anybody to ask.
    pub(super) fn is_possible(&self) -> bool {
        let mut resolvers = self.resolvers.lock();
        resolvers.refresh(self.clock.monotonic());
        !resolvers.servers.is_empty()
    }

    /// The answer to a request that is not ours; a failure is an answer too.
    pub(super) async fn forward(&self, request: &Message) -> Message {
        let Some(question) = request.queries.first() else { return failure(request, ResponseCode::FormErr) };
        match self.ask(question).await {
            Some(answer) => {
                let mut reply = reply_to(request);
                reply.metadata.recursion_available = true;
                reply.metadata.response_code = answer.metadata.response_code;
                (reply.answers, reply.authorities, reply.additionals) =
                    (answer.answers, answer.authorities, answer.additionals);
                reply
            }
            None => failure(request, ResponseCode::ServFail),
        }
    }

    /// What the resolvers say; `None` if none of them says anything.
    pub(super) async fn ask(&self, question: &Query) -> Option<Message> {
        let key = (question.name().to_lowercase().to_ascii(), question.query_type());
        if let Some(known) = self.recall(&key) {
            return Some(known);
        }
        let _permit = self.under_way.try_acquire().ok()?;
        let servers = self.servers();
        for _ in 0..ROUNDS {
            for server in &servers {
                match timeout(PATIENCE, exchange(*server, question)).await {
                    // A resolver that is in trouble itself is no reason not to ask the next one.
                    Ok(Ok(answer)) if answer.metadata.response_code == ResponseCode::ServFail => {}
                    Ok(Ok(answer)) => {
                        self.remember(key, &answer);
                        return Some(answer);
                    }
                    Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver cannot be asked"),
                    Err(_) => tracing::debug!(%server, "a resolver does not answer"),
                }
            }
        }
        None
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let mut resolvers = self.resolvers.lock();
        resolvers.refresh(self.clock.monotonic());
        resolvers.servers.clone()
    }

    fn recall(&self, key: &CacheKey) -> Option<Message> {
        let now = self.clock.monotonic();
        let cache = self.cache.lock();
        let cached = cache.get(key).filter(|cached| cached.expires > now)?;
        let mut reply = cached.reply.clone();
        let age = u32::try_from((now - cached.stored).as_secs()).unwrap_or(u32::MAX);
        for record in reply.answers.iter_mut().chain(&mut reply.authorities).chain(&mut reply.additionals) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(reply)
    }

    fn remember(&self, key: CacheKey, reply: &Message) {
        let Some(time) = cache_time(reply) else { return };
        let now = self.clock.monotonic();
        let mut cache = self.cache.lock();
        if cache.len() >= CACHE_ENTRIES {
            cache.retain(|_, cached| cached.expires > now);
        }
        if cache.len() >= CACHE_ENTRIES {
            cache.clear();
        }
        cache.insert(key, Cached { reply: reply.clone(), stored: now, expires: now + time });
    }
}

impl Resolvers {
    fn refresh(&mut self, now: Duration) {
        let Some(file) = &self.file else { return };
        if self.checked.is_some_and(|checked| now < checked + FILE_CHECK) {
            return;
        }
        self.checked = Some(now);
        let modified = std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
        if modified.is_some() && modified == self.modified {
            return;
        }
        self.modified = modified;
        self.servers = match read_servers(file) {
            Ok(found) => found.filter(|address| !self.own.contains(address)).take(MAX_RESOLVERS).collect::<Vec<_>>(),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "cannot read which resolvers to ask");
                Vec::new()
            }
        }
        .into_iter()
        .map(|address| SocketAddr::new(address, DNS_PORT))
        .collect();
    }
}

fn read_servers(file: &Path) -> io::Result<impl Iterator<Item = IpAddr> + use<>> {
    let text = std::fs::read_to_string(file)?;
    let addresses: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|address| address.trim().parse().ok())
        .collect();
    Ok(addresses.into_iter())
}

/// For how long this may be kept; `None` for what says nothing about the name.
fn cache_time(reply: &Message) -> Option<Duration> {
    let shortest = reply.answers.iter().map(|record| record.ttl).min();
    let negative = reply.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    let (seconds, cap) = match (reply.metadata.response_code, shortest) {
        (ResponseCode::NoError, Some(seconds)) => (seconds, MAX_CACHE_TIME),
        (ResponseCode::NoError | ResponseCode::NXDomain, _) => (negative?, MAX_NEGATIVE_CACHE_TIME),
        _ => return None,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(cap))
}

async fn exchange(server: SocketAddr, question: &Query) -> io::Result<Message> {
    // A number and a source port that nobody can guess.
    let mut request = Message::query();
    request.metadata.op_code = OpCode::Query;
    request.metadata.recursion_desired = true;
    request.add_query(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    request.edns = Some(edns);
    let bytes = request.to_vec().map_err(io::Error::other)?;
    let answer = by_udp(server, &bytes, &request).await?;
    if answer.metadata.truncation { by_tcp(server, &bytes, &request).await } else { Ok(answer) }
}

async fn by_udp(server: SocketAddr, bytes: &[u8], request: &Message) -> io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; RECEIVE_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What is no answer to this question is somebody's attempt at deceit, and is not worth an error.
        if let Some(answer) = accept(&buffer[..length], request) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, bytes: &[u8], request: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    accept(&buffer, request).ok_or_else(|| io::Error::other("the answer is not to the question"))
}

fn accept(bytes: &[u8], request: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    (answer.metadata.id == request.metadata.id && answer.queries == request.queries).then_some(answer)
}
