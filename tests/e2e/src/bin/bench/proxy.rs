//! Pods made and watched over `kubectl proxy`, so that no program's start-up time is in the figures.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use skiff_e2e::Cluster;

/// Nothing that is measured takes longer.
const PATIENCE: Duration = Duration::from_secs(150);
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A running `kubectl proxy`; ends with the value.
pub struct Proxy {
    child: Child,
    address: String,
}

impl Proxy {
    /// Starts it on a free port.
    pub fn start(cluster: &Cluster) -> Self {
        let mut child = cluster
            .kubectl_command(&["proxy", "--port=0", "--reject-paths=^$"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl is installed");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("kubectl proxy says where it listens");
        let address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        Self { child, address }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("kubectl proxy listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a duration above zero");
        stream.set_nodelay(true).expect("a TCP socket");
        // HTTP/1.0 knows no chunks, so that a watch's lines come whole.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).expect("kubectl proxy reads");
        stream
    }

    fn request(&self, method: &str, path: &str, body: &str) -> String {
        let mut text = String::new();
        self.send(method, path, body).read_to_string(&mut text).expect("kubectl proxy answers");
        assert!(text.starts_with("HTTP/1.0 2"), "{method} {path}: {text}");
        text
    }

    /// Creates the pods and waits until a watch has seen all of them Running; the time from the first create.
    pub fn run_pods(&self, pods: &[Value]) -> Duration {
        let mut waiting: HashSet<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        let mut watch = BufReader::new(self.send("GET", &format!("{PODS}?watch=true&labelSelector=app%3Dbench"), ""));
        let mut line = String::new();
        while watch.read_line(&mut line).expect("the watch begins") > 0 && line.trim() != "" {
            line.clear();
        }
        let start = Instant::now();
        std::thread::scope(|scope| {
            let make = |part: &[Value]| part.iter().for_each(|pod| drop(self.request("POST", PODS, &pod.to_string())));
            for part in pods.chunks(pods.len().div_ceil(8)) {
                scope.spawn(move || make(part));
            }
            // Read while they are made: a watch that is not read is ended.
            while !waiting.is_empty() {
                line.clear();
                assert!(start.elapsed() < PATIENCE, "{} of {} pods do not run", waiting.len(), pods.len());
                assert!(watch.read_line(&mut line).expect("the watch goes on") > 0, "the watch ended");
                let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
                if event["object"]["status"]["phase"] == "Running" {
                    waiting.remove(event["object"]["metadata"]["name"].as_str().unwrap_or_default());
                }
            }
        });
        start.elapsed()
    }

    /// Deletes all pods and waits until they are gone.
    pub fn delete_pods(&self) {
        let selected = format!("{PODS}?labelSelector=app%3Dbench");
        self.request("DELETE", &selected, "");
        let start = Instant::now();
        while !self.request("GET", &selected, "").contains("\"items\":[]") {
            assert!(start.elapsed() < PATIENCE, "the pods do not go");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map(drop)
            .unwrap_or_else(|error| eprintln!("proxy: {error}"));
    }
}
