//! What rolling updates are tried with: a web server of several pods, and a client that never pauses.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::http_get;

/// How often a client asks at most: whoever is much faster need not prove more.
const MOST_REQUESTS: usize = 20_000;

/// A Deployment `web` of so many pods that answer on port 8080.
pub fn web(replicas: usize) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  strategy: {{type: RollingUpdate, rollingUpdate: {{maxSurge: 1, maxUnavailable: 1}}}}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        image: localhost:5000/hello:v1
        readinessProbe: {{httpGet: {{path: /readyz, port: 8080}}, periodSeconds: 1}}
---
"
    )
}

/// A client that asks again and again.
pub struct Hammer {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Hammer {
    /// Begins to ask at `address`, `host:port`, each time on a new connection, as fast as it gets answers.
    pub fn start(address: String) -> Self {
        Self::with(MOST_REQUESTS, Duration::ZERO, move || http_get(&address, "/").map(drop))
    }

    /// The same with a pause after each answer, for as long as it takes.
    pub fn steady(address: String, pause: Duration) -> Self {
        Self::with(usize::MAX, pause, move || http_get(&address, "/").map(drop))
    }

    /// The same by one connection that is kept.
    pub fn on_one_connection(address: String, pause: Duration) -> Self {
        let mut connection = None;
        Self::with(usize::MAX, pause, move || {
            let mut stream = match connection.take() {
                Some(stream) => stream,
                None => BufReader::new(connect(&address)?),
            };
            ask(&mut stream)?;
            connection = Some(stream);
            Ok(())
        })
    }

    fn with(most: usize, pause: Duration, mut ask: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let (until, count) = (stop.clone(), asked.clone());
        let thread = std::thread::spawn(move || {
            let mut failed = Vec::new();
            while !until.load(Ordering::SeqCst) && count.load(Ordering::SeqCst) < most {
                if let Err(error) = ask() {
                    failed.push(format!("request {}: {error}", count.load(Ordering::SeqCst)));
                }
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(pause);
            }
            failed
        });
        Self { stop, asked, thread }
    }

    /// How often it has asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Ends it: how often it asked, and what failed.
    pub fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let failed = self.thread.join().expect("a client does not panic");
        (self.asked.load(Ordering::SeqCst), failed)
    }
}

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request on a connection that goes on after it.
fn ask(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
    let (mut status, mut length) = (String::new(), 0);
    if stream.read_line(&mut status)? == 0 {
        return Err(io::Error::other("the connection was closed"));
    }
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            None => break,
            Some(("content-length", text)) => length = text.parse().map_err(io::Error::other)?,
            Some(_) => {}
        }
    }
    io::copy(&mut stream.take(length), &mut io::sink())?;
    if status.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other(status)) }
}
