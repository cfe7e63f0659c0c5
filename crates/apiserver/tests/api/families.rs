//! Addresses of Services in clusters that have IPv6, alone or beside IPv4.

use std::net::IpAddr;

use serde_json::{Value, json};
use skiff_base::Cidr;

use crate::support::{Cluster, Watch};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const V4: &str = "10.96.0.0/24";
const V6: &str = "fd00:10:96::/112";

async fn cluster(ranges: &[&str]) -> Cluster {
    let ranges = ranges.iter().map(|text| text.parse().expect("a range")).collect();
    Cluster::with(|config| config.service_cidrs = ranges).await
}

fn service(name: &str, spec: Value) -> String {
    let mut service = json!({"metadata": {"name": name}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    for (field, value) in spec.as_object().expect("fields") {
        service["spec"][field] = value.clone();
    }
    service.to_string()
}

async fn create(cluster: &Cluster, name: &str, spec: Value) -> Value {
    cluster.tree(&format!("POST {SERVICES}\n\n{}", service(name, spec))).await
}

async fn refused(cluster: &Cluster, spec: Value) -> String {
    cluster.outcome(&format!("POST {SERVICES}\n\n{}", service("x", spec))).await
}

async fn patch(cluster: &Cluster, name: &str, spec: Value) -> Value {
    let body = json!({"spec": spec});
    let merge = "Content-Type: application/merge-patch+json";
    cluster.tree(&format!("PATCH {SERVICES}/{name}\n{merge}\n\n{body}")).await
}

/// Its addresses, which are in these ranges and taken in its name.
async fn addresses(cluster: &Cluster, service: &Value, ranges: &[&str]) -> Vec<String> {
    let texts: Vec<String> = serde_json::from_value(service["spec"]["clusterIPs"].clone()).expect("a list");
    assert_eq!(texts.len(), ranges.len(), "{service}");
    assert_eq!(service["spec"]["clusterIP"], texts[0]);
    for (index, (text, range)) in texts.iter().zip(ranges).enumerate() {
        let (address, range): (IpAddr, Cidr) = (text.parse().expect("an address"), range.parse().expect("a range"));
        assert!(range.contains(address), "{text} is not in {range}");
        assert_eq!(service["spec"]["ipFamilies"][index], range.family().name());
        let taken = cluster.tree(&format!("GET {ADDRESSES}/{text}")).await;
        assert_eq!(taken["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], range.family().name());
        assert_eq!(taken["spec"]["parentRef"]["name"], service["metadata"]["name"]);
    }
    texts
}

async fn is_taken(cluster: &Cluster, address: &str) -> bool {
    cluster.outcome(&format!("GET {ADDRESSES}/{address}")).await == "200"
}

#[tokio::test]
async fn a_cluster_of_both_families_gives_what_is_asked_for() {
    let cluster = cluster(&[V4, V6]).await;
    let own = cluster.tree(&format!("GET {SERVICES}/kubernetes")).await;
    assert_eq!(addresses(&cluster, &own, &[V4]).await, ["10.96.0.1"]);
    let ranges = cluster.tree(&format!("GET {RANGES}/kubernetes")).await;
    assert_eq!(ranges["spec"]["cidrs"], json!([V4, V6]));

    let single = create(&cluster, "single", json!({})).await;
    addresses(&cluster, &single, &[V4]).await;
    let both = create(&cluster, "both", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    addresses(&cluster, &both, &[V4, V6]).await;
    let turned =
        create(&cluster, "turned", json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]})).await;
    addresses(&cluster, &turned, &[V6, V4]).await;
    let asked = create(&cluster, "asked", json!({"clusterIP": "fd00:10:96::77"})).await;
    assert_eq!(addresses(&cluster, &asked, &[V6]).await, ["fd00:10:96::77"]);
    for (spec, why) in [
        (
            json!({"clusterIP": "fd00:10:96::77"}),
            r#"["fd00:10:96::77"]: failed to allocate IP fd00:10:96::77: provided IP is already allocated"#,
        ),
        (
            json!({"clusterIP": "fd00::1"}),
            r#"["fd00::1"]: failed to allocate IP fd00::1: the provided IP (fd00::1) is not in the valid range. The range of valid IPs is fd00:10:96::/112"#,
        ),
        (
            json!({"clusterIPs": ["10.96.0.9", "fd00:10:96::77"], "clusterIP": "10.96.0.9", "ipFamilyPolicy": "PreferDualStack"}),
            r#"["10.96.0.9","fd00:10:96::77"]: failed to allocate IP fd00:10:96::77: provided IP is already allocated"#,
        ),
    ] {
        let expected = format!("422 Service \"x\" is invalid: spec.clusterIPs: Invalid value: {why}");
        assert_eq!(refused(&cluster, spec).await, expected);
    }
    assert!(!is_taken(&cluster, "10.96.0.9").await, "nothing is taken for what was refused");
}

#[tokio::test]
async fn a_second_address_comes_and_goes() {
    let cluster = cluster(&[V4, V6]).await;
    let before = create(&cluster, "web", json!({})).await;
    let upgraded = patch(&cluster, "web", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    let both = addresses(&cluster, &upgraded, &[V4, V6]).await;
    assert_eq!(before["spec"]["clusterIP"], both[0]);
    let same = patch(&cluster, "web", json!({"selector": {"a": "c"}})).await;
    assert_eq!(addresses(&cluster, &same, &[V4, V6]).await, both);
    let downgraded = patch(&cluster, "web", json!({"ipFamilyPolicy": "SingleStack"})).await;
    assert_eq!(addresses(&cluster, &downgraded, &[V4]).await, both[..1]);
    assert!(!is_taken(&cluster, &both[1]).await);
    // One that is asked for, in another spelling than the canonical one.
    let asked = json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": [both[0], "fd00:10:96:0::00AB"]});
    patch(&cluster, "web", asked).await;
    assert!(is_taken(&cluster, "fd00:10:96::ab").await);
    patch(&cluster, "web", json!({"type": "ExternalName", "externalName": "a.b"})).await;
    assert!(!is_taken(&cluster, "fd00:10:96::ab").await && !is_taken(&cluster, &both[0]).await);
    let again = patch(&cluster, "web", json!({"type": "ClusterIP", "externalName": null})).await;
    let last = addresses(&cluster, &again, &[V4]).await;
    cluster.tree(&format!("DELETE {SERVICES}/web")).await;
    assert!(!is_taken(&cluster, &last[0]).await);
}

#[tokio::test]
async fn a_cluster_of_ipv6_alone() {
    let cluster = cluster(&[V6]).await;
    let own = cluster.tree(&format!("GET {SERVICES}/kubernetes")).await;
    assert_eq!(addresses(&cluster, &own, &[V6]).await, ["fd00:10:96::1"]);
    let web = create(&cluster, "web", json!({"ipFamilyPolicy": "PreferDualStack", "type": "NodePort"})).await;
    addresses(&cluster, &web, &[V6]).await;
    assert_eq!(
        refused(&cluster, json!({"ipFamilyPolicy": "RequireDualStack"})).await,
        "422 Service \"x\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
    );
    let headless = json!({"metadata": {"name": "free"}, "spec": {"clusterIP": "None"}});
    let headless = cluster.tree(&format!("POST {SERVICES}\n\n{headless}")).await;
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
}

#[tokio::test]
async fn another_range_is_given_from_when_the_first_is_full() {
    let cluster = cluster(&["fd00::/125"]).await;
    for index in 0..6 {
        let given = create(&cluster, &format!("s{index}"), json!({})).await;
        addresses(&cluster, &given, &["fd00::/125"]).await;
    }
    assert_eq!(
        refused(&cluster, json!({})).await,
        "422 Service \"x\" is invalid: spec.clusterIPs: Internal error: failed to allocate a serviceIP: range is full"
    );
    let more = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["fd00:1::/64"]}});
    let mut watch = Watch::open(&cluster, &format!("GET {RANGES}?watch=1&fieldSelector=metadata.name=more")).await;
    cluster.tree(&format!("POST {RANGES}\n\n{more}")).await;
    watch.next().await;
    let given = create(&cluster, "x", json!({})).await;
    addresses(&cluster, &given, &["fd00:1::/64"]).await;
}
