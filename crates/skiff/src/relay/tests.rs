//! Real sockets of the loopback: who is reached, and who instead.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
use parking_lot::Mutex;
use skiff_base::SystemClock;

use super::{Book, Led, Transport, Way, tcp, udp};
use crate::paths::write_atomically;

/// Whoever waits longer than this waits in vain.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file that tells where one port leads; gone with the value.
struct Told {
    folder: PathBuf,
    listen: SocketAddr,
    transport: Transport,
}

impl Told {
    fn new(name: &str, transport: Transport) -> Self {
        let folder = std::env::temp_dir().join(format!("skiff-relay-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a writable folder");
        Self { folder, listen: ([127, 0, 0, 1], 0).into(), transport }
    }

    fn tell(&self, targets: &[SocketAddr]) {
        let way = Way { listen: self.listen, transport: self.transport, targets: targets.to_vec() };
        let bytes = serde_json::to_vec(&[way]).expect("it can be written");
        write_atomically(&self.folder.join("relay.json"), &bytes, 0o644).expect("a writable folder");
    }

    fn led(&self) -> Arc<Led> {
        let book = Book::open(self.folder.join("relay.json")).expect("it was told");
        Arc::new(Led { book: Arc::new(book), place: 0, choice: Mutex::default(), clock: SystemClock::shared() })
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).unwrap_or_else(|error| eprintln!("{}: {error}", self.folder.display()));
    }
}

/// A server that says one word to everybody.
fn server(word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for client in listener.incoming() {
            client.and_then(|mut client| client.write_all(word.as_bytes())).expect("the relay reads");
        }
    });
    address
}

/// An address at which nobody listens for as long as the value lives.
fn nobody() -> (UdpSocket, SocketAddr) {
    // A datagram socket that is connected elsewhere refuses all others; to connections the number is closed.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    socket.connect("127.0.0.1:9").expect("it sends nothing");
    (socket, address)
}

/// An address that is taken and not listened at.
fn bound_only() -> (OwnedFd, SocketAddr) {
    let any = SockaddrIn::new(127, 0, 0, 1, 0);
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("a socket");
    bind(socket.as_raw_fd(), &any).expect("a free port");
    let address: SockaddrIn = getsockname(socket.as_raw_fd()).expect("bound");
    (socket, SocketAddr::from((address.ip(), address.port())))
}

#[test]
fn connections_go_to_nodes_that_take_them() {
    let told = Told::new("tcp", Transport::Tcp);
    let (_held, closed) = bound_only();
    let (a, b) = (server("a"), server("b"));
    told.tell(&[closed, a]);
    let led = told.led();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    runtime.spawn(tcp::serve(listener, led));
    let ask = || {
        let mut said = String::new();
        TcpStream::connect(address).and_then(|mut stream| stream.read_to_string(&mut said)).expect("it answers");
        said
    };
    for _ in 0..4 {
        assert_eq!(ask(), "a");
    }
    // Another node is there from now on, and they take turns.
    told.tell(&[a, b]);
    let mut said = [ask(), ask()];
    said.sort();
    assert_eq!(said, ["a", "b"]);
    // Where nobody is, the connection ends.
    told.tell(&[]);
    assert_eq!(ask(), "");
}

#[test]
fn datagrams_go_to_nodes_that_take_them_and_answers_come_back() {
    let told = Told::new("udp", Transport::Udp);
    let echo = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let (_held, refusing) = nobody();
    told.tell(&[refusing, echo.local_addr().expect("bound")]);
    let led = told.led();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let socket = runtime.block_on(tokio::net::UdpSocket::bind("127.0.0.1:0")).expect("a free port");
    let address = socket.local_addr().expect("bound");
    runtime.spawn(udp::serve(socket, led));
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            echo.send_to(&buffer[..length], from).expect("the relay listens");
        }
    });
    for client in 0..3 {
        let socket = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.connect(address).map(|()| socket));
        let socket = socket.expect("a free port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        for number in 0..3 {
            let asked = format!("{client}.{number}");
            let mut buffer = [0; 64];
            let length = socket.send(asked.as_bytes()).and_then(|_| socket.recv(&mut buffer)).expect("an answer");
            assert_eq!(String::from_utf8_lossy(&buffer[..length]), asked);
        }
    }
}
