//! The streaming server: CRI's Exec, Attach and PortForward answer with a URL of it, and whoever opens that URL within a
//! minute, once, gets the streams. It listens on the loopback only; the kubelet tunnels callers to it.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use skiff_base::ids::Ids;
use skiff_cri::{AttachRequest, CriError, ExecRequest, PortForwardRequest};
use skiff_streams::{ExitStatus, ForwardedConnection, Output, PortForward, RemoteCommand, Streams, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A URL that nobody opened is forgotten after this time; upstream's runtimes do the same.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// The most URLs that may wait to be opened.
const MAX_PENDING: usize = 1000;
/// Hexadecimal digits of a token: the URL is a secret.
const TOKEN_DIGITS: usize = 32;
/// How much is read from a container at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// After a command has ended, what it left in its pipes is passed on for this long, in case a child keeps them open.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// A process whose streams are to be served.
pub struct Process {
    /// Its input.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output (or its terminal's).
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its errors.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Where sizes of its terminal are told.
    pub resize: mpsc::Sender<TerminalSize>,
    /// Its end.
    pub exit: Pin<Box<dyn Future<Output = ExitStatus> + Send>>,
}

/// What the streaming server serves.
#[async_trait::async_trait]
pub trait StreamBackend: Send + Sync + 'static {
    /// Starts a command in a container.
    async fn exec(&self, request: &ExecRequest) -> Result<Process, CriError>;
    /// Joins a container's own streams.
    async fn attach(&self, request: &AttachRequest) -> Result<Process, CriError>;
    /// Connects to a port inside a sandbox.
    async fn connect(&self, sandbox_id: &str, port: u16) -> Result<TcpStream, CriError>;
}

/// What a URL stands for.
#[derive(Debug, Clone)]
enum Pending {
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward(PortForwardRequest),
}

/// The server.
pub struct StreamingServer {
    address: SocketAddr,
    ids: Ids,
    pending: Mutex<HashMap<String, Pending>>,
    backend: Arc<dyn StreamBackend>,
}

impl StreamingServer {
    /// Listens on a free port of the loopback.
    ///
    /// # Errors
    /// There is none.
    pub async fn start(backend: Arc<dyn StreamBackend>) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let server = Arc::new(Self { address, ids: Ids::random(), pending: Mutex::default(), backend });
        tokio::spawn(accept(Arc::downgrade(&server), listener));
        Ok(server)
    }

    /// The URL that runs a command.
    ///
    /// # Errors
    /// Too many URLs wait to be opened.
    pub fn exec_url(self: &Arc<Self>, request: ExecRequest) -> Result<String, CriError> {
        self.url("exec", Pending::Exec(request))
    }

    /// The URL that joins a container's streams.
    ///
    /// # Errors
    /// As [`StreamingServer::exec_url`].
    pub fn attach_url(self: &Arc<Self>, request: AttachRequest) -> Result<String, CriError> {
        self.url("attach", Pending::Attach(request))
    }

    /// The URL that forwards ports.
    ///
    /// # Errors
    /// As [`StreamingServer::exec_url`].
    pub fn port_forward_url(self: &Arc<Self>, request: PortForwardRequest) -> Result<String, CriError> {
        self.url("portforward", Pending::PortForward(request))
    }

    fn url(self: &Arc<Self>, kind: &str, pending: Pending) -> Result<String, CriError> {
        let token = self.ids.hex(TOKEN_DIGITS);
        let mut waiting = self.pending.lock();
        if waiting.len() >= MAX_PENDING {
            return Err(CriError::unavailable("maximum number of in-flight requests exceeded"));
        }
        waiting.insert(token.clone(), pending);
        drop(waiting);
        let (server, forgotten) = (Arc::downgrade(self), token.clone());
        tokio::spawn(async move {
            tokio::time::sleep(TOKEN_LIFETIME).await;
            if let Some(server) = server.upgrade() {
                server.pending.lock().remove(&forgotten);
            }
        });
        Ok(format!("http://{}/{kind}/{token}", self.address))
    }

    fn answer(&self, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        let token = request.uri().path().rsplit('/').next().unwrap_or_default();
        let Some(pending) = self.pending.lock().remove(token) else {
            return plain(StatusCode::NOT_FOUND, "no such request, or it was opened before");
        };
        let backend = self.backend.clone();
        let accepted = match pending {
            Pending::PortForward(forward) => {
                let ports = forward.port.iter().filter_map(|port| u16::try_from(*port).ok()).collect();
                skiff_streams::accept_port_forward(&mut request, ports).map(|accepted| {
                    let sandbox = forward.pod_sandbox_id;
                    tokio::spawn(async move {
                        match accepted.session.await {
                            Ok(session) => forward_all(backend, sandbox, session).await,
                            Err(error) => tracing::debug!(%error, "port-forward"),
                        }
                    });
                    accepted.response
                })
            }
            command => skiff_streams::accept_command(&mut request, streams_of(&command)).map(|accepted| {
                tokio::spawn(async move {
                    match accepted.session.await {
                        Ok(session) => run_command(&*backend, &command, session).await,
                        Err(error) => tracing::debug!(%error, "remote command"),
                    }
                });
                accepted.response
            }),
        };
        match accepted {
            Ok(response) => response.map(|()| Full::default()),
            Err(error) => plain(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}

async fn accept(server: std::sync::Weak<StreamingServer>, listener: TcpListener) {
    const RETRY: Duration = Duration::from_millis(50);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "streaming server");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let Some(server) = server.upgrade() else { return };
        tokio::spawn(async move {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "streaming connection");
            }
            let service = service_fn(move |request| {
                let response = server.answer(request);
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "streaming connection");
            }
        });
    }
}

