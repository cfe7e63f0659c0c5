//! Images from a registry: pulled for a pod and by hand, missing ones, and a registry that is down.

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{REGISTRY_LOGIN, eventually, hello_image, kill};

#[test]
fn images_come_from_a_registry() {
    let mut cluster = Cluster::up_without_images("registry");
    cluster.start_registry();
    a_pod_pulls(&cluster);
    a_volume_is_pulled_each_time(&cluster);
    by_hand(&cluster);
    out_again(&cluster);
    a_tag_that_is_missing(&cluster);
    a_policy_of_never(&cluster);
    cluster.lock_registry();
    who_may_use_it(&cluster);
    cluster.stop_registry();
    a_registry_that_is_down(&cluster);
}

fn events_of(cluster: &Cluster, pod: &str) -> String {
    cluster.kubectl(&format!("events --for pod/{pod} --no-headers")).ok()
}

fn a_pod_pulls(cluster: &Cluster) {
    cluster.kubectl("run first --image=localhost:5000/hello:v1").ok();
    cluster.ready("first");
    let events = events_of(cluster, "first");
    for said in
        [r#"Pulling image "localhost:5000/hello:v1""#, r#"Successfully pulled image "localhost:5000/hello:v1" in "#]
    {
        assert!(events.contains(said), "{events}");
    }
    let status = &cluster.get("pod first")["status"]["containerStatuses"][0];
    let id = status["imageID"].as_str().unwrap_or_default();
    assert!(id.starts_with("localhost:5000/hello@sha256:"), "{status}");
    cluster.kubectl("run second --image=localhost:5000/hello:v1").ok();
    cluster.ready("second");
    let events = events_of(cluster, "second");
    assert!(events.contains("already present on machine") && !events.contains("Pulling"), "{events}");
    let by_digest = format!("run third --image={id}");
    cluster.kubectl(&by_digest).ok();
    cluster.ready("third");
}

fn a_volume_is_pulled_each_time(cluster: &Cluster) {
    const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: @}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: localhost:5000/hello:v1
    command: [sleep, "100000"]
    volumeMounts: [{name: files, mountPath: /files}, {name: files, mountPath: /part, subPath: bin}]
  volumes: [{name: files, image: {reference: "localhost:5000/hello:v1", pullPolicy: Always}}]
"#;
    for name in ["always", "always-again"] {
        cluster.create(&POD.replace('@', name));
        cluster.ready(name);
        // The image is there already, and is asked for nonetheless.
        let events = events_of(cluster, name);
        assert!(events.contains(r#"Pulling image "localhost:5000/hello:v1""#), "{events}");
        assert!(events.contains(r#"Successfully pulled image "localhost:5000/hello:v1" in "#), "{events}");
        assert_eq!(
            cluster.sh(name, "ls /files/hello && test -e /part/busybox && echo part").ok(),
            "/files/hello\npart\n"
        );
        let status = cluster.get(&format!("pod {name}"))["status"]["containerStatuses"][0].clone();
        let mount = status["volumeMounts"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "files"));
        assert!(mount.is_some_and(|mount| mount["mountPath"] == "/files"), "{status}");
    }
    cluster.kubectl("delete pod always always-again").ok();
}

fn by_hand(cluster: &Cluster) {
    let list = cluster.skiff(&["image", "list"]).ok();
    assert!(list.contains("localhost:5000/hello:v1") && !list.contains("hello:v2"), "{list}");
    let pulled = cluster.skiff(&["image", "pull", "localhost:5000/hello:v2"]).ok();
    assert!(pulled.contains("localhost:5000/hello:v2"), "{pulled}");
    assert!(cluster.skiff(&["image", "list"]).ok().contains("localhost:5000/hello:v2"));
    cluster.skiff(&["image", "rm", "localhost:5000/hello:v2"]).ok();
    assert!(!cluster.skiff(&["image", "list"]).ok().contains("localhost:5000/hello:v2"));
    let gone = cluster.skiff(&["image", "rm", "localhost:5000/hello:v2"]);
    assert!(gone.code != 0 && gone.stderr.contains("localhost:5000/hello:v2"), "{gone:?}");
    let missing = cluster.skiff(&["image", "pull", "localhost:5000/hello:v9"]);
    assert!(missing.code != 0 && missing.stderr.contains("not found"), "{missing:?}");
}

fn out_again(cluster: &Cluster) {
    let (file, copy) = (cluster.folder().join("image.tar"), cluster.folder().join("copy.tar"));
    hello_image("v3").save("localhost:5000/pushed:v3", &file).expect("written");
    cluster.skiff(&["image", "import", &file.display().to_string()]).ok();
    cluster.skiff(&["image", "save", "localhost:5000/pushed:v3", "--output", &copy.display().to_string()]).ok();
    cluster.skiff(&["image", "push", "localhost:5000/pushed:v3"]).ok();
    cluster.skiff(&["image", "rm", "localhost:5000/pushed:v3"]).ok();
    cluster.skiff(&["image", "pull", "localhost:5000/pushed:v3"]).ok();
    cluster.skiff(&["image", "rm", "localhost:5000/pushed:v3"]).ok();
    let imported = cluster.skiff(&["image", "import", &copy.display().to_string()]).ok();
    assert!(imported.contains("localhost:5000/pushed:v3"), "{imported}");
}

fn a_tag_that_is_missing(cluster: &Cluster) {
    cluster.kubectl("run missing --image=localhost:5000/hello:v9").ok();
    fails_to_pull(cluster, "missing", "not found");
    // The right image at last: the pod runs without being made anew.
    cluster.kubectl("set image pod/missing missing=localhost:5000/hello:v2").ok();
    cluster.ready("missing");
}

fn a_policy_of_never(cluster: &Cluster) {
    cluster.kubectl("run never --image=localhost:5000/hello:v9 --image-pull-policy=Never").ok();
    eventually("the pod says that it may not pull", || {
        cluster.kubectl("get pod never").stdout.contains("ErrImageNeverPull")
    });
}

/// An image that was pulled with somebody's credentials is there for nobody else.
fn who_may_use_it(cluster: &Cluster) {
    for namespace in ["default", "friends", "strangers"] {
        if namespace != "default" {
            cluster.kubectl(&format!("create namespace {namespace}")).ok();
        }
        let (name, password) = REGISTRY_LOGIN.split_once(':').expect("both");
        let password = if namespace == "strangers" { "guess" } else { password };
        let login = format!("--docker-server=localhost:5000 --docker-username={name} --docker-password={password}");
        cluster.kubectl(&format!("create secret docker-registry login -n {namespace} {login}")).ok();
    }
    let run = |name: &str, namespace: &str, secrets: &str, policy: &str| {
        cluster.create(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  imagePullSecrets: {secrets}\n  \
             containers: [{{name: main, image: 'localhost:5000/hello:locked', imagePullPolicy: {policy}}}]\n"
        ));
    };
    let waits = |name: &str, namespace: &str, why: [&str; 2]| {
        eventually(&format!("{name} waits"), || {
            let pod = cluster.get(&format!("pod {name} -n {namespace}"));
            let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
            reason.as_str().is_some_and(|reason| why.contains(&reason))
        });
    };
    let ready = |name: &str, namespace: &str| {
        cluster.kubectl(&format!("wait --for=condition=Ready pod/{name} -n {namespace} --timeout=60s")).ok();
        cluster.kubectl(&format!("events -n {namespace} --for pod/{name} --no-headers")).ok()
    };
    let refused = ["ErrImagePull", "ImagePullBackOff"];
    run("nobody", "default", "[]", "IfNotPresent");
    waits("nobody", "default", refused);
    run("owner", "default", "[{name: login}]", "IfNotPresent");
    let events = ready("owner", "default");
    assert!(events.contains(r#"Successfully pulled image "localhost:5000/hello:locked""#), "{events}");
    // The node has it now, and so have those who could have pulled it.
    run("friend", "friends", "[{name: login}]", "Never");
    let events = ready("friend", "friends");
    assert!(events.contains("already present on machine"), "{events}");
    run("unknown", "default", "[]", "IfNotPresent");
    run("stranger", "strangers", "[{name: login}]", "IfNotPresent");
    run("hasty", "strangers", "[{name: login}]", "Never");
    waits("unknown", "default", refused);
    waits("stranger", "strangers", refused);
    waits("hasty", "strangers", ["ErrImageNeverPull"; 2]);
    // A server that was killed knows it still.
    kill(cluster.server_pid());
    cluster.skiff(&["up"]).ok();
    run("later", "strangers", "[]", "Never");
    waits("later", "strangers", ["ErrImageNeverPull"; 2]);
    run("again", "default", "[{name: login}]", "Never");
    ready("again", "default");
}

fn a_registry_that_is_down(cluster: &Cluster) {
    cluster.kubectl("run down --image=localhost:5000/hello:v8").ok();
    fails_to_pull(cluster, "down", "connection refused");
    let refused = cluster.skiff(&["image", "pull", "localhost:5000/hello:v8"]);
    assert!(refused.code != 0 && refused.stderr.to_lowercase().contains("connection refused"), "{refused:?}");
}

/// Waits for both reasons that kubectl shows in turn, and for the events that explain them.
fn fails_to_pull(cluster: &Cluster, pod: &str, why: &str) {
    for reason in ["ErrImagePull", "ImagePullBackOff"] {
        eventually(reason, || cluster.kubectl(&format!("get pod {pod}")).stdout.contains(reason));
    }
    eventually("the events say why", || {
        let events = events_of(cluster, pod);
        events.contains("Failed to pull image")
            && events.to_lowercase().contains(why)
            && events.contains("Error: ErrImagePull")
            && events.contains("Error: ImagePullBackOff")
            && events.contains("Back-off pulling image")
    });
}
