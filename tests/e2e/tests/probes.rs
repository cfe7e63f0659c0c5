//! What keeps containers in order, and what they are given: probes, restarts, init containers, environment, volumes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

#[test]
fn containers_are_watched_over_and_provided_for() {
    let cluster = Cluster::up("probes");
    crashes(&cluster);
    liveness(&cluster);
    readiness(&cluster);
    init_containers(&cluster);
    environment(&cluster);
    volumes(&cluster);
    memory(&cluster);
    crash_loop(&cluster);
}

fn get(cluster: &Cluster, pod: &str, path: &str) -> String {
    cluster.kubectl(&format!("exec {pod} -- wget -q -O - http://127.0.0.1:8080{path}")).stdout
}

fn restarts(cluster: &Cluster, pod: &str) -> u64 {
    cluster.get(&format!("pod {pod}"))["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0)
}

/// Starts the pod that `crash_loop` looks at in the end, when it has crashed often enough.
fn crashes(cluster: &Cluster) {
    cluster
        .kubectl_args(&["run", "crash", "--image=localhost:5000/hello:v1", "--", "sh", "-c", "echo oh; exit 7"])
        .ok();
}

fn crash_loop(cluster: &Cluster) {
    eventually("kubectl shows the loop", || {
        let line = cluster.kubectl("get pod crash --no-headers").stdout;
        let words: Vec<_> = line.split_whitespace().collect();
        matches!(words.as_slice(), ["crash", "0/1", "CrashLoopBackOff", times, ..] if times.parse::<u32>().is_ok_and(|times| times > 0))
    });
    let status = &cluster.get("pod crash")["status"]["containerStatuses"][0];
    assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff", "{status}");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 7, "{status}");
    assert_eq!(status["lastState"]["terminated"]["reason"], "Error", "{status}");
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("restarting failed container=crash pod=crash_default("), "{message}");
    let events = cluster.kubectl("events --for pod/crash").ok();
    assert!(events.contains("Back-off restarting failed container crash in pod crash_default("), "{events}");
}

fn liveness(cluster: &Cluster) {
    for (name, probe) in [
        ("by-http", "httpGet: {path: /healthz, port: web}"),
        ("by-tcp", "tcpSocket: {port: 8080}"),
        ("by-exec", "exec: {command: [test, '!', -e, /tmp/sick]}"),
    ] {
        cluster.create(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: localhost:5000/hello:v1
    ports: [{{name: web, containerPort: 8080}}]
    command: [sh, -c, "/hello --port=8080 & wait $!; sleep 600"]
    livenessProbe: {{{probe}, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 2}}
    startupProbe: {{{probe}, periodSeconds: 1, failureThreshold: 30, timeoutSeconds: 2}}
"#
        ));
    }
    for name in ["by-http", "by-tcp", "by-exec"] {
        cluster.ready(name);
        assert_eq!(restarts(cluster, name), 0);
    }
    assert_eq!(get(cluster, "by-http", "/healthz/fail"), "done\n");
    // Nobody listens from here on, though the container lives.
    get(cluster, "by-tcp", "/exit/0");
    cluster.sh("by-exec", "touch /tmp/sick").ok();
    for (name, said) in [
        ("by-http", "Liveness probe failed: HTTP probe failed with statuscode: 500"),
        ("by-tcp", "connection refused"),
        ("by-exec", "Liveness probe failed:"),
    ] {
        eventually(&format!("{name} is started again"), || restarts(cluster, name) == 1);
        cluster.ready(name);
        let events = cluster.kubectl(&format!("events --for pod/{name}")).ok();
        assert!(events.contains(said), "{events}");
        assert!(events.contains("Container main failed liveness probe, will be restarted"), "{events}");
    }
    cluster.kubectl("delete pod by-http by-tcp by-exec --wait=false").ok();
}

fn readiness(cluster: &Cluster) {
    cluster.create(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: shy, labels: {app: shy}}
spec:
  containers:
  - name: main
    image: localhost:5000/hello:v1
    readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: shy}, ports: [{port: 80, targetPort: 8080}]}
