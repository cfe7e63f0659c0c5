//! SCTP through real rules. Few machines have its sockets, but every one that has the rules follows its packets: here they
//! are made by hand, an INIT and the INIT ACK that answers it. See RFC 9260, sections 3.1, 3.3.2 and 3.3.3.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::world::{CLIENT_ADDRESS, NODE_ADDRESS, World};
use super::*;
use crate::testing::in_own_namespace;

const PROTOCOL: i32 = 132;
const SERVED_PORT: u16 = 8080;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// The parameter in which the server has a word for itself; here it says who was asked by whom.
const STATE_COOKIE: u16 = 7;
const FIXED_BYTES: usize = 20;
/// How long a server looks for packets before it looks whether it is to end.
const TURN: Duration = Duration::from_millis(20);
/// For how many of them a client asks again before it gives up.
const TURNS: usize = 150;

/// A packet with one chunk that begins an association, or answers that.
#[derive(Debug, PartialEq)]
struct Packet {
    from: u16,
    to: u16,
    /// What the other end chose.
    tag: u32,
    chunk: u8,
    /// What this end chooses.
    own_tag: u32,
    cookie: Vec<u8>,
}

impl Packet {
    fn encode(&self) -> Vec<u8> {
        let mut parameters = Vec::new();
        if !self.cookie.is_empty() {
            parameters.extend(STATE_COOKIE.to_be_bytes());
            parameters.extend((self.cookie.len() as u16 + 4).to_be_bytes());
            parameters.extend(&self.cookie);
            parameters.resize(parameters.len().next_multiple_of(4), 0);
        }
        let mut packet = [self.from.to_be_bytes(), self.to.to_be_bytes()].concat();
        packet.extend(self.tag.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend([self.chunk, 0]);
        packet.extend(((FIXED_BYTES + parameters.len()) as u16).to_be_bytes());
        packet.extend(self.own_tag.to_be_bytes());
        // Room for answers, streams out and in, the first number of data.
        packet.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        packet.extend(parameters);
        let sum = crc32c(&packet);
        packet[8..12].copy_from_slice(&sum.to_le_bytes());
        packet
    }

    /// None of a packet that is damaged, or none of ours.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let mut without_sum = bytes.to_vec();
        without_sum.get_mut(8..12)?.fill(0);
        if crc32c(&without_sum).to_le_bytes() != bytes[8..12] {
            return None;
        }
        let cookie = match short(12 + FIXED_BYTES) {
            Some(STATE_COOKIE) => {
                let start = 12 + FIXED_BYTES + 4;
                bytes.get(start..start + usize::from(short(start - 2)?).checked_sub(4)?)?.to_vec()
            }
            _ => Vec::new(),
        };
        Some(Self { from: short(0)?, to: short(2)?, tag: long(4)?, chunk: bytes[12], own_tag: long(16)?, cookie })
    }
}

/// The checksum of RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _: u8| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

/// All packets of the protocol that come to the current namespace.
struct Wire(Socket);

impl Wire {
    fn open(turn: Duration) -> Self {
        let socket =
            Socket::new(Domain::IPV4, Type::RAW, Some(PROTOCOL.into())).expect("tests of the network run as root");
        socket.set_read_timeout(Some(turn)).expect("can be set");
        Self(socket)
    }

    fn send(&self, to: Ipv4Addr, packet: &Packet) {
        self.0.send_to(&packet.encode(), &SocketAddrV4::new(to, 0).into()).expect("the kernel takes it");
    }

    /// The next packet within a turn, with its source and destination.
    fn receive(&mut self) -> Option<(Ipv4Addr, Ipv4Addr, Packet)> {
        let mut buffer = [0; 2048];
        let length = self.0.read(&mut buffer).ok()?;
        let header = usize::from(buffer[0] & 15) * 4;
        let address = |at: usize| Ipv4Addr::new(buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]);
        Some((address(12), address(16), Packet::decode(&buffer[header..length])?))
    }
}

/// Answers in the current namespace until it is to end.
fn serve(ended: &AtomicBool) {
    let mut wire = Wire::open(TURN);
    while !ended.load(Ordering::Relaxed) {
        let Some((peer, own, asked)) = wire.receive() else { continue };
        if asked.chunk == INIT && asked.to == SERVED_PORT {
            let cookie = format!("{own} to {peer}").into_bytes();
            let (from, to, tag) = (asked.to, asked.from, asked.own_tag);
            wire.send(peer, &Packet { from, to, tag, chunk: INIT_ACK, own_tag: 7, cookie });
        }
    }
}

/// What is answered to a client in the current namespace. The answer comes from where it was asked for, undamaged.
fn ask(server: &str, from: u16) -> String {
    let server: SocketAddrV4 = server.parse().expect("an address");
    let mut wire = Wire::open(TURN);
    let init = Packet { from, to: server.port(), tag: 0, chunk: INIT, own_tag: u32::from(from), cookie: Vec::new() };
    wire.send(*server.ip(), &init);
    for _ in 0..TURNS {
        let Some((peer, _, answer)) = wire.receive() else {
            wire.send(*server.ip(), &init);
            continue;
        };
        if answer.chunk == INIT_ACK && answer.to == from {
            assert_eq!((peer, answer.from, answer.tag), (*server.ip(), server.port(), u32::from(from)));
            return String::from_utf8_lossy(&answer.cookie).into_owned();
        }
    }
    "timed out".into()
}

#[test]
fn associations_are_led_to_endpoints() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of the checksum");
    in_own_namespace(|| {
        let mut world = World::new(2, &[Family::V4]);
        let spec = "type: LoadBalancer\nclusterIP: 10.96.1.1\nports:\n- {name: calls, port: 38412, protocol: SCTP, nodePort: 30412}";
        let service = |more: &str| {
            service_yaml("calls", &format!("{spec}\n{more}"))
                + "status:\n  loadBalancer:\n    ingress: [{ip: 203.0.113.5}]\n"
        };
        let slice = slice_yaml("calls", "{name: calls, port: 8080, protocol: SCTP}", &["10.244.0.2"]);
        world.apply(&[service(""), slice.clone()]);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| world.pods[0].namespace.run(|| serve(&ended)));
            let end = End(&ended);
            let (pod, outside) = (&world.pods[1].namespace, &world.client);
            assert_eq!(pod.run(|| ask("10.96.1.1:38412", 4001)), "10.244.0.2 to 10.244.0.3");
            assert_eq!(pod.run(|| ask("203.0.113.5:38412", 4002)), "10.244.0.2 to 10.244.0.1");
            assert_eq!(ask("10.96.1.1:38412", 4003), "10.244.0.2 to 10.244.0.1");
            assert_eq!(outside.run(|| ask("203.0.113.5:38412", 4004)), "10.244.0.2 to 10.244.0.1");
            assert_eq!(outside.run(|| ask(&format!("{NODE_ADDRESS}:30412"), 4005)), "10.244.0.2 to 10.244.0.1");
            drop(end);
        });
        world.apply(&[service("externalTrafficPolicy: Local"), slice]);
        ended.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| world.pods[0].namespace.run(|| serve(&ended)));
            let _end = End(&ended);
            let seen = world.client.run(|| ask(&format!("{NODE_ADDRESS}:30412"), 4006));
            assert_eq!(seen, format!("10.244.0.2 to {CLIENT_ADDRESS}"));
        });
    });
}

/// Lets the server end, also where the test does not go on.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
