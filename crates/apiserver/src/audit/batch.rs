//! Records in batches to a program of the user's, which may be slow or away: requests never wait for it.
//! See <https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/#webhook-backend>.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;

use crate::webhook::remote::{Remote, Settings};

/// How many records wait at most, as upstream's.
const BUFFER: usize = 10_000;
/// How many go together at most.
const BATCH: usize = 400;
/// How long the first of a batch waits for others at most.
const WAIT: Duration = Duration::from_secs(30);
/// How long one batch may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait after a failure, and by how much more after each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const BACKOFF_FACTOR: f64 = 1.5;
/// How often a batch is tried before it is given up.
const TRIES: u32 = 5;

/// The way to the program.
pub struct Batches {
    queue: mpsc::Sender<Bytes>,
    sending: JoinHandle<()>,
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.sending.abort();
    }
}

impl Batches {
    /// Sends from now on; must be called within a runtime.
    pub fn start(settings: Settings) -> Self {
        let (queue, waiting) = mpsc::channel(BUFFER);
        Self { queue, sending: tokio::spawn(send_all(Remote::new(settings), waiting)) }
    }

    /// Takes a record, if there is room.
    ///
    /// # Errors
    /// There is none: the program is too slow or away.
    pub fn add(&self, record: Bytes) -> Result<(), &'static str> {
        self.queue.try_send(record).map_err(|error| match error {
            TrySendError::Full(_) => "audit buffer queue blocked",
            TrySendError::Closed(_) => "audit backend shut down",
        })
    }
}

async fn send_all(remote: Remote, mut waiting: mpsc::Receiver<Bytes>) {
    while let Some(first) = waiting.recv().await {
        let mut batch = vec![first];
        let until = tokio::time::Instant::now() + WAIT;
        while batch.len() < BATCH {
            match tokio::time::timeout_at(until, waiting.recv()).await {
                Ok(Some(record)) => batch.push(record),
                Ok(None) | Err(_) => break,
            }
        }
        send(&remote, &list(&batch), batch.len()).await;
    }
}

async fn send(remote: &Remote, list: &Bytes, records: usize) {
    let mut wait = FIRST_BACKOFF;
    for again in (0..TRIES).rev() {
        match remote.post(list.clone(), TIMEOUT).await {
            Ok(_) => return,
            Err(why) if again == 0 => tracing::error!(why, records, "audit records are lost"),
            Err(why) => {
                tracing::warn!(why, records, "audit records cannot be sent yet");
                tokio::time::sleep(wait).await;
                wait = wait.mul_f64(BACKOFF_FACTOR);
            }
        }
    }
}

/// An `EventList` of encoded records.
fn list(records: &[Bytes]) -> Bytes {
    let mut text = BytesMut::new();
    text.put_slice(br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#);
    for (index, record) in records.iter().enumerate() {
        if index > 0 {
            text.put_u8(b',');
        }
        text.put_slice(record);
    }
    text.put_slice(b"]}");
    text.freeze()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::{BodyExt, Full};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn a_full_batch_is_sent_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = format!("http://{}/audit", listener.local_addr().expect("an address"));
        let (told, mut heard) = mpsc::channel::<Value>(1);
        let told = Arc::new(told);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let told = told.clone();
                async move {
                    assert_eq!(request.uri().path(), "/audit");
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    told.send(serde_json::from_slice(&body).expect("JSON")).await.expect("heard");
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::new())))
                }
            });
            let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            serving.await.expect("served");
        });
        let config = json!({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k"}}],
            "clusters": [{"name": "k", "cluster": {"server": server}}]});
        let batches = Batches::start(Settings::read(&config).expect("settings"));
        for index in 0..BATCH {
            batches.add(format!("{{\"i\":{index}}}").into()).expect("room");
        }
        let list = heard.recv().await.expect("a list");
        assert_eq!(list["items"].as_array().map(Vec::len), Some(BATCH));
        assert_eq!(list["items"][BATCH - 1], json!({"i": BATCH - 1}));
    }

    #[test]
    fn records_become_a_list() {
        let records = [Bytes::from_static(b"{\"a\":1}"), Bytes::from_static(b"{}")];
        let read: serde_json::Value = serde_json::from_slice(&list(&records)).expect("JSON");
        assert_eq!(read["kind"], "EventList");
        assert_eq!(read["items"], serde_json::json!([{"a": 1}, {}]));
    }
}