"#,
    );
    cluster.ready("shy");
    let ip = cluster.get("pod shy")["status"]["podIP"].as_str().unwrap().to_owned();
    let in_service = || {
        let slices = cluster.get("endpointslices -l kubernetes.io/service-name=front");
        let endpoint = &slices["items"][0]["endpoints"][0];
        endpoint["addresses"][0] == ip.as_str() && endpoint["conditions"]["ready"] == true
    };
    let answers = || cluster.kubectl("exec shy -- wget -q -O - http://front/").code == 0;
    eventually("the pod is in its Service", || in_service() && answers());
    get(cluster, "shy", "/readyz/fail");
    cluster.kubectl("wait --for=condition=Ready=false pod/shy --timeout=30s").ok();
    eventually("the pod is out of its Service", || !in_service() && !answers());
    assert!(cluster.kubectl("get pod shy").ok().contains("0/1"));
    assert_eq!(restarts(cluster, "shy"), 0);
    let events = cluster.kubectl("events --for pod/shy").ok();
    assert!(events.contains("Readiness probe failed: HTTP probe failed with statuscode: 500"), "{events}");
    get(cluster, "shy", "/readyz/mend");
    eventually("the pod is back", || in_service() && answers());
}

fn init_containers(cluster: &Cluster) {
    cluster.create(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: prepared}
spec:
  restartPolicy: Never
  volumes: [{name: shared, emptyDir: {}}]
  initContainers:
  - {name: one, image: "localhost:5000/hello:v1", command: [sh, -c, "echo one >> /shared/order"], volumeMounts: [{name: shared, mountPath: /shared}]}
  - {name: two, image: "localhost:5000/hello:v1", command: [sh, -c, "echo two >> /shared/order"], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - {name: main, image: "localhost:5000/hello:v1", command: [cat, /shared/order], volumeMounts: [{name: shared, mountPath: /shared}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unprepared}
spec:
  restartPolicy: Never
  initContainers: [{name: one, image: "localhost:5000/hello:v1", command: ["false"]}]
  containers: [{name: main, image: "localhost:5000/hello:v1"}]
"#,
    );
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Succeeded pod/prepared --timeout=60s").ok();
    assert_eq!(cluster.kubectl("logs prepared -c main").ok(), "one\ntwo\n");
    assert!(cluster.kubectl("get pod prepared").ok().contains("Completed"));
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Failed pod/unprepared --timeout=60s").ok();
    let line = cluster.kubectl("get pod unprepared").ok();
    assert!(line.contains("Init:Error"), "{line}");
}

fn environment(cluster: &Cluster) {
    cluster.create(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue, SIZE: big}
---
apiVersion: v1
kind: Secret
metadata: {name: secrets}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Pod
metadata: {name: env, labels: {app: env}, annotations: {note: kept}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: localhost:5000/hello:v1
    command: [sh, -c, "env; echo args=$(COLOR)-$$(COLOR)"]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    envFrom: [{configMapRef: {name: settings}}, {prefix: S_, secretRef: {name: secrets}}]
    env:
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: secrets, key: password}}}
    - {name: ABSENT, valueFrom: {configMapKeyRef: {name: nope, key: x, optional: true}}}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: BOTH, value: "$(COLOR) $(NAME)"}
---
apiVersion: v1
kind: Pod
metadata: {name: no-config}
spec:
  containers:
  - {name: main, image: "localhost:5000/hello:v1", env: [{name: X, valueFrom: {configMapKeyRef: {name: nope, key: x}}}]}
"#,
    );
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Succeeded pod/env --timeout=60s").ok();
    let text = cluster.kubectl("logs env").ok();
    let ip = cluster.get("pod env")["status"]["podIP"].as_str().unwrap_or_default().to_owned();
    let node = cluster.get("nodes")["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    for line in [
        "SIZE=big",
        "S_password=hunter2",
        "COLOR=blue",
        "PASSWORD=hunter2",
        "NAME=env",
        "LABEL=env",
        "MEMORY=67108864",
        "BOTH=blue env",
        "KUBERNETES_SERVICE_PORT=443",
        "args=blue-$(COLOR)",
        &format!("NODE={node}"),
        &format!("IP={ip}"),
    ] {
        // What the shell makes of the second one is an empty command substitution.
        let line = line.trim_end_matches("$(COLOR)");
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("ABSENT"), "{text}");
    eventually("the missing ConfigMap is named", || {
        cluster.kubectl("get pod no-config").stdout.contains("CreateContainerConfigError")
            && cluster.kubectl("events --for pod/no-config").stdout.contains(r#"configmap "nope" not found"#)
    });
}

