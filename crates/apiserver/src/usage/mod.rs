//! `metrics.k8s.io`: what nodes and Pods use now, from the nodes' own figures.
//! Nothing is gathered ahead: a request asks the nodes' agents, and the answer is good for [`FRESH`]. A group that is
//! registered as another server's (an APIService with a service) is not answered here.
//! See <https://kubernetes.io/docs/tasks/debug/debug-cluster/resource-metrics-pipeline/>.

mod kinds;
mod sample;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::rfc3339;
use skiff_object::meta::Meta;
use skiff_object::{GroupResource, Object, Status};

use crate::call::Call;
use crate::failure::Result;
use crate::http::answer::Answer;
use crate::read::present;
use crate::server::ApiServer;
use crate::storage::cache::ResourceCache;
use crate::storage::filter::Filter;
use crate::tunnel;
use sample::{Figures, Sample};

pub use kinds::{GROUP, VERSION, definitions, objects, service_name};

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(15);
/// A rate over longer than this says little of now: a second sample is taken at once.
const LONGEST_WINDOW: Duration = Duration::from_secs(90);
/// How far apart two samples are where there was none to compare with.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
/// Where an agent tells its figures.
const PATH: &str = "/metrics/resource";

/// What is known of the nodes' use, by node.
#[derive(Default)]
pub struct Gathered {
    nodes: parking_lot::Mutex<HashMap<String, Arc<tokio::sync::Mutex<OfNode>>>>,
}

#[derive(Default)]
struct OfNode {
    last: Option<Sample>,
    /// What the last two samples say, and when the later one was taken.
    figures: Option<(Arc<Figures>, Duration)>,
}

/// Answers a get or a list.
pub async fn answer(server: &ApiServer, call: &Call) -> Result<Answer> {
    server.hub.fresh().await?;
    if call.info.resource == "nodes" { nodes(server, call).await } else { pods(server, call).await }
}

fn cache(server: &ApiServer, plural: &str) -> Result<Arc<ResourceCache>> {
    server.catalogue.cache("", plural).ok_or_else(|| Status::no_such_path().into())
}

/// The nodes or Pods that are asked for.
fn chosen(call: &Call, cache: &ResourceCache) -> Result<Vec<Object>> {
    let (namespace, query) = (&call.info.namespace, &call.query);
    if !call.info.name.is_empty() {
        return Ok(cache.object(namespace, &call.info.name)?.into_iter().collect());
    }
    let filter =
        Filter::new(&cache.def, &cache.def, namespace, query.text("labelSelector"), query.text("fieldSelector"))?;
    cache.objects(&filter)
}

fn present(call: &Call, mut objects: Vec<Object>, resource: &str) -> Result<Answer> {
    if call.info.name.is_empty() {
        return Ok(present::list_answer(call, &objects));
    }
    let Some(object) = objects.pop() else {
        let key = [call.info.namespace.as_str(), call.info.name.as_str()];
        let name = key.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        return Err(Status::not_found(&GroupResource::new(GROUP, resource), &name).into());
    };
    present::object_answer(call, 200, &object)
}

async fn nodes(server: &ApiServer, call: &Call) -> Result<Answer> {
    let nodes = chosen(call, &*cache(server, "nodes")?)?;
    let all = join_all(nodes.iter().map(|node| figures(server, node.name()))).await;
    let told = nodes.iter().zip(all).filter_map(|(node, figures)| {
        let figures = figures?;
        let usage = figures.node.as_ref()?;
        let mut object = head("NodeMetrics", node, &figures, call.now);
        object["usage"] = usage.tree();
        Some(object)
    });
    present(call, told.collect(), "nodemetrics")
}

async fn pods(server: &ApiServer, call: &Call) -> Result<Answer> {
    let pods = chosen(call, &*cache(server, "pods")?)?;
    let node_of = |pod: &Object| pod.str_at(&["spec", "nodeName"]).to_owned();
    let mut names: Vec<String> = pods.iter().map(node_of).filter(|node| !node.is_empty()).collect();
    names.sort();
    names.dedup();
    let all = join_all(names.iter().map(|node| figures(server, node))).await;
    let by_node: HashMap<&String, Arc<Figures>> =
        names.iter().zip(all).filter_map(|(node, figures)| Some((node, figures?))).collect();
    let told = pods.iter().filter_map(|pod| {
        let figures = by_node.get(&node_of(pod))?;
        let containers = figures.pods.get(&(pod.namespace().to_owned(), pod.name().to_owned()))?;
        let mut object = head("PodMetrics", pod, figures, call.now);
        let containers = containers.iter().map(|(name, usage)| json!({"name": name, "usage": usage.tree()}));
        object["containers"] = containers.collect();
        Some(object)
    });
    present(call, told.collect(), "podmetrics")
}

fn head(kind: &str, of: &Object, figures: &Figures, now: Timestamp) -> Value {
    let mut metadata = json!({"name": of.name(), "creationTimestamp": rfc3339(now)});
    if !of.namespace().is_empty() {
        metadata["namespace"] = of.namespace().into();
    }
    if let Some(labels) = of.at(&["metadata", "labels"]) {
        metadata["labels"] = labels.clone();
    }
    json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/{}", kinds::VERSION),
        "metadata": metadata,
        "timestamp": rfc3339(figures.at),
        "window": format!("{:.3}s", figures.window.as_secs_f64()),
    })
}

/// What a node uses; nothing where its agent cannot be asked. Requests that come meanwhile wait for the same answer.
async fn figures(server: &ApiServer, node: &str) -> Option<Arc<Figures>> {
    let of_node = server.gathered.nodes.lock().entry(node.to_owned()).or_default().clone();
    let mut of_node = of_node.lock().await;
    let now = server.clock().monotonic();
    if let Some((figures, at)) = &of_node.figures
        && now.saturating_sub(*at) < FRESH
    {
        return Some(figures.clone());
    }
    match renew(server, node, &mut of_node).await {
        Ok(figures) => Some(figures),
        Err(failure) => {
            tracing::debug!(node, why = failure.0.message, "a node does not tell what it uses");
            None
        }
    }
}

async fn renew(server: &ApiServer, node: &str, of_node: &mut OfNode) -> Result<Arc<Figures>> {
    let mut newest = take(server, node).await?;
    let usable = of_node.last.as_ref().filter(|last| {
        let apart = newest.taken.saturating_sub(last.taken);
        (SHORTEST_WINDOW..LONGEST_WINDOW).contains(&apart)
    });
    let figures = match usable {
        Some(last) => newest.since(last),
        None => {
            tokio::time::sleep(SHORTEST_WINDOW).await;
            let first = std::mem::replace(&mut newest, take(server, node).await?);
            newest.since(&first)
        }
    };
    let figures = Arc::new(figures);
    of_node.figures = Some((figures.clone(), newest.taken));
    of_node.last = Some(newest);
    Ok(figures)
}

async fn take(server: &ApiServer, node: &str) -> Result<Sample> {
    let text = tunnel::ask_agent(server, node, PATH).await?;
    Ok(Sample::read(&text, server.clock().now(), server.clock().monotonic()))
}
