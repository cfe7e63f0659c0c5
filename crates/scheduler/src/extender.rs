//! Extenders: servers of others that have a say in which node a Pod gets, are asked whom to evict, or bind it themselves.
//! What is sent and how answers are read is decided here, without a connection; whoever starts the scheduler gives it
//! a way to send.
//! See <https://kubernetes.io/docs/concepts/extend-kubernetes/#scheduling-extensions>.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Node};
use serde_json::{Value, json};

use crate::pod::PodInfo;

/// The name under which they count among the plugins that turned a Pod down.
pub const NAME: &str = "Extender";
/// Theirs go from 0 to 10, those of plugins from 0 to 100.
const SCORE_FACTOR: i64 = 10;

/// An answer to a request: its code and its body.
pub type Answer = Result<(u16, Vec<u8>), String>;
/// Sends a body to a URL by POST.
pub type Post = Arc<dyn Fn(String, Vec<u8>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// With what certificates an extender is asked, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtenderTls {
    /// Whether whoever answers is believed.
    pub insecure: bool,
    /// The name that its certificate must have, where that is not the URL's.
    pub server_name: String,
    /// Its authority; empty for those of the system.
    pub ca: Vec<u8>,
    /// What we show.
    pub certificate: Vec<u8>,
    /// The key of that.
    pub key: Vec<u8>,
}

/// An extender as it is configured.
#[derive(Clone, Default)]
pub struct Extender {
    /// Where it is; verbs are added to it.
    pub url_prefix: String,
    /// The verbs; empty where it has no say.
    pub filter_verb: String,
    /// For scores.
    pub prioritize_verb: String,
    /// For who has to go.
    pub preempt_verb: String,
    /// For binding.
    pub bind_verb: String,
    /// What its scores count.
    pub weight: i64,
    /// How it is spoken to.
    pub tls: ExtenderTls,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether it knows the nodes by their names.
    pub node_cache_capable: bool,
    /// It is asked about Pods with these resources only; about all where there are none.
    pub managed_resources: Vec<String>,
    /// Whether Pods are scheduled where it does not answer.
    pub ignorable: bool,
    /// The way to it.
    pub post: Option<Post>,
}

impl std::fmt::Debug for Extender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extender").field("url_prefix", &self.url_prefix).field("weight", &self.weight).finish()
    }
}

/// What is left of the nodes that plugins found good.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// Those that may take the Pod.
    pub left: Vec<String>,
    /// Why others may not, where evicting Pods might help.
    pub failed: BTreeMap<String, String>,
    /// Why others may not, whoever goes.
    pub unresolvable: BTreeMap<String, String>,
}

/// What all extenders said of the nodes that plugins found good.
#[derive(Debug, Default)]
pub struct Opinion {
    /// Those that may take the Pod.
    pub left: Vec<String>,
    /// What they count more for it.
    pub scores: BTreeMap<String, i64>,
    /// Why others may not, where evicting Pods might help.
    pub failed: BTreeMap<String, String>,
    /// Why others may not, whoever goes.
    pub unresolvable: BTreeMap<String, String>,
}

/// Asks all extenders that are interested which of the nodes may take the Pod, and how good they are.
///
/// # Errors
/// One that must not be passed over did not answer which.
pub async fn consult(extenders: &[Extender], pod: &PodInfo, nodes: &[Arc<Node>]) -> Result<Opinion, String> {
    let mut nodes = nodes.to_vec();
    let mut opinion = Opinion::default();
    let asked = |extender: &&Extender| !extender.filter_verb.is_empty() && extender.is_interested(pod);
    for extender in extenders.iter().filter(asked) {
        if nodes.is_empty() {
            break;
        }
        match extender.filter(pod, &nodes).await {
            Ok(filtered) => {
                opinion.failed.extend(filtered.failed);
                opinion.unresolvable.extend(filtered.unresolvable);
                nodes.retain(|node| node.metadata.name.as_ref().is_some_and(|name| filtered.left.contains(name)));
            }
            Err(error) if extender.ignorable => {
                tracing::info!(extender = extender.url_prefix, error, "extender is passed over");
            }
            Err(error) => return Err(error),
        }
    }
    // One node needs no scores.
    let asked = |extender: &&Extender| !extender.prioritize_verb.is_empty() && extender.is_interested(pod);
    for extender in extenders.iter().filter(asked).filter(|_| nodes.len() > 1) {
        match extender.prioritize(pod, &nodes).await {
            Ok(scores) => {
                scores.into_iter().for_each(|(node, score)| *opinion.scores.entry(node).or_default() += score)
            }
            Err(error) => tracing::info!(extender = extender.url_prefix, error, "extender gives no scores"),
        }
    }
    opinion.left = nodes.iter().filter_map(|node| node.metadata.name.clone()).collect();
    Ok(opinion)
}

