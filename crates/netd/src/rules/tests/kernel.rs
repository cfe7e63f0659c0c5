//! The kernel as a judge: it takes our transactions, and `nft` reads back what they made.

use std::process::Command;

use super::*;
use crate::rules::kernel::KernelRules;
use crate::testing::in_own_namespace;

/// What `nft` sees in the current namespace; the elements of sets are on one line each, without their dynamic state.
#[expect(clippy::disallowed_methods, reason = "nft is the tests' oracle only")]
fn listing() -> String {
    let output = Command::new("nft").args(["-nn", "list", "table", "ip", "skiff"]).output();
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
        let rules = KernelRules::open().expect("opens");
        assert!(!rules.exist().expect("answers"));
        rules.recreate(&ruleset(&example())).expect("the kernel takes all of it");
        assert!(rules.exist().expect("answers"));
        println!("{}", listing());
        rules.remove().expect("goes");
        rules.remove().expect("twice is no error");
        assert!(!rules.exist().expect("answers"));
    });
}
