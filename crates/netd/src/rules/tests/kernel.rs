//! The kernel as a judge: it takes our transactions, and `nft` reads back what they made.

use std::net::IpAddr;
use std::process::Command;

use super::*;
use crate::rules::kernel::KernelRules;
use crate::testing::in_own_namespace;

/// What `nft` sees in the current namespace; the elements of sets are on one line each, without their dynamic state.
#[allow(clippy::disallowed_methods, reason = "nft is the tests' oracle only")]
pub(super) fn listing(family: Family) -> String {
    let family = if family == Family::V4 { "ip" } else { "ip6" };
    let output = Command::new("nft").args(["-nn", "list", "table", family, "skiff"]).output();
    let output = output.expect("nft is installed where tests run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn example() -> String {
    objects(&[
        service_yaml(
            "web",
            "type: LoadBalancer\nclusterIP: 10.96.1.1\nexternalIPs: [192.0.2.7]\nloadBalancerSourceRanges: [198.51.100.0/24]\nports:\n- {name: http, port: 80, nodePort: 30080}",
        ) + "status:\n  loadBalancer:\n    ingress: [{ip: 203.0.113.5}]\n",
        slice_yaml("web", "{name: http, port: 8080}", &["10.244.0.5", "10.244.1.5 node-2", "10.244.0.6"]),
        service_yaml("sticky", "clusterIP: 10.96.1.2\nsessionAffinity: ClientIP\nports: [{port: 53, protocol: UDP}]"),
        slice_yaml("sticky", "{port: 5353, protocol: UDP}", &["10.244.0.7", "10.244.0.8"]),
        service_yaml(
            "near",
            "type: NodePort\nclusterIP: 10.96.1.3\nexternalTrafficPolicy: Local\ninternalTrafficPolicy: Local\nports: [{port: 443, nodePort: 30443}]",
        ),
        slice_yaml("near", "{port: 8443}", &["10.244.0.9", "10.244.1.9 node-2"]),
        service_yaml("empty", "type: NodePort\nclusterIP: 10.96.1.4\nports: [{port: 80, nodePort: 30081}]"),
    ])
}

#[test]
fn nft_reads_what_was_made() {
    in_own_namespace(|| {
        let rules = KernelRules::open(Family::V4).expect("opens");
        assert!(!rules.exist().expect("answers"));
        rules.recreate(&ruleset(&example())).expect("the kernel takes all of it");
        assert!(rules.exist().expect("answers"));
        let listing = listing(Family::V4);
        for line in [
            "10.96.1.1 . 6 . 80 : goto spread-3",
            "10.96.1.1 . 6 . 80 . 0x00000001 : 10.244.0.6 . 8080",
            "10.96.1.3 . 6 . 443 . 0x80000000 : 10.244.0.9 . 8443",
            "meta mark & 0x00004000 != 0x00000000 meta mark set meta mark & 0xffffbfff masquerade fully-random",
            "ip daddr != 10.96.0.0/12 fib daddr type 2 meta l4proto . th dport vmap @node-ports",
            "ip daddr . meta l4proto . th dport . numgen random mod 3 map @endpoints",
            "ip saddr 198.51.100.0/24 goto spread-outside-3",
            "update @clients/default/sticky/udp/10.244.0.7-5353/10800s { ip saddr timeout 10800s }",
            "numgen random mod 2 vmap @picks-of-cluster/default/sticky/udp",
            "iifname \"skiff0\" ip daddr 127.0.0.0/8 drop",
        ] {
            assert!(listing.contains(line), "{line} is not in {listing}");
        }
        rules.remove().expect("goes");
        rules.remove().expect("twice is no error");
        assert!(!rules.exist().expect("answers"));
    });
}

#[test]
fn nft_reads_the_other_family() {
    in_own_namespace(|| {
        let [four, six] = Family::ALL.map(|family| KernelRules::open(family).expect("opens"));
        let ruleset = ruleset_of(&[Family::V6], Family::V6, &said(Family::V6, &example()));
        six.recreate(&ruleset).expect("the kernel takes all of it");
        assert!(six.exist().expect("answers") && !four.exist().expect("answers"));
        let listing = listing(Family::V6);
        for line in [
            "fd00::a60:101 . 6 . 80 : goto spread-3",
            "fd00::a60:101 . 6 . 80 . 0x00000001 : fd00::af4:6 . 8080",
            "ip6 daddr != fd00::a60:0/108 ip6 daddr != ::1 fib daddr type 2 meta l4proto . th dport vmap @node-ports",
            "ip6 daddr . meta l4proto . th dport . numgen random mod 3 map @endpoints",
            "ip6 saddr fd00::c633:6400/120 goto spread-outside-3",
            "update @clients/default/sticky/udp/fd00::af4:7-5353/10800s { ip6 saddr timeout 10800s }",
            "dnat to [fd00::af4:7]:5353",
            "ip6 saddr . ip6 daddr @hairpins masquerade fully-random",
            "ip6 saddr fd00::af4:0/112 ip6 daddr != fd00::af4:0/112 ip6 daddr != ff00::/8 masquerade fully-random",
            "icmpv6 type 135-136 accept",
        ] {
            assert!(listing.contains(line), "{line} is not in {listing}");
        }
        assert!(!listing.contains("127.0.0.0"));
        six.remove().expect("goes");
        assert!(!six.exist().expect("answers"));
    });
}

/// A listing whose order says nothing: sets give their elements in the order of their hashes, and chains stand in the
/// order in which they were made.
fn sorted_listing(family: Family) -> Vec<String> {
    let mut lines = Vec::new();
    let mut block = String::new();
    for line in listing(family).lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" {") {
            name.clone_into(&mut block);
        } else {
            let elements = line.trim_start_matches("elements = {").trim_end_matches('}').split(", ");
            let elements =
                elements.map(|element| element.trim().trim_end_matches(',')).filter(|element| !element.is_empty());
            // Common chains stay once they are there.
            lines.extend(
                elements.filter(|_| !block.starts_with("chain spread-")).map(|element| format!("{block}: {element}")),
            );
        }
    }
    lines.sort();
    lines
}

