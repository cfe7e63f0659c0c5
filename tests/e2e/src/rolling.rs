//! What rolling updates are tried with: a web server of several pods, and a client that never pauses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

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

/// A client that asks again and again, each time on a new connection.
pub struct Hammer {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Hammer {
    /// Begins to ask at `address`, `host:port`.
    pub fn start(address: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let (until, count) = (stop.clone(), asked.clone());
        let thread = std::thread::spawn(move || {
            let mut failed = Vec::new();
            while !until.load(Ordering::SeqCst) && count.load(Ordering::SeqCst) < MOST_REQUESTS {
                if let Err(error) = http_get(&address, "/") {
                    failed.push(format!("request {}: {error}", count.load(Ordering::SeqCst)));
                }
                count.fetch_add(1, Ordering::SeqCst);
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
