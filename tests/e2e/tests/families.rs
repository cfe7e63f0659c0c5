//! Clusters with ranges of their own choice: of IPv4, of both families and of IPv6 alone.

use serde_json::{Value, json};
use skiff_e2e::Cluster;

/// Other ranges than the usual ones.
const V4: [&str; 4] = ["--cluster-cidr", "10.42.0.0/16", "--service-cidr", "10.43.0.0/16"];
const BOTH: [&str; 4] = ["--cluster-cidr", "10.42.0.0/16,fd00:42::/56", "--service-cidr", "10.43.0.0/16,fd00:43::/112"];
const V6: [&str; 4] = ["--cluster-cidr", "fd00:42::/56", "--service-cidr", "fd00:43::/112"];

/// A server that is no node.
fn server(purpose: &str, ranges: &[&str]) -> Cluster {
    let cluster = Cluster::empty(purpose);
    cluster.skiff(&[&["up", "--disable-agent"], ranges].concat()).ok();
    cluster
}

/// The addresses of a Service.
fn addresses(cluster: &Cluster, service: &str) -> Vec<String> {
    let service = cluster.get(&format!("service {service}"));
    serde_json::from_value(service["spec"]["clusterIPs"].clone()).expect("a list")
}

/// Creates what a text in braces says, which kubectl would else take for JSON.
#[track_caller]
fn create(cluster: &Cluster, text: &str) {
    cluster.create(&format!("---\n{text}"));
}

/// Waits until the cluster's objects are as they should be.
fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{what} did not come to be");
}

/// A Pod that runs nowhere, but says that it does.
fn claim_pod(cluster: &Cluster, ips: &[&str]) {
    create(
        cluster,
        "{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}}",
    );
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    let status = json!({"status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips,
        "conditions": [{"type": "Ready", "status": "True"}]}});
    cluster.kubectl_args(&["patch", "pod", "web", "--subresource=status", "-p", &status.to_string()]).ok();
}

