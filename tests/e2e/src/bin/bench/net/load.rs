//! Loads of TCP: requests by connections that are kept, connections for one request each, one large answer.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::inside::PATIENCE;
use crate::percentile;

/// What is asked for by loads of many requests, in bytes.
pub const ANSWER_BYTES: usize = 1024;

/// Requests for some time, each connection one at a time.
pub async fn keep(address: SocketAddr, connections: usize, time: Duration) -> Value {
    let request =
        format!("GET /{ANSWER_BYTES} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n");
    let begun = Instant::now();
    let each = move |_| {
        let request = request.clone();
        async move {
            let mut times: Vec<f64> = Vec::new();
            let mut stream = open(address).await?;
            let mut buffer = vec![0; 8192];
            while begun.elapsed() < time {
                let start = Instant::now();
                stream.write_all(request.as_bytes()).await?;
                timeout(PATIENCE, read_answer(&mut stream, &mut buffer)).await??;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            Ok(times)
        }
    };
    let (times, failed) = in_parallel(connections, each).await;
    told(begun, &times, &failed)
}

/// So many connections, some at a time, for one request each; the server closes them.
pub async fn connect(address: SocketAddr, at_a_time: usize, count: usize) -> Value {
    let left = Rc::new(Cell::new(count));
    let begun = Instant::now();
    let each = move |_| {
        let left = left.clone();
        async move {
            let mut times = Vec::new();
            let mut buffer = Vec::with_capacity(4096);
            while let Some(rest) = left.get().checked_sub(1) {
                left.set(rest);
                buffer.clear();
                let start = Instant::now();
                let mut stream = open(address).await?;
                stream.write_all(b"GET /100 HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n\r\n").await?;
                timeout(PATIENCE, stream.read_to_end(&mut buffer)).await??;
                if !buffer.starts_with(b"HTTP/1.1 200") {
                    return Err(std::io::Error::other("no answer"));
                }
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            Ok(times)
        }
    };
    let (times, failed) = in_parallel(at_a_time, each).await;
    told(begun, &times, &failed)
}

/// One answer of so many bytes.
pub async fn fetch(address: SocketAddr, bytes: usize) -> Value {
    let begun = Instant::now();
    let fetching = async {
        let mut stream = open(address).await?;
        stream.write_all(format!("GET /{bytes} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut buffer = vec![0; 256 << 10];
        let mut seen = 0;
        loop {
            match timeout(PATIENCE, stream.read(&mut buffer)).await?? {
                0 => return Ok::<usize, std::io::Error>(seen),
                read => seen += read,
            }
        }
    };
    match fetching.await {
        Ok(seen) if seen >= bytes => json!({"rate": bytes as f64 / begun.elapsed().as_secs_f64()}),
        Ok(seen) => json!({"failed": format!("{seen} bytes of {bytes}")}),
        Err(error) => json!({"failed": error.to_string()}),
    }
}

async fn open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads one answer of 200 with its length; nothing more can have come.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(std::io::Error::other("the connection was closed"));
        }
        filled += read;
        let Some(end) = buffer[..filled].windows(4).position(|part| part == b"\r\n\r\n") else { continue };
        if !buffer.starts_with(b"HTTP/1.1 200") {
            let line = buffer[..end].split(|byte| *byte == b'\r').next().unwrap_or_default();
            return Err(std::io::Error::other(String::from_utf8_lossy(line).into_owned()));
        }
        if filled - (end + 4) >= ANSWER_BYTES {
            return Ok(());
        }
    }
}

/// What several clients of one thread measured, and what they failed with.
async fn in_parallel<F>(clients: usize, each: impl Fn(usize) -> F) -> (Vec<f64>, Vec<String>)
where
    F: Future<Output = std::io::Result<Vec<f64>>> + 'static,
{
    let local = LocalSet::new();
    let (mut times, mut failed) = (Vec::new(), Vec::new());
    let mut all = JoinSet::new();
    for client in 0..clients {
        all.spawn_local_on(each(client), &local);
    }
    local
        .run_until(async {
            while let Some(ended) = all.join_next().await {
                match ended.expect("clients do not panic") {
                    Ok(more) => times.extend(more),
                    Err(error) => failed.push(error.to_string()),
                }
            }
        })
        .await;
    (times, failed)
}

/// Rates and times of what was done since then.
fn told(begun: Instant, times: &[f64], failed: &[String]) -> Value {
    if !failed.is_empty() || times.is_empty() {
        return json!({"failed": format!("{} clients failed, the first: {:?}", failed.len(), failed.first())});
    }
    let seconds = begun.elapsed().as_secs_f64();
    json!({"rate": times.len() as f64 / seconds, "count": times.len(),
        "p50": percentile(times, 0.5), "p99": percentile(times, 0.99)})
}
