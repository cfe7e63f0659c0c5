//! What the runtime is told of a Pod, as text.

use std::collections::BTreeMap;
use std::sync::Arc;

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;

use super::container::Ingredients;
use super::*;
use crate::pod::spec;

fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).expect("valid YAML of its kind")
}

fn pod(text: &str) -> Pod {
    let mut pod: Pod = yaml(text);
    pod.metadata.namespace = Some("ns".into());
    pod.metadata.name.get_or_insert("web".into());
    pod.metadata.uid = Some("0-1".into());
    pod
}

fn node() -> NodeFacts {
    NodeFacts {
        static_cpus: false,
        apparmor: false,
        cpu_quota: true,
        recursive_read_only: true,
        memory_qos: false,
        memory_throttling: 0.9,
        pod_pids: -1,
        seccomp_default: false,
        name: "n1".into(),
        ips: vec!["192.0.2.1".into()],
        paths: paths::Paths { root: "/k".into(), logs: "/l".into() },
        cluster_dns: vec!["10.96.0.10".into()],
        cluster_domain: "cluster.local".into(),
        resolver: dns::Resolver::parse("nameserver 192.0.2.53\nsearch example.org.\noptions timeout:1\n"),
        hosts: "127.0.0.1 localhost\n".into(),
        memory_bytes: 8 << 30,
        allocatable: [("cpu".to_owned(), "2".parse().expect("a quantity"))].into(),
        systemd_cgroups: false,
        cgroup_root: String::new(),
    }
}

fn objects() -> Objects {
    let map = "{metadata: {name: config}, data: {greeting: hello, who: world}}";
    let secret = "{metadata: {name: hidden}, data: {key: c2VjcmV0}}";
    let service =
        "{metadata: {name: my-db, namespace: ns}, spec: {clusterIP: 10.96.0.5, ports: [{name: sql, port: 5432}]}}";
    let api = "{metadata: {name: kubernetes, namespace: default}, spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443}]}}";
    Objects {
        config_maps: [("config".to_owned(), Arc::new(yaml(map)))].into(),
        secrets: [("hidden".to_owned(), Arc::new(yaml(secret)))].into(),
        services: vec![Arc::new(yaml(service)), Arc::new(yaml(api))],
        ..Objects::default()
    }
}

/// Builds the container `web` and shows what `show` takes of it.
fn check(text: &str, show: impl Fn(&skiff_cri::ContainerConfig) -> String, expected: Expect) {
    let pod = pod(text);
    let spec = spec::container(&pod, "web").expect("the Pod has this container");
    let (objects, node) = (objects(), node());
    let volumes = crate::volumes::locations(&pod, &node.paths, &objects);
    let ips = ["10.244.0.9".to_owned()];
    let from = Ingredients {
        attempt: 3,
        image_ref: "sha256:1",
        ips: &ips,
        objects: &objects,
        volumes: &volumes,
        volume_images: &BTreeMap::new(),
    };
    let text = match container::config(&pod, &spec, &from, &node) {
        Ok(config) => show(&config),
        Err(error) => format!("error: {error}\n"),
    };
    expected.assert_eq(&text);
}

fn environment(config: &skiff_cri::ContainerConfig) -> String {
    config.envs.iter().map(|env| format!("{}={}\n", env.key, env.value)).collect()
}

