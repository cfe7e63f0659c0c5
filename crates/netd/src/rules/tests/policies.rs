//! What NetworkPolicies make of the rules: as text, as traced packets, and as the kernel takes them.

use std::collections::BTreeSet;

use expect_test::expect;

use super::tracer::{Packet, trace};
use super::trial::{PODS, Trial, key, trial};
use super::*;
use crate::rules::kernel::KernelRules;
use crate::testing::in_own_namespace;

const WEB: &str = "default/web
podSelector: {matchLabels: {app: web}}
ingress:
- from:
  - podSelector: {matchLabels: {app: client}}
  - ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.64/26]}
  ports: [{port: http}, {port: 443, endPort: 445}, {protocol: UDP, port: 53}]
";
const DENY_ALL: &str = "default/deny
podSelector: {}
policyTypes: [Ingress, Egress]
";

#[test]
fn a_policy_as_rules() {
    let mut trial = Trial::new();
    let transaction = trial.set_policies(&[WEB]);
    expect![[r#"
        add set blocks/0 { type ipv4_addr; flags interval }
        add chain ingress/default/0
        add element blocks/0 { 198.51.100.0-198.51.100.63 }
        add element blocks/0 { 198.51.100.128-198.51.100.255 }
        add rule ingress/default/0 0x0 . ip saddr @peers ip daddr . meta l4proto . th dport . 0x1 @named-ports return
        add rule ingress/default/0 ip saddr @blocks/0 ip daddr . meta l4proto . th dport . 0x1 @named-ports return
        add rule ingress/default/0 0x0 . ip saddr @peers meta l4proto tcp th dport 443-445 return
        add rule ingress/default/0 ip saddr @blocks/0 meta l4proto tcp th dport 443-445 return
        add rule ingress/default/0 0x0 . ip saddr @peers meta l4proto udp th dport 53 return
        add rule ingress/default/0 ip saddr @blocks/0 meta l4proto udp th dport 53 return
        add rule ingress/default/0 drop
        add element ingress-pods { 10.244.0.5 : jump ingress/default/0 }
        add element peers { 0x0 . 10.244.0.6 }
        add element peers { 0x0 . 10.244.1.6 }
        add element named-ports { 10.244.0.5 . tcp . 8080 . 0x1 }
        add element named-ports { 10.244.1.5 . tcp . 9090 . 0x1 }
    "#]]
    .assert_eq(&transaction.to_string());
}

#[test]
fn one_pod_changes_elements_alone() {
    let mut trial = trial(&[WEB, DENY_ALL, "other/db\npodSelector: {}\negress: [{to: [{namespaceSelector: {}}]}]"]);
    let mut text = String::new();
    for change in [
        "other/new 10.244.1.8 app=client",
        "default/new 10.244.1.9 app=client",
        "default/new 10.244.1.9 app=web http:81",
        "default/web-3 10.244.0.9 app=web http:8080",
        "default/new",
        "default/web-3",
    ] {
        text += &format!("{change}\n{}", trial.set_pods(&[change]));
    }
    expect![[r#"
        other/new 10.244.1.8 app=client
        add element peers { 0x2 . 10.244.1.8 }
        default/new 10.244.1.9 app=client
        add element peers { 0x0 . 10.244.1.9 }
        add element peers { 0x2 . 10.244.1.9 }
        default/new 10.244.1.9 app=web http:81
        delete element peers { 0x0 . 10.244.1.9 }
        add element named-ports { 10.244.1.9 . tcp . 81 . 0x1 }
        default/web-3 10.244.0.9 app=web http:8080
        add element egress-pods { 10.244.0.9 : jump egress/default/0 }
        add element ingress-pods { 10.244.0.9 : jump ingress/default/2 }
        add element peers { 0x2 . 10.244.0.9 }
        add element named-ports { 10.244.0.9 . tcp . 8080 . 0x1 }
        default/new
        delete element peers { 0x2 . 10.244.1.9 }
        delete element named-ports { 10.244.1.9 . tcp . 81 . 0x1 }
        default/web-3
        delete element egress-pods { 10.244.0.9 }
        delete element ingress-pods { 10.244.0.9 }
        delete element peers { 0x2 . 10.244.0.9 }
        delete element named-ports { 10.244.0.9 . tcp . 8080 . 0x1 }
    "#]]
    .assert_eq(&text);
}

#[test]
fn ingress_is_what_some_policy_allows() {
    trial(&[WEB]).check(
        &[
            "10.244.0.6 > 10.244.0.5:8080/tcp",
            "10.244.1.6 > 10.244.0.5:8080/tcp",
            "10.244.0.6 > 10.244.0.5:9090/tcp",
            "10.244.0.6 > 10.244.0.5:444/tcp",
            "10.244.0.6 > 10.244.0.5:446/tcp",
            "10.244.0.6 > 10.244.0.5:444/udp",
            "10.244.0.6 > 10.244.0.5:53/udp",
            "10.244.0.7 > 10.244.0.5:8080/tcp",
            "198.51.100.1 > 10.244.0.5:8080/tcp",
            "198.51.100.70 > 10.244.0.5:8080/tcp",
            "host > 10.244.0.5:9090/tcp",
            "10.244.0.5 > 10.244.0.7:9090/tcp",
            "10.244.0.7 > 10.244.1.5:8080/tcp",
        ],
        expect![[r#"
            10.244.0.6 > 10.244.0.5:8080/tcp: to 10.244.0.5:8080
            10.244.1.6 > 10.244.0.5:8080/tcp: to 10.244.0.5:8080
            10.244.0.6 > 10.244.0.5:9090/tcp: dropped
            10.244.0.6 > 10.244.0.5:444/tcp: to 10.244.0.5:444
            10.244.0.6 > 10.244.0.5:446/tcp: dropped
            10.244.0.6 > 10.244.0.5:444/udp: dropped
            10.244.0.6 > 10.244.0.5:53/udp: to 10.244.0.5:53
            10.244.0.7 > 10.244.0.5:8080/tcp: dropped
            198.51.100.1 > 10.244.0.5:8080/tcp: to 10.244.0.5:8080
            198.51.100.70 > 10.244.0.5:8080/tcp: dropped
            host > 10.244.0.5:9090/tcp: to 10.244.0.5:9090
            10.244.0.5 > 10.244.0.7:9090/tcp: to 10.244.0.7:9090
            10.244.0.7 > 10.244.1.5:8080/tcp: to 10.244.1.5:8080
        "#]],
    );
}

#[test]
fn isolation_is_a_matter_of_direction() {
    let packets = [
        "10.244.0.6 > 10.244.0.7:80/tcp",
        "10.244.0.7 > 10.244.0.6:80/tcp",
        "10.244.0.6 > 198.51.100.1:80/tcp",
        "10.244.0.6 > 10.96.0.10:53/udp",
        "host > 10.244.0.6:80/tcp",
        "10.244.1.7 > 10.244.0.7:80/tcp",
    ];
    trial(&[DENY_ALL]).check(
        &packets,
        expect![[r#"
        10.244.0.6 > 10.244.0.7:80/tcp: dropped
        10.244.0.7 > 10.244.0.6:80/tcp: dropped
        10.244.0.6 > 198.51.100.1:80/tcp: dropped
        10.244.0.6 > 10.96.0.10:53/udp: to 10.96.0.10:53
        host > 10.244.0.6:80/tcp: to 10.244.0.6:80
        10.244.1.7 > 10.244.0.7:80/tcp: to 10.244.0.7:80
    "#]],
    );
    trial(&["default/in\npodSelector: {}\npolicyTypes: [Ingress]"]).check(
        &packets,
        expect![[r#"
        10.244.0.6 > 10.244.0.7:80/tcp: to 10.244.0.7:80
        10.244.0.7 > 10.244.0.6:80/tcp: dropped
        10.244.0.6 > 198.51.100.1:80/tcp: to 198.51.100.1:80 masqueraded
        10.244.0.6 > 10.96.0.10:53/udp: to 10.96.0.10:53
        host > 10.244.0.6:80/tcp: to 10.244.0.6:80
        10.244.1.7 > 10.244.0.7:80/tcp: to 10.244.0.7:80
    "#]],
    );
    trial(&["default/out\npodSelector: {}\npolicyTypes: [Egress]"]).check(
        &packets,
        expect![[r#"
        10.244.0.6 > 10.244.0.7:80/tcp: dropped
        10.244.0.7 > 10.244.0.6:80/tcp: to 10.244.0.6:80
        10.244.0.6 > 198.51.100.1:80/tcp: dropped
        10.244.0.6 > 10.96.0.10:53/udp: to 10.96.0.10:53
        host > 10.244.0.6:80/tcp: to 10.244.0.6:80
        10.244.1.7 > 10.244.0.7:80/tcp: to 10.244.0.7:80
    "#]],
    );
    // Without a word on the types: ingress, and egress where it is spoken of.
    trial(&["default/in\npodSelector: {}"]).check(
        &packets,
        expect![[r#"
        10.244.0.6 > 10.244.0.7:80/tcp: to 10.244.0.7:80
        10.244.0.7 > 10.244.0.6:80/tcp: dropped
        10.244.0.6 > 198.51.100.1:80/tcp: to 198.51.100.1:80 masqueraded
        10.244.0.6 > 10.96.0.10:53/udp: to 10.96.0.10:53
        host > 10.244.0.6:80/tcp: to 10.244.0.6:80
        10.244.1.7 > 10.244.0.7:80/tcp: to 10.244.0.7:80
    "#]],
    );
    trial(&["default/both\npodSelector: {}\negress: [{to: [{ipBlock: {cidr: 198.51.100.0/24}}]}]"]).check(
        &packets,
        expect![[r#"
            10.244.0.6 > 10.244.0.7:80/tcp: dropped
            10.244.0.7 > 10.244.0.6:80/tcp: dropped
            10.244.0.6 > 198.51.100.1:80/tcp: to 198.51.100.1:80 masqueraded
            10.244.0.6 > 10.96.0.10:53/udp: to 10.96.0.10:53
            host > 10.244.0.6:80/tcp: to 10.244.0.6:80
            10.244.1.7 > 10.244.0.7:80/tcp: to 10.244.0.7:80
        "#]],
    );
    trial(&[DENY_ALL, "default/open\npodSelector: {matchLabels: {app: client}}\ningress: [{}]\negress: [{}]"]).check(
        &packets,
        expect![[r#"
            10.244.0.6 > 10.244.0.7:80/tcp: to 10.244.0.7:80
            10.244.0.7 > 10.244.0.6:80/tcp: to 10.244.0.6:80
            10.244.0.6 > 198.51.100.1:80/tcp: to 198.51.100.1:80 masqueraded
            10.244.0.6 > 10.96.0.10:53/udp: to 10.96.0.10:53
            host > 10.244.0.6:80/tcp: to 10.244.0.6:80
            10.244.1.7 > 10.244.0.7:80/tcp: to 10.244.0.7:80
        "#]],
    );
}

#[test]
fn peers_are_found_by_namespace_and_pod() {
    let packets = [
        "10.244.0.6 > 10.244.0.5:80/tcp",
        "10.244.0.7 > 10.244.0.5:80/tcp",
        "10.244.1.7 > 10.244.0.5:80/tcp",
        "192.0.2.9 > 10.244.0.5:80/tcp",
    ];
    let from = |peers: &str| {
        trial(&[&format!("default/web\npodSelector: {{matchLabels: {{app: web}}}}\ningress: [{{from: {peers}}}]")])
    };
    from("[{namespaceSelector: {}}]").check(
        &packets,
        expect![[r#"
        10.244.0.6 > 10.244.0.5:80/tcp: to 10.244.0.5:80
        10.244.0.7 > 10.244.0.5:80/tcp: to 10.244.0.5:80
        10.244.1.7 > 10.244.0.5:80/tcp: to 10.244.0.5:80
        192.0.2.9 > 10.244.0.5:80/tcp: dropped
    "#]],
    );
    from("[{namespaceSelector: {matchLabels: {team: b}}}]").check(
        &packets,
        expect![[r#"
        10.244.0.6 > 10.244.0.5:80/tcp: dropped
        10.244.0.7 > 10.244.0.5:80/tcp: to 10.244.0.5:80
        10.244.1.7 > 10.244.0.5:80/tcp: to 10.244.0.5:80
        192.0.2.9 > 10.244.0.5:80/tcp: dropped
    "#]],
    );
    from("[{namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {app: db}}}]").check(
        &packets,
        expect![[r#"
            10.244.0.6 > 10.244.0.5:80/tcp: dropped
            10.244.0.7 > 10.244.0.5:80/tcp: dropped
            10.244.1.7 > 10.244.0.5:80/tcp: to 10.244.0.5:80
            192.0.2.9 > 10.244.0.5:80/tcp: dropped
        "#]],
    );
    from("[{namespaceSelector: {matchLabels: {team: b}}}, {podSelector: {matchLabels: {app: client}}}]").check(
        &packets,
        expect![[r#"
            10.244.0.6 > 10.244.0.5:80/tcp: to 10.244.0.5:80
            10.244.0.7 > 10.244.0.5:80/tcp: to 10.244.0.5:80
            10.244.1.7 > 10.244.0.5:80/tcp: to 10.244.0.5:80
            192.0.2.9 > 10.244.0.5:80/tcp: dropped
        "#]],
    );
    from("[{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [client]}]}}]").check(
        &packets,
        expect![[r#"
            10.244.0.6 > 10.244.0.5:80/tcp: dropped
            10.244.0.7 > 10.244.0.5:80/tcp: dropped
            10.244.1.7 > 10.244.0.5:80/tcp: dropped
            192.0.2.9 > 10.244.0.5:80/tcp: dropped
        "#]],
    );
    from("[]").check(
        &packets,
        expect![[r#"
        10.244.0.6 > 10.244.0.5:80/tcp: to 10.244.0.5:80
        10.244.0.7 > 10.244.0.5:80/tcp: to 10.244.0.5:80
        10.244.1.7 > 10.244.0.5:80/tcp: to 10.244.0.5:80
        192.0.2.9 > 10.244.0.5:80/tcp: to 10.244.0.5:80
    "#]],
    );

    let mut trial = from("[{namespaceSelector: {matchLabels: {team: b}}}]");
    trial.set_namespace("other team=c");
    trial.set_namespace("default team=b");
    trial.plan(BTreeSet::new());
    trial.check(
        &packets,
        expect![[r#"
        10.244.0.6 > 10.244.0.5:80/tcp: to 10.244.0.5:80
        10.244.0.7 > 10.244.0.5:80/tcp: dropped
        10.244.1.7 > 10.244.0.5:80/tcp: dropped
        192.0.2.9 > 10.244.0.5:80/tcp: dropped
    "#]],
    );
}

#[test]
fn egress_is_judged_by_the_pod_behind_a_service() {
    let mut trial = trial(&["default/out
podSelector: {matchLabels: {app: client}}
egress:
- to: [{podSelector: {matchLabels: {app: web}}}]
  ports: [{port: http}]
- to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}]
- ports: [{protocol: SCTP}]
"]);
    let service = [
        service_yaml("web", "clusterIP: 10.96.1.1\nports: [{name: a, port: 80}, {name: b, port: 81}]"),
        slice_yaml("web", "{name: a, port: 8080}", &["10.244.0.5"]),
        slice_yaml("web", "{name: b, port: 8081}", &["10.244.0.5"]).replace("web-1", "web-2"),
        service_yaml("self", "clusterIP: 10.96.1.2\nports: [{port: 80}]"),
        slice_yaml("self", "{port: 8080}", &["10.244.0.6"]),
    ];
    trial.serve(&objects(&service));
    trial.check(
        &[
            "10.244.0.6 > 10.96.1.1:80/tcp",
            "10.244.0.6 > 10.96.1.1:81/tcp",
            "10.244.0.6 > 10.96.1.2:80/tcp",
            "10.244.0.6 > 10.244.1.5:9090/tcp",
            "10.244.0.6 > 10.244.1.5:8080/tcp",
            "10.244.0.6 > 10.244.1.7:5432/tcp",
            "10.244.0.6 > 192.0.2.9:5432/tcp",
            "10.244.0.6 > 192.0.2.9:5432/sctp",
        ],
        expect![[r#"
            10.244.0.6 > 10.96.1.1:80/tcp: to 10.244.0.5:8080
            10.244.0.6 > 10.96.1.1:81/tcp: dropped
            10.244.0.6 > 10.96.1.2:80/tcp: to 10.244.0.6:8080 masqueraded
            10.244.0.6 > 10.244.1.5:9090/tcp: to 10.244.1.5:9090
            10.244.0.6 > 10.244.1.5:8080/tcp: dropped
            10.244.0.6 > 10.244.1.7:5432/tcp: to 10.244.1.7:5432
            10.244.0.6 > 192.0.2.9:5432/tcp: dropped
            10.244.0.6 > 192.0.2.9:5432/sctp: to 192.0.2.9:5432 masqueraded
        "#]],
    );
}

#[test]
fn what_a_policy_is_not_about() {
    let nothing = |policy: &str| {
        let trial = trial(&[policy]);
        assert!(trial.ruleset.fragments().all(|fragment| fragment.chains.is_empty()), "{}", trial.ruleset);
    };
    // Pods of other nodes and pods on the host's network are isolated elsewhere or not at all.
    nothing("other/db\npodSelector: {matchLabels: {app: db}}");
    nothing("default/host\npodSelector: {matchLabels: {app: none}}");
    let trial = trial(&["default/web\npodSelector: {matchLabels: {app: web}}\ningress: [{from: [{podSelector: {}}]}]"]);
    assert!(!trial.ruleset.to_string().contains("host "), "a pod on the host's network is no peer");
    // A rule whose ports cannot be read allows nothing, rather than everything.
    let strange = "default/web\npodSelector: {}\ningress: [{ports: [{protocol: XTP}]}]";
    super::trial::trial(&[strange]).check(
        &["10.244.0.6 > 10.244.0.5:80/tcp"],
        expect![[r#"
        10.244.0.6 > 10.244.0.5:80/tcp: dropped
    "#]],
    );
}

#[test]
fn everything_goes_with_its_policy() {
    let mut trial = trial(&[WEB, DENY_ALL]);
    assert!(trial.ruleset.owners().count() > 0);
    trial.set_policies(&[]);
    assert_eq!(trial.ruleset.owners().collect::<Vec<_>>(), Vec::<&str>::new());
    trial.set_policies(&[DENY_ALL]);
    trial.set_pods(&["default/web", "default/client"]);
    assert_eq!(trial.ruleset.owners().collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn pods_of_the_same_policies_share_a_chain() {
    let many: Vec<String> =
        (0..50).map(|number| WEB.replace("default/web", &format!("default/web-{number}"))).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut trial = trial(&many);
    trial.set_pods(&["default/web-3 10.244.0.9 app=web"]);
    let chains: Vec<_> = trial.ruleset.fragments().flat_map(|fragment| fragment.chains.values()).collect();
    // Fifty policies that say the same are one chain of three ports from two kinds of peers, and the end.
    assert_eq!(chains.iter().map(|rules| rules.len()).collect::<Vec<_>>(), [7]);
}

/// Clusters that differ in every respect that matters; step by step or all at once, the rules are the same but for
/// their numbers, and the kernel takes every step.
#[test]
fn changes_of_policies_lead_where_a_fresh_start_leads() {
    let policies = [
        WEB,
        DENY_ALL,
        "default/out\npodSelector: {matchLabels: {app: client}}\negress: [{to: [{namespaceSelector: {}}], ports: [{port: sql}]}]",
        "default/web-b\npodSelector: {}\ningress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]",
        "other/in\npodSelector: {}\ningress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]",
    ];
    let pods = [
        "default/web 10.244.0.5 app=web http:8080",
        "default/web",
        "default/web 10.244.0.5 app=client",
        "default/client 10.244.0.8 app=web http:8080",
        "other/client 10.244.0.7 app=db sql:5432",
        "other/db",
    ];
    let mut number = 7_u64;
    let mut choose = move |from: usize| {
        // The multiplier and increment are Knuth's; the high bits are the good ones.
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) as usize % from
    };
    let packets: Vec<String> = ["10.244.0.5", "10.244.0.6", "10.244.0.7", "10.244.0.8", "10.244.1.7", "198.51.100.9"]
        .iter()
        .flat_map(|from| {
            let to = ["10.244.0.5", "10.244.0.6", "10.244.0.7", "10.244.0.8", "10.244.1.7", "198.51.100.70"];
            to.map(|to| [8080, 5432].map(|port| format!("{from} > {to}:{port}/tcp")))
        })
        .flatten()
        .collect();
    let mut lead = |family: Family| {
        let kernel = KernelRules::open(family).expect("opens");
        let mut trial = Trial::of(family);
        kernel.recreate(&trial.ruleset).expect("the kernel takes the frame");
        for step in 0..60 {
            let chosen: Vec<&str> = policies.into_iter().filter(|_| choose(2) == 0).collect();
            let transaction = trial.set_policies(&chosen);
            kernel.update(&transaction).unwrap_or_else(|error| panic!("step {step}: {error}\n{transaction}"));
            let transaction = trial.set_pods(&[pods[choose(pods.len())]]);
            kernel.update(&transaction).unwrap_or_else(|error| panic!("step {step}: {error}\n{transaction}"));
            let mut fresh = Trial::of(family);
            fresh.pods.clone_from(&trial.pods);
            let all =
                fresh.pods.keys().cloned().chain(PODS.iter().map(|pod| key(pod.split_once(' ').expect("a name").0)));
            fresh.plan(all.collect());
            fresh.set_policies(&chosen);
            for packet in &packets {
                let fate = |ruleset| trace(ruleset, Packet::parse(&said(family, packet)));
                assert_eq!(fate(&trial.ruleset), fate(&fresh.ruleset), "step {step}: {packet}");
            }
        }
        kernel.recreate(&trial.ruleset).expect("the kernel takes all of it");
    };
    in_own_namespace(|| Family::ALL.into_iter().for_each(&mut lead));
}

#[test]
fn nft_reads_the_policies_that_were_made() {
    in_own_namespace(|| {
        let all = "default/most\npodSelector: {}\negress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]";
        KernelRules::open(Family::V4)
            .and_then(|rules| rules.recreate(&trial(&[WEB, all]).ruleset))
            .expect("the kernel takes it");
        let listing = super::kernel::listing(Family::V4);
        for line in [
            "ct state 0x2,0x4 accept",
            "ip saddr vmap @egress-pods",
            "10.244.0.5 : jump ingress/default/",
            "198.51.100.0/26",
            "198.51.100.128/25",
            "0.0.0.0-9.255.255.255",
            "11.0.0.0-255.255.255.255",
            "tcp dport 443-445 return",
            "udp dport 53 return",
            "10.244.1.5 . 6 . 9090 . 0x00000001",
        ] {
            assert!(listing.contains(line), "{line} is not in {listing}");
        }
    });
}
