//! Volumes of a storage driver on a whole node: its controllers order them to the node and away again, and the driver puts
//! them there. The part of the driver's own controller, which would speak to the storage, is the test's.

#[path = "../../../crates/kubelet/tests/storage_driver/mod.rs"]
mod storage_driver;

use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

const MANIFEST: &str = r#"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: trial.example.com}
spec: {attachRequired: true}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  storageClassName: ""
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  csi: {driver: trial.example.com, volumeHandle: vol-1}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {storageClassName: "", accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: first}
spec:
  containers:
  - {name: c, image: "localhost:5000/hello:v1", command: [/hello, --port=8080], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}, {name: own, emptyDir: {}}]
"#;

fn attachments(cluster: &Cluster) -> String {
    cluster.kubectl("get volumeattachments -o name").ok()
}

fn node_tells(cluster: &Cluster, field: &str) -> serde_json::Value {
    cluster.get("nodes")["items"][0]["status"][field].clone()
}

#[test]
fn volumes_of_a_driver_come_to_the_node_and_go_again() {
    let cluster = Cluster::up("csi");
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let entered = runtime.enter();
    let driver = storage_driver::Driver::start(&cluster.folder().join("isolated").join(&cluster.name).join("kubelet"));
    cluster.create(MANIFEST);
    eventually("the order to attach", || attachments(&cluster).starts_with("volumeattachment.storage.k8s.io/csi-"));
    let name = attachments(&cluster).trim().trim_start_matches("volumeattachment.storage.k8s.io/").to_owned();
    let order = cluster.get(&format!("volumeattachment {name}"));
    assert_eq!(order["spec"]["attacher"], storage_driver::NAME, "{order}");
    assert_eq!(order["spec"]["source"]["persistentVolumeName"], "disk", "{order}");
    assert!(!driver.calls().iter().any(|call| call.starts_with("stage")), "{:?}", driver.calls());
    let attached = r#"{"status":{"attached":true}}"#;
    cluster.kubectl(&format!("patch volumeattachment {name} --subresource=status --type=merge -p {attached}")).ok();
    cluster.ready("first");
    assert_eq!(cluster.sh("first", "cat /v/data").ok(), "vol-1");
    assert_eq!(node_tells(&cluster, "volumesAttached")[0]["name"], "kubernetes.io/csi/trial.example.com^vol-1");
    assert_eq!(node_tells(&cluster, "volumesInUse")[0], "kubernetes.io/csi/trial.example.com^vol-1");
    eventually("the event", || cluster.kubectl("get events").ok().contains("SuccessfulAttachVolume"));

    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].metadata.name}").ok();
    let summary: serde_json::Value = {
        let text = cluster.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/stats/summary")).ok();
        serde_json::from_str(&text).expect("JSON")
    };
    let pods = summary["pods"].as_array().expect("Pods");
    let pod = pods.iter().find(|pod| pod["podRef"]["name"] == "first").expect("it is counted");
    let volume = |name: &str| {
        let found = pod["volume"].as_array().expect("volumes").iter().find(|volume| volume["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {pod}")).clone()
    };
    let told = volume("v");
    assert_eq!((&told["capacityBytes"], &told["inodesUsed"]), (&100.into(), &3.into()), "{told}");
    assert_eq!((&told["pvcRef"]["name"], &told["volumeHealthStats"]["abnormal"]), (&"data".into(), &true.into()));
    assert!(
        volume("own")["capacityBytes"].as_i64().is_some_and(|bytes| bytes > 0) && volume("own")["pvcRef"].is_null()
    );

    cluster.kubectl("delete pod first").ok();
    eventually("the order is taken back", || attachments(&cluster).is_empty());
    assert!(node_tells(&cluster, "volumesAttached").is_null() && driver.calls().contains(&"unstage vol-1".to_owned()));
    eventually("the node to use nothing", || {
        node_tells(&cluster, "volumesInUse").as_array().is_none_or(|volumes| volumes.is_empty())
    });
    drop(driver);
    drop(entered);
}