fn streams_of(pending: &Pending) -> Streams {
    match pending {
        Pending::Exec(request) => {
            Streams { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty }
        }
        Pending::Attach(request) => {
            Streams { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty }
        }
        Pending::PortForward(_) => Streams::default(),
    }
}

async fn run_command(backend: &dyn StreamBackend, pending: &Pending, mut session: RemoteCommand) {
    let started = match pending {
        Pending::Exec(request) => backend.exec(request).await,
        Pending::Attach(request) => backend.attach(request).await,
        Pending::PortForward(_) => return,
    };
    let status = match started {
        Ok(process) => connect(process, &mut session).await,
        Err(error) => ExitStatus::Failed(error.to_string()),
    };
    if let Err(error) = session.finish(status).await {
        tracing::debug!(%error, "remote command");
    }
}

/// Passes bytes between the caller and the process until the process ends (or, attached, the caller goes).
async fn connect(process: Process, session: &mut RemoteCommand) -> ExitStatus {
    let Process { stdin, stdout, stderr, resize, exit } = process;
    if let (Some(mut stdin), Some(mut from_caller)) = (stdin, session.stdin.take()) {
        tokio::spawn(async move {
            while let Some(bytes) = from_caller.recv().await {
                if stdin.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            // The process sees the end of its input; one that is gone needs no telling.
            stdin.shutdown().await.unwrap_or_default();
        });
    }
    let mut sizes = std::mem::replace(&mut session.resize, mpsc::channel(1).1);
    tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            if resize.send(size).await.is_err() {
                return;
            }
        }
    });
    let copies = async {
        tokio::join!(copy(stdout, session.stdout.as_ref()), copy(stderr, session.stderr.as_ref()));
    };
    let mut copies = std::pin::pin!(copies);
    let mut exit = exit;
    let mut copied = false;
    let status = loop {
        tokio::select! {
            status = &mut exit => break status,
            () = &mut copies, if !copied => copied = true,
        }
    };
    if !copied && tokio::time::timeout(DRAIN_LIMIT, copies).await.is_err() {
        tracing::debug!("a child of the command keeps its output open");
    }
    status
}

async fn copy(from: Option<Box<dyn AsyncRead + Send + Unpin>>, to: Option<&Output>) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
    while let Ok(1..) = from.read_buf(&mut buffer).await {
        let bytes = buffer.split().freeze();
        if let Some(to) = to
            && to.write(bytes).await.is_err()
        {
            return;
        }
        buffer.reserve(CHUNK_BYTES);
    }
}

async fn forward_all(backend: Arc<dyn StreamBackend>, sandbox: String, mut session: PortForward) {
    while let Some(connection) = session.connections.recv().await {
        let (backend, sandbox) = (backend.clone(), sandbox.clone());
        tokio::spawn(async move {
            if let Err(error) = forward(&*backend, &sandbox, connection).await {
                tracing::debug!(%error, "port-forward connection");
            }
        });
    }
}

async fn forward(backend: &dyn StreamBackend, sandbox: &str, connection: ForwardedConnection) -> io::Result<()> {
    let ForwardedConnection { port, mut input, output, error } = connection;
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let stream = match backend.connect(sandbox, port).await {
        Ok(stream) => stream,
        Err(failure) => {
            let text = format!("error forwarding port {port} to pod {sandbox}: {failure}");
            error.write(text).await.map_err(gone)?;
            error.end().await.map_err(gone)?;
            return output.end().await.map_err(gone);
        }
    };
    let (mut from_pod, mut to_pod) = stream.into_split();
    let inward = async {
        while let Some(bytes) = input.recv().await {
            to_pod.write_all(&bytes).await?;
        }
        to_pod.shutdown().await
    };
    let outward = async {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        while from_pod.read_buf(&mut buffer).await? > 0 {
            output.write(buffer.split().freeze()).await.map_err(gone)?;
            buffer.reserve(CHUNK_BYTES);
        }
        Ok::<_, io::Error>(())
    };
    // Once the pod has said all, the rest of what the caller says has nobody to read it.
    let outcome = {
        let (mut inward, mut outward) = (std::pin::pin!(inward), std::pin::pin!(outward));
        tokio::select! {
            outcome = &mut outward => outcome,
            inward_ended = &mut inward => match inward_ended {
                Ok(()) => outward.await,
                Err(error) => Err(error),
            },
        }
    };
    output.end().await.map_err(gone)?;
    error.end().await.map_err(gone)?;
    outcome
}
