//! Persistent volumes on the node's own disk: data that outlives its Pod, follows its claim, and goes with it.

use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

const DATABASE: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
      - name: hello
        image: localhost:5000/hello:v1
        command: [/bin/sh, -c, "echo $HOSTNAME >> /data/log; exec /hello --port=8080"]
        securityContext: {runAsUser: 1000}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: scratch, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}}}}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 100Mi}}}
"#;

#[test]
fn data_follows_its_claim_and_goes_with_it() {
    let cluster = Cluster::up("storage");
    cluster.create(DATABASE);
    cluster.kubectl("rollout status statefulset/db --timeout=60s").ok();
    let claims = cluster.kubectl("get pvc -o jsonpath={.items[*].metadata.name}").ok();
    assert_eq!(claims, "data-db-0 data-db-1 db-0-scratch db-1-scratch");

    // The Pod goes, the data stays; a claim in use stays too.
    cluster.kubectl("delete pvc data-db-1 --wait=false").ok();
    cluster.kubectl("delete pod db-0").ok();
    cluster.kubectl("rollout status statefulset/db --timeout=60s").ok();
    assert_eq!(cluster.sh("db-0", "cat /data/log").ok(), "db-0\ndb-0\n");
    let ending = cluster.kubectl("get pvc data-db-1 --no-headers").ok();
    assert!(ending.contains("Terminating"), "{ending}");

    // It grows.
    cluster.kubectl(r#"patch pvc data-db-0 -p {"spec":{"resources":{"requests":{"storage":"300Mi"}}}}"#).ok();
    eventually("the claim has grown", || {
        cluster.kubectl("get pvc data-db-0 -o jsonpath={.status.capacity.storage}").ok() == "300Mi"
    });
    let status = cluster.get("pvc data-db-0")["status"].clone();
    assert_eq!(status["allocatedResources"]["storage"], "300Mi", "{status}");
    assert!(status["allocatedResourceStatuses"].is_null() && status["conditions"].is_null(), "{status}");
    assert!(cluster.kubectl("describe pvc data-db-0").ok().contains("VolumeResizeSuccessful"));
    let shrunk = cluster.kubectl(r#"patch pvc data-db-0 -p {"spec":{"resources":{"requests":{"storage":"1Mi"}}}}"#);
    assert!(
        shrunk.stderr.contains("spec.resources.requests.storage: Forbidden: field can not be less than"),
        "{}",
        shrunk.stderr
    );

    // Nobody needs it any more.
    cluster.kubectl("delete statefulset db").ok();
    eventually("the claims that were only in use are gone", || {
        cluster.kubectl("get pvc -o jsonpath={.items[*].metadata.name}").ok() == "data-db-0"
    });
    cluster.kubectl("delete pvc data-db-0").ok();
    eventually("volumes go with their claims", || cluster.kubectl("get pv -o name").ok().is_empty());
    let folder = cluster.folder().join("isolated").join(&cluster.name).join("volumes");
    eventually("and their data", || std::fs::read_dir(&folder).is_ok_and(|mut left| left.next().is_none()));
}

#[test]
fn volumes_made_by_hand_are_found_and_kept() {
    let cluster = Cluster::up("handmade");
    cluster.create(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: task-pv, labels: {type: local}}
spec:
  storageClassName: manual
  capacity: {storage: 2Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: /tmp/task-data, type: DirectoryOrCreate}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: task-claim}
spec: {storageClassName: manual, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: task}
spec:
  containers:
  - {name: c, image: "localhost:5000/hello:v1", command: [/hello, --port=8080], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, persistentVolumeClaim: {claimName: task-claim}}]
---
apiVersion: v1
kind: Pod
metadata: {name: lost}
spec:
  containers: [{name: c, image: "localhost:5000/hello:v1", command: [/hello, --port=8080]}]
  volumes: [{name: v, persistentVolumeClaim: {claimName: nowhere}}]
"#,
    );
    cluster.ready("task");
    let bound = cluster.kubectl("get pv task-pv --no-headers").ok();
    for part in ["2Gi", "RWO", "Retain", "Bound", "default/task-claim", "manual"] {
        assert!(bound.contains(part), "{part}: {bound}");
    }
    eventually("the reason why a Pod waits", || {
        let told = cluster.kubectl("get events --field-selector involvedObject.name=lost").ok();
        told.contains("persistentvolumeclaim \"nowhere\" not found")
    });
    cluster.kubectl("delete pod task lost --wait=true").ok();
    cluster.kubectl("delete pvc task-claim").ok();
    eventually("the volume is released and kept", || {
        cluster.kubectl("get pv task-pv -o jsonpath={.status.phase}").ok() == "Released"
    });
}
