//! Lists and watches by the rules of resource versions, limits, selectors and time.

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use skiff_store::{EmbeddedOptions, EmbeddedStore};

use crate::support::{Cluster, Watch};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn cluster(names: &[&str]) -> Cluster {
    let cluster = Cluster::new().await;
    for name in names {
        create(&cluster, name).await;
    }
    cluster
}

async fn create(cluster: &Cluster, name: &str) -> Value {
    let object = json!({"metadata": {"name": name, "labels": {"name": name}}});
    cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{object}")).await
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name")).collect()
}

async fn listed(cluster: &Cluster, query: &str) -> String {
    let list = cluster.tree(&format!("GET {CONFIG_MAPS}?{query}")).await;
    let remaining = &list["metadata"]["remainingItemCount"];
    format!("{} more={} left={remaining}", names(&list).join(","), list["metadata"]["continue"].is_string())
}

async fn outcome(cluster: &Cluster, request: &str, expected: Expect) {
    expected.assert_eq(&cluster.outcome(request).await);
}

#[tokio::test]
async fn pages_show_one_state_until_it_is_forgotten() {
    let cluster = cluster(&["a", "b", "c", "d"]).await;
    let first = cluster.tree(&format!("GET {CONFIG_MAPS}?limit=2")).await;
    assert_eq!(names(&first), ["a", "b"]);
    let token = first["metadata"]["continue"].as_str().expect("a token");
    cluster.tree(&format!("DELETE {CONFIG_MAPS}/c")).await;
    create(&cluster, "e").await;
    assert_eq!(listed(&cluster, &format!("limit=1&continue={token}")).await, "c more=true left=1");
    cluster.store.compact(cluster.store.revision().await.expect("a revision")).await.expect("compacted");
    let expired = cluster.send(&format!("GET {CONFIG_MAPS}?limit=1&continue={token}")).await;
    assert_eq!(expired.status(), 410);
    let body = http_body_util::BodyExt::collect(expired.into_body()).await.expect("a body").to_bytes();
    let status: Value = serde_json::from_slice(&body).expect("a Status");
    assert_eq!(status["reason"], "Expired");
    assert!(
        status["message"].as_str().is_some_and(|text| text.starts_with("The provided continue parameter is too old"))
    );
    let token = status["metadata"]["continue"].as_str().expect("another token");
    assert_eq!(listed(&cluster, &format!("limit=1&continue={token}")).await, "d more=true left=1");
    assert_eq!(listed(&cluster, &format!("continue={token}")).await, "d,e more=false left=null");
    // From there on the pages show one state again: the one in which the first of them was.
    let page = cluster.tree(&format!("GET {CONFIG_MAPS}?limit=1&continue={token}")).await;
    assert_ne!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    create(&cluster, "f").await;
    let token = page["metadata"]["continue"].as_str().expect("a token");
    let last = cluster.tree(&format!("GET {CONFIG_MAPS}?limit=9&continue={token}")).await;
    assert_eq!(names(&last), ["e"]);
    assert_eq!(last["metadata"]["resourceVersion"], page["metadata"]["resourceVersion"]);
    assert!(last["metadata"].get("remainingItemCount").is_none(), "{last}");
}

#[tokio::test]
async fn a_watch_of_a_forgotten_state_is_told_so() {
    let before = cluster(&["a"]).await;
    // Of what the store has forgotten, a server that starts again knows nothing.
    let after = Cluster::with(|config| config.store = before.store.clone()).await;
    let mut watch = Watch::open(&after, &format!("GET {CONFIG_MAPS}?watch=1&resourceVersion=1")).await;
    let told = watch.next().await;
    assert_eq!((&told[0]["type"], &told[0]["object"]["reason"]), (&json!("ERROR"), &json!("Expired")));
    assert_eq!(told[0]["object"]["code"], 410);
    assert!(watch.next().await.is_empty());
}

#[tokio::test]
async fn a_token_of_another_namespace_leads_nowhere() {
    let cluster = cluster(&["a", "b"]).await;
    let first = cluster.tree(&format!("GET {CONFIG_MAPS}?limit=1")).await;
    let token = first["metadata"]["continue"].as_str().expect("a token");
    cluster
        .tree(
            r#"POST /api/v1/namespaces

{"metadata":{"name":"aa"}}"#,
        )
        .await;
    let other = cluster.tree(&format!("GET /api/v1/namespaces/aa/configmaps?continue={token}")).await;
    assert!(names(&other).is_empty());
}