#[test]
fn the_environment_comes_from_everywhere() {
    let text = "
metadata: {labels: {app: a}}
spec:
  nodeName: n1
  containers:
  - name: web
    image: a
    resources: {limits: {cpu: 1500m}, requests: {memory: 64Mi}}
    envFrom:
    - {prefix: CFG_, configMapRef: {name: config}}
    - {secretRef: {name: gone, optional: true}}
    env:
    - {name: A, value: 'x$(CFG_who)-$$(A)-$(NONE)'}
    - {name: B, valueFrom: {secretKeyRef: {name: hidden, key: key}}}
    - {name: C, valueFrom: {configMapKeyRef: {name: config, key: none, optional: true}}}
    - {name: D, valueFrom: {fieldRef: {fieldPath: 'metadata.labels[''app'']'}}}
    - {name: E, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: F, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: G, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}
    - {name: CFG_who, value: me}
";
    check(
        text,
        environment,
        expect![[r#"
        MY_DB_SERVICE_HOST=10.96.0.5
        MY_DB_SERVICE_PORT=5432
        MY_DB_PORT=tcp://10.96.0.5:5432
        MY_DB_SERVICE_PORT_SQL=5432
        MY_DB_PORT_5432_TCP=tcp://10.96.0.5:5432
        MY_DB_PORT_5432_TCP_PROTO=tcp
        MY_DB_PORT_5432_TCP_PORT=5432
        MY_DB_PORT_5432_TCP_ADDR=10.96.0.5
        KUBERNETES_SERVICE_HOST=10.96.0.1
        KUBERNETES_SERVICE_PORT=443
        KUBERNETES_PORT=tcp://10.96.0.1:443
        KUBERNETES_SERVICE_PORT_HTTPS=443
        KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443
        KUBERNETES_PORT_443_TCP_PROTO=tcp
        KUBERNETES_PORT_443_TCP_PORT=443
        KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1
        CFG_greeting=hello
        CFG_who=me
        A=xworld-$(A)-$(NONE)
        B=secret
        D=a
        E=10.244.0.9
        F=2
        G=64
    "#]],
    );
}

#[test]
fn what_is_missing_is_named() {
    let with = |env: &str| {
        format!("{{spec: {{containers: [{{name: web, image: a, env: [{{name: A, valueFrom: {env}}}]}}]}}}}")
    };
    check(
        &with("{configMapKeyRef: {name: gone, key: a}}"),
        environment,
        expect![[r#"
        error: configmap "gone" not found
    "#]],
    );
    check(
        &with("{configMapKeyRef: {name: config, key: gone}}"),
        environment,
        expect![[r#"
        error: couldn't find key gone in ConfigMap ns/config
    "#]],
    );
    check(
        &with("{secretKeyRef: {name: hidden, key: gone}}"),
        environment,
        expect![[r#"
        error: couldn't find key gone in Secret ns/hidden
    "#]],
    );
}

#[test]
fn words_mounts_and_limits_are_passed_on() {
    let text = "
spec:
  enableServiceLinks: false
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: host, hostPath: {path: /srv}}
  containers:
  - name: web
    image: a
    command: [/web, $(KUBERNETES_SERVICE_HOST)]
    args: ['$(WHO)']
    env: [{name: WHO, value: me}]
    resources: {limits: {cpu: 500m, memory: 64Mi}}
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
    lifecycle: {stopSignal: SIGUSR1}
    volumeMounts:
    - {name: data, mountPath: /data, subPathExpr: 'of-$(WHO)'}
    - {name: host, mountPath: /host, readOnly: true, mountPropagation: HostToContainer}
";
    let show = |config: &skiff_cri::ContainerConfig| {
        let linux = config.linux.clone().unwrap_or_default();
        let (resources, security) = (linux.resources.unwrap_or_default(), linux.security_context.unwrap_or_default());
        let mounts: String = config
            .mounts
            .iter()
            .map(|mount| {
                let mode = if mount.readonly { "ro" } else { "rw" };
                format!("{} <- {} {mode} {}\n", mount.container_path, mount.host_path, mount.propagation)
            })
            .collect();
        format!(
            "{:?} {:?}\n{mounts}log {}\nsignal {}\nquota {}/{} shares {} memory {} oom {}\nuser {:?} groups {:?} no-new-privs {} ro {} drop {:?}\n",
            config.command,
            config.args,
            config.log_path,
            config.stop_signal,
            resources.cpu_quota,
            resources.cpu_period,
            resources.cpu_shares,
            resources.memory_limit_in_bytes,
            resources.oom_score_adj,
            security.run_as_user.map(|user| user.value),
            security.supplemental_groups,
            security.no_new_privs,
            security.readonly_rootfs,
            security.capabilities.unwrap_or_default().drop_capabilities,
        )
    };
    check(
        text,
        show,
        expect![[r#"
        ["/web", "10.96.0.1"] ["me"]
        /data <- /k/pods/0-1/volumes/kubernetes.io~empty-dir/data/of-me rw 0
        /host <- /srv ro 1
        /etc/hosts <- /k/pods/0-1/etc-hosts rw 0
        /dev/termination-log <- /k/pods/0-1/containers/web/3 rw 0
        log web/3.log
        signal 29
        quota 50000/100000 shares 512 memory 67108864 oom -997
        user Some(1000) groups [2000] no-new-privs true ro true drop ["ALL"]
    "#]],
    );
    let escaping = text.replace("of-$(WHO)", "../$(WHO)");
    check(
        &escaping,
        show,
        expect![[r#"
        error: subPath "../me" must be a relative path without '..'
    "#]],
    );
    let unknown = text.replace("of-$(WHO)", "$(NOBODY)");
    check(
        &unknown,
        show,
        expect![[r#"
        error: missing value for "NOBODY"
    "#]],
    );
}

#[test]
fn names_are_resolved_as_the_policy_says() {
    let show = |text: &str| {
        let config = dns::config(&pod(text), &node());
        format!("{:?} {:?} {:?}\n", config.servers, config.searches, config.options)
    };
    let cases = [
        "{spec: {containers: []}}",
        "{spec: {containers: [], hostNetwork: true}}",
        "{spec: {containers: [], hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet}}",
        "{spec: {containers: [], dnsPolicy: Default}}",
        "{spec: {containers: [], dnsPolicy: None, dnsConfig: {nameservers: [1.1.1.1], searches: [a.b], options: [{name: ndots, value: '2'}, {name: edns0}]}}}",
        "{spec: {containers: [], dnsConfig: {options: [{name: ndots, value: '1'}]}}}",
    ];
    let all: String = cases.iter().map(|case| show(case)).collect();
    expect![[r#"
        ["10.96.0.10"] ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"] ["ndots:5"]
        ["192.0.2.53"] ["example.org"] ["timeout:1"]
        ["10.96.0.10"] ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"] ["ndots:5"]
        ["192.0.2.53"] ["example.org"] ["timeout:1"]
        ["1.1.1.1"] ["a.b"] ["ndots:2", "edns0"]
        ["10.96.0.10"] ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"] ["ndots:1"]
    "#]]
    .assert_eq(&all);
}

#[test]
fn the_hosts_file_names_the_pod() {
    let text = "{metadata: {name: web-0}, spec: {containers: [], subdomain: web, hostAliases: [{ip: 1.2.3.4, hostnames: [a, b]}]}}";
    let file = hosts::file(&pod(text), &["10.244.0.9".to_owned()], &node());
    expect![[r#"
        # Kubernetes-managed hosts file.
        127.0.0.1	localhost
        ::1	localhost ip6-localhost ip6-loopback
        fe00::	ip6-localnet
        fe00::	ip6-mcastprefix
        fe00::1	ip6-allnodes
        fe00::2	ip6-allrouters
        10.244.0.9	web-0.web.ns.svc.cluster.local	web-0

        # Entries added by HostAliases.
        1.2.3.4	a	b
    "#]]
    .assert_eq(&file);
}

#[test]
fn addresses_of_both_families_are_told() {
    let text = "{metadata: {name: web-0}, spec: {containers: []}}";
    let file = hosts::file(&pod(text), &["fd00::9".to_owned(), "10.244.0.9".to_owned()], &node());
    assert!(file.ends_with("\nfd00::9\tweb-0\n10.244.0.9\tweb-0\n"), "{file}");

    let env = |name: &str| format!("{{name: {name}, valueFrom: {{fieldRef: {{fieldPath: status.{name}}}}}}}");
    let envs = ["podIP", "podIPs", "hostIP", "hostIPs"].map(env).join(", ");
    let pod = pod(&format!("{{spec: {{containers: [{{name: web, env: [{envs}]}}]}}}}"));
    let spec = spec::container(&pod, "web").expect("the Pod has this container");
    let api =
        "{metadata: {name: kubernetes, namespace: default}, spec: {clusterIP: 'fd00:10:96::1', ports: [{port: 443}]}}";
    let objects = Objects { services: vec![Arc::new(yaml(api))], ..Objects::default() };
    let node = NodeFacts { ips: vec!["2001:db8::1".into(), "192.0.2.1".into()], ..node() };
    let ips = ["fd00::9".to_owned(), "10.244.0.9".to_owned()];
    let volumes = BTreeMap::new();
    let (attempt, image_ref, volume_images) = (0, "", &BTreeMap::new());
    let from = Ingredients { attempt, image_ref, ips: &ips, objects: &objects, volumes: &volumes, volume_images };
    expect![[r#"
        KUBERNETES_SERVICE_HOST=fd00:10:96::1
        KUBERNETES_SERVICE_PORT=443
        KUBERNETES_PORT=tcp://[fd00:10:96::1]:443
        KUBERNETES_PORT_443_TCP=tcp://[fd00:10:96::1]:443
        KUBERNETES_PORT_443_TCP_PROTO=tcp
        KUBERNETES_PORT_443_TCP_PORT=443
        KUBERNETES_PORT_443_TCP_ADDR=fd00:10:96::1
        podIP=fd00::9
        podIPs=fd00::9,10.244.0.9
        hostIP=2001:db8::1
        hostIPs=2001:db8::1,192.0.2.1
    "#]]
    .assert_eq(&environment(&container::config(&pod, &spec, &from, &node).expect("a configuration")));
}

#[test]
fn pods_have_their_place_among_cgroups() {
    let place = |resources: &str, systemd: bool| {
        let text = format!("{{spec: {{containers: [{{name: web, image: a, resources: {resources}}}]}}}}");
        let pod = pod(&text);
        format!("{} {}\n", spec::qos_class(&pod), resources::cgroup_parent(&pod, systemd))
    };
    let all = [
        place("{}", false),
        place("{requests: {cpu: 1}}", false),
        place("{limits: {cpu: 1, memory: 1Gi}}", false),
        place("{requests: {cpu: 1}}", true),
    ];
    expect![[r#"
        BestEffort /kubepods/besteffort/pod0-1
        Burstable /kubepods/burstable/pod0-1
        Guaranteed /kubepods/pod0-1
        Burstable /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0_1.slice
    "#]]
    .assert_eq(&all.concat());
}

#[test]
fn references_are_found_everywhere() {
    let text = "
spec:
  volumes:
  - {name: a, configMap: {name: m1}}
  - {name: b, secret: {secretName: s1}}
  - {name: c, projected: {sources: [{configMap: {name: m2}}, {secret: {name: s2}}]}}
  initContainers:
  - {name: i, image: a, envFrom: [{configMapRef: {name: m3}}, {secretRef: {name: s3}}]}
  containers:
  - name: web
    image: a
    env:
    - {name: A, valueFrom: {configMapKeyRef: {name: m4, key: k}}}
    - {name: B, valueFrom: {secretKeyRef: {name: s4, key: k}}}
";
    let found = References::of(&pod(text));
    assert_eq!(found.config_maps.into_iter().collect::<Vec<_>>(), ["m1", "m2", "m3", "m4"]);
    assert_eq!(found.secrets.into_iter().collect::<Vec<_>>(), ["s1", "s2", "s3", "s4"]);
}

#[test]
fn the_node_refuses_what_does_not_fit() {
    let small = "{spec: {containers: [{name: web, image: a, resources: {requests: {cpu: 1500m}}}]}}";
    let allocatable = node().allocatable;
    let running = [Arc::new(pod(small))];
    assert_eq!(crate::admission::reject(&pod(small), &[], &allocatable, None), None);
    let (reason, message) = crate::admission::reject(&pod(small), &running, &allocatable, None).expect("it is refused");
    assert_eq!(reason, "OutOfcpu");
    assert_eq!(
        message,
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000"
    );
    let picky = "{spec: {containers: [], nodeSelector: {disk: fast}}}";
    let labels = BTreeMap::from([("disk".to_owned(), "slow".to_owned())]);
    let refused = crate::admission::reject(&pod(picky), &[], &allocatable, Some(&labels));
    assert_eq!(refused.map(|(reason, _)| reason).as_deref(), Some("NodeAffinity"));
}

#[test]
fn variables_come_from_files_of_quoted_values() {
    let text = "# settings\nA='one'\n\n  B='two words = $x'\nC='a\nb'\nD='' # none\n";
    let values = env::env_file(text).expect("a valid file");
    let shown: Vec<_> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(shown, ["A=one", "B=two words = $x", "C=a\nb", "D="]);
    assert!(env::env_file("A=bare").expect_err("no quotes").contains("single quotes"));
    assert!(env::env_file("A='open").expect_err("no end").contains("no end"));
    assert!(env::env_file("nothing").expect_err("no name").contains("no '='"));
}
