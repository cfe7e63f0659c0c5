//! What a person does on the first day, typed with kubectl.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, http_get};

#[test]
fn the_first_day() {
    let cluster = Cluster::up("day");
    looking_around(&cluster);
    a_deployment(&cluster);
    a_service(&cluster);
    inside_a_container(&cluster);
    scaling_and_healing(&cluster);
    rolling(&cluster);
    files(&cluster);
}

fn looking_around(cluster: &Cluster) {
    let nodes = cluster.kubectl("get nodes").ok();
    assert!(nodes.contains(" Ready "), "{nodes}");
    assert!(cluster.kubectl("cluster-info").ok().contains("is running at"));
    assert!(cluster.kubectl("version").ok().contains("Server Version: v1.36"));
    let resources = cluster.kubectl("api-resources").ok();
    for kind in ["Pod", "Deployment", "NetworkPolicy", "CustomResourceDefinition"] {
        assert!(resources.contains(kind), "{resources}");
    }
    assert!(cluster.kubectl("get all -A").ok().contains("service/kubernetes"));
    assert_eq!(cluster.kubectl("get pod nope").stderr, "Error from server (NotFound): pods \"nope\" not found\n");
}

fn a_deployment(cluster: &Cluster) {
    cluster.kubectl("create deployment hello --image=localhost:5000/hello:v1 -- /hello --port=8080").ok();
    cluster.rollout("hello");
    let pods = cluster.kubectl("get pods -o wide").ok();
    assert!(pods.contains("1/1") && pods.contains("Running") && pods.contains("10.244."), "{pods}");
    let described = cluster.kubectl("describe pod -l app=hello").ok();
    for word in ["Scheduled", "Pulled", "Created", "Started", "Successfully assigned default/hello-"] {
        assert!(described.contains(word), "{described}");
    }
    assert!(cluster.kubectl("describe deployment hello").ok().contains("ScalingReplicaSet"));
    assert!(cluster.kubectl("describe node").ok().contains("KubeletReady"));
    eventually("the log is there", || {
        cluster.kubectl("logs deployment/hello").stdout == "hello v1 listening on 8080\n"
    });
}

fn a_service(cluster: &Cluster) {
    cluster.kubectl("expose deployment hello --type=LoadBalancer --port=80 --target-port=8080").ok();
    let mut address = String::new();
    eventually("the Service has an address", || {
        let service = cluster.get("svc hello");
        address = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or_default().to_owned();
        !address.is_empty()
    });
    eventually("it answers the host", || {
        http_get(&format!("{address}:80"), "/").is_ok_and(|body| body.starts_with("hello v1 from hello-"))
    });
    let service = cluster.get("svc hello");
    let node = cluster.get("nodes")["items"][0]["status"]["addresses"][0]["address"].as_str().unwrap().to_owned();
    let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&node_port));
    assert!(http_get(&format!("{node}:{node_port}"), "/").unwrap().starts_with("hello v1"));
    let cluster_ip = service["spec"]["clusterIP"].as_str().unwrap().to_owned();
    for target in ["hello", "hello.default.svc.cluster.local", &cluster_ip, &format!("{node}:{node_port}")] {
        let answer = cluster.kubectl(&format!("exec deployment/hello -- wget -q -O - http://{target}/")).ok();
        assert!(answer.starts_with("hello v1"), "{target}: {answer}");
    }
    let looked_up = cluster.kubectl("exec deployment/hello -- nslookup hello.default.svc.cluster.local").ok();
    assert!(looked_up.contains(&cluster_ip), "{looked_up}");
}

fn inside_a_container(cluster: &Cluster) {
    assert_eq!(cluster.kubectl_args(&["exec", "deployment/hello", "--", "sh", "-c", "echo $((40+2))"]).ok(), "42\n");
    let failed = cluster.kubectl_args(&["exec", "deployment/hello", "--", "sh", "-c", "exit 3"]);
    assert_eq!(failed.code, 3);
    assert_eq!(failed.stderr, "command terminated with exit code 3\n");
    let said = cluster.kubectl_with("exec -i deployment/hello -- cat", "over there").ok();
    assert_eq!(said, "over there");
    let file = cluster.folder().join("copied.txt");
    std::fs::write(&file, "a file").unwrap();
    let pod = cluster.kubectl("get pods -l app=hello -o name").ok().trim().trim_start_matches("pod/").to_owned();
    cluster.kubectl(&format!("cp {} {pod}:/tmp/copied.txt", file.display())).ok();
    assert_eq!(cluster.kubectl(&format!("exec {pod} -- cat /tmp/copied.txt")).ok(), "a file");
    let once = "run once --image=localhost:5000/hello:v1 --restart=Never --rm -i --quiet -- cat";
    let ran = cluster.kubectl_with(once, "done").ok();
    assert!(ran.contains("done"), "{ran}");
}

fn scaling_and_healing(cluster: &Cluster) {
    cluster.kubectl("scale deployment hello --replicas=4").ok();
    cluster.rollout("hello");
    let pods = cluster.kubectl("get pods -l app=hello -o name").ok();
    assert_eq!(pods.lines().count(), 4);
    let victim = pods.lines().next().unwrap().to_owned();
    cluster.kubectl(&format!("delete {victim}")).ok();
    cluster.rollout("hello");
    assert!(!cluster.kubectl("get pods -o name").ok().contains(&victim));
}

fn rolling(cluster: &Cluster) {
    cluster.kubectl("set image deployment/hello hello=localhost:5000/hello:v2").ok();
    cluster.rollout("hello");
    assert!(cluster.kubectl("rollout history deployment/hello").ok().contains("\n2 "));
    cluster.kubectl("rollout undo deployment/hello").ok();
    cluster.rollout("hello");
    assert_eq!(
        cluster.get("deployment hello")["spec"]["template"]["spec"]["containers"][0]["image"],
        "localhost:5000/hello:v1"
    );
    cluster.kubectl("rollout restart deployment/hello").ok();
    cluster.rollout("hello");
}

fn files(cluster: &Cluster) {
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {color: blue}\n";
    assert_eq!(cluster.kubectl_with("apply -f -", manifest).ok(), "configmap/settings created\n");
    assert_eq!(cluster.kubectl_with("apply -f -", manifest).ok(), "configmap/settings unchanged\n");
    let changed = manifest.replace("blue", "red");
    assert_eq!(cluster.kubectl_with("apply -f -", &changed).ok(), "configmap/settings configured\n");
    assert_eq!(cluster.get("cm settings")["data"]["color"], "red");
    cluster.kubectl_args(&["patch", "cm", "settings", "--type=merge", "-p", r#"{"data":{"size":"big"}}"#]).ok();
    cluster
        .kubectl_args(&["patch", "cm", "settings", "--type=json", "-p", r#"[{"op":"remove","path":"/data/size"}]"#])
        .ok();
    cluster.kubectl("label cm settings tier=front").ok();
    cluster.kubectl("annotate cm settings note=kept").ok();
    assert!(cluster.kubectl("get cm -l tier=front -o name").ok().contains("configmap/settings"));
    assert!(cluster.kubectl("explain pod.spec.containers.image").ok().contains("FIELD: image <string>"));
    let unknown = manifest.replace("data:", "dota:");
    let refused = cluster.kubectl_with("create -f -", &unknown);
    assert!(refused.stderr.contains(r#"unknown field "dota""#), "{}", refused.stderr);
    cluster.kubectl_with("delete -f -", manifest).ok();
    assert_eq!(cluster.kubectl("get cm settings").code, 1);
}
