//! The lease by which a server tells that it is there, and by which others of the same cluster know it.
//! See <https://kubernetes.io/docs/concepts/architecture/leases/#api-server-identity>.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skiff_base::{Timestamp, clock};
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::custom::keeper::send;
use crate::failure::Result;
use crate::server::ApiServer;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// Marks the leases of API servers.
const LABEL: &str = "apiserver.kubernetes.io/identity";
const PROGRAM: &str = "kube-apiserver";
/// How long a server is taken to be there after its last word, as upstream's.
const DURATION_SECONDS: i64 = 3600;
/// How often it gives word, as upstream's.
const RENEWAL: Duration = Duration::from_secs(10);
/// The leases of servers that are gone are looked for once in so many words.
const WORDS_PER_SWEEP: u64 = 360;

/// Keeps the lease of the server on this machine for as long as it serves.
pub async fn run(server: Weak<ApiServer>, hostname: String) {
    let name = name_of(&hostname);
    let mut holder = None;
    for word in 0u64.. {
        let Some(server) = server.upgrade() else { return };
        let holder = holder.get_or_insert_with(|| format!("{name}_{}", server.ids().uid()));
        let mut outcome = renew(&server, &name, holder, &hostname).await;
        if outcome.is_ok() && word.is_multiple_of(WORDS_PER_SWEEP) {
            outcome = sweep(&server).await;
        }
        if let Err(failure) = outcome {
            tracing::warn!(lease = name, why = failure.0.message, "the server's identity lease is not kept");
        }
        drop(server);
        tokio::time::sleep(RENEWAL).await;
    }
}

/// The same for every start on one machine.
fn name_of(hostname: &str) -> String {
    const HASHED_BYTES: usize = 16;
    let digest = ring::digest::digest(&ring::digest::SHA256, hostname.as_bytes());
    format!("apiserver-{}", base32(&digest.as_ref()[..HASHED_BYTES]))
}

/// RFC 4648's base32 in small letters, without padding.
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    let groups = (bytes.len() * 8).div_ceil(5);
    let letter = |group: usize| (0..5).fold(0, |value, at| value << 1 | bit(group * 5 + at));
    (0..groups).map(|group| char::from(LETTERS[usize::from(letter(group))])).collect()
}

/// The lease as it is to be, made from the one that is there.
fn lease(there: Option<Object>, name: &str, holder: &str, hostname: &str, now: Timestamp) -> Object {
    let labels = json!({LABEL: PROGRAM, "kubernetes.io/hostname": hostname});
    let mut lease = there.unwrap_or_else(|| json!({"metadata": {"name": name, "namespace": "kube-system"}}));
    lease["metadata"]["labels"] = labels;
    lease["spec"] = json!({"holderIdentity": holder, "leaseDurationSeconds": DURATION_SECONDS,
        "renewTime": clock::rfc3339_micro(now)});
    lease
}

async fn renew(server: &Arc<ApiServer>, name: &str, holder: &str, hostname: &str) -> Result<()> {
    let path = format!("{LEASES}/{name}");
    let now = server.clock().now();
    match send(server, Method::GET, &path, &Value::Null).await {
        Ok(there) => send(server, Method::PUT, &path, &lease(Some(there), name, holder, hostname, now)).await?,
        Err(failure) if failure.0.code == 404 => {
            send(server, Method::POST, LEASES, &lease(None, name, holder, hostname, now)).await?
        }
        Err(failure) => return Err(failure),
    };
    Ok(())
}

/// Whether the server that a lease is of has been silent for too long.
fn is_over(lease: &Object, now: Timestamp) -> bool {
    let renewed = lease.str_at(&["spec", "renewTime"]).parse::<Timestamp>();
    let seconds = lease.int_at(&["spec", "leaseDurationSeconds"]).unwrap_or(DURATION_SECONDS);
    renewed.map_or(true, |renewed| now.duration_since(renewed).as_secs() > seconds)
}

/// Removes the leases of servers that are gone.
async fn sweep(server: &Arc<ApiServer>) -> Result<()> {
    let all = send(server, Method::GET, &format!("{LEASES}?labelSelector={LABEL}%3D{PROGRAM}"), &Value::Null).await?;
    let now = server.clock().now();
    for lease in all.list_at(&["items"]).iter().filter(|lease| is_over(lease, now)) {
        let options = json!({"preconditions": {"resourceVersion": lease.resource_version()}});
        send(server, Method::DELETE, &format!("{LEASES}/{}", lease.name()), &options).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hashes_of_hostnames() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(name_of("a").len(), "apiserver-".len() + 26);
        assert_ne!(name_of("a"), name_of("b"));
    }

    #[test]
    fn leases_are_renewed_in_place_and_run_out() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        let first = lease(None, "n", "n_1", "host", now);
        let mut there = first.clone();
        there["metadata"]["uid"] = "u".into();
        let again = lease(Some(there), "n", "n_2", "host", now);
        assert_eq!((again.uid(), again["spec"]["holderIdentity"].as_str()), ("u", Some("n_2")));
        assert_eq!(again["spec"]["renewTime"], "2026-01-02T03:04:05.000000Z");
        let later = |seconds: u64| now + Duration::from_secs(seconds);
        assert_eq!([10, 3600, 3601].map(|seconds| is_over(&first, later(seconds))), [false, false, true]);
    }
}
