//! Priority and fairness: who waits, who is refused, and that others go on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use skiff_apiserver::flow::{self, keeper};
use skiff_apiserver::{ApiServer, UserInfo};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::Cluster;

const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const DUMP: &str = "GET /debug/api_priority_and_fairness";

/// A server with a level of three seats and one queue of two places, for the user `flood` alone.
async fn cluster() -> Cluster {
    let cluster = Cluster::with(|config| config.authorization = false).await;
    let queuing = json!({"queues": 1, "handSize": 1, "queueLengthLimit": 2});
    let limited = json!({"nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": {"type": "Queue", "queuing": queuing}});
    let level = json!({"metadata": {"name": "tiny"}, "spec": {"type": "Limited", "limited": limited}});
    cluster.tree(&format!("POST {LEVELS}\n\n{level}")).await;
    let all =
        json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true});
    let rule = json!({"subjects": [{"kind": "User", "user": {"name": "flood"}}], "resourceRules": [all]});
    let spec = json!({"priorityLevelConfiguration": {"name": "tiny"}, "matchingPrecedence": 50, "rules": [rule],
        "distinguisherMethod": {"type": "ByUser"}});
    cluster.tree(&format!("POST {SCHEMAS}\n\n{}", json!({"metadata": {"name": "flood"}, "spec": spec}))).await;
    // A list shows what was written before it: from then on the schema holds.
    cluster.tree(&format!("GET {SCHEMAS}")).await;
    cluster
}

/// Requests that are under way until they are told to end: the rest of their body is yet to come.
struct Held {
    end: watch::Sender<bool>,
    under_way: Vec<JoinHandle<u16>>,
}

impl Held {
    fn new() -> Self {
        Self { end: watch::Sender::new(false), under_way: Vec::new() }
    }

    fn begin(&mut self, server: &Arc<ApiServer>, user: &str) {
        let mut end = self.end.subscribe();
        let content = json!({"metadata": {"name": format!("m{}", self.under_way.len())}}).to_string();
        let rest = futures_util::stream::once(async move {
            end.wait_for(|end| *end).await.expect("the test goes on");
            Ok::<_, std::io::Error>(Frame::data(Bytes::from(content)))
        });
        let mut request = Request::builder()
            .method(Method::POST)
            .uri("/api/v1/namespaces/default/configmaps")
            .body(StreamBody::new(rest.boxed()).boxed_unsync())
            .expect("a request");
        request.extensions_mut().insert(UserInfo::new(user, &["system:authenticated"]));
        let server = server.clone();
        self.under_way.push(tokio::spawn(async move { server.handle(request).await.status().as_u16() }));
    }

    async fn ended(self) -> Vec<u16> {
        self.end.send_replace(true);
        let mut codes = Vec::new();
        for request in self.under_way {
            codes.push(request.await.expect("no panic"));
        }
        codes
    }
}

