//! Which flows go, as a table: who is asked, who answers, and whether that flow is to go.

use expect_test::{Expect, expect};

use super::*;
use crate::rules::Endpoint;
use crate::rules::tests::{objects, service_and_backends, service_yaml, slice_yaml};
use crate::{HostPort, HostPortMapping};

fn endpoint(text: &str) -> Endpoint {
    let (address, port) = text.split_once(':').expect("address and port");
    Endpoint { address: address.parse().expect("an address"), port: port.parse().expect("a port") }
}

fn check(answerers: &Answerers, flows: &[(&str, &str)], expected: Expect) {
    let line = |(asked, answering): &(&str, &str)| {
        let flow =
            Flow { asked: endpoint(asked), answering: endpoint(answering), original: Vec::new(), id: None, zone: None };
        let fate = if answerers.is_stale(&flow) { "goes" } else { "stays" };
        format!("{asked} answered by {answering} {fate}\n")
    };
    expected.assert_eq(&flows.iter().map(line).collect::<String>());
}

fn of_service(spec: &str, endpoints: &[&str]) -> Answerers {
    let service = service_yaml("dns", spec) + "status:\n  loadBalancer:\n    ingress: [{ip: 203.0.113.5}]\n";
    let slice = slice_yaml("dns", "{name: dns, port: 5353, protocol: UDP}", endpoints);
    let (service, backends) = service_and_backends(&objects(&[service, slice]));
    Answerers::of_service(&service, &backends)
}

const SPEC: &str = "type: LoadBalancer\nclusterIP: 10.96.1.1\nexternalIPs: [192.0.2.7]\nports:\n- {name: dns, port: 53, protocol: UDP, nodePort: 30053}\n- {name: web, port: 80, nodePort: 30080}";

#[test]
fn flows_go_whose_endpoint_does_not_answer_any_more() {
    check(
        &of_service(
            SPEC,
            &["10.244.0.5", "10.244.1.5 node-2 rs zone=zone-b", "10.244.0.6 node-1 st", "10.244.0.7 node-1 t"],
        ),
        &[
            ("10.96.1.1:53", "10.244.0.5:5353"),
            ("10.96.1.1:53", "10.244.1.5:5353"),
            ("10.96.1.1:53", "10.244.0.6:5353"),
            ("10.96.1.1:53", "10.244.0.7:5353"),
            ("10.96.1.1:53", "10.244.0.8:5353"),
            ("10.96.1.1:53", "10.244.0.5:5454"),
            ("10.96.1.1:53", "10.96.1.1:53"),
            ("192.0.2.7:53", "192.0.2.7:53"),
            ("203.0.113.5:53", "203.0.113.5:53"),
            ("198.51.100.1:30053", "198.51.100.1:30053"),
            ("198.51.100.1:30053", "10.244.0.5:5353"),
            // Neither of these is asked through the Service.
            ("10.244.0.8:5353", "10.244.0.8:5353"),
            ("10.96.1.1:80", "10.244.0.8:80"),
            ("198.51.100.1:30080", "198.51.100.1:30080"),
        ],
        expect![[r#"
            10.96.1.1:53 answered by 10.244.0.5:5353 stays
            10.96.1.1:53 answered by 10.244.1.5:5353 stays
            10.96.1.1:53 answered by 10.244.0.6:5353 stays
            10.96.1.1:53 answered by 10.244.0.7:5353 goes
            10.96.1.1:53 answered by 10.244.0.8:5353 goes
            10.96.1.1:53 answered by 10.244.0.5:5454 goes
            10.96.1.1:53 answered by 10.96.1.1:53 goes
            192.0.2.7:53 answered by 192.0.2.7:53 goes
            203.0.113.5:53 answered by 203.0.113.5:53 goes
            198.51.100.1:30053 answered by 198.51.100.1:30053 goes
            198.51.100.1:30053 answered by 10.244.0.5:5353 stays
            10.244.0.8:5353 answered by 10.244.0.8:5353 stays
            10.96.1.1:80 answered by 10.244.0.8:80 stays
            198.51.100.1:30080 answered by 198.51.100.1:30080 stays
        "#]],
    );
}

#[test]
fn where_nobody_answers_nothing_goes() {
    assert_eq!(of_service(SPEC, &[]), Answerers::default());
    assert_eq!(of_service(SPEC, &["10.244.0.5 node-1 t"]), Answerers::default());
    assert_eq!(of_service("clusterIP: 10.96.1.1\nports: [{port: 80}]", &["10.244.0.5"]), Answerers::default());
}

#[test]
fn what_two_claim_both_answer_for() {
    let mut all = of_service(SPEC, &["10.244.0.5"]);
    all.add(of_service(SPEC, &["10.244.0.6"]));
    check(
        &all,
        &[
            ("192.0.2.7:53", "10.244.0.5:5353"),
            ("192.0.2.7:53", "10.244.0.6:5353"),
            ("192.0.2.7:53", "10.244.0.7:5353"),
        ],
        expect![[r#"
            192.0.2.7:53 answered by 10.244.0.5:5353 stays
            192.0.2.7:53 answered by 10.244.0.6:5353 stays
            192.0.2.7:53 answered by 10.244.0.7:5353 goes
        "#]],
    );
}

#[test]
fn host_ports_lead_to_the_pod_that_has_them_now() {
    let mapping = |port: &str| {
        let port: HostPort = port.parse().expect("a host port");
        Answerers::of_host_port(&HostPortMapping { port, pod: "10.244.0.5".parse().expect("an address") })
    };
    let mut all = mapping("udp 0.0.0.0 9053 53");
    all.add(mapping("udp 192.0.2.2 9054 54"));
    check(
        &all,
        &[
            ("192.0.2.2:9053", "10.244.0.5:53"),
            ("192.0.2.2:9053", "10.244.0.4:53"),
            ("192.0.2.2:9054", "10.244.0.4:54"),
            ("192.0.2.3:9054", "192.0.2.3:9054"),
        ],
        expect![[r#"
            192.0.2.2:9053 answered by 10.244.0.5:53 stays
            192.0.2.2:9053 answered by 10.244.0.4:53 goes
            192.0.2.2:9054 answered by 10.244.0.4:54 goes
            192.0.2.3:9054 answered by 192.0.2.3:9054 stays
        "#]],
    );
    assert!(mapping("tcp 0.0.0.0 9053 53").is_empty());
}

#[test]
fn flows_are_looked_at_only_when_who_answers_changes() {
    let mut keeper = FlowKeeper::default();
    let mut note = |endpoints: &[&str]| {
        keeper.is_due = false;
        keeper.note("service/default/dns", of_service(SPEC, endpoints));
        keeper.is_due()
    };
    assert!(note(&["10.244.0.5"]));
    assert!(!note(&["10.244.0.5"]));
    assert!(!note(&[]));
    assert!(note(&["10.244.0.5"]));
    assert!(note(&["10.244.0.6"]));
}
