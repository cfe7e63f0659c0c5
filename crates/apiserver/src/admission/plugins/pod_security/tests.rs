//! Each control by what it lets pass and what it says, as a table.

use expect_test::{Expect, expect};
use skiff_object::Object;

use super::policy::{Level, LevelVersion, Policy, Version, asked, in_full, violations};

fn pod(yaml: &str) -> Object {
    serde_saphyr::from_str(yaml).expect(yaml)
}

fn check_at(level: Level, version: Version, spec: &str, expected: Expect) {
    let pod = pod(&format!("{{metadata: {{name: p}}, spec: {spec}}}"));
    expected.assert_eq(&in_full(&violations(LevelVersion { level, version }, &pod)));
}

fn baseline(spec: &str, expected: Expect) {
    check_at(Level::Baseline, Version::Latest, spec, expected);
}

/// A Pod that is as it should be, but for what is added to its container and to itself.
fn restricted(container: &str, pod: &str, expected: Expect) {
    let spec = format!(
        "{{securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}, containers: [{{name: a, securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}{container}}}]{pod}}}"
    );
    check_at(Level::Restricted, Version::Latest, &spec, expected);
}

#[test]
fn what_a_plain_pod_lacks_is_told_as_upstream_tells_it() {
    let plain = "{containers: [{name: nginx, image: nginx}]}";
    baseline(plain, expect![""]);
    check_at(
        Level::Restricted,
        Version::Latest,
        plain,
        expect![[
            r#"allowPrivilegeEscalation != false (container "nginx" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "nginx" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "nginx" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "nginx" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#
        ]],
    );
    restricted("", "", expect![""]);
    check_at(Level::Privileged, Version::Latest, "{hostNetwork: true, containers: [{name: a}]}", expect![""]);
}

