//! What volumes of configuration look like from inside, for every kind of user: content, modes, owners, changes.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

use crate::{run_once, said, shell};

const OBJECTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {data-1: value-1, data-2: value-2}
binaryData: {bin: AP9hAA==}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {data-1: value-1, data-2: value-2}
";

/// Each volume: its name, its source, the file in it that is looked at.
const VOLUMES: [(&str, &str, &str); 12] = [
    ("cm", "configMap: {name: c}", "data-1"),
    ("cm-mode", "configMap: {name: c, defaultMode: 0400}", "data-1"),
    ("cm-items", "configMap: {name: c, items: [{key: data-2, path: path/to/data-2}]}", "path/to/data-2"),
    ("cm-item-mode", "configMap: {name: c, items: [{key: data-2, path: path/two, mode: 0400}]}", "path/two"),
    ("secret", "secret: {secretName: s}", "data-1"),
    ("secret-mode", "secret: {secretName: s, defaultMode: 0440}", "data-1"),
    ("secret-items", "secret: {secretName: s, items: [{key: data-1, path: new-path, mode: 0400}]}", "new-path"),
    ("both", "projected: {sources: [{configMap: {name: c}}]}", "data-1"),
    ("both-mode", "projected: {defaultMode: 0400, sources: [{secret: {name: s}}]}", "data-1"),
    (
        "both-items",
        "projected: {sources: [{secret: {name: s, items: [{key: data-1, path: a/b, mode: 0400}]}}, {configMap: {name: c, items: [{key: data-2, path: c}]}}]}",
        "a/b",
    ),
    ("about", "downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}, mode: 0400}]}", "name"),
    (
        "about-mode",
        "projected: {defaultMode: 0440, sources: [{downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]}",
        "name",
    ),
];

/// Who looks: the name of the Pod and its security context.
const READERS: [(&str, &str); 3] =
    [("root", "{}"), ("user", "{runAsUser: 1000}"), ("group", "{runAsUser: 1000, fsGroup: 1001}")];

/// Sizes of a container that a volume tells of.
const SIZES: &str = "downwardAPI: {items: [
      {path: cpu-limit, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}},
      {path: cpu-request, resourceFieldRef: {containerName: main, resource: requests.cpu, divisor: 1m}},
      {path: memory-limit, resourceFieldRef: {containerName: main, resource: limits.memory}},
      {path: memory-request, resourceFieldRef: {containerName: main, resource: requests.memory}}]}";

/// So many volumes of each of so many Pods are filled at once.
const MANY: usize = 50;
const PODS_WITH_MANY: usize = 5;

pub fn begin(cluster: &Cluster) {
    cluster.create(OBJECTS);
    for (name, context) in READERS {
        let (mut line, mut mounts, mut volumes) = (String::new(), String::new(), String::new());
        for (volume, source, file) in VOLUMES {
            let path = format!("/{volume}/{file}");
            write!(line, "echo {volume} $(stat -L -c '%a %u:%g' {path}) $(cat {path} 2>/dev/null || echo refused);")
                .unwrap();
            writeln!(mounts, "    - {{name: {volume}, mountPath: /{volume}}}").unwrap();
            writeln!(volumes, "  - {{name: {volume}, {source}}}").unwrap();
        }
        let more = format!("    volumeMounts:\n{mounts}  volumes:\n{volumes}");
        run_once(cluster, name, &format!("  securityContext: {context}\n{}", shell(&line, &more)));
    }
    scratch(cluster);
    shared(cluster);
    sizes(cluster);
    parts(cluster);
    many(cluster);
    changing(cluster);
}

fn scratch(cluster: &Cluster) {
    let line = "for d in disk memory; do stat -c '%a' /$d; for m in 644 666 777; do echo $m > /$d/$m; chmod $m /$d/$m; \
        stat -c '%a %u' /$d/$m; cat /$d/$m; done; done; grep -c ' /memory tmpfs ' /proc/mounts";
    let more = "    volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]\n  volumes: \
        [{name: disk, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory}}]\n";
    for (name, user) in [("scratch-root", 0), ("scratch-user", 1001)] {
        run_once(cluster, name, &format!("  securityContext: {{runAsUser: {user}}}\n{}", shell(line, more)));
    }
}