/// Asks all extenders that are interested where room may be made for the Pod.
///
/// # Errors
/// One that must not be passed over did not answer, or what makes no sense.
pub async fn consult_rooms(extenders: &[Extender], pod: &PodInfo, mut rooms: Vec<Room>) -> Result<Vec<Room>, String> {
    for extender in extenders.iter().filter(|extender| extender.preempts_for(pod)) {
        match extender.preempt(pod, &rooms).await.and_then(|victims| extender.narrow(&rooms, victims)) {
            Ok(narrowed) => rooms = narrowed,
            Err(error) if extender.ignorable => {
                tracing::info!(extender = extender.url_prefix, error, "extender is passed over");
            }
            Err(error) => return Err(error),
        }
        if rooms.is_empty() {
            break;
        }
    }
    Ok(rooms)
}

/// Has the first extender bind the Pod that does so; false where none does.
///
/// # Errors
/// It could not.
pub async fn bind(extenders: &[Extender], pod: &PodInfo, node: &str) -> Result<bool, String> {
    for extender in extenders.iter().filter(|extender| extender.binds(pod)) {
        match extender.bind(pod, node).await {
            Ok(()) => return Ok(true),
            Err(error) if extender.ignorable => {
                tracing::info!(extender = extender.url_prefix, error, "extender is passed over");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Nodes, each with the UIDs of those who would have to go and the number of budgets that this would break.
pub type Victims = BTreeMap<String, (Vec<String>, i64)>;

impl Extender {
    /// Whether it is asked about the Pod.
    pub fn is_interested(&self, pod: &PodInfo) -> bool {
        let spec = pod.pod.spec.as_ref();
        let containers = spec.map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let managed = |container: &Container| {
            let resources = container.resources.as_ref();
            let requests = resources.and_then(|resources| resources.requests.as_ref());
            let limits = resources.and_then(|resources| resources.limits.as_ref());
            requests
                .into_iter()
                .chain(limits)
                .flat_map(BTreeMap::keys)
                .any(|name| self.managed_resources.contains(name))
        };
        self.managed_resources.is_empty() || containers.into_iter().flatten().any(managed)
    }

    /// Whether it has a say in where the Pod goes.
    pub fn chooses_for(&self, pod: &PodInfo) -> bool {
        !(self.filter_verb.is_empty() && self.prioritize_verb.is_empty()) && self.is_interested(pod)
    }

    /// Whether it is asked who has to go for the Pod.
    pub fn preempts_for(&self, pod: &PodInfo) -> bool {
        !self.preempt_verb.is_empty() && self.is_interested(pod)
    }

    /// Whether it binds the Pod.
    pub fn binds(&self, pod: &PodInfo) -> bool {
        !self.bind_verb.is_empty() && self.is_interested(pod)
    }

    async fn send(&self, verb: &str, body: &Value) -> Result<Value, String> {
        let url = format!("{}/{verb}", self.url_prefix.trim_end_matches('/'));
        let post = self.post.as_ref().ok_or("no way to extenders was given")?;
        let sent = post(url.clone(), body.to_string().into_bytes());
        let late =
            || format!("Post {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
        let (code, answer) = tokio::time::timeout(self.timeout, sent).await.map_err(|_| late())??;
        if code != 200 {
            return Err(format!("failed {verb} with extender at URL {url}, code {code}"));
        }
        serde_json::from_slice(&answer).map_err(|error| error.to_string())
    }

    fn arguments(&self, pod: &PodInfo, nodes: &[Arc<Node>]) -> Value {
        let mut arguments = json!({"Pod": *pod.pod, "Nodes": null, "NodeNames": null});
        if self.node_cache_capable {
            arguments["NodeNames"] = nodes.iter().map(|node| json!(node.metadata.name)).collect();
        } else {
            let items: Vec<Value> = nodes.iter().map(|node| json!(**node)).collect();
            arguments["Nodes"] = json!({"metadata": {}, "items": items});
        }
        arguments
    }

    /// Asks which of the nodes may take the Pod.
    ///
    /// # Errors
    /// It did not answer, or what makes no sense.
    pub async fn filter(&self, pod: &PodInfo, nodes: &[Arc<Node>]) -> Result<Filtered, String> {
        let answer = self.send(&self.filter_verb, &self.arguments(pod, nodes)).await?;
        self.read_filtered(&answer, nodes)
    }

    fn read_filtered(&self, answer: &Value, nodes: &[Arc<Node>]) -> Result<Filtered, String> {
        told(answer)?;
        let of_names = field(answer, "NodeNames").as_array().filter(|_| self.node_cache_capable);
        let of_nodes = || field(field(answer, "Nodes"), "Items").as_array();
        let left: Vec<String> = match of_names {
            Some(names) => names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            None => of_nodes().into_iter().flatten().filter_map(name_of).collect(),
        };
        let known = |name: &&String| nodes.iter().any(|node| node.metadata.name.as_ref() == Some(*name));
        if let Some(stranger) = left.iter().find(|name| !known(name)) {
            return Err(format!(
                "extender {:?} claims a filtered node {stranger:?} which is not found in the input node list",
                self.url_prefix
            ));
        }
        let unresolvable = messages(field(answer, "FailedAndUnresolvableNodes"));
        let mut failed = messages(field(answer, "FailedNodes"));
        failed.retain(|node, _| !unresolvable.contains_key(node));
        Ok(Filtered { left, failed, unresolvable })
    }

    /// Asks how good the nodes are; gives what is to be added to their scores.
    ///
    /// # Errors
    /// It did not answer, or what makes no sense.
    pub async fn prioritize(&self, pod: &PodInfo, nodes: &[Arc<Node>]) -> Result<BTreeMap<String, i64>, String> {
        let answer = self.send(&self.prioritize_verb, &self.arguments(pod, nodes)).await?;
        Ok(self.read_scores(&answer))
    }

    fn read_scores(&self, answer: &Value) -> BTreeMap<String, i64> {
        let one = |entry: &Value| {
            let score = field(entry, "Score").as_i64().unwrap_or(0);
            Some((field(entry, "Host").as_str()?.to_owned(), score * self.weight * SCORE_FACTOR))
        };
        answer.as_array().into_iter().flatten().filter_map(one).collect()
    }

    /// Asks on which of the nodes whose Pods may be evicted for the Pod.
    ///
    /// # Errors
    /// It did not answer.
    pub async fn preempt(&self, pod: &PodInfo, rooms: &[Room]) -> Result<Victims, String> {
        let mut offered = serde_json::Map::new();
        for room in rooms {
            let pods: Vec<Value> = match self.node_cache_capable {
                true => room.victims.iter().map(|victim| json!({"UID": victim.uid})).collect(),
                false => room.victims.iter().map(|victim| json!(*victim.pod)).collect(),
            };
            offered.insert(room.node.clone(), json!({"Pods": pods, "NumPDBViolations": room.broken}));
        }
        let (full, meta) =
            if self.node_cache_capable { (Value::Null, offered.into()) } else { (offered.into(), Value::Null) };
        let body = json!({"Pod": *pod.pod, "NodeNameToVictims": full, "NodeNameToMetaVictims": meta});
        let answer = self.send(&self.preempt_verb, &body).await?;
        let nodes = field(&answer, "NodeNameToMetaVictims").as_object();
        let one = |(node, victims): (&String, &Value)| {
            let uids = field(victims, "Pods").as_array().into_iter().flatten();
            let uids = uids.filter_map(|pod| field(pod, "UID").as_str().map(str::to_owned)).collect();
            (node.clone(), (uids, field(victims, "NumPDBViolations").as_i64().unwrap_or(0)))
        };
        Ok(nodes.into_iter().flatten().map(one).collect())
    }

    /// The rooms that it left, with the victims that it left.
    fn narrow(&self, rooms: &[Room], left: Victims) -> Result<Vec<Room>, String> {
        let mut narrowed = Vec::new();
        for (node, (uids, broken)) in left {
            let room = rooms.iter().find(|room| room.node == node);
            let Some(room) = room else { return Err(format!("nodeinfo not found for node name {node:?}")) };
            if uids.is_empty() {
                if self.ignorable {
                    continue;
                }
                return Err(format!("expected at least one victim pod on node {node:?}"));
            }
            let mut victims = Vec::new();
            for uid in uids {
                let victim = room.victims.iter().find(|victim| victim.uid == uid).ok_or_else(|| {
                    format!(
                        "extender: {} claims to preempt pod (UID: {uid}) on node: {node}, but the pod is not found on that node",
                        self.url_prefix
                    )
                })?;
                victims.push(victim.clone());
            }
            narrowed.push(Room { node, victims, broken: usize::try_from(broken).unwrap_or(0) });
        }
        Ok(narrowed)
    }

    /// Has it bind the Pod.
    ///
    /// # Errors
    /// It did not answer, or could not.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), String> {
        let body = json!({"PodName": pod.name(), "PodNamespace": pod.namespace(), "PodUID": pod.uid, "Node": node});
        told(&self.send(&self.bind_verb, &body).await?)
    }
}

/// A node on which room could be made.
#[derive(Debug, Clone)]
pub struct Room {
    /// Which.
    pub node: String,
    /// Who would have to go.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many budgets that would break.
    pub broken: usize,
}

/// A field by its name in whatever case: Go does not tell them apart.
fn field<'a>(object: &'a Value, name: &str) -> &'a Value {
    let found = object.as_object().and_then(|fields| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)));
    found.map_or(&Value::Null, |(_, value)| value)
}

