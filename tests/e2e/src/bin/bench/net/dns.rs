//! Questions to the cluster's DNS and to unbound, which serves the same names.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// A datagram that is answered later than this is lost.
const LOST: Duration = Duration::from_secs(1);
/// The first bytes of a question: a number, recursion desired, one question.
const HEAD: [u8; 12] = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
const TYPE_A: [u8; 4] = [0, 1, 0, 1];
/// How many sockets ask.
const SOCKETS: usize = 4;

/// Asks for the names of a file, so many at a time, and for the first of them once more, whose answer is told.
pub async fn ask(address: SocketAddr, names: &str, in_flight: usize, time: Duration) -> Value {
    let names = std::fs::read_to_string(names).expect("a file of names");
    let questions: Vec<Vec<u8>> = names.lines().map(question).collect();
    let begun = Instant::now();
    let asking = (0..SOCKETS).map(|socket| {
        let questions = questions.clone();
        tokio::spawn(async move { ask_by_one(address, &questions, socket, in_flight / SOCKETS, begun, time).await })
    });
    let (mut answered, mut lost) = (0, 0);
    for one in asking.collect::<Vec<_>>() {
        match one.await.expect("who asks does not panic") {
            Ok((seen, gone)) => (answered, lost) = (answered + seen, lost + gone),
            Err(error) => return json!({"failed": error.to_string()}),
        }
    }
    json!({"rate": answered as f64 / begun.elapsed().as_secs_f64(), "count": answered, "lost": lost})
}

async fn ask_by_one(
    address: SocketAddr,
    questions: &[Vec<u8>],
    first: usize,
    in_flight: usize,
    begun: Instant,
    time: Duration,
) -> std::io::Result<(usize, usize)> {
    let socket = UdpSocket::bind((if address.ip().is_loopback() { "127.0.0.1" } else { "0.0.0.0" }, 0)).await?;
    socket.connect(address).await?;
    let mut next = questions.iter().cycle().skip(first * 17);
    let (mut answered, mut lost, mut under_way) = (0, 0, 0);
    let mut buffer = [0; 1500];
    while begun.elapsed() < time {
        while under_way < in_flight {
            socket.send(next.next().expect("there are names")).await?;
            under_way += 1;
        }
        match timeout(LOST, socket.recv(&mut buffer)).await {
            Err(_) => (lost, under_way) = (lost + under_way, 0),
            Ok(length) => {
                let length = length?;
                under_way = under_way.saturating_sub(1);
                // No error, and one answer at least.
                if length < HEAD.len() || buffer[3] & 0xf != 0 || buffer[7] == 0 {
                    return Err(std::io::Error::other(format!("a bad answer: {:?}", &buffer[..length.min(12)])));
                }
                answered += 1;
            }
        }
    }
    Ok((answered, lost))
}

fn question(name: &str) -> Vec<u8> {
    let mut bytes = HEAD.to_vec();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(TYPE_A);
    bytes
}
