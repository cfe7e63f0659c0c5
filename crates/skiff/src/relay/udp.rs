//! Datagrams: whoever sends from the same port stays with the same node, unless that is gone. A node that is gone says
//! nothing to a datagram, so its network is asked by a connection, which is answered at once wherever there is one.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;

use super::{ANSWER_LIMIT, Led, PAUSE};

/// A flow ends when nothing was sent for so long, as the kernel's own do.
const IDLE: Duration = Duration::from_secs(60);
/// A node that has said nothing for so long is looked at before it is sent more.
const SILENCE: Duration = Duration::from_secs(2);
/// The most flows of one port; what is beyond is dropped.
const MOST_FLOWS: usize = 2048;
/// So many datagrams of a flow wait while a node is looked at.
const WAITING: usize = 64;
/// No datagram is longer.
const LONGEST: usize = 1 << 16;
/// Every node listens here; it need not be let in, an answer of any kind is one.
const KUBELET_PORT: u16 = 10250;

type Flows = HashMap<SocketAddr, mpsc::Sender<Vec<u8>>>;

/// Takes datagrams for ever.
pub async fn serve(socket: UdpSocket, led: Arc<Led>) {
    let socket = Arc::new(socket);
    let mut flows = Flows::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier answer was not taken; that is its client's business.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                eprintln!("skiff: receive a datagram: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let datagram = buffer[..length].to_vec();
        let Some(datagram) = pass_on(&flows, client, datagram) else { continue };
        flows.retain(|_, flow| !flow.is_closed());
        if flows.len() < MOST_FLOWS {
            let (sender, receiver) = mpsc::channel(WAITING);
            let flow = Flow { outer: socket.clone(), client, led: led.clone() };
            tokio::spawn(async move { flow.run(datagram, receiver).await });
            flows.insert(client, sender);
        }
    }
}

/// Gives a datagram to its flow; gives it back where there is none.
fn pass_on(flows: &Flows, client: SocketAddr, datagram: Vec<u8>) -> Option<Vec<u8>> {
    let Some(flow) = flows.get(&client) else { return Some(datagram) };
    match flow.try_send(datagram) {
        Err(mpsc::error::TrySendError::Closed(datagram)) => Some(datagram),
        // Where too many wait, one is lost, as on any other way.
        Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => None,
    }
}

/// What one client sends, and the answers.
struct Flow {
    outer: Arc<UdpSocket>,
    client: SocketAddr,
    led: Arc<Led>,
}

/// The node that a flow goes to.
struct End {
    target: SocketAddr,
    socket: UdpSocket,
    /// When it was known to be there.
    seen: Duration,
}

impl Flow {
    async fn run(self, first: Vec<u8>, mut datagrams: mpsc::Receiver<Vec<u8>>) {
        let mut end = self.send(None, &first).await;
        let mut latest = first;
        // How many nodes have refused that one.
        let mut refusals = 0;
        let mut buffer = vec![0; LONGEST];
        while let Some(now) = end.take() {
            tokio::select! {
                datagram = datagrams.recv() => {
                    let Some(datagram) = datagram else { return };
                    end = self.send(Some(now), &datagram).await;
                    (latest, refusals) = (datagram, 0);
                }
                answer = receive(&now.socket, &mut buffer) => match answer {
                    Ok(length) => {
                        // A client that is gone is no reason to end: it may be behind a lossy way.
                        self.outer.send_to(&buffer[..length], self.client).await.map(drop).unwrap_or_default();
                        end = Some(End { seen: self.led.clock.monotonic(), ..now });
                    }
                    Err(_) => {
                        self.led.failed(now.target);
                        refusals += 1;
                        if refusals >= self.led.count() {
                            return;
                        }
                        end = self.send(None, &latest).await;
                    }
                },
                () = tokio::time::sleep(IDLE) => return,
            }
        }
    }

    /// Sends to the node that the flow goes to, or to another; `None` where there is none.
    async fn send(&self, end: Option<End>, datagram: &[u8]) -> Option<End> {
        if let Some(mut end) = end {
            let now = self.led.clock.monotonic();
            let is_known = end.seen + SILENCE > now;
            if (is_known || is_there(end.target).await) && end.socket.send(datagram).await.is_ok() {
                end.seen = if is_known { end.seen } else { now };
                return Some(end);
            }
            self.led.failed(end.target);
        }
        for target in self.led.order() {
            if is_there(target).await
                && let Ok(socket) = connected(target).await
                && socket.send(datagram).await.is_ok()
            {
                return Some(End { target, socket, seen: self.led.clock.monotonic() });
            }
            self.led.failed(target);
        }
        None
    }
}

/// The next answer, or that nobody takes what was sent: a refusal makes a socket no readable one.
async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            // It was another's word of the same error: from here on the next one is waited for.
            let forgotten: io::Result<()> = socket.try_io(Interest::ERROR, || Err(io::ErrorKind::WouldBlock.into()));
            forgotten.or_else(unless_it_would_block)?;
        }
        match socket.try_recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
}

fn unless_it_would_block(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }
}

async fn connected(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket)
}

async fn is_there(target: SocketAddr) -> bool {
    let asked = tokio::time::timeout(ANSWER_LIMIT, TcpStream::connect((target.ip(), KUBELET_PORT))).await;
    match asked {
        Ok(Ok(_)) => true,
        // A node whose agent is away carries on.
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}
