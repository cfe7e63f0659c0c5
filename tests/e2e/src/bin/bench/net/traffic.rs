//! What a Service's address costs: the same server, asked by its own address and by its Service's, in turns.

use serde_json::json;

use super::place::{Place, SERVER_CORE};
use super::{compare, node, number, waiting_pod};

const ROUNDS: usize = 7;
const BYTES: usize = 1 << 29;
/// Few enough that the table of connections, which keeps each for two minutes, has room for all turns.
const CONNECTIONS: usize = 1000;
const AT_A_TIME: usize = 16;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
";

/// From a pod, and from the node itself.
pub fn measure(share: u32) {
    let cluster = node("bench-traffic");
    cluster.create(SERVICE);
    let address = waiting_pod(&cluster, "server", json!({}));
    waiting_pod(&cluster, "client", json!({}));
    let own = format!("{address}:8080");
    let service = cluster.get("svc server")["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned() + ":80";
    let _server = Place::of_pod(&cluster, "server").start(SERVER_CORE, &["serve", "0.0.0.0:8080"]);
    let places = [("a pod", Place::of_pod(&cluster, "client")), ("the node", Place::of_node(&cluster, &cluster.name))];
    for (who, place) in places {
        skiff_e2e::cluster::eventually("the Service answers", || place.try_load(&["fetch", &service, "1"]).is_ok());
        let bytes = (BYTES / share as usize).to_string();
        let of = |address: &str| number(&place.load(&["fetch", address, &bytes]), "rate") / 1e6;
        let rates = in_turns(|| of(&service), || of(&own));
        compare(&format!("one large answer, asked from {who}"), "MB/s", ("Service", &rates.0), ("direct", &rates.1));
        let count = (CONNECTIONS / share as usize).to_string();
        let of = |address: &str| number(&place.load(&["connect", address, &AT_A_TIME.to_string(), &count]), "rate");
        let rates = in_turns(|| of(&service), || of(&own));
        compare(&format!("connections, made from {who}"), "/s", ("Service", &rates.0), ("direct", &rates.1));
    }
}

/// Measures one and the other in turns, beginning with each as often; the first pair warms up and is left out.
pub fn in_turns(mut ours: impl FnMut() -> f64, mut theirs: impl FnMut() -> f64) -> (Vec<f64>, Vec<f64>) {
    let mut figures = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (one, other);
        if round % 2 == 0 {
            one = ours();
            other = theirs();
        } else {
            other = theirs();
            one = ours();
        }
        if round > 0 {
            figures.0.push(one);
            figures.1.push(other);
        }
    }
    figures
}
