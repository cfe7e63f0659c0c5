//! Pods with users of their own, and images as volumes, seen from kubectl.

use skiff_e2e::Cluster;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: apart}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "localhost:5000/hello:v1", volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: other}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "localhost:5000/hello:v1", volumeMounts: [{name: image, mountPath: /image, subPath: bin}]}
  volumes: [{name: image, image: {reference: "localhost:5000/hello:v2", pullPolicy: IfNotPresent}}]
"#;

#[test]
fn pods_have_users_of_their_own() {
    let cluster = Cluster::up("users");
    cluster.create(PODS);
    cluster.ready("apart");
    cluster.ready("other");
    let range = |pod: &str| -> Vec<u64> {
        let map = cluster.sh(pod, "cat /proc/self/uid_map").ok();
        map.split_whitespace().map(|number| number.parse().expect("a number")).collect()
    };
    let (first, second) = (range("apart"), range("other"));
    for range in [&first, &second] {
        assert!(range[0] == 0 && range[1] % 65_536 == 0 && range[1] > 0 && range[2] == 65_536, "{range:?}");
    }
    assert_ne!(first[1], second[1], "no two pods share users");
    let said = cluster.sh(
        "apart",
        "id -u; echo x > /data/file && stat -c %u /data/file; cat /etc/hosts | wc -l; \
        test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token; echo out > /dev/stdout",
    );
    assert!(said.stdout.starts_with("0\n0\n") && said.stdout.ends_with("token\nout\n"), "{said:?}");
    let said = cluster.sh("other", "test -x /image/busybox && echo there; touch /image/x 2>&1");
    assert!(said.stdout.contains("there") && said.stdout.contains("Read-only file system"), "{said:?}");
}