/// Waits until so many requests of the level wait and are worked on.
async fn until(cluster: &Cluster, waiting: usize, executing: usize) {
    loop {
        let dump = cluster.answer(&format!("{DUMP}/dump_priority_levels")).await;
        let row =
            dump.lines().find(|line| line.starts_with("tiny,")).map(|line| line.replace(' ', "")).unwrap_or_default();
        if row.ends_with(&format!(",{waiting},{executing}")) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_flood_waits_in_its_queues_and_others_go_on() {
    let cluster = cluster().await;
    let mut held = Held::new();
    for count in 1..=5 {
        held.begin(&cluster.server, "flood");
        until(&cluster, usize::max(count, 3) - 3, usize::min(count, 3)).await;
    }
    let refused = cluster.send("GET /api/v1/configmaps\nUser: flood").await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(refused.headers().contains_key("x-kubernetes-pf-prioritylevel-uid"));
    let text = refused.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(text, "Too many requests, please try again later.\n");
    assert_eq!(cluster.outcome("GET /api/v1/configmaps\nUser: somebody").await, "200");
    let dump = cluster.answer(&format!("{DUMP}/dump_requests?includeRequestDetails=1")).await;
    let rows: Vec<String> =
        dump.lines().filter(|line| line.starts_with("tiny")).map(|line| line.replace(' ', "")).collect();
    assert_eq!(rows.len(), 2, "{dump}");
    let expected = "tiny,flood,0,0,flood,2026-01-02T03:04:05.000000Z,1,0,0s,flood,create,/api/v1/namespaces/default/configmaps,default,,v1,configmaps,";
    assert_eq!(rows[0], expected);
    let queues = cluster.answer(&format!("{DUMP}/dump_queues")).await;
    assert!(queues.lines().any(|line| line.replace(' ', "").starts_with("tiny,0,2,3,3,")), "{queues}");
    assert_eq!(held.ended().await, [201; 5]);
    until(&cluster, 0, 0).await;
    let metrics = cluster.answer("GET /metrics").await;
    for line in [
        "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"flood\",priority_level=\"tiny\",reason=\"queue-full\"} 1",
        "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"flood\",priority_level=\"tiny\"} 5",
        "apiserver_flowcontrol_current_executing_seats{flow_schema=\"flood\",priority_level=\"tiny\"} 0",
        "apiserver_flowcontrol_current_inqueue_requests{flow_schema=\"flood\",priority_level=\"tiny\"} 0",
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"tiny\"} 3",
        "apiserver_flowcontrol_upper_limit_seats{priority_level=\"tiny\"} 3",
        "apiserver_flowcontrol_current_inqueue_seats{flow_schema=\"flood\",priority_level=\"tiny\"} 0",
        "apiserver_flowcontrol_request_queue_length_after_enqueue_count{flow_schema=\"flood\",priority_level=\"tiny\"} 2",
        "apiserver_flowcontrol_request_queue_length_after_enqueue_sum{flow_schema=\"flood\",priority_level=\"tiny\"} 3",
        "apiserver_flowcontrol_request_dispatch_no_accommodation_total{flow_schema=\"flood\",priority_level=\"tiny\"} 3",
        "apiserver_flowcontrol_request_execution_seconds_count{type=\"regular\",flow_schema=\"flood\",priority_level=\"tiny\"} 5",
        // Nobody watched what was written.
        "apiserver_flowcontrol_watch_count_samples_bucket{flow_schema=\"flood\",priority_level=\"tiny\",le=\"0\"} 5",
        "apiserver_flowcontrol_watch_count_samples_count{flow_schema=\"flood\",priority_level=\"tiny\"} 5",
        // The test's clock stands still: there is nothing yet to be told of how long.
        "apiserver_flowcontrol_priority_level_seat_utilization_count{phase=\"executing\",priority_level=\"tiny\"} 0",
        "apiserver_flowcontrol_priority_level_request_utilization_count{phase=\"waiting\",priority_level=\"tiny\"} 0",
        "apiserver_flowcontrol_demand_seats_count{priority_level=\"tiny\"} 0",
        "apiserver_flowcontrol_read_vs_write_current_requests_count{phase=\"executing\",request_kind=\"mutating\"} 0",
        "apiserver_flowcontrol_next_s_bounds{bound=\"min\",priority_level=\"tiny\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_too_long_is_refused_and_leaves_the_queue() {
    let cluster = cluster().await;
    let mut held = Held::new();
    for count in 1..=3 {
        held.begin(&cluster.server, "flood");
        until(&cluster, 0, count).await;
    }
    assert_eq!(cluster.outcome("GET /api/v1/configmaps?timeout=4s\nUser: flood").await, "429");
    until(&cluster, 0, 3).await;
    assert_eq!(held.ended().await, [201; 3]);
}

#[tokio::test]
async fn who_goes_away_gives_up_its_place() {
    let cluster = cluster().await;
    let mut held = Held::new();
    for count in 1..=3 {
        held.begin(&cluster.server, "flood");
        until(&cluster, 0, count).await;
    }
    let mut gone = Held::new();
    gone.begin(&cluster.server, "flood");
    until(&cluster, 1, 3).await;
    gone.under_way[0].abort();
    until(&cluster, 0, 3).await;
    held.under_way[0].abort();
    until(&cluster, 0, 2).await;
    held.under_way.remove(0);
    assert_eq!(held.ended().await, [201; 2]);
}

#[tokio::test]
async fn without_fairness_the_first_come_are_served() {
    let settings = flow::Settings { is_enabled: false, reads: 1, writes: 1 };
    let cluster = Cluster::with(|config| {
        config.authorization = false;
        config.flow = settings;
    })
    .await;
    let mut held = Held::new();
    held.begin(&cluster.server, "one");
    let post = "POST /api/v1/namespaces/default/configmaps\nUser: two\n\n{\"metadata\": {\"generateName\": \"n\"}}";
    while cluster.outcome(post).await != "429" {
        tokio::task::yield_now().await;
    }
    let read = cluster.send("GET /api/v1/configmaps\nUser: two").await;
    assert_eq!(read.status(), 200);
    assert!(!read.headers().contains_key("x-kubernetes-pf-flowschema-uid"));
    assert_eq!(cluster.outcome(&post.replace("\nUser: two", "")).await, "201");
    assert_eq!(cluster.outcome(&format!("{DUMP}/dump_queues")).await, "404");
    assert_eq!(held.ended().await, [201]);
}

#[tokio::test]
async fn suggested_objects_come_back_and_schemas_tell_where_they_lead() {
    let cluster = Cluster::new().await;
    cluster.tree(&format!("DELETE {LEVELS}/workload-low")).await;
    cluster.tree(&format!("DELETE {SCHEMAS}/catch-all")).await;
    let patch =
        |path: &str, content: Value| format!("PATCH {path}\ncontent-type: application/merge-patch+json\n\n{content}");
    let shares = json!({"spec": {"limited": {"nominalConcurrencyShares": 7}}});
    cluster.tree(&patch(&format!("{LEVELS}/system"), shares.clone())).await;
    let own =
        json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}}, "spec": shares["spec"]});
    cluster.tree(&patch(&format!("{LEVELS}/node-high"), own)).await;
    // Mandatory behaviour is there even while its objects are not.
    assert_eq!(cluster.outcome("GET /version\nUser: nobody").await, "200");
    keeper::keep(&cluster.server).await.expect("all is kept");
    // What was made anew is told where it leads the next time.
    keeper::keep(&cluster.server).await.expect("all is kept");
    let shares = async |name: &str| {
        let level = cluster.tree(&format!("GET {LEVELS}/{name}")).await;
        level["spec"]["limited"]["nominalConcurrencyShares"].clone()
    };
    assert_eq!(shares("workload-low").await, 100);
    assert_eq!(shares("system").await, 30);
    assert_eq!(shares("node-high").await, 7);
    let schema = cluster.tree(&format!("GET {SCHEMAS}/catch-all")).await;
    assert_eq!(schema["status"]["conditions"][0]["reason"], "Found", "{schema}");
}