fn volumes(cluster: &Cluster) {
    let host = cluster.folder().join("on-host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "from the host").unwrap();
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: volumes, labels: {app: volumes}}
spec:
  containers:
  - name: main
    image: localhost:5000/hello:v1
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: memory, mountPath: /memory}
    - {name: config, mountPath: /config}
    - {name: config, mountPath: /one/color, subPath: color}
    - {name: secret, mountPath: /secret, readOnly: true}
    - {name: about, mountPath: /about}
    - {name: token, mountPath: /token}
    - {name: host, mountPath: /host}
  - name: other
    image: localhost:5000/hello:v1
    command: [sleep, "1000"]
    volumeMounts: [{name: scratch, mountPath: /data}]
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: config, configMap: {name: settings}}
  - {name: secret, secret: {secretName: secrets, defaultMode: 0400, items: [{key: password, path: deep/pw}]}}
  - {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - name: token
    projected:
      sources:
      - {serviceAccountToken: {path: token, audience: somebody, expirationSeconds: 600}}
      - {configMap: {name: settings, items: [{key: SIZE, path: size}]}}
  - {name: host, hostPath: {path: HOST, type: Directory}}
"#;
    cluster.create(&manifest.replace("HOST", &host.display().to_string()));
    cluster.ready("volumes");
    cluster.kubectl_args(&["exec", "volumes", "-c", "other", "--", "sh", "-c", "echo shared > /data/file"]).ok();
    for (line, said) in [
        ("cat /scratch/file", "shared\n"),
        ("mount | grep -c 'tmpfs on /memory'", "1\n"),
        ("cat /config/color /one/color", "blueblue"),
        ("cat /secret/deep/pw; stat -L -c %a /secret/deep/pw", "hunter2400\n"),
        ("cat /about/labels", "app=\"volumes\""),
        ("cat /token/size; cat /host/file", "bigfrom the host"),
        ("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", "default"),
    ] {
        let line = line.replace(
            "mount | grep -c 'tmpfs on /memory'",
            "mount | while read l; do case $l in 'tmpfs on /memory'*) echo 1;; esac; done",
        );
        assert_eq!(cluster.sh("volumes", &line).stdout, said, "{line}");
    }
    assert_ne!(cluster.sh("volumes", "touch /secret/x").code, 0);
    let token = cluster.sh("volumes", "cat /token/token").ok();
    assert_eq!(token.split('.').count(), 3, "{token}");
    let allowed = cluster.sh("volumes", "test -s /var/run/secrets/kubernetes.io/serviceaccount/token && test -s /var/run/secrets/kubernetes.io/serviceaccount/ca.crt");
    assert_eq!(allowed.code, 0);
    cluster.sh("volumes", "echo written > /host/back").ok();
    assert_eq!(std::fs::read_to_string(host.join("back")).unwrap(), "written\n");
    cluster.kubectl_args(&["patch", "cm", "settings", "-p", r#"{"data":{"color":"red"}}"#]).ok();
    cluster.kubectl("label pod volumes tier=front").ok();
    eventually("a changed ConfigMap shows in the volume", || {
        cluster.sh("volumes", "cat /config/color").stdout == "red"
    });
    eventually("a changed label shows in the volume", || {
        cluster.sh("volumes", "cat /about/labels").stdout == "app=\"volumes\"\ntier=\"front\""
    });
    assert_eq!(cluster.sh("volumes", "cat /one/color").stdout, "blue", "a subPath stays as it was");
}

fn memory(cluster: &Cluster) {
    cluster.create(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: localhost:5000/hello:v1
    command: [dd, if=/dev/zero, of=/dev/null, bs=200M, count=1]
    resources: {limits: {memory: 32Mi}}
"#,
    );
    eventually("kubectl shows what happened", || {
        let line = cluster.kubectl("get pod greedy --no-headers").stdout;
        line.split_whitespace().nth(2) == Some("OOMKilled")
    });
    let ended = cluster.get("pod greedy")["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&"OOMKilled".into(), &137.into()), "{ended}");
}
