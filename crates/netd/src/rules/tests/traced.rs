//! What the rules do with packets, Service by Service.

use std::collections::BTreeSet;

use expect_test::{Expect, expect};

use super::tracer::{Packet, trace};
use super::*;

/// Each packet's fate; where chance decides, all fates that there are. In the other family they are the same, but for the
/// loopback address, from which no packet leaves the machine there.
fn check(objects: &[String], packets: &[&str], expected: Expect) {
    let objects = super::objects(objects);
    let in_four = ruleset(&objects);
    let mut text = String::new();
    for packet in packets {
        let told: Vec<String> = fates(&in_four, packet).into_iter().collect();
        text += &format!("{packet}: {}\n", told.join(" | "));
    }
    expected.assert_eq(&text);
    for families in [&[Family::V6][..], &[Family::V4, Family::V6]] {
        let in_six = ruleset_of(families, Family::V6, &said(Family::V6, &objects));
        for packet in packets.iter().filter(|packet| !packet.contains("127.0.0.1")) {
            let told = fates(&in_four, packet).iter().map(|fate| said(Family::V6, fate)).collect();
            assert_eq!(fates(&in_six, &said(Family::V6, packet)), told, "{packet}");
        }
    }
}

fn fates(ruleset: &Ruleset, packet: &str) -> BTreeSet<String> {
    (0..4).map(|chance| trace(ruleset, Packet { chance, ..Packet::parse(packet) })).collect()
}