/// A small cluster that differs from number to number in every respect that matters.
fn cluster(mut number: u64) -> String {
    let mut choose = |from: u64| {
        // The multiplier and increment are Knuth's; the high bits are the good ones.
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) % from
    };
    let mut parts = Vec::new();
    for service in 0..3 {
        if choose(4) == 0 {
            continue;
        }
        let mut spec = format!("clusterIP: 10.96.1.{service}\ntype: NodePort\nexternalIPs: [192.0.2.{}]\n", choose(2));
        let policies =
            ["", "externalTrafficPolicy: Local\n", "internalTrafficPolicy: Local\n", "sessionAffinity: ClientIP\n"];
        spec += policies[choose(4) as usize];
        spec += &format!("ports: [{{port: 80, nodePort: {}}}]", 30000 + choose(3));
        let name = format!("s{service}");
        let endpoints: Vec<String> = (0..choose(5))
            .map(|_| format!("10.244.0.{} node-{} {}", choose(6), 1 + choose(2), ["rs", "st"][choose(2) as usize]))
            .collect();
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        parts.push(service_yaml(&name, &spec));
        parts.push(slice_yaml(&name, "{port: 8080}", &endpoints));
    }
    objects(&parts)
}

/// Step by step or all at once, the kernel ends up with the same rules (but for the numbers of the endpoints, which
/// stay where they were).
#[test]
fn changes_lead_where_a_fresh_start_leads() {
    let without_numbers = |lines: Vec<String>| -> Vec<String> {
        let cut = |line: String| match line.split_once(": 0x") {
            Some((block, element)) => {
                format!("{block}: {}", element.split_once(" : ").map_or(element, |(_, value)| value))
            }
            None => line,
        };
        let mut lines: Vec<String> = lines.into_iter().map(cut).collect();
        lines.sort();
        lines
    };
    let lead = |family: Family| {
        let rules = KernelRules::open(family).expect("opens");
        let mut ruleset = Ruleset::new(frame_of(&[family]), family);
        rules.recreate(&ruleset).expect("the kernel takes the frame");
        for number in 0..60 {
            let transaction = apply(&mut ruleset, &said(family, &cluster(number)));
            rules.update(&transaction).unwrap_or_else(|error| panic!("cluster {number}: {error}\n{transaction}"));
            if number % 10 == 9 {
                let changed = without_numbers(sorted_listing(family));
                let fresh = ruleset_of(&[family], family, &said(family, &cluster(number)));
                rules.recreate(&fresh).expect("the kernel takes all of it");
                assert_eq!(changed, without_numbers(sorted_listing(family)), "cluster {number}");
                rules.recreate(&ruleset).expect("the kernel takes all of it");
            }
        }
    };
    in_own_namespace(|| Family::ALL.into_iter().for_each(lead));
}

#[test]
fn one_service_more_among_a_thousand_is_a_small_transaction() {
    const SERVICES: u16 = 1000;
    /// A chain, its rules and the elements of a Service with one port.
    const CHANGES: usize = 12;
    let backend = |number: u16, last| service::Backend {
        port_name: String::new(),
        transport: crate::Transport::Tcp,
        endpoint: Endpoint { address: IpAddr::from([10, 244, (number >> 8) as u8 + 1, last]), port: 8080 },
        is_ready: true,
        is_serving_to_the_end: false,
        is_local: false,
        hints: topology::Hints::default(),
    };
    let planned = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let port = service::ServicePort {
            name: String::new(),
            transport: crate::Transport::Tcp,
            port: 80,
            node_port: Some(20000 + number),
        };
        let service = service::Service {
            name: format!("default/s{number}"),
            cluster_address: IpAddr::from([10, 97, high, low]),
            external_addresses: Vec::new(),
            balancer_addresses: Vec::new(),
            balancer_sources: Vec::new(),
            ports: vec![port],
            internal_local: false,
            external_local: false,
            affinity: None,
        };
        let backends = [backend(number, 1), backend(number, 2), backend(number, 3)];
        (service::owner("default", &format!("s{number}")), service::fragment(&service, &backends, &frame(), None))
    };
    in_own_namespace(|| {
        let rules = KernelRules::open(Family::V4).expect("opens");
        let mut ruleset = Ruleset::new(frame(), Family::V4);
        ruleset.replace((0..SERVICES).map(planned));
        rules.recreate(&ruleset).expect("the kernel takes all of it");
        let transaction = ruleset.replace([planned(SERVICES)]);
        assert!(transaction.len() <= CHANGES, "{transaction:?}");
        rules.update(&transaction).expect("the kernel takes it");
    });
}