#[tokio::test]
async fn lists_are_of_the_state_that_is_asked_for() {
    let cluster = cluster(&["a"]).await;
    let then = create(&cluster, "b").await["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    create(&cluster, "c").await;
    assert_eq!(listed(&cluster, "").await, "a,b,c more=false left=null");
    assert_eq!(listed(&cluster, "resourceVersion=0&limit=1").await, "a,b,c more=false left=null");
    assert_eq!(listed(&cluster, &format!("resourceVersion={then}")).await, "a,b,c more=false left=null");
    let exact = format!("resourceVersion={then}&resourceVersionMatch=Exact");
    assert_eq!(listed(&cluster, &exact).await, "a,b more=false left=null");
    assert_eq!(listed(&cluster, &format!("resourceVersion={then}&limit=1")).await, "a more=true left=1");
    let newer = format!("resourceVersion={then}&resourceVersionMatch=NotOlderThan&limit=1");
    assert_eq!(listed(&cluster, &newer).await, "a more=true left=2");
    assert_eq!(listed(&cluster, "limit=1&labelSelector=name%20in%20(b,c)").await, "b more=true left=null");
    cluster.store.compact(cluster.store.revision().await.expect("a revision")).await.expect("compacted");
    outcome(
        &cluster,
        &format!("GET {CONFIG_MAPS}?{exact}"),
        expect!["410 The resourceVersion for the provided list is too old."],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_state_that_is_not_there_yet_is_waited_for() {
    let cluster = cluster(&["a"]).await;
    for query in ["resourceVersion=999", "resourceVersion=999&resourceVersionMatch=Exact"] {
        let answer = cluster.answer(&format!("GET {CONFIG_MAPS}?{query}")).await;
        let (code, body) = answer.split_once('\n').expect("a body");
        let status: Value = serde_json::from_str(body).expect("a Status");
        assert_eq!((code, &status["reason"]), ("504", &json!("Timeout")), "{query}");
        assert_eq!(status["details"]["retryAfterSeconds"], 1);
        assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert!(
            status["message"].as_str().is_some_and(|text| text.starts_with("Timeout: Too large resource version: 999"))
        );
    }
}

#[tokio::test]
async fn a_watch_waits_in_silence_for_what_is_to_come() {
    let cluster = cluster(&[]).await;
    let made = async |name: &str| {
        let made = cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{{\"metadata\":{{\"name\":\"{name}\"}}}}")).await;
        made["metadata"]["resourceVersion"].as_str().expect("a revision").parse::<u64>().expect("a number")
    };
    let now = made("a").await;
    let mut watch = Watch::open(&cluster, &format!("GET {CONFIG_MAPS}?watch=1&resourceVersion={}", now + 2)).await;
    for name in ["b", "c", "d"] {
        made(name).await;
    }
    assert_eq!(watch.short().await, "ADDED d");
}

#[tokio::test]
async fn what_cannot_be_selected_is_refused() {
    let cluster = cluster(&[]).await;
    let refused = async |path: &str, expected: Expect| outcome(&cluster, &format!("GET {path}"), expected).await;
    refused("/api/v1/pods?fieldSelector=spec.x=y", expect!["400 field label not supported: spec.x"]).await;
    refused(
        "/api/v1/configmaps?fieldSelector=spec.x=y",
        expect![[r#"400 "spec.x" is not a known field selector: only "metadata.name", "metadata.namespace""#]],
    )
    .await;
    refused(
        "/apis/batch/v1/jobs?fieldSelector=spec.x=y",
        expect![[r#"400 field label "spec.x" not supported for batchv1.Job"#]],
    )
    .await;
    refused(
        "/api/v1/nodes?fieldSelector=metadata.namespace=y",
        expect!["400 field label not supported: metadata.namespace"],
    )
    .await;
    refused(
        "/api/v1/pods?fieldSelector=nonsense",
        expect!["400 invalid selector: 'nonsense'; can't understand 'nonsense'"],
    )
    .await;
    refused(
        "/api/v1/pods?labelSelector=a%20b",
        expect!["400 unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"],
    )
    .await;
    refused("/api/v1/pods?watch=1&timeoutSeconds=x", expect![[r#"400 strconv.ParseInt: parsing "x": invalid syntax"#]])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_time_is_up_ends_with_a_bookmark() {
    let cluster = cluster(&["a"]).await;
    let request = format!("GET {CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=5");
    let mut watch = Watch::open(&cluster, &request).await;
    assert_eq!(watch.short().await, "ADDED a");
    let end = watch.next().await;
    assert_eq!(end[0]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let last = watch.next().await;
    assert_eq!((&last[0]["type"], &last[0]["object"]["metadata"]["annotations"]), (&json!("BOOKMARK"), &Value::Null));
    assert!(watch.next().await.is_empty());
}

#[tokio::test]
async fn watchers_of_one_form_share_an_encoding() {
    let cluster = cluster(&[]).await;
    let accept = "Accept: application/vnd.kubernetes.protobuf";
    let mut pieces = Vec::new();
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let answer = cluster.send(&format!("GET {CONFIG_MAPS}?watch=1\n{accept}")).await;
        bodies.push(answer.into_body());
    }
    create(&cluster, "a").await;
    for body in &mut bodies {
        let frame = http_body_util::BodyExt::frame(body).await.expect("a piece").expect("whole");
        pieces.push(frame.into_data().expect("data"));
    }
    assert_eq!(pieces[0], pieces[1]);
    assert_eq!(pieces[0].as_ptr(), pieces[1].as_ptr());
}

#[tokio::test]
async fn watches_go_on_where_they_were_when_the_server_comes_back() {
    let folder = std::env::temp_dir().join(format!("skiff-watch-again-{}", std::process::id()));
    let open = || EmbeddedStore::open(&folder, EmbeddedOptions::default()).expect("a store");
    let store = open();
    let before = Cluster::with(|config| config.store = store.clone()).await;
    let first = create(&before, "a").await;
    create(&before, "b").await;
    before.tree(&format!("DELETE {CONFIG_MAPS}/a")).await;
    drop(before);
    store.close();
    drop(store);
    let after = Cluster::with(|config| config.store = open()).await;
    let seen = first["metadata"]["resourceVersion"].as_str().expect("a revision");
    let mut watch = Watch::open(&after, &format!("GET {CONFIG_MAPS}?watch=1&resourceVersion={seen}")).await;
    assert_eq!(watch.short().await, "ADDED b, DELETED a");
    std::fs::remove_dir_all(&folder).expect("no folder");
}