#[test]
fn a_cluster_address_leads_to_every_ready_endpoint() {
    check(
        &[
            service_yaml("web", "clusterIP: 10.96.1.1\nports: [{port: 80}]"),
            slice_yaml("web", "{port: 8080}", &["10.244.0.5", "10.244.1.5 node-2", "10.244.0.6 node-1 s"]),
        ],
        &[
            "10.244.0.9 > 10.96.1.1:80/tcp",
            "10.244.0.5 > 10.96.1.1:80/tcp",
            "host > 10.96.1.1:80/tcp",
            "10.244.0.9 > 10.96.1.1:81/tcp",
            "10.244.0.9 > 10.96.1.1:80/udp",
            "10.244.0.9 > 10.96.77.77:80/tcp",
            "10.244.0.9 > 10.96.0.10:53/udp",
            "10.244.0.9 > 198.51.100.1:443/tcp",
            "10.244.0.9 > 127.0.0.1:10250/tcp",
        ],
        expect![[r#"
            10.244.0.9 > 10.96.1.1:80/tcp: to 10.244.0.5:8080 | to 10.244.1.5:8080
            10.244.0.5 > 10.96.1.1:80/tcp: to 10.244.0.5:8080 masqueraded | to 10.244.1.5:8080
            host > 10.96.1.1:80/tcp: to 10.244.0.5:8080 masqueraded | to 10.244.1.5:8080 masqueraded
            10.244.0.9 > 10.96.1.1:81/tcp: refused
            10.244.0.9 > 10.96.1.1:80/udp: refused
            10.244.0.9 > 10.96.77.77:80/tcp: refused
            10.244.0.9 > 10.96.0.10:53/udp: to 10.96.0.10:53
            10.244.0.9 > 198.51.100.1:443/tcp: to 198.51.100.1:443 masqueraded
            10.244.0.9 > 127.0.0.1:10250/tcp: dropped
        "#]],
    );
}

#[test]
fn nobody_behind_a_service_is_said_at_once() {
    check(
        &[
            service_yaml(
                "empty",
                "type: NodePort\nclusterIP: 10.96.1.1\nexternalIPs: [192.0.2.9]\nports: [{port: 80, nodePort: 30080}]",
            ),
            slice_yaml("empty", "{port: 8080}", &["10.244.0.6 node-1 -"]),
        ],
        &[
            "10.244.0.9 > 10.96.1.1:80/tcp",
            "host > 10.96.1.1:80/tcp",
            "10.244.0.9 > 192.0.2.2:30080/tcp",
            "198.51.100.1 > 192.0.2.2:30080/tcp",
            "198.51.100.1 > 192.0.2.9:80/tcp",
            "198.51.100.1 > 192.0.2.2:22/tcp",
        ],
        expect![[r#"
            10.244.0.9 > 10.96.1.1:80/tcp: refused
            host > 10.96.1.1:80/tcp: refused
            10.244.0.9 > 192.0.2.2:30080/tcp: refused
            198.51.100.1 > 192.0.2.2:30080/tcp: refused
            198.51.100.1 > 192.0.2.9:80/tcp: refused
            198.51.100.1 > 192.0.2.2:22/tcp: to 192.0.2.2:22
        "#]],
    );
}

#[test]
fn who_listens_on_this_very_node_needs_no_endpoint() {
    check(
        &[service_yaml("kube-dns", "clusterIP: 10.96.0.10\nports: [{port: 53, protocol: UDP}]")],
        &["10.244.0.9 > 10.96.0.10:53/udp", "host > 10.96.0.10:53/udp"],
        expect![[r#"
            10.244.0.9 > 10.96.0.10:53/udp: to 10.96.0.10:53
            host > 10.96.0.10:53/udp: to 10.96.0.10:53 masqueraded
        "#]],
    );
}

#[test]
fn clients_from_outside_are_masqueraded_unless_the_policy_is_local() {
    let spec = "type: LoadBalancer\nloadBalancerSourceRanges: [198.51.100.0/24]\nports: [{port: 80, nodePort: 30080}]";
    let local = spec.replace("30080", "30081") + "\nexternalTrafficPolicy: Local\nclusterIP: 10.96.1.2";
    let status = |address| format!("status:\n  loadBalancer:\n    ingress: [{{ip: {address}}}]\n");
    let endpoints = ["10.244.0.5", "10.244.1.5 node-2"];
    check(
        &[
            service_yaml("web", &(spec.to_owned() + "\nclusterIP: 10.96.1.1")) + &status("203.0.113.1"),
            slice_yaml("web", "{port: 8080}", &endpoints),
            service_yaml("local", &local) + &status("203.0.113.2"),
            slice_yaml("local", "{port: 8080}", &endpoints),
        ],
        &[
            "198.51.100.1 > 192.0.2.2:30080/tcp",
            "198.51.100.1 > 203.0.113.1:80/tcp",
            "203.0.113.99 > 203.0.113.1:80/tcp",
            "198.51.100.1 > 203.0.113.1:81/tcp",
            "host > 192.0.2.2:30080/tcp",
            "127.0.0.1 > 127.0.0.1:30080/tcp",
            "10.244.0.9 > 192.0.2.2:30080/tcp",
            "198.51.100.1 > 192.0.2.2:30081/tcp",
            "198.51.100.1 > 203.0.113.2:80/tcp",
            "host > 192.0.2.2:30081/tcp",
            "10.244.0.9 > 192.0.2.2:30081/tcp",
        ],
        expect![[r#"
            198.51.100.1 > 192.0.2.2:30080/tcp: to 10.244.0.5:8080 masqueraded | to 10.244.1.5:8080 masqueraded
            198.51.100.1 > 203.0.113.1:80/tcp: to 10.244.0.5:8080 masqueraded | to 10.244.1.5:8080 masqueraded
            203.0.113.99 > 203.0.113.1:80/tcp: dropped
            198.51.100.1 > 203.0.113.1:81/tcp: refused
            host > 192.0.2.2:30080/tcp: to 10.244.0.5:8080 masqueraded | to 10.244.1.5:8080 masqueraded
            127.0.0.1 > 127.0.0.1:30080/tcp: to 10.244.0.5:8080 masqueraded | to 10.244.1.5:8080 masqueraded
            10.244.0.9 > 192.0.2.2:30080/tcp: to 10.244.0.5:8080 masqueraded | to 10.244.1.5:8080 masqueraded
            198.51.100.1 > 192.0.2.2:30081/tcp: to 10.244.0.5:8080
            198.51.100.1 > 203.0.113.2:80/tcp: to 10.244.0.5:8080
            host > 192.0.2.2:30081/tcp: to 10.244.0.5:8080 masqueraded | to 10.244.1.5:8080 masqueraded
            10.244.0.9 > 192.0.2.2:30081/tcp: to 10.244.0.5:8080 | to 10.244.1.5:8080
        "#]],
    );
}

#[test]
fn local_policies_drop_what_this_node_cannot_serve() {
    check(
        &[
            service_yaml(
                "far",
                "type: NodePort\nclusterIP: 10.96.1.1\ninternalTrafficPolicy: Local\nexternalTrafficPolicy: Local\nports: [{port: 80, nodePort: 30080}]",
            ),
            slice_yaml("far", "{port: 8080}", &["10.244.1.5 node-2"]),
        ],
        &["10.244.0.9 > 10.96.1.1:80/tcp", "198.51.100.1 > 192.0.2.2:30080/tcp", "10.244.0.9 > 192.0.2.2:30080/tcp"],
        expect![[r#"
            10.244.0.9 > 10.96.1.1:80/tcp: dropped
            198.51.100.1 > 192.0.2.2:30080/tcp: dropped
            10.244.0.9 > 192.0.2.2:30080/tcp: to 10.244.1.5:8080
        "#]],
    );
}

#[test]
fn endpoints_that_end_are_used_when_no_other_is_left() {
    let service = service_yaml("web", "clusterIP: 10.96.1.1\nports: [{port: 80}]");
    check(
        &[service.clone(), slice_yaml("web", "{port: 8080}", &["10.244.0.5 node-1 st", "10.244.0.6 node-1 t"])],
        &["10.244.0.9 > 10.96.1.1:80/tcp"],
        expect![[r#"
            10.244.0.9 > 10.96.1.1:80/tcp: to 10.244.0.5:8080
        "#]],
    );
    check(
        &[service, slice_yaml("web", "{port: 8080}", &["10.244.0.5 node-1 st", "10.244.0.6"])],
        &["10.244.0.9 > 10.96.1.1:80/tcp"],
        expect![[r#"
            10.244.0.9 > 10.96.1.1:80/tcp: to 10.244.0.6:8080
        "#]],
    );
}

#[test]
fn a_client_with_affinity_is_sent_to_an_endpoint_by_chance_the_first_time() {
    check(
        &[
            service_yaml(
                "sticky",
                "clusterIP: 10.96.1.1\nsessionAffinity: ClientIP\nports: [{port: 53, protocol: UDP}]",
            ),
            slice_yaml("sticky", "{port: 5353, protocol: UDP}", &["10.244.0.5", "10.244.0.6"]),
        ],
        &["10.244.0.9 > 10.96.1.1:53/udp"],
        expect![[r#"
            10.244.0.9 > 10.96.1.1:53/udp: to 10.244.0.5:5353 | to 10.244.0.6:5353
        "#]],
    );
}

#[test]
fn host_ports_lead_to_their_pod() {
    for family in Family::ALL {
        let mut ruleset = Ruleset::new(frame_of(&[family]), family);
        let said = |text: &str| said(family, text);
        let fragment = |port: &str| {
            let (port, pod) = (said(port).parse().expect("a host port"), said("10.244.0.5"));
            service::host_port_fragment(&crate::HostPortMapping { port, pod: pod.parse().expect("an address") })
        };
        ruleset.replace([
            ("host-port/a".to_owned(), fragment("tcp 0.0.0.0 8080 80")),
            ("host-port/b".to_owned(), fragment("udp 192.0.2.2 53 5353")),
        ]);
        for (packet, fate) in [
            ("198.51.100.1 > 192.0.2.2:8080/tcp", "to 10.244.0.5:80"),
            ("10.244.0.5 > 192.0.2.2:8080/tcp", "to 10.244.0.5:80 masqueraded"),
            ("127.0.0.1 > 127.0.0.1:8080/tcp", "to 10.244.0.5:80 masqueraded"),
            ("198.51.100.1 > 192.0.2.2:53/udp", "to 10.244.0.5:5353"),
            ("198.51.100.1 > 10.244.0.1:53/udp", "to 10.244.0.1:53"),
        ] {
            if family == Family::V4 || !packet.starts_with("127.") {
                assert_eq!(trace(&ruleset, Packet::parse(&said(packet))), said(fate));
            }
        }
    }
}

#[test]
fn an_address_that_two_services_claim_goes_to_one_and_then_to_the_other() {
    let claim = |name: &str, cluster: &str| {
        service_yaml(name, &format!("clusterIP: {cluster}\nexternalIPs: [192.0.2.9]\nports: [{{port: 80}}]"))
    };
    let a = [claim("a", "10.96.1.1"), slice_yaml("a", "{port: 8080}", &["10.244.0.5"])];
    let b = [claim("b", "10.96.1.2"), slice_yaml("b", "{port: 8080}", &["10.244.0.6"])];
    let mut ruleset = ruleset(&objects(&[a.clone(), b.clone()].concat()));
    let fate = |ruleset: &Ruleset| trace(ruleset, Packet::parse("198.51.100.1 > 192.0.2.9:80/tcp"));
    assert_eq!(fate(&ruleset), "to 10.244.0.5:8080 masqueraded");
    apply(&mut ruleset, &objects(&b));
    assert_eq!(fate(&ruleset), "to 10.244.0.6:8080 masqueraded");
}

#[test]
fn a_service_of_both_families_is_a_service_in_each() {
    let spec = |addresses: &str| {
        format!(
            "type: NodePort\nclusterIPs: [{addresses}]\nexternalIPs: [192.0.2.9, 'fd00::c000:209']\nports: [{{port: 80, nodePort: 30080}}]"
        )
    };
    let four = slice_yaml("web", "{port: 8080}", &["10.244.0.5"]);
    let six = said(Family::V6, &slice_yaml("web", "{port: 8080}", &["10.244.0.6"])).replace("web-1", "web-2");
    let fate = |ruleset: &Ruleset, packet: &str| trace(ruleset, Packet::parse(&said(ruleset.family(), packet)));
    for (addresses, has_six) in [("10.96.1.1, 'fd00::a60:101'", true), ("10.96.1.1", false)] {
        let objects = objects(&[service_yaml("web", &spec(addresses)), four.clone(), six.clone()]);
        let [in_four, in_six] = Family::ALL.map(|family| ruleset_of(&Family::ALL, family, &objects));
        for to in ["10.96.1.1:80", "192.0.2.9:80", "192.0.2.2:30080"] {
            let packet = format!("198.51.100.1 > {to}/tcp");
            assert_eq!(fate(&in_four, &packet), "to 10.244.0.5:8080 masqueraded");
            if has_six {
                assert_eq!(fate(&in_six, &packet), "to [fd00::af4:6]:8080 masqueraded");
            }
        }
        if !has_six {
            assert_eq!(in_six.owners().count(), 0, "an external address alone makes no Service in a family");
            assert_eq!(fate(&in_six, "10.244.0.9 > 10.96.1.1:80/tcp"), "refused");
        }
        assert_eq!(fate(&in_six, "10.244.0.9 > 198.51.100.1:443/tcp"), "to [fd00::c633:6401]:443 masqueraded");
    }
}

#[test]
fn the_loopback_address_of_ipv6_has_no_node_ports() {
    let objects = [
        service_yaml("web", "type: NodePort\nclusterIP: 10.96.1.1\nports: [{port: 80, nodePort: 30080}]"),
        slice_yaml("web", "{port: 8080}", &["10.244.0.5"]),
        service_yaml("empty", "type: NodePort\nclusterIP: 10.96.1.2\nports: [{port: 80, nodePort: 30081}]"),
    ];
    let ruleset = ruleset_of(&[Family::V6], Family::V6, &said(Family::V6, &super::objects(&objects)));
    for port in [30080, 30081] {
        let packet = format!("::1 > [::1]:{port}/tcp");
        assert_eq!(trace(&ruleset, Packet::parse(&packet)), format!("to [::1]:{port}"));
    }
}

/// A Service for the inside, for the outside and for the outside here, behind which are these endpoints.
fn hinted(endpoints: &[&str]) -> Vec<String> {
    let spec = |number: u8, policy: &str| {
        format!("type: NodePort\nclusterIP: 10.96.1.{number}\n{policy}ports: [{{port: 80, nodePort: 3008{number}}}]")
    };
    vec![
        service_yaml("web", &spec(1, "")),
        slice_yaml("web", "{port: 8080}", endpoints),
        service_yaml("local", &spec(2, "externalTrafficPolicy: Local\n")),
        slice_yaml("local", "{port: 8080}", endpoints),
        service_yaml("inner", &spec(3, "internalTrafficPolicy: Local\n")),
        slice_yaml("inner", "{port: 8080}", endpoints),
        service_yaml("sticky", &spec(4, "sessionAffinity: ClientIP\n")),
        slice_yaml("sticky", "{port: 8080}", endpoints),
    ]
}

const HINTED: [&str; 7] = [
    "10.244.0.9 > 10.96.1.1:80/tcp",
    "198.51.100.1 > 192.0.2.2:30081/tcp",
    "10.244.0.9 > 10.96.1.2:80/tcp",
    "198.51.100.1 > 192.0.2.2:30082/tcp",
    "10.244.0.9 > 10.96.1.3:80/tcp",
    "198.51.100.1 > 192.0.2.2:30083/tcp",
    "10.244.0.9 > 10.96.1.4:80/tcp",
];

/// Only policy `Local` finds the endpoint of this node that is meant for another zone.
#[test]
fn a_zone_is_kept_to_where_every_ready_endpoint_has_one() {
    check(
        &hinted(&[
            "10.244.0.5 node-1 rs zone=zone-b",
            "10.244.1.5 node-2 rs zone=zone-a,zone-c",
            "10.244.2.5 node-3 rs zone=zone-b",
            "10.244.3.5 node-4 st",
        ]),
        &HINTED,
        expect![[r#"
            10.244.0.9 > 10.96.1.1:80/tcp: to 10.244.1.5:8080
            198.51.100.1 > 192.0.2.2:30081/tcp: to 10.244.1.5:8080 masqueraded
            10.244.0.9 > 10.96.1.2:80/tcp: to 10.244.1.5:8080
            198.51.100.1 > 192.0.2.2:30082/tcp: to 10.244.0.5:8080
            10.244.0.9 > 10.96.1.3:80/tcp: to 10.244.0.5:8080
            198.51.100.1 > 192.0.2.2:30083/tcp: to 10.244.1.5:8080 masqueraded
            10.244.0.9 > 10.96.1.4:80/tcp: to 10.244.1.5:8080
        "#]],
    );
}

#[test]
fn the_node_goes_before_the_zone() {
    let near = ["10.244.0.5 node-1 rs zone=zone-a node=node-1", "10.244.1.5 node-2 rs zone=zone-a node=node-2"];
    check(
        &hinted(&near)[..2],
        &HINTED[..1],
        expect![[r#"
            10.244.0.9 > 10.96.1.1:80/tcp: to 10.244.0.5:8080
        "#]],
    );
    // Nobody is meant for this node: then the zone counts.
    let far = [
        "10.244.2.5 node-3 rs zone=zone-a node=node-3",
        "10.244.1.5 node-2 rs zone=zone-a node=node-2",
        "10.244.3.5 node-4 rs zone=zone-b node=node-4",
    ];
    check(
        &hinted(&far)[..2],
        &HINTED[..1],
        expect![[r#"
            10.244.0.9 > 10.96.1.1:80/tcp: to 10.244.1.5:8080 | to 10.244.2.5:8080
        "#]],
    );
    // One that is ready is meant for no node: then no such hint counts.
    let half = ["10.244.0.5 node-1 rs zone=zone-b node=node-1", "10.244.1.5 node-2 rs zone=zone-a"];
    check(
        &hinted(&half)[..2],
        &HINTED[..1],
        expect![[r#"
            10.244.0.9 > 10.96.1.1:80/tcp: to 10.244.1.5:8080
        "#]],
    );
}

#[test]
fn hints_that_leave_somebody_out_are_not_followed() {
    for endpoints in [
        ["10.244.0.5 node-1 rs zone=zone-a", "10.244.1.5 node-2 rs"],
        ["10.244.0.5 node-1 rs zone=zone-b", "10.244.1.5 node-2 rs zone=zone-c"],
        ["10.244.0.5 node-1 st zone=zone-a", "10.244.1.5 node-2 st zone=zone-b"],
    ] {
        check(
            &hinted(&endpoints)[..2],
            &HINTED[..1],
            expect![[r#"
                10.244.0.9 > 10.96.1.1:80/tcp: to 10.244.0.5:8080 | to 10.244.1.5:8080
            "#]],
        );
    }
}