#[test]
fn a_control_plane_of_both_families() {
    let cluster = server("dual", &BOTH);
    assert_eq!(addresses(&cluster, "kubernetes"), ["10.43.0.1"]);
    let status = cluster.skiff(&["status"]).ok();
    assert!(
        status.contains("\nPods:     10.42.0.0/16,fd00:42::/56\nServices: 10.43.0.0/16,fd00:43::/112\n"),
        "{status}"
    );
    let again = cluster.skiff(&["up", "--disable-agent", "--service-cidr", "10.43.0.0/16"]);
    assert!(
        again
            .stderr
            .contains("was set up with --service-cidr 10.43.0.0/16,fd00:43::/112; it cannot be 10.43.0.0/16 now"),
        "{again:?}"
    );

    create(&cluster, "{apiVersion: v1, kind: Node, metadata: {name: n1}}");
    let given = eventually("ranges of both families", || {
        let ranges = cluster.get("node n1")["spec"]["podCIDRs"].clone();
        ranges.is_array().then_some(ranges)
    });
    assert_eq!(given, json!(["10.42.0.0/24", "fd00:42::/64"]));

    claim_pod(&cluster, &["10.42.0.5", "fd00:42::5"]);
    create(
        &cluster,
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}",
    );
    assert_eq!(addresses(&cluster, "web").len(), 1);
    cluster
        .kubectl_args(&["patch", "service", "web", "-p", r#"{"spec": {"ipFamilyPolicy": "RequireDualStack"}}"#])
        .ok();
    let both = addresses(&cluster, "web");
    assert!(both[0].starts_with("10.43.") && both[1].starts_with("fd00:43::"), "{both:?}");
    let taken = cluster.kubectl(&format!("get ipaddress {}", both[1])).ok();
    assert!(taken.contains("services/default/web"), "{taken}");
    let slices = || {
        let slices = cluster.get("endpointslices -l kubernetes.io/service-name=web");
        let mut told: Vec<String> = slices["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|slice| format!("{} {}", slice["addressType"], slice["endpoints"][0]["addresses"]))
            .collect();
        told.sort();
        told
    };
    eventually("a slice of each family", || {
        (slices() == [r#""IPv4" ["10.42.0.5"]"#, r#""IPv6" ["fd00:42::5"]"#]).then_some(())
    });
    cluster.kubectl_args(&["patch", "service", "web", "-p", r#"{"spec": {"ipFamilyPolicy": "SingleStack"}}"#]).ok();
    eventually("one slice", || (slices() == [r#""IPv4" ["10.42.0.5"]"#]).then_some(()));
    assert_ne!(cluster.kubectl(&format!("get ipaddress {}", both[1])).code, 0, "it is free again");

    // A second start knows what was chosen at the first.
    cluster.skiff(&["down"]).ok();
    cluster.skiff(&["up", "--disable-agent"]).ok();
    assert_eq!(addresses(&cluster, "kubernetes"), ["10.43.0.1"]);
}

#[test]
fn a_control_plane_of_ipv6_alone() {
    let cluster = server("six", &V6);
    assert_eq!(addresses(&cluster, "kubernetes"), ["fd00:43::1"]);
    let slice = cluster.get("endpointslice kubernetes");
    assert_eq!(slice["addressType"], "IPv6");
    // The API is where the slice says, and shows a certificate for that.
    let address = slice["endpoints"][0]["addresses"][0].as_str().expect("an address").to_owned();
    let config = cluster.kubeconfig().display().to_string();
    let server = format!("https://[{address}]:6443");
    let mut asked =
        cluster.inside(&["kubectl", "--kubeconfig", &config, "--server", &server, "get", "--raw", "/livez"]);
    let answer = asked.env("HOME", cluster.folder()).output().expect("it can be started");
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "ok", "{answer:?}");
    create(&cluster, "{apiVersion: v1, kind: Node, metadata: {name: n1}}");
    let range = eventually("a range", || cluster.get("node n1")["spec"]["podCIDR"].as_str().map(str::to_owned));
    assert_eq!(range, "fd00:42::/64");
    claim_pod(&cluster, &["fd00:42::5"]);
    create(
        &cluster,
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}], ipFamilyPolicy: PreferDualStack}}",
    );
    assert!(addresses(&cluster, "web")[0].starts_with("fd00:43::"));
    let endpoint = eventually("its endpoint", || {
        let endpoints = cluster.get("endpoints web");
        endpoints["subsets"][0]["addresses"][0]["ip"].as_str().map(str::to_owned)
    });
    assert_eq!(endpoint, "fd00:42::5");
}

#[test]
fn ranges_that_cannot_be_are_refused() {
    let cluster = Cluster::empty("refused");
    for (options, why) in [
        (&["--cluster-cidr", "10.42.0.0/16,10.44.0.0/16"], "may have one range of each family"),
        (&["--cluster-cidr", "10.96.0.0/16"], "overlap"),
        (&["--cluster-cidr", "10.42.0.0/25"], "is smaller than the part of one node"),
        (&["--service-cidr", "10.43.0.0/30"], "is too small"),
    ] {
        let refused = cluster.skiff(&[&["up"], &options[..]].concat());
        assert!(refused.code != 0 && refused.stderr.contains(why), "{options:?}: {refused:?}");
    }
    assert!(!cluster.folder_of(&cluster.name).join("node.json").exists(), "nothing was kept of it");
}

/// Two nodes with a Pod each, and a Service of all families of the cluster for the one that is far from the other.
fn two_nodes(purpose: &str, ranges: &[&str]) {
    let cluster = Cluster::several_with(purpose, 1, ranges, |_| {});
    let agent = cluster.agent(0);
    for (pod, node) in [("own", &cluster.name), ("far", &agent)] {
        create(
            &cluster,
            &format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {pod}, labels: {{app: {pod}}}}}, spec: {{nodeName: {node}, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: 'localhost:5000/hello:v1'}}]}}}}"
            ),
        );
    }
    create(
        &cluster,
        "{apiVersion: v1, kind: Service, metadata: {name: far}, spec: {type: NodePort, ipFamilyPolicy: PreferDualStack, selector: {app: far}, ports: [{port: 80, targetPort: 8080}]}}",
    );
    // The ranges stand behind the flags, one of each family in the order of the cluster.
    let begins: [Vec<&str>; 2] =
        [1, 3].map(|at| ranges[at].split(',').map(|range| &range[..range.find("0.0/").unwrap_or(8)]).collect());
    let all_begin = |addresses: &[String], begins: &[&str]| {
        let fit = addresses.iter().zip(begins).all(|(address, begin)| address.starts_with(begin));
        assert!(fit && addresses.len() == begins.len(), "{addresses:?} of {begins:?}");
    };
    let service = addresses(&cluster, "far");
    all_begin(&service, &begins[1]);
    let listed = |pod: &str, field: &str| -> Vec<String> {
        let ips = cluster.get(&format!("pod {pod}"))["status"][field].as_array().cloned().unwrap_or_default();
        ips.iter().map(|ip| ip["ip"].as_str().expect("an address").to_owned()).collect()
    };
    for pod in ["own", "far"] {
        cluster.ready(pod);
        all_begin(&listed(pod, "podIPs"), &begins[0]);
        let found = cluster.sh(pod, "nslookup far.default.svc.cluster.local").ok();
        assert!(service.iter().all(|address| found.contains(address)), "{found}");
    }
    // By name, and by every address of the Service, of the Pod and of the nodes.
    let port = cluster.get("service far")["spec"]["ports"][0]["nodePort"].to_string();
    let at = |address: &str, port: &str| match address.contains(':') {
        true => format!("http://[{address}]:{port}/"),
        false => format!("http://{address}:{port}/"),
    };
    let own = || {
        service
            .iter()
            .map(|address| at(address, "80"))
            .chain(listed("far", "podIPs").iter().map(|ip| at(ip, "8080")))
            .collect::<Vec<_>>()
    };
    let nodes = || {
        [listed("own", "hostIPs"), listed("far", "hostIPs")].concat().iter().map(|ip| at(ip, &port)).collect::<Vec<_>>()
    };
    let urls = [vec!["http://far.default.svc.cluster.local/".to_owned()], own(), nodes()].concat();
    assert_eq!(urls.len(), 1 + begins[0].len() * 4);
    for url in urls {
        let answer = eventually(&format!("an answer from {url}"), || {
            let answer = cluster.sh("own", &format!("timeout 3 wget -q -O - {url}"));
            (answer.code == 0).then_some(answer.stdout)
        });
        assert_eq!(answer, "hello v1 from far\n", "{url}");
    }
    // The same from the node itself.
    for url in own() {
        let answer =
            cluster.inside(&["timeout", "3", "wget", "-q", "-O", "-", &url]).output().expect("it can be started");
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "hello v1 from far\n", "{url}: {answer:?}");
    }
    let kept = std::fs::read_to_string(cluster.folder_of(&agent).join("node.json")).expect("it is there");
    assert!(kept.contains(ranges[3].split(',').next().expect("a range")), "the agent keeps what it has learnt: {kept}");
}

#[test]
fn nodes_have_the_ranges_that_were_chosen() {
    two_nodes("ranges", &V4);
}

#[test]
fn nodes_of_both_families() {
    two_nodes("both", &BOTH);
}

#[test]
fn nodes_of_ipv6_alone() {
    two_nodes("alone", &V6);
}