/// Fills the store so that a list of it is sent in several pieces.
async fn fill(cluster: &Cluster) {
    for number in 0..4 {
        let data = json!({"metadata": {"name": format!("large{number}")}, "data": {"fill": "x".repeat(60_000)}});
        cluster.tree(&format!("POST /api/v1/namespaces/default/configmaps\n\n{data}")).await;
    }
}

#[tokio::test]
async fn a_long_list_keeps_its_seats_until_it_is_sent() {
    let cluster = cluster().await;
    fill(&cluster).await;
    let list = "GET /api/v1/configmaps\nUser: flood";
    let mut body = cluster.send(list).await.into_body();
    until(&cluster, 0, 1).await;
    body.frame().await.expect("a piece").expect("no error");
    until(&cluster, 0, 1).await;
    body.collect().await.expect("the rest");
    until(&cluster, 0, 0).await;
    // Who does not want the rest gives them back as well.
    drop(cluster.send(list).await);
    until(&cluster, 0, 0).await;
    // A watch has begun once it is answered.
    let watch = cluster.send("GET /api/v1/configmaps?watch=1\nUser: flood").await;
    until(&cluster, 0, 0).await;
    drop(watch);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_loses_the_seats_after_a_minute() {
    let cluster = cluster().await;
    fill(&cluster).await;
    let answer = cluster.send("GET /api/v1/configmaps\nUser: flood").await;
    until(&cluster, 0, 1).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    until(&cluster, 0, 0).await;
    drop(answer);
}

#[tokio::test(start_paused = true)]
async fn a_write_keeps_seats_for_those_who_are_told_of_it() {
    let cluster = cluster().await;
    let mut watches = Vec::new();
    for path in ["configmaps", "namespaces/default/configmaps", "namespaces/kube-system/configmaps", "secrets"] {
        for _ in 0..15 {
            watches.push(cluster.send(&format!("GET /api/v1/{path}?watch=1")).await);
        }
    }
    let write = |number: usize| {
        let content = json!({"metadata": {"name": format!("c{number}")}});
        format!("POST /api/v1/namespaces/default/configmaps\nUser: flood\n\n{content}")
    };
    let labels = "flow_schema=\"flood\",priority_level=\"tiny\"";
    let figure = async |name: &str| {
        let metrics = cluster.answer("GET /metrics").await;
        let start = format!("apiserver_flowcontrol_{name}{{{labels}}} ");
        let found = metrics.lines().find_map(|line| line.strip_prefix(&start));
        found.unwrap_or_else(|| panic!("no {name}")).to_owned()
    };
    assert_eq!(cluster.outcome(&write(1)).await, "201");
    // Thirty were told: three seats for five milliseconds each, or the one that the level has for a request for fifteen.
    assert_eq!(figure("watch_count_samples_sum").await, "30");
    assert_eq!(figure("current_executing_requests").await, "0");
    assert_eq!(figure("current_executing_seats").await, "1");
    tokio::time::sleep(Duration::from_millis(14)).await;
    assert_eq!(figure("current_executing_seats").await, "1");
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(figure("current_executing_seats").await, "0");
    // Watches that have ended are not told of anything.
    drop(watches);
    assert_eq!(cluster.outcome(&write(2)).await, "201");
    assert_eq!(figure("watch_count_samples_sum").await, "30");
    assert_eq!(figure("watch_count_samples_count").await, "2");
    assert_eq!(figure("current_executing_seats").await, "0");
}
