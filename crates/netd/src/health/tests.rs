//! What is answered when.

use std::time::Duration;

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use skiff_base::clock::Timestamp;
use skiff_client::ObjectKey;

use super::answer::{Answer, NodeHealth};

fn at(seconds: u64) -> Timestamp {
    let start: Timestamp = "2026-03-04T05:06:00.5Z".parse().expect("a time");
    start + Duration::from_secs(seconds)
}

fn check(answers: &[Answer], expected: Expect) {
    let line = |answer: &Answer| {
        let weight = answer.weight.map(|weight| format!(" weight {weight}")).unwrap_or_default();
        format!("{} {}{weight}\n{}\n", answer.status.as_u16(), answer.content_type, answer.text)
    };
    expected.assert_eq(&answers.iter().map(line).collect::<String>());
}

#[test]
fn a_service_is_served_well_where_it_has_endpoints_and_the_rules_are_fresh() {
    let service = ObjectKey::new("shop", "web");
    let cases = [(2, true), (0, true), (1, false)];
    let answers: Vec<Answer> =
        cases.iter().map(|(endpoints, is_healthy)| Answer::of_service(&service, *endpoints, *is_healthy)).collect();
    check(
        &answers,
        expect![[r#"
        200 application/json weight 2
        {
        	"service": {
        		"namespace": "shop",
        		"name": "web"
        	},
        	"localEndpoints": 2,
        	"serviceProxyHealthy": true
        }
        503 application/json weight 0
        {
        	"service": {
        		"namespace": "shop",
        		"name": "web"
        	},
        	"localEndpoints": 0,
        	"serviceProxyHealthy": true
        }
        503 application/json weight 1
        {
        	"service": {
        		"namespace": "shop",
        		"name": "web"
        	},
        	"localEndpoints": 1,
        	"serviceProxyHealthy": false
        }
    "#]],
    );
}

#[test]
fn rules_that_are_late_are_ill_until_they_are_there() {
    let health = NodeHealth::new();
    let ask =
        |seconds| [Answer::of_node("/healthz", &health, at(seconds)), Answer::of_node("/livez", &health, at(seconds))];
    let fresh = ask(0);
    health.updated(at(1));
    health.queued(at(10));
    health.queued(at(50));
    let [pending, _] = ask(69);
    let late = ask(70);
    // What came after the work had begun is still to be done.
    health.updated(at(9));
    assert!(!health.is_healthy(at(70)));
    health.updated(at(60));
    let done = ask(200);
    check(
        &[&fresh[..], &[pending], &late, &done].concat(),
        expect![[r#"
        200 application/json
        {"lastUpdated": "2026-03-04 05:06:00.5 +0000 UTC","currentTime": "2026-03-04 05:06:00.5 +0000 UTC", "nodeEligible": true}
        200 application/json
        {"lastUpdated": "2026-03-04 05:06:00.5 +0000 UTC","currentTime": "2026-03-04 05:06:00.5 +0000 UTC"}
        200 application/json
        {"lastUpdated": "2026-03-04 05:07:09.5 +0000 UTC","currentTime": "2026-03-04 05:07:09.5 +0000 UTC", "nodeEligible": true}
        503 application/json
        {"lastUpdated": "2026-03-04 05:06:01.5 +0000 UTC","currentTime": "2026-03-04 05:07:10.5 +0000 UTC", "nodeEligible": true}
        503 application/json
        {"lastUpdated": "2026-03-04 05:06:01.5 +0000 UTC","currentTime": "2026-03-04 05:07:10.5 +0000 UTC"}
        200 application/json
        {"lastUpdated": "2026-03-04 05:09:20.5 +0000 UTC","currentTime": "2026-03-04 05:09:20.5 +0000 UTC", "nodeEligible": true}
        200 application/json
        {"lastUpdated": "2026-03-04 05:09:20.5 +0000 UTC","currentTime": "2026-03-04 05:09:20.5 +0000 UTC"}
    "#]],
    );
}

#[test]
fn a_node_that_is_leaving_is_alive_and_not_healthy() {
    let health = NodeHealth::new();
    let node = |object: serde_json::Value| -> Node { serde_json::from_value(object).expect("a Node") };
    let taints = json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }]);
    let mut codes = Vec::new();
    for object in [
        json!({ "metadata": { "name": "a" }, "spec": { "taints": taints } }),
        json!({ "metadata": { "name": "a", "deletionTimestamp": "2026-03-04T05:06:07Z" } }),
        json!({ "metadata": { "name": "a" } }),
    ] {
        health.observe_node(Some(&node(object)));
        let code = |path| Answer::of_node(path, &health, at(0)).status.as_u16();
        codes.push((code("/healthz"), code("/livez"), code("/")));
    }
    assert_eq!(codes, [(503, 200, 404), (503, 200, 404), (200, 200, 404)]);
}
