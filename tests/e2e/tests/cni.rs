//! Pods on a network that a chain of CNI plugins makes: Debian's bridge, host-local and portmap.

use std::fs;
use std::path::Path;

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, hello_image, http_get, kill};

const PLUGINS: &str = "/usr/lib/cni";

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: hello
    image: localhost:5000/hello:v1
    command: [/hello, --port=8080]
    ports: [{containerPort: 8080, hostPort: 8081}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: hello, image: localhost:5000/hello:v1, command: [/hello, --port=8080]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

/// A pod that asks for what none of the plugins can do.
const SLOW: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: slow, annotations: {kubernetes.io/egress-bandwidth: 1M}}
spec:
  containers:
  - {name: hello, image: localhost:5000/hello:v1, command: [/hello, --port=8080]}
"#;

fn write_network(cluster: &Cluster) -> String {
    let folder = cluster.folder().join("net.d");
    let leases = cluster.folder().join("leases");
    fs::create_dir_all(&folder).expect("a writable folder");
    let list = format!(
        r#"{{"cniVersion": "1.0.0", "name": "theirs", "plugins": [
            {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
              "ipam": {{"type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": "10.88.0.0/16"}}]],
                        "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        leases.display()
    );
    fs::write(folder.join("10-theirs.conflist"), list).expect("written");
    folder.display().to_string()
}

/// The addresses that are given out.
fn leases(cluster: &Cluster) -> Vec<String> {
    let entries = fs::read_dir(cluster.folder().join("leases/theirs")).expect("the plugin keeps its leases there");
    let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("10.88.")).collect()
}

fn address(cluster: &Cluster, pod: &str) -> String {
    cluster.kubectl(&format!("get pod {pod} -o jsonpath={{.status.podIP}}")).ok()
}

#[test]
fn pods_are_on_a_network_that_plugins_make() {
    if ["bridge", "host-local", "portmap"].iter().any(|plugin| !Path::new(PLUGINS).join(plugin).exists()) {
        return eprintln!("SKIPPED: there are no CNI plugins; install Debian's containernetworking-plugins");
    }
    let cluster = Cluster::empty("cni");
    let network = write_network(&cluster);
    let up = ["up", "--cni-conf-dir", &network, "--cni-bin-dir", PLUGINS];
    cluster.skiff(&up).ok();
    let image = cluster.folder().join("hello.tar");
    hello_image("v1").save("localhost:5000/hello:v1", &image).expect("written");
    cluster.skiff(&["image", "import", &image.display().to_string()]).ok();
    cluster.create(MANIFEST);
    cluster.kubectl("wait --for=condition=Ready pod/web pod/client --timeout=60s").ok();
    let (web, client) = (address(&cluster, "web"), address(&cluster, "client"));
    assert!(web.starts_with("10.88.") && client.starts_with("10.88."), "{web} {client}");
    assert_eq!(leases(&cluster).len(), 2);

    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].status.addresses[0].address}").ok();
    let works = || {
        let fetch = |url: &str| cluster.sh("client", &format!("timeout 5 wget -q -O - {url}")).stdout.trim().to_owned();
        for url in [format!("http://{web}:8080/"), "http://web/".to_owned()] {
            eventually("a pod reaches another", || fetch(&url) == "hello v1 from web");
        }
        let said = http_get(&format!("{node}:8081"), "/").expect("the host port leads to the pod");
        assert_eq!(said.trim(), "hello v1 from web");
    };
    works();

    cluster.create(SLOW);
    eventually("it is told what is wrong", || {
        cluster.kubectl("get events --field-selector=involvedObject.name=slow").stdout.contains("capability bandwidth")
    });
    cluster.kubectl("delete pod slow --grace-period=0 --force").ok();

    // Another run of the server finds what plugins did for an earlier one.
    kill(cluster.server_pid());
    cluster.skiff(&up).ok();
    assert_eq!(address(&cluster, "web"), web);
    works();
    cluster.kubectl("delete pod web --timeout=60s").ok();
    eventually("its address is given back", || leases(&cluster).len() == 1);
    http_get(&format!("{node}:8081"), "/").expect_err("the host port is free again");
}
