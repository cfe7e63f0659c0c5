//! What becomes of Services in clusters of one family and of both, as tables.

use expect_test::{Expect, expect};

use super::*;

const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];
const BOTH: &[Family] = &[Family::V4, Family::V6];
const BOTH_V6: &[Family] = &[Family::V6, Family::V4];

fn service(spec: &str) -> Object {
    let mut service: Object = serde_saphyr::from_str(&format!("{{spec: {{{spec}}}}}")).expect("a Service");
    service.default_at(&["spec", "type"], "ClusterIP");
    let addresses = service.list_at(&["spec", "clusterIPs"]).to_vec();
    if let Some(first) = addresses.first() {
        service.set_at(&["spec", "clusterIP"], first.clone());
    }
    service
}

fn line(cluster: &[Family], spec: &str, old: Option<&Object>) -> String {
    let mut new = service(spec);
    let errors = settle(cluster, &mut new, old);
    if !errors.is_empty() {
        return errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    }
    let shown = |field| texts(&new, field).join(",");
    format!("{} {} [{}]", policy(&new), shown("ipFamilies"), shown("clusterIPs"))
}

/// What becomes of a new Service.
fn check(cluster: &[Family], specs: &[&str], expected: Expect) {
    let lines: String = specs.iter().map(|spec| format!("{spec}\n    {}\n", line(cluster, spec, None))).collect();
    expected.assert_eq(&lines);
}

/// What becomes of a change.
fn check_change(cluster: &[Family], changes: &[(&str, &str)], expected: Expect) {
    let line =
        |(old, new): &(&str, &str)| format!("{old}\n -> {new}\n    {}\n", line(cluster, new, Some(&service(old))));
    expected.assert_eq(&changes.iter().map(line).collect::<String>());
}

const SPECS: &[&str] = &[
    "selector: {a: b}",
    "selector: {a: b}, ipFamilyPolicy: PreferDualStack",
    "selector: {a: b}, ipFamilyPolicy: RequireDualStack",
    "selector: {a: b}, ipFamilies: [IPv6]",
    "selector: {a: b}, ipFamilies: [IPv6, IPv4]",
    "selector: {a: b}, ipFamilies: [IPv6, IPv4], ipFamilyPolicy: PreferDualStack",
    "selector: {a: b}, clusterIPs: ['fd00::5']",
    "selector: {a: b}, clusterIPs: ['fd00::5', 10.96.0.5], ipFamilyPolicy: RequireDualStack",
    "selector: {a: b}, clusterIPs: [10.96.0.5, 'fd00::5']",
    "selector: {a: b}, clusterIPs: [None], ipFamilyPolicy: PreferDualStack",
    "clusterIPs: [None]",
    "clusterIPs: [None], ipFamilies: [IPv6], ipFamilyPolicy: SingleStack",
    "clusterIPs: [None], ipFamilies: [IPv6]",
    "type: ExternalName, externalName: a.b",
    "ipFamilies: [IPv4, IPv4]",
];