/// Whose group has the volumes: what anybody makes in them belongs to that group, in parts of them too.
fn shared(cluster: &Cluster) {
    let line = "for d in disk memory part; do stat -c '%a %u:%g' /$d; echo x > /$d/file; mkdir /$d/folder; \
        stat -c '%a %u:%g' /$d/file /$d/folder; done";
    let more = "    volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}, \
        {name: whole, mountPath: /part, subPath: new/part}]\n  volumes: [{name: disk, emptyDir: {}}, \
        {name: memory, emptyDir: {medium: Memory}}, {name: whole, emptyDir: {}}]\n";
    for (name, user) in [("shared-root", 0), ("shared-user", 1001)] {
        let context = format!("  securityContext: {{runAsUser: {user}, fsGroup: 123}}\n");
        run_once(cluster, name, &format!("{context}{}", shell(line, more)));
    }
}

fn sizes(cluster: &Cluster) {
    let line = "cd /sizes; for f in cpu-limit cpu-request memory-limit memory-request; do echo $f $(cat $f); done; \
        od -An -tx1 /c/bin | tr -d ' '";
    let more = |resources: &str| {
        format!(
            "    resources: {resources}\n    volumeMounts: [{{name: sizes, mountPath: /sizes}}, {{name: c, mountPath: /c}}]\n  \
             volumes:\n  - {{name: c, configMap: {{name: c}}}}\n  - name: sizes\n    {SIZES}\n"
        )
    };
    let limits = "{requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 1250m, memory: 64Mi}}";
    run_once(cluster, "sizes", &shell(line, &more(limits)));
    run_once(cluster, "no-sizes", &shell(line, &more("{}")));
}