#[test]
fn baseline_closes_the_ways_to_the_node() {
    baseline(
        "{hostNetwork: true, hostPID: true, containers: [{name: a, ports: [{containerPort: 80, hostPort: 80}]}, {name: b, ports: [{hostPort: 81}, {hostPort: 80}]}]}",
        expect![[
            r#"host namespaces (hostNetwork=true, hostPID=true), hostPort (containers "a", "b" use hostPorts 80, 81)"#
        ]],
    );
    baseline(
        "{volumes: [{name: v, hostPath: {path: /}}, {name: w, emptyDir: {}}], containers: [{name: a, securityContext: {privileged: true}}]}",
        expect![[
            r#"hostPath volumes (volume "v"), privileged (container "a" must not set securityContext.privileged=true)"#
        ]],
    );
    baseline(
        "{containers: [{name: a, securityContext: {capabilities: {add: [NET_ADMIN, CHOWN]}}}], initContainers: [{name: i, securityContext: {capabilities: {add: [SYS_ADMIN]}}}]}",
        expect![[
            r#"non-default capabilities (containers "i", "a" must not include "NET_ADMIN", "SYS_ADMIN" in securityContext.capabilities.add)"#
        ]],
    );
    baseline(
        "{securityContext: {windowsOptions: {hostProcess: true}}, containers: [{name: a}]}",
        expect!["hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)"],
    );
    baseline(
        "{containers: [{name: a, livenessProbe: {httpGet: {host: 10.0.0.1}}, lifecycle: {preStop: {tcpSocket: {host: x}}}}]}",
        expect![[r#"probe or lifecycle host (container "a" uses probe or lifecycle hosts "10.0.0.1", "x")"#]],
    );
}

#[test]
fn baseline_keeps_profiles_and_labels() {
    baseline(
        "{securityContext: {appArmorProfile: {type: Unconfined}, seccompProfile: {type: Unconfined}}, containers: [{name: a, securityContext: {appArmorProfile: {type: Localhost}, seccompProfile: {type: Unconfined}}}]}",
        expect![[
            r#"forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined"), seccompProfile (pod and container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#
        ]],
    );
    baseline(
        "{securityContext: {seLinuxOptions: {type: spc_t, user: u}, sysctls: [{name: kernel.msgmax}, {name: net.ipv4.tcp_keepalive_time}]}, containers: [{name: a, securityContext: {procMount: Unmasked}}]}",
        expect![[
            r#"procMount (container "a" must not set securityContext.procMount to "Unmasked"), seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set), forbidden sysctls (kernel.msgmax)"#
        ]],
    );
    let annotated = pod(
        "{metadata: {annotations: {container.apparmor.security.beta.kubernetes.io/a: unconfined}}, spec: {containers: [{name: a}]}}",
    );
    let baseline = LevelVersion { level: Level::Baseline, version: Version::Latest };
    expect![[r#"forbidden AppArmor profile (annotation must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/a="unconfined"")"#]].assert_eq(&in_full(&violations(baseline, &annotated)));
}

#[test]
fn restricted_asks_for_more() {
    restricted(
        "",
        ", volumes: [{name: v, hostPath: {path: /}}, {name: w, nfs: {}}, {name: i, image: {}}]",
        expect![[r#"restricted volume types (volumes "v", "w" use restricted volume types "hostPath", "nfs")"#]],
    );
    restricted(
        "}, {name: b, securityContext: {allowPrivilegeEscalation: false, runAsUser: 0, runAsNonRoot: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE, CHOWN]}}",
        "",
        expect![[
            r#"unrestricted capabilities (container "b" must not include "CHOWN" in securityContext.capabilities.add), runAsNonRoot != true (container "b" must not set securityContext.runAsNonRoot=false), runAsUser=0 (container "b" must not set runAsUser=0)"#
        ]],
    );
    restricted(
        "}, {name: b, securityContext: {allowPrivilegeEscalation: false, runAsUser: 0, runAsNonRoot: false, capabilities: {drop: [ALL]}}",
        ", hostUsers: false",
        expect![""],
    );
}

#[test]
fn older_versions_ask_what_they_asked_then() {
    let plain = "{containers: [{name: a}]}";
    check_at(
        Level::Restricted,
        Version::Minor(7),
        plain,
        expect![[r#"runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true)"#]],
    );
    check_at(
        Level::Baseline,
        Version::Minor(26),
        "{securityContext: {sysctls: [{name: net.ipv4.ip_local_reserved_ports}]}, containers: [{name: a}]}",
        expect!["forbidden sysctls (net.ipv4.ip_local_reserved_ports)"],
    );
    let windows = "{os: {name: windows}, securityContext: {runAsNonRoot: true}, containers: [{name: a}]}";
    check_at(Level::Restricted, Version::Minor(25), windows, expect![""]);
    check_at(
        Level::Restricted,
        Version::Minor(24),
        windows,
        expect![[
            r#"allowPrivilegeEscalation != false (container "a" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "a" must set securityContext.capabilities.drop=["ALL"]), seccompProfile (pod or container "a" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#
        ]],
    );
    let seccomp = pod(
        "{metadata: {annotations: {seccomp.security.alpha.kubernetes.io/pod: unconfined}}, spec: {containers: [{name: a}]}}",
    );
    let old = LevelVersion { level: Level::Baseline, version: Version::Minor(18) };
    expect![[r#"seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#]]
        .assert_eq(&in_full(&violations(old, &seccomp)));
}

#[test]
fn labels_are_read() {
    let check = |labels: &[(&str, &str)], expected: Expect| {
        let find = |key: &str| {
            let short = key.trim_start_matches("pod-security.kubernetes.io/");
            labels.iter().find(|(name, _)| *name == short).map(|(_, value)| *value)
        };
        let (policy, errors) = asked(find, &Policy::default());
        let errors: Vec<_> = errors.iter().map(|error| format!("\n{error}")).collect();
        let Policy { enforce, audit, warn } = policy;
        expected.assert_eq(&format!("{enforce} {audit} {warn}{}", errors.concat()));
    };
    check(&[], expect!["privileged:latest privileged:latest privileged:latest"]);
    check(&[("enforce", "baseline")], expect!["baseline:latest privileged:latest baseline:latest"]);
    check(
        &[("enforce", "baseline"), ("enforce-version", "v1.30"), ("warn", "restricted"), ("audit", "restricted")],
        expect!["baseline:v1.30 restricted:latest restricted:latest"],
    );
    check(
        &[("enforce", "strict"), ("warn", "privileged"), ("warn-version", "v1.07")],
        expect![[r#"
            restricted:latest privileged:latest privileged:latest
            metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted
            metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "v1.07": must be "latest" or "v1.x""#]],
    );
}
