//! Clients that take their time with what they say, or with what they are told: their connections end by themselves,
//! and others go on meanwhile. Time is the test's own.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::served::{line, silent_line, until_end};
use crate::smuggling::h2;
use crate::support::Cluster;

/// Seconds until the other side ends the connection, and all that it said.
async fn ends(stream: &mut (impl AsyncRead + Unpin)) -> (u64, String) {
    let began = Instant::now();
    let said = until_end(stream).await;
    (began.elapsed().as_secs(), String::from_utf8_lossy(&said).into_owned())
}

/// Says something a byte a second, until nobody listens any more.
async fn dribble(stream: &mut (impl AsyncWrite + Unpin)) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let written = async {
            stream.write_all(b"x").await?;
            stream.flush().await
        };
        if written.await.is_err() {
            return;
        }
    }
}

/// That somebody else is answered, in no time.
async fn others_go_on(cluster: &Cluster) {
    let began = Instant::now();
    let mut stream = line(cluster, "http/1.1").await;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("taken");
    let (_, said) = ends(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    let cluster = Cluster::new().await;
    let mut stream = silent_line(&cluster);
    others_go_on(&cluster).await;
    assert_eq!(ends(&mut stream).await, (10, String::new()), "no handshake");
    let mut stream = line(&cluster, "http/1.1").await;
    others_go_on(&cluster).await;
    assert_eq!(ends(&mut stream).await, (30, String::new()), "no request");
    let mut stream = line(&cluster, "h2").await;
    stream.write_all(&h2::hello(None)).await.expect("taken");
    others_go_on(&cluster).await;
    let (seconds, _) = ends(&mut stream).await;
    // Whoever does not answer that either is cut off.
    assert!((90..=92).contains(&seconds), "no request: {seconds}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_not_waited_for() {
    let cluster = Cluster::new().await;
    let mut stream = line(&cluster, "http/1.1").await;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nx: ").await.expect("taken");
    others_go_on(&cluster).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let (told, ()) = tokio::join!(ends(&mut read), dribble(&mut write));
    assert_eq!(told, (30, String::new()));
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_not_waited_for() {
    let cluster = Cluster::new().await;
    let mut stream = line(&cluster, "http/1.1").await;
    let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("taken");
    others_go_on(&cluster).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let ((seconds, said), ()) = tokio::join!(ends(&mut read), dribble(&mut write));
    assert_eq!(seconds, 34);
    assert!(said.starts_with("HTTP/1.1 504"), "{said}");
}

/// Much to read, a few megabytes.
async fn fill(cluster: &Cluster) {
    for number in 0..12 {
        let object = json!({"metadata": {"name": format!("big{number}")}, "data": {"k": "x".repeat(500_000)}});
        cluster.tree(&format!("POST /api/v1/namespaces/default/configmaps\n\n{object}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_ends() {
    let cluster = Cluster::new().await;
    fill(&cluster).await;
    let list = "/api/v1/namespaces/default/configmaps";
    let mut stream = line(&cluster, "http/1.1").await;
    let request = format!("GET {list} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("taken");
    stream.flush().await.expect("taken");
    others_go_on(&cluster).await;
    tokio::time::sleep(Duration::from_secs(93)).await;
    let (seconds, said) = ends(&mut stream).await;
    assert_eq!(seconds, 0, "it has ended before");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(said.len() < 1_000_000, "no more was encoded than fits: {}", said.len());

    // Not even a small answer is taken here: there is no room for one byte of it.
    let mut stream = line(&cluster, "h2").await;
    stream.write_all(&h2::hello(Some(0))).await.expect("taken");
    for (id, path) in [(1, list), (3, "/version")] {
        stream.write_all(&h2::request(id, "GET", path, true)).await.expect("taken");
    }
    others_go_on(&cluster).await;
    let (seconds, _) = ends(&mut stream).await;
    assert!((90..=92).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_waited_for_until_too_much_waits() {
    /// More than may wait for one who watches, in changes.
    const CHANGES: usize = 3000;
    let cluster = Cluster::new().await;
    let mut stream = line(&cluster, "http/1.1").await;
    let request = "GET /api/v1/namespaces/default/configmaps?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("taken");
    stream.flush().await.expect("taken");
    tokio::time::sleep(Duration::from_secs(600)).await;
    fill(&cluster).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let mut said = Vec::new();
    while !said.windows(5).any(|part| part == b"big11") {
        let mut piece = [0; 64 * 1024];
        let count = stream.read(&mut piece).await.expect("the watch goes on");
        assert!(count > 0, "the watch goes on");
        said.extend_from_slice(&piece[..count]);
    }
    let object = json!({"metadata": {"name": "small"}, "data": {"k": "x".repeat(1000)}});
    cluster.tree(&format!("POST /api/v1/namespaces/default/configmaps\n\n{object}")).await;
    for number in 0..CHANGES {
        let patch = json!({"data": {"n": number.to_string()}});
        let head = "PATCH /api/v1/namespaces/default/configmaps/small\nContent-Type: application/merge-patch+json";
        cluster.tree(&format!("{head}\n\n{patch}")).await;
    }
    let (_, rest) = ends(&mut stream).await;
    let last = format!("\"n\":\"{}\"", CHANGES - 1);
    assert!(!rest.contains(&last), "it was ended before");
}