/// Files of volumes that stand in the place of others, and folders that are named by variables.
fn parts(cluster: &Cluster) {
    let line = "cat /one /etc/group /name /pair; echo; cat /scratch/parts/file; cat /secret-one";
    let more = r#"    env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts:
    - {name: c, mountPath: /one, subPath: data-1}
    - {name: c, mountPath: /etc/group, subPath: data-2}
    - {name: s, mountPath: /secret-one, subPath: data-1}
    - {name: about, mountPath: /name, subPath: name}
    - {name: pair, mountPath: /pair, subPath: deep/two}
    - {name: scratch, mountPath: /scratch}
    - {name: scratch, mountPath: /part, subPathExpr: $(POD)}
  initContainers:
  - name: before
    image: localhost:5000/hello:v1
    command: [sh, -c, "echo written > /part/file"]
    env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts: [{name: scratch, mountPath: /part, subPathExpr: $(POD)}]
  volumes:
  - {name: c, configMap: {name: c}}
  - {name: s, secret: {secretName: s}}
  - {name: about, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
  - {name: pair, projected: {sources: [{configMap: {name: c, items: [{key: data-2, path: deep/two}]}}]}}
  - {name: scratch, emptyDir: {}}
"#;
    run_once(cluster, "parts", &shell(line, more));
    for (name, value) in [("part-absolute", "/tmp"), ("part-above", ".."), ("part-late", "$(metadata.annotations)")] {
        let value = match name {
            "part-late" => "valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['part']\"}}".to_owned(),
            _ => format!("value: {value:?}"),
        };
        let more = format!(
            "    env: [{{name: PART, {value}}}]\n    volumeMounts: [{{name: scratch, mountPath: /part, subPathExpr: $(PART)}}]\n  \
             volumes: [{{name: scratch, emptyDir: {{}}}}]\n"
        );
        let annotated = if name == "part-late" { "echo $PART" } else { "true" };
        run_once(cluster, name, &shell(annotated, &more));
    }
}

fn many(cluster: &Cluster) {
    let (mut objects, mut mounts, mut volumes) = (String::new(), String::new(), String::new());
    for index in 0..MANY {
        writeln!(
            objects,
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: many-{index}}}\ndata: {{number: \"{index} \"}}"
        )
        .unwrap();
        writeln!(mounts, "    - {{name: v{index}, mountPath: /many/{index}}}").unwrap();
        writeln!(volumes, "  - {{name: v{index}, configMap: {{name: many-{index}}}}}").unwrap();
    }
    cluster.create(&objects);
    let line = "cat /many/*/number | tr ' ' '\\n' | sort -n | tr -d '\\n'";
    for index in 0..PODS_WITH_MANY {
        let more = format!("    volumeMounts:\n{mounts}  volumes:\n{volumes}");
        run_once(cluster, &format!("many-{index}"), &shell(line, &more));
    }
}

/// A Pod that sees what comes, changes and goes.
fn changing(cluster: &Cluster) {
    for name in ["changed", "going"] {
        cluster.kubectl(&format!("create configmap {name} --from-literal=k=first")).ok();
        cluster.kubectl(&format!("create secret generic {name} --from-literal=k=first")).ok();
    }
    let (mut mounts, mut volumes) = (String::new(), String::new());
    for name in ["coming", "changed", "going"] {
        for (kind, source) in [
            ("c", format!("configMap: {{name: {name}, optional: true}}")),
            ("s", format!("secret: {{secretName: {name}, optional: true}}")),
            ("p", format!("projected: {{sources: [{{secret: {{name: {name}, optional: true}}}}]}}")),
        ] {
            writeln!(mounts, "    - {{name: {kind}-{name}, mountPath: /{kind}/{name}}}").unwrap();
            writeln!(volumes, "  - {{name: {kind}-{name}, {source}}}").unwrap();
        }
    }
    let told = "downwardAPI: {items: [{path: notes, fieldRef: {fieldPath: metadata.annotations}}, {path: labels, fieldRef: {fieldPath: metadata.labels}}]}";
    writeln!(mounts, "    - {{name: told, mountPath: /told}}\n    - {{name: told-too, mountPath: /told-too}}").unwrap();
    writeln!(volumes, "  - {{name: told, {told}}}\n  - {{name: told-too, projected: {{sources: [{{{told}}}]}}}}")
        .unwrap();
    let more = format!("    volumeMounts:\n{mounts}  volumes:\n{volumes}");
    run_once(cluster, "changing", &shell("sleep 1000", &more));
}

pub fn look(cluster: &Cluster) {
    let check = |name: &str, expected: Expect| expected.assert_eq(&said(cluster, name));
    check(
        "root",
        expect![[r#"
        cm 644 0:0 value-1
        cm-mode 400 0:0 value-1
        cm-items 644 0:0 value-2
        cm-item-mode 400 0:0 value-2
        secret 644 0:0 value-1
        secret-mode 440 0:0 value-1
        secret-items 400 0:0 value-1
        both 644 0:0 value-1
        both-mode 400 0:0 value-1
        both-items 400 0:0 value-1
        about 400 0:0 root
        about-mode 440 0:0 root
    "#]],
    );
    check(
        "user",
        expect![[r#"
        cm 644 0:0 value-1
        cm-mode 400 0:0 refused
        cm-items 644 0:0 value-2
        cm-item-mode 400 0:0 refused
        secret 644 0:0 value-1
        secret-mode 440 0:0 refused
        secret-items 400 0:0 refused
        both 644 0:0 value-1
        both-mode 400 0:0 refused
        both-items 400 0:0 refused
        about 400 0:0 refused
        about-mode 440 0:0 refused
    "#]],
    );
    check(
        "group",
        expect![[r#"
        cm 644 0:1001 value-1
        cm-mode 440 0:1001 value-1
        cm-items 644 0:1001 value-2
        cm-item-mode 440 0:1001 value-2
        secret 644 0:1001 value-1
        secret-mode 440 0:1001 value-1
        secret-items 440 0:1001 value-1
        both 644 0:1001 value-1
        both-mode 440 0:1001 value-1
        both-items 440 0:1001 value-1
        about 440 0:1001 group
        about-mode 440 0:1001 group
    "#]],
    );
    check(
        "scratch-root",
        expect![[r#"
        777
        644 0
        644
        666 0
        666
        777 0
        777
        777
        644 0
        644
        666 0
        666
        777 0
        777
        1
    "#]],
    );
    check(
        "scratch-user",
        expect![[r#"
        777
        644 1001
        644
        666 1001
        666
        777 1001
        777
        777
        644 1001
        644
        666 1001
        666
        777 1001
        777
        1
    "#]],
    );
    check(
        "shared-root",
        expect![[r#"
        2777 0:123
        644 0:123
        2755 0:123
        2777 0:123
        644 0:123
        2755 0:123
        2777 0:123
        644 0:123
        2755 0:123
    "#]],
    );
    check(
        "shared-user",
        expect![[r#"
        2777 0:123
        644 1001:123
        2755 1001:123
        2777 0:123
        644 1001:123
        2755 1001:123
        2777 0:123
        644 1001:123
        2755 1001:123
    "#]],
    );
    check(
        "sizes",
        expect![[r#"
        cpu-limit 1250
        cpu-request 250
        memory-limit 67108864
        memory-request 33554432
        00ff6100
    "#]],
    );
    let (unlimited, allocatable) =
        (said(cluster, "no-sizes"), cluster.get("nodes")["items"][0]["status"]["allocatable"].clone());
    let cpu = allocatable["cpu"].as_str().unwrap();
    let milli = cpu.strip_suffix('m').map_or_else(|| format!("{cpu}000"), str::to_owned);
    assert!(unlimited.contains(&format!("cpu-limit {milli}\n")), "{unlimited} {allocatable}");
    assert!(unlimited.contains("cpu-request 0\n"), "{unlimited}");
    check(
        "parts",
        expect![[r#"
        value-1value-2partsvalue-2
        written
        value-1"#]],
    );
    let numbers: String = (0..MANY).map(|index| index.to_string()).collect();
    for index in 0..PODS_WITH_MANY {
        let name = format!("many-{index}");
        assert_eq!(said(cluster, &name), numbers);
        let failed = cluster.kubectl(&format!("get events --field-selector involvedObject.name={name},type=Warning"));
        assert_eq!(failed.ok(), "", "every volume is filled at the first try");
    }
    refused_parts(cluster);
    changes(cluster);
}

fn refused_parts(cluster: &Cluster) {
    for name in ["part-absolute", "part-above", "part-late"] {
        eventually(&format!("{name} is refused"), || {
            let status = &cluster.get(&format!("pod {name}"))["status"]["containerStatuses"][0];
            status["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        });
    }
    cluster.kubectl("annotate --overwrite pod part-late part=now").ok();
    assert_eq!(said(cluster, "part-late"), "now\n");
}

fn changes(cluster: &Cluster) {
    cluster.ready("changing");
    let shown = |line: &str| cluster.sh("changing", line).stdout;
    assert_eq!(shown("cat /*/changed/k /*/going/k"), "first".repeat(6));
    assert_eq!(shown("ls /c/coming /s/coming /p/coming | grep -c k"), "0\n");
    cluster.kubectl("annotate pod changing more=notes").ok();
    cluster.kubectl("label pod changing more=labels").ok();
    for kind in ["configmap", "secret generic"] {
        cluster.kubectl(&format!("create {kind} coming --from-literal=k=new")).ok();
    }
    cluster.kubectl_args(&["patch", "configmap", "changed", "-p", r#"{"data":{"k":"second"}}"#]).ok();
    cluster.kubectl_args(&["patch", "secret", "changed", "-p", r#"{"stringData":{"k":"second"}}"#]).ok();
    cluster.kubectl("delete configmap/going secret/going").ok();
    for (what, line, end) in [
        ("what comes is there", "cat /*/coming/k", "new".repeat(3)),
        ("what changes is there", "cat /*/changed/k", "second".repeat(3)),
        ("what goes is gone", "cat /*/going/k 2>/dev/null; echo", "\n".to_owned()),
        ("notes are told", "grep -h more /told/notes /told-too/notes", "more=\"notes\"\n".repeat(2)),
        ("labels are told", "grep -h more /told/labels /told-too/labels", "more=\"labels\"\n".repeat(2)),
    ] {
        eventually(what, || shown(line).trim() == end.trim());
    }
    cluster.kubectl("delete pod changing --now").ok();
}