fn told(answer: &Value) -> Result<(), String> {
    match field(answer, "Error").as_str().unwrap_or_default() {
        "" => Ok(()),
        error => Err(error.to_owned()),
    }
}

fn name_of(node: &Value) -> Option<String> {
    node["metadata"]["name"].as_str().map(str::to_owned)
}

fn messages(map: &Value) -> BTreeMap<String, String> {
    let all = map.as_object().into_iter().flatten();
    all.map(|(node, text)| (node.clone(), text.as_str().unwrap_or_default().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn nodes(names: &[&str]) -> Vec<Arc<Node>> {
        let node = |name: &&str| Arc::new(serde_json::from_value(json!({"metadata": {"name": name}})).expect("a node"));
        names.iter().map(node).collect()
    }

    #[test]
    fn it_is_asked_about_pods_with_its_resources() {
        let all = Extender::default();
        let some = Extender { managed_resources: vec!["example.com/gpu".into()], ..Extender::default() };
        let plain = pod("{name: p, cpu: '1'}");
        let special =
            pod("{name: p, spec: {containers: [{name: c, image: i, resources: {limits: {example.com/gpu: '1'}}}]}}");
        assert!(all.is_interested(&plain) && some.is_interested(&special) && !some.is_interested(&plain));
    }

    #[test]
    fn answers_are_read_as_go_reads_them() {
        let by_name =
            Extender { node_cache_capable: true, weight: 2, url_prefix: "http://x".into(), ..Extender::default() };
        let nodes = nodes(&["a", "b", "c"]);
        let answer = json!({
            "nodenames": ["a"], "FailedNodes": {"b": "busy", "c": "gone"}, "failedAndUnresolvableNodes": {"c": "gone"},
        });
        let filtered = by_name.read_filtered(&answer, &nodes).expect("it makes sense");
        assert_eq!((filtered.left.join(" "), filtered.failed.len(), filtered.unresolvable.len()), ("a".into(), 1, 1));
        let whole = Extender::default();
        let answer = json!({"Nodes": {"items": [{"metadata": {"name": "b"}}]}});
        assert_eq!(whole.read_filtered(&answer, &nodes).expect("it makes sense").left, ["b"]);
        assert_eq!(whole.read_filtered(&json!({"Error": "no"}), &nodes), Err("no".into()));
        assert_eq!(
            by_name.read_filtered(&json!({"NodeNames": ["x"]}), &nodes).expect_err("it is none of them"),
            r#"extender "http://x" claims a filtered node "x" which is not found in the input node list"#
        );
        let scores = by_name.read_scores(&json!([{"Host": "a", "Score": 10}, {"host": "b", "score": 1}]));
        assert_eq!(scores, BTreeMap::from([("a".into(), 200), ("b".into(), 20)]));
    }
}