#[test]
fn a_cluster_of_one_family() {
    check(
        V4,
        SPECS,
        expect![[r#"
        selector: {a: b}
            SingleStack IPv4 []
        selector: {a: b}, ipFamilyPolicy: PreferDualStack
            PreferDualStack IPv4 []
        selector: {a: b}, ipFamilyPolicy: RequireDualStack
            spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services
        selector: {a: b}, ipFamilies: [IPv6]
            spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster
        selector: {a: b}, ipFamilies: [IPv6, IPv4]
            spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified
        selector: {a: b}, ipFamilies: [IPv6, IPv4], ipFamilyPolicy: PreferDualStack
            spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster
        selector: {a: b}, clusterIPs: ['fd00::5']
            spec.clusterIPs[0]: Invalid value: ["fd00::5"]: IPv6 is not configured on this cluster
        selector: {a: b}, clusterIPs: ['fd00::5', 10.96.0.5], ipFamilyPolicy: RequireDualStack
            spec.clusterIPs[0]: Invalid value: ["fd00::5","10.96.0.5"]: IPv6 is not configured on this cluster
        selector: {a: b}, clusterIPs: [10.96.0.5, 'fd00::5']
            spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified; spec.clusterIPs[1]: Invalid value: ["10.96.0.5","fd00::5"]: IPv6 is not configured on this cluster
        selector: {a: b}, clusterIPs: [None], ipFamilyPolicy: PreferDualStack
            PreferDualStack IPv4 [None]
        clusterIPs: [None]
            RequireDualStack IPv4,IPv6 [None]
        clusterIPs: [None], ipFamilies: [IPv6], ipFamilyPolicy: SingleStack
            SingleStack IPv6 [None]
        clusterIPs: [None], ipFamilies: [IPv6]
            RequireDualStack IPv6,IPv4 [None]
        type: ExternalName, externalName: a.b
              []
        ipFamilies: [IPv4, IPv4]
            spec.ipFamilies[1]: Duplicate value: "IPv4"
    "#]],
    );
    check(
        V6,
        SPECS,
        expect![[r#"
        selector: {a: b}
            SingleStack IPv6 []
        selector: {a: b}, ipFamilyPolicy: PreferDualStack
            PreferDualStack IPv6 []
        selector: {a: b}, ipFamilyPolicy: RequireDualStack
            spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services
        selector: {a: b}, ipFamilies: [IPv6]
            SingleStack IPv6 []
        selector: {a: b}, ipFamilies: [IPv6, IPv4]
            spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified
        selector: {a: b}, ipFamilies: [IPv6, IPv4], ipFamilyPolicy: PreferDualStack
            spec.ipFamilies[1]: Invalid value: "IPv4": not configured on this cluster
        selector: {a: b}, clusterIPs: ['fd00::5']
            SingleStack IPv6 [fd00::5]
        selector: {a: b}, clusterIPs: ['fd00::5', 10.96.0.5], ipFamilyPolicy: RequireDualStack
            spec.clusterIPs[1]: Invalid value: ["fd00::5","10.96.0.5"]: IPv4 is not configured on this cluster
        selector: {a: b}, clusterIPs: [10.96.0.5, 'fd00::5']
            spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified; spec.clusterIPs[0]: Invalid value: ["10.96.0.5","fd00::5"]: IPv4 is not configured on this cluster
        selector: {a: b}, clusterIPs: [None], ipFamilyPolicy: PreferDualStack
            PreferDualStack IPv6 [None]
        clusterIPs: [None]
            RequireDualStack IPv6,IPv4 [None]
        clusterIPs: [None], ipFamilies: [IPv6], ipFamilyPolicy: SingleStack
            SingleStack IPv6 [None]
        clusterIPs: [None], ipFamilies: [IPv6]
            RequireDualStack IPv6,IPv4 [None]
        type: ExternalName, externalName: a.b
              []
        ipFamilies: [IPv4, IPv4]
            spec.ipFamilies[1]: Duplicate value: "IPv4"
    "#]],
    );
}

#[test]
fn a_cluster_of_both_families() {
    check(
        BOTH,
        SPECS,
        expect![[r#"
        selector: {a: b}
            SingleStack IPv4 []
        selector: {a: b}, ipFamilyPolicy: PreferDualStack
            PreferDualStack IPv4,IPv6 []
        selector: {a: b}, ipFamilyPolicy: RequireDualStack
            RequireDualStack IPv4,IPv6 []
        selector: {a: b}, ipFamilies: [IPv6]
            SingleStack IPv6 []
        selector: {a: b}, ipFamilies: [IPv6, IPv4]
            spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified
        selector: {a: b}, ipFamilies: [IPv6, IPv4], ipFamilyPolicy: PreferDualStack
            PreferDualStack IPv6,IPv4 []
        selector: {a: b}, clusterIPs: ['fd00::5']
            SingleStack IPv6 [fd00::5]
        selector: {a: b}, clusterIPs: ['fd00::5', 10.96.0.5], ipFamilyPolicy: RequireDualStack
            RequireDualStack IPv6,IPv4 [fd00::5,10.96.0.5]
        selector: {a: b}, clusterIPs: [10.96.0.5, 'fd00::5']
            spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified
        selector: {a: b}, clusterIPs: [None], ipFamilyPolicy: PreferDualStack
            PreferDualStack IPv4,IPv6 [None]
        clusterIPs: [None]
            RequireDualStack IPv4,IPv6 [None]
        clusterIPs: [None], ipFamilies: [IPv6], ipFamilyPolicy: SingleStack
            SingleStack IPv6 [None]
        clusterIPs: [None], ipFamilies: [IPv6]
            RequireDualStack IPv6,IPv4 [None]
        type: ExternalName, externalName: a.b
              []
        ipFamilies: [IPv4, IPv4]
            spec.ipFamilies[1]: Duplicate value: "IPv4"
    "#]],
    );
    check(
        BOTH_V6,
        &SPECS[..4],
        expect![[r#"
        selector: {a: b}
            SingleStack IPv6 []
        selector: {a: b}, ipFamilyPolicy: PreferDualStack
            PreferDualStack IPv6,IPv4 []
        selector: {a: b}, ipFamilyPolicy: RequireDualStack
            RequireDualStack IPv6,IPv4 []
        selector: {a: b}, ipFamilies: [IPv6]
            SingleStack IPv6 []
    "#]],
    );
}

#[test]
fn second_addresses_come_and_go_by_the_policy() {
    let single = "ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]";
    let dual = "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']";
    let one = "ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]";
    check_change(
        BOTH,
        &[
            (single, "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]"),
            (single, "ipFamilyPolicy: PreferDualStack, clusterIPs: [10.96.0.5]"),
            (single, "ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5, 'fd00::9']"),
            (single, "ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5]"),
            (single, "clusterIPs: [10.96.0.5]"),
            (one, one),
            (dual, dual),
            (dual, "ipFamilyPolicy: SingleStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']"),
            (dual, "ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]"),
            (dual, "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]"),
            (dual, "clusterIPs: [10.96.0.5, 'fd00::5']"),
            ("type: ExternalName", "selector: {a: b}, ipFamilyPolicy: PreferDualStack"),
        ],
        expect![[r#"
            ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]
             -> ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]
                RequireDualStack IPv4,IPv6 [10.96.0.5]
            ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]
             -> ipFamilyPolicy: PreferDualStack, clusterIPs: [10.96.0.5]
                PreferDualStack IPv4,IPv6 [10.96.0.5]
            ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]
             -> ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5, 'fd00::9']
                PreferDualStack IPv4,IPv6 [10.96.0.5,fd00::9]
            ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]
             -> ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5]
                spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified
            ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]
             -> clusterIPs: [10.96.0.5]
                SingleStack IPv4 [10.96.0.5]
            ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]
             -> ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]
                PreferDualStack IPv4 [10.96.0.5]
            ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']
             -> ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']
                RequireDualStack IPv4,IPv6 [10.96.0.5,fd00::5]
            ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']
             -> ipFamilyPolicy: SingleStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']
                SingleStack IPv4 [10.96.0.5]
            ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']
             -> ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]
                SingleStack IPv4 [10.96.0.5]
            ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']
             -> ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4], clusterIPs: [10.96.0.5]
                spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be 'SingleStack' to release the secondary cluster IP; spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be 'SingleStack' to release the secondary IP family
            ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']
             -> clusterIPs: [10.96.0.5, 'fd00::5']
                RequireDualStack IPv4,IPv6 [10.96.0.5,fd00::5]
            type: ExternalName
             -> selector: {a: b}, ipFamilyPolicy: PreferDualStack
                PreferDualStack IPv4,IPv6 []
        "#]],
    );
    // A cluster that has lost a family leaves alone what prefers two.
    let both = "ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']";
    check_change(
        V4,
        &[(both, both), (dual, dual)],
        expect![[r#"
        ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']
         -> ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']
            PreferDualStack IPv4,IPv6 [10.96.0.5,fd00::5]
        ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']
         -> ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, 'fd00::5']
            spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services; spec.ipFamilies[1]: Invalid value: "IPv6": not configured on this cluster
    "#]],
    );
}
