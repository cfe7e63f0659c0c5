//! The rules and their changes as text.

use expect_test::{Expect, expect};

use super::*;

fn check_change(before: &[String], after: &[String], expected: Expect) {
    let mut ruleset = ruleset(&objects(before));
    let transaction = apply(&mut ruleset, &objects(after));
    expected.assert_eq(&transaction.to_string());
    let fresh = super::ruleset(&objects(after));
    assert_eq!(apply(&mut ruleset, &objects(after)), Transaction::default(), "the same again changes nothing");
    assert_eq!(fresh.owners().collect::<Vec<_>>(), ruleset.owners().collect::<Vec<_>>());
}

fn web(endpoints: &[&str]) -> Vec<String> {
    vec![
        service_yaml("web", "type: NodePort\nclusterIP: 10.96.1.1\nports: [{port: 80, nodePort: 30080}]"),
        slice_yaml("web", "{port: 8080}", endpoints),
    ]
}

#[test]
fn the_whole_of_a_small_cluster() {
    expect![[r#"
        set service-addresses { type ipv4_addr . inet_proto . inet_service : verdict
          10.96.1.1 . tcp . 80 : goto spread-2
        }
        set node-ports { type inet_proto . inet_service : verdict
          tcp . 30080 : goto spread-node-port-2
        }
        set empty-addresses { type ipv4_addr . inet_proto . inet_service : verdict
        }
        set empty-node-ports { type inet_proto . inet_service : verdict
        }
        set endpoints { type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service
          0.0.0.0 . tcp . 30080 . 0x0 : 10.244.0.5 . 8080
          0.0.0.0 . tcp . 30080 . 0x1 : 10.244.1.6 . 8080
          10.96.1.1 . tcp . 80 . 0x0 : 10.244.0.5 . 8080
          10.96.1.1 . tcp . 80 . 0x1 : 10.244.1.6 . 8080
        }
        set hairpins { type ipv4_addr . ipv4_addr
          10.244.0.5 . 10.244.0.5
        }
        set host-ports-at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
        }
        set host-ports { type inet_proto . inet_service : ipv4_addr . inet_service
        }
        set egress-pods { type ipv4_addr : verdict
        }
        set ingress-pods { type ipv4_addr : verdict
        }
        set peers { type mark . ipv4_addr
        }
        set named-ports { type ipv4_addr . inet_proto . inet_service . mark
        }
        chain guard {
          type filter hook prerouting priority -300;
          iifname "skiff0" ip daddr 127.0.0.0/8 drop
        }
        chain filter-input {
          type filter hook input priority 0;
          ct state new jump refusals
        }
        chain filter-forward {
          type filter hook forward priority 0;
          ct state established,related accept
          ct state new jump refusals
          ip saddr . ip daddr @hairpins accept
          ip saddr vmap @egress-pods
          ip daddr vmap @ingress-pods
        }
        chain filter-output {
          type filter hook output priority 0;
          ct state new jump refusals
        }
        chain nat-prerouting {
          type nat hook prerouting priority -100;
          jump services
        }
        chain nat-output {
          type nat hook output priority -100;
          jump services
        }
        chain nat-postrouting {
          type nat hook postrouting priority 100;
          ip saddr . ip daddr @hairpins masquerade fully-random
          meta mark & 0x4000 != 0 meta mark set meta mark & ~0x4000 masquerade fully-random
          oifname "skiff0" ip saddr 127.0.0.0/8 masquerade fully-random
          ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
        }
        chain services {
          ip daddr 10.96.0.0/12 ip saddr != 10.244.0.0/16 meta mark set meta mark | 0x4000
          ip daddr . meta l4proto . th dport vmap @service-addresses
          ip daddr != 10.96.0.0/12 fib daddr type local meta l4proto . th dport vmap @node-ports
          dnat to ip daddr . meta l4proto . th dport map @host-ports-at
          ip daddr != 10.96.0.0/12 fib daddr type local dnat to meta l4proto . th dport map @host-ports
        }
        chain refusals {
          ip daddr != 10.96.0.0/12 ip daddr . meta l4proto . th dport vmap @empty-addresses
          ip daddr 10.96.0.0/12 fib daddr type != local ip daddr . meta l4proto . th dport vmap @empty-addresses
          ip daddr != 10.96.0.0/12 fib daddr type local meta l4proto . th dport vmap @empty-node-ports
          ip daddr 10.96.0.0/12 fib daddr type != local goto reject
          ip daddr 203.0.113.0/24 fib daddr type != local goto reject
        }
        chain reject {
          meta l4proto tcp reject with tcp reset
          reject with icmp port-unreachable
        }
        chain spread-2 {
          dnat to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints
          dnat to ip daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints
        }
        chain spread-node-port-2 {
          meta mark set meta mark | 0x4000
          dnat to 0.0.0.0 . meta l4proto . th dport . numgen random mod 2 map @endpoints
          dnat to 0.0.0.0 . meta l4proto . th dport . numgen random mod 1 map @endpoints
        }
    "#]]
    .assert_eq(&ruleset(&objects(&web(&["10.244.0.5", "10.244.1.6 node-2"]))).to_string());
}

/// The same cluster in the other family: in another table, with other offsets, and without what IPv4's loopback needs.
#[test]
fn the_whole_of_a_small_cluster_in_the_other_family() {
    let objects = said(Family::V6, &objects(&web(&["10.244.0.5", "10.244.1.6 node-2"])));
    expect![[r#"
        set service-addresses { type ipv6_addr . inet_proto . inet_service : verdict
          fd00::a60:101 . tcp . 80 : goto spread-2
        }
        set node-ports { type inet_proto . inet_service : verdict
          tcp . 30080 : goto spread-node-port-2
        }
        set empty-addresses { type ipv6_addr . inet_proto . inet_service : verdict
        }
        set empty-node-ports { type inet_proto . inet_service : verdict
        }
        set endpoints { type ipv6_addr . inet_proto . inet_service . mark : ipv6_addr . inet_service
          :: . tcp . 30080 . 0x0 : fd00::af4:5 . 8080
          :: . tcp . 30080 . 0x1 : fd00::af4:106 . 8080
          fd00::a60:101 . tcp . 80 . 0x0 : fd00::af4:5 . 8080
          fd00::a60:101 . tcp . 80 . 0x1 : fd00::af4:106 . 8080
        }
        set hairpins { type ipv6_addr . ipv6_addr
          fd00::af4:5 . fd00::af4:5
        }
        set host-ports-at { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service
        }
        set host-ports { type inet_proto . inet_service : ipv6_addr . inet_service
        }
        set egress-pods { type ipv6_addr : verdict
        }
        set ingress-pods { type ipv6_addr : verdict
        }
        set peers { type mark . ipv6_addr
        }
        set named-ports { type ipv6_addr . inet_proto . inet_service . mark
        }
        chain filter-input {
          type filter hook input priority 0;
          ct state new jump refusals
        }
        chain filter-forward {
          type filter hook forward priority 0;
          ct state established,related accept
          ct state new jump refusals
          meta l4proto ipv6-icmp icmpv6 type 135-136 accept
          ip6 saddr . ip6 daddr @hairpins accept
          ip6 saddr vmap @egress-pods
          ip6 daddr vmap @ingress-pods
        }
        chain filter-output {
          type filter hook output priority 0;
          ct state new jump refusals
        }
        chain nat-prerouting {
          type nat hook prerouting priority -100;
          jump services
        }
        chain nat-output {
          type nat hook output priority -100;
          jump services
        }
        chain nat-postrouting {
          type nat hook postrouting priority 100;
          ip6 saddr . ip6 daddr @hairpins masquerade fully-random
          meta mark & 0x4000 != 0 meta mark set meta mark & ~0x4000 masquerade fully-random
          ip6 saddr fd00::af4:0/112 ip6 daddr != fd00::af4:0/112 ip6 daddr != ff00::/8 masquerade fully-random
        }
        chain services {
          ip6 daddr fd00::a60:0/108 ip6 saddr != fd00::af4:0/112 meta mark set meta mark | 0x4000
          ip6 daddr . meta l4proto . th dport vmap @service-addresses
          ip6 daddr != fd00::a60:0/108 ip6 daddr != ::1/128 fib daddr type local meta l4proto . th dport vmap @node-ports
          dnat to ip6 daddr . meta l4proto . th dport map @host-ports-at
          ip6 daddr != fd00::a60:0/108 ip6 daddr != ::1/128 fib daddr type local dnat to meta l4proto . th dport map @host-ports
        }
        chain refusals {
          ip6 daddr != fd00::a60:0/108 ip6 daddr . meta l4proto . th dport vmap @empty-addresses
          ip6 daddr fd00::a60:0/108 fib daddr type != local ip6 daddr . meta l4proto . th dport vmap @empty-addresses
          ip6 daddr != fd00::a60:0/108 ip6 daddr != ::1/128 fib daddr type local meta l4proto . th dport vmap @empty-node-ports
          ip6 daddr fd00::a60:0/108 fib daddr type != local goto reject
          ip6 daddr fd00::cb00:7100/120 fib daddr type != local goto reject
        }
        chain reject {
          meta l4proto tcp reject with tcp reset
          reject with icmpv6 port-unreachable
        }
        chain spread-2 {
          dnat to ip6 daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints
          dnat to ip6 daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints
        }
        chain spread-node-port-2 {
          meta mark set meta mark | 0x4000
          dnat to :: . meta l4proto . th dport . numgen random mod 2 map @endpoints
          dnat to :: . meta l4proto . th dport . numgen random mod 1 map @endpoints
        }
    "#]]
    .assert_eq(&ruleset_of(&Family::ALL, Family::V6, &objects).to_string());
}

/// What is not of a family leaves no trace in its rules.
#[test]
fn families_do_not_meet() {
    let spec = "type: LoadBalancer\nclusterIP: fd00::a60:101\nclusterIPs: ['fd00::a60:101', 10.96.1.1]\nexternalIPs: ['fd00::7', 192.0.2.7]\nloadBalancerSourceRanges: [198.51.100.0/24]\nports: [{port: 80}]";
    let status = "status:\n  loadBalancer:\n    ingress: [{ip: 203.0.113.5}, {ip: 'fd00::cb00:7105'}]\n";
    let parts = [
        service_yaml("web", spec) + status,
        slice_yaml("web", "{port: 8080}", &["10.244.0.5"]),
        slice_yaml("web", "{port: 8080}", &["fd00::af4:5"]).replace("web-1", "web-2"),
    ];
    let transaction = |family: Family| {
        let mut ruleset = Ruleset::new(frame_of(&Family::ALL), family);
        apply(&mut ruleset, &super::objects(&parts)).to_string()
    };
    expect![[r#"
        add chain allowed/default/web/tcp
        add chain spread-1
        add chain spread-outside-1
        add rule allowed/default/web/tcp ip saddr 198.51.100.0/24 goto spread-outside-1
        add rule allowed/default/web/tcp drop
        add rule spread-1 dnat to ip daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints
        add rule spread-outside-1 meta mark set meta mark | 0x4000
        add rule spread-outside-1 dnat to ip daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints
        add element service-addresses { 10.96.1.1 . tcp . 80 : goto spread-1 }
        add element service-addresses { 192.0.2.7 . tcp . 80 : goto spread-outside-1 }
        add element service-addresses { 203.0.113.5 . tcp . 80 : goto allowed/default/web/tcp }
        add element endpoints { 10.96.1.1 . tcp . 80 . 0x0 : 10.244.0.5 . 8080 }
        add element endpoints { 192.0.2.7 . tcp . 80 . 0x0 : 10.244.0.5 . 8080 }
        add element endpoints { 203.0.113.5 . tcp . 80 . 0x0 : 10.244.0.5 . 8080 }
        add element hairpins { 10.244.0.5 . 10.244.0.5 }
    "#]]
    .assert_eq(&transaction(Family::V4));
    expect![[r#"
        add chain spread-1
        add chain spread-outside-1
        add rule spread-1 dnat to ip6 daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints
        add rule spread-outside-1 meta mark set meta mark | 0x4000
        add rule spread-outside-1 dnat to ip6 daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints
        add element service-addresses { fd00::7 . tcp . 80 : goto spread-outside-1 }
        add element service-addresses { fd00::a60:101 . tcp . 80 : goto spread-1 }
        add element service-addresses { fd00::cb00:7105 . tcp . 80 : goto spread-outside-1 }
        add element endpoints { fd00::7 . tcp . 80 . 0x0 : fd00::af4:5 . 8080 }
        add element endpoints { fd00::a60:101 . tcp . 80 . 0x0 : fd00::af4:5 . 8080 }
        add element endpoints { fd00::cb00:7105 . tcp . 80 . 0x0 : fd00::af4:5 . 8080 }
        add element hairpins { fd00::af4:5 . fd00::af4:5 }
    "#]]
    .assert_eq(&transaction(Family::V6));
}

#[test]
fn a_new_service() {
    check_change(
        &web(&[]),
        &[web(&[]), vec![service_yaml("new", "clusterIP: 10.96.1.2\nports: [{port: 80}]")]].concat(),
        expect![[r#"
        add element empty-addresses { 10.96.1.2 . tcp . 80 : goto reject }
    "#]],
    );
}

#[test]
fn one_endpoint_instead_of_another_changes_one_element() {
    check_change(
        &web(&["10.244.1.5 n", "10.244.1.6 n", "10.244.1.7 n"]),
        &web(&["10.244.1.5 n", "10.244.1.7 n", "10.244.1.8 n"]),
        expect![[r#"
            delete element endpoints { 0.0.0.0 . tcp . 30080 . 0x1 }
            delete element endpoints { 10.96.1.1 . tcp . 80 . 0x1 }
            add element endpoints { 0.0.0.0 . tcp . 30080 . 0x1 : 10.244.1.8 . 8080 }
            add element endpoints { 10.96.1.1 . tcp . 80 . 0x1 : 10.244.1.8 . 8080 }
        "#]],
    );
}

#[test]
fn one_endpoint_less_moves_one_element() {
    check_change(
        &web(&["10.244.1.5 n", "10.244.1.6 n", "10.244.1.7 n"]),
        &web(&["10.244.1.6 n", "10.244.1.7 n"]),
        expect![[r#"
            add chain spread-2
            add chain spread-node-port-2
            add rule spread-2 dnat to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints
            add rule spread-2 dnat to ip daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints
            add rule spread-node-port-2 meta mark set meta mark | 0x4000
            add rule spread-node-port-2 dnat to 0.0.0.0 . meta l4proto . th dport . numgen random mod 2 map @endpoints
            add rule spread-node-port-2 dnat to 0.0.0.0 . meta l4proto . th dport . numgen random mod 1 map @endpoints
            delete element service-addresses { 10.96.1.1 . tcp . 80 }
            delete element node-ports { tcp . 30080 }
            delete element endpoints { 0.0.0.0 . tcp . 30080 . 0x0 }
            delete element endpoints { 0.0.0.0 . tcp . 30080 . 0x2 }
            delete element endpoints { 10.96.1.1 . tcp . 80 . 0x0 }
            delete element endpoints { 10.96.1.1 . tcp . 80 . 0x2 }
            add element service-addresses { 10.96.1.1 . tcp . 80 : goto spread-2 }
            add element node-ports { tcp . 30080 : goto spread-node-port-2 }
            add element endpoints { 0.0.0.0 . tcp . 30080 . 0x0 : 10.244.1.7 . 8080 }
            add element endpoints { 10.96.1.1 . tcp . 80 . 0x0 : 10.244.1.7 . 8080 }
        "#]],
    );
}

/// An endpoint that loses its hint takes the others out of theirs.
#[test]
fn hints_that_no_longer_count() {
    check_change(
        &web(&["10.244.1.5 n rs zone=zone-a", "10.244.1.6 n rs zone=zone-b"]),
        &web(&["10.244.1.5 n rs zone=zone-a", "10.244.1.6 n"]),
        expect![[r#"
            add chain spread-2
            add chain spread-node-port-2
            add rule spread-2 dnat to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints
            add rule spread-2 dnat to ip daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints
            add rule spread-node-port-2 meta mark set meta mark | 0x4000
            add rule spread-node-port-2 dnat to 0.0.0.0 . meta l4proto . th dport . numgen random mod 2 map @endpoints
            add rule spread-node-port-2 dnat to 0.0.0.0 . meta l4proto . th dport . numgen random mod 1 map @endpoints
            delete element service-addresses { 10.96.1.1 . tcp . 80 }
            delete element node-ports { tcp . 30080 }
            add element service-addresses { 10.96.1.1 . tcp . 80 : goto spread-2 }
            add element node-ports { tcp . 30080 : goto spread-node-port-2 }
            add element endpoints { 0.0.0.0 . tcp . 30080 . 0x1 : 10.244.1.6 . 8080 }
            add element endpoints { 10.96.1.1 . tcp . 80 . 0x1 : 10.244.1.6 . 8080 }
        "#]],
    );
}

#[test]
fn the_last_endpoint_goes() {
    check_change(
        &web(&["10.244.0.5"]),
        &web(&[]),
        expect![[r#"
            delete element service-addresses { 10.96.1.1 . tcp . 80 }
            delete element node-ports { tcp . 30080 }
            delete element endpoints { 0.0.0.0 . tcp . 30080 . 0x0 }
            delete element endpoints { 10.96.1.1 . tcp . 80 . 0x0 }
            delete element hairpins { 10.244.0.5 . 10.244.0.5 }
            add element empty-addresses { 10.96.1.1 . tcp . 80 : goto reject }
            add element empty-node-ports { tcp . 30080 : goto reject }
        "#]],
    );
}

#[test]
fn a_service_goes_without_a_trace() {
    check_change(
        &web(&["10.244.0.5"]),
        &[],
        expect![[r#"
            delete element service-addresses { 10.96.1.1 . tcp . 80 }
            delete element node-ports { tcp . 30080 }
            delete element endpoints { 0.0.0.0 . tcp . 30080 . 0x0 }
            delete element endpoints { 10.96.1.1 . tcp . 80 . 0x0 }
            delete element hairpins { 10.244.0.5 . 10.244.0.5 }
        "#]],
    );
}

#[test]
fn services_that_are_not_ours_to_serve() {
    let foreign = service_yaml("other", "clusterIP: 10.96.1.2\nports: [{port: 80}]")
        .replace("namespace: default", "namespace: default, labels: {service.kubernetes.io/service-proxy-name: other}");
    let parts = [
        service_yaml("headless", "clusterIP: None\nports: [{port: 80}]"),
        service_yaml("named", "type: ExternalName\nexternalName: example.com"),
        service_yaml("six", "clusterIP: fd00::1\nports: [{port: 80}]"),
        foreign,
    ];
    assert_eq!(ruleset(&objects(&parts)).owners().count(), 0);
}
