//! Server-side apply on real types: who owns what, what goes, and who is in the way.

use expect_test::{Expect, expect};
use serde_json::Value;
use skiff_kinds::by_kind;
use skiff_kinds::decode::blank;
use skiff_kinds::schema::{apply::of_definition, definition};
use skiff_object::apply::{InVersion, Versions, Write, apply, ignored_fields, track};
use skiff_object::node::{Format, Node};
use skiff_object::{GroupVersionKind, Object, Status, yaml};

/// An object that is written again and again.
struct Bench {
    kind: GroupVersionKind,
    live: Option<Object>,
    step: usize,
}

fn tree(text: &str) -> Value {
    Node::parse(text.as_bytes(), Format::Yaml).expect("it is YAML").into_value()
}

impl Bench {
    fn new(group: &str, kind: &str) -> Self {
        Self { kind: GroupVersionKind::new(group, "v1", kind), live: None, step: 0 }
    }

    fn write<T>(&mut self, manager: &str, subresource: &str, act: impl FnOnce(Option<&Object>, &Write<'_>) -> T) -> T {
        let def = by_kind(&self.kind).expect("it is in the catalogue");
        let schema = of_definition(definition(&def.schema).expect("it is in the facts"));
        self.step += 1;
        let now = format!("2026-01-01T00:00:{:02}Z", self.step);
        let (blank, ignored) = (blank(def), ignored_fields(def.has_status(), subresource, &def.status_keeps));
        let api_version = self.kind.api_version();
        let write = Write {
            manager,
            subresource,
            api_version: &api_version,
            now: &now,
            schema,
            blank: &blank,
            ignored: &ignored,
            versions: Some(def),
        };
        act(self.live.as_ref(), &write)
    }

    fn complete(&self, text: &str) -> Object {
        let mut object = tree(text);
        object["apiVersion"] = Value::from(self.kind.api_version());
        object["kind"] = Value::from(self.kind.kind.clone());
        object
    }

    fn apply(&mut self, manager: &str, text: &str, force: bool) -> Result<(), Status> {
        let config = self.complete(text);
        let new = self.write(manager, "", |live, write| apply(live, &config, write, force))?;
        self.live = Some(new);
        Ok(())
    }

    fn update(&mut self, manager: &str, subresource: &str, text: &str) {
        let mut new = self.complete(text);
        self.write(manager, subresource, |live, write| track(live, &mut new, write));
        self.live = Some(new);
    }

    /// Goes on through another version.
    fn through(&mut self, version: &str) {
        let (def, from) = (by_kind(&self.kind).expect("it is in the catalogue"), self.kind.api_version());
        self.kind.version = version.to_owned();
        let live = self.live.take().expect("it was written");
        let InVersion::Other(live, _) = def.in_version(&live, &from, &self.kind.api_version()) else {
            panic!("{version} looks different")
        };
        self.live = Some(*live);
    }

    fn check(&self, want: Expect) {
        want.assert_eq(&yaml::write(self.live.as_ref().expect("it was written")).expect("a tree can be written"));
    }
}

#[test]
fn a_config_map_with_two_appliers() {
    let mut bench = Bench::new("", "ConfigMap");
    bench.apply("alice", "{metadata: {name: a}, data: {x: '1', z: '3'}}", false).unwrap();
    let conflict = bench.apply("bob", "{metadata: {name: a}, data: {x: '2'}}", false).unwrap_err();
    assert_eq!(conflict.message, r#"Apply failed with 1 conflict: conflict with "alice": .data.x"#);
    assert_eq!(conflict.code, 409);
    let causes = conflict.details.map(|details| details.causes).unwrap_or_default();
    assert_eq!((causes[0].field.as_str(), causes[0].message.as_str()), (".data.x", r#"conflict with "alice""#));
    bench.apply("bob", "{metadata: {name: a}, data: {x: '2'}}", true).unwrap();
    bench.check(expect![[r#"
        apiVersion: v1
        data:
          x: "2"
          z: "3"
        kind: ConfigMap
        metadata:
          managedFields:
          - apiVersion: v1
            fieldsType: FieldsV1
            fieldsV1:
              "f:data":
                "f:z": {}
            manager: alice
            operation: Apply
            time: "2026-01-01T00:00:01Z"
          - apiVersion: v1
            fieldsType: FieldsV1
            fieldsV1:
              "f:data":
                "f:x": {}
            manager: bob
            operation: Apply
            time: "2026-01-01T00:00:03Z"
          name: a
    "#]]);
    // Alice owns z alone, so that it goes when she leaves it out; x is Bob's now and stays.
    bench.apply("alice", "{metadata: {name: a}, data: {w: '4'}}", false).unwrap();
    bench.check(expect![[r#"
        apiVersion: v1
        data:
          w: "4"
          x: "2"
        kind: ConfigMap
        metadata:
          managedFields:
          - apiVersion: v1
            fieldsType: FieldsV1
            fieldsV1:
              "f:data":
                "f:x": {}
            manager: bob
            operation: Apply
            time: "2026-01-01T00:00:03Z"
          - apiVersion: v1
            fieldsType: FieldsV1
            fieldsV1:
              "f:data":
                "f:w": {}
            manager: alice
            operation: Apply
            time: "2026-01-01T00:00:04Z"
          name: a
    "#]]);
}

#[test]
fn a_deployment_that_is_applied_updated_and_scaled() {
    let mut bench = Bench::new("apps", "Deployment");
    let config = "
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'a:1', ports: [{containerPort: 80}], env: [{name: E, value: e}]}
      - {name: side, image: b}
";
    bench.apply("kubectl", config, false).unwrap();
    let mut live = bench.live.clone().expect("it was applied");
    live["spec"]["replicas"] = Value::from(5);
    live["status"] = tree("{replicas: 5}");
    bench.update("scaler", "scale", &live.to_string());
    bench.check(expect![[r#"
        apiVersion: apps/v1
        kind: Deployment
        metadata:
          labels:
            app: web
          managedFields:
          - apiVersion: apps/v1
            fieldsType: FieldsV1
            fieldsV1:
              "f:metadata":
                "f:labels":
                  "f:app": {}
              "f:spec":
                "f:selector": {}
                "f:template":
                  "f:metadata":
                    "f:labels":
                      "f:app": {}
                  "f:spec":
                    "f:containers":
                      "k:{\"name\":\"side\"}":
                        ".": {}
                        "f:image": {}
                        "f:name": {}
                      "k:{\"name\":\"web\"}":
                        ".": {}
                        "f:env":
                          "k:{\"name\":\"E\"}":
                            ".": {}
                            "f:name": {}
                            "f:value": {}
                        "f:image": {}
                        "f:name": {}
                        "f:ports":
                          "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                            ".": {}
                            "f:containerPort": {}
            manager: kubectl
            operation: Apply
            time: "2026-01-01T00:00:01Z"
          - apiVersion: apps/v1
            fieldsType: FieldsV1
            fieldsV1:
              "f:spec":
                "f:replicas": {}
              "f:status":
                "f:replicas": {}
            manager: scaler
            operation: Update
            subresource: scale
            time: "2026-01-01T00:00:02Z"
          name: web
        spec:
          replicas: 5
          selector:
            matchLabels:
              app: web
          strategy: {}
          template:
            metadata:
              labels:
                app: web
            spec:
              containers:
              - env:
                - name: E
                  value: e
                image: a:1
                name: web
                ports:
                - containerPort: 80
              - image: b
                name: side
        status:
          replicas: 5
    "#]]);
    let conflict = bench.apply("kubectl", config, false).unwrap_err();
    assert_eq!(
        conflict.message,
        r#"Apply failed with 1 conflict: conflict with "scaler" with subresource "scale" using apps/v1: .spec.replicas"#
    );
    // Without the number of replicas there is no conflict; the container and the port that are left out go.
    let without = "
metadata: {name: web, labels: {app: web}}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: 'a:2', env: [{name: F, value: f}]}]}
";
    bench.apply("kubectl", without, false).unwrap();
    bench.check(expect![[r#"
        apiVersion: apps/v1
        kind: Deployment
        metadata:
          labels:
            app: web
          managedFields:
          - apiVersion: apps/v1
            fieldsType: FieldsV1
            fieldsV1:
              "f:metadata":
                "f:labels":
                  "f:app": {}
              "f:spec":
                "f:selector": {}
                "f:template":
                  "f:metadata":
                    "f:labels":
                      "f:app": {}
                  "f:spec":
                    "f:containers":
                      "k:{\"name\":\"web\"}":
                        ".": {}
                        "f:env":
                          "k:{\"name\":\"F\"}":
                            ".": {}
                            "f:name": {}
                            "f:value": {}
                        "f:image": {}
                        "f:name": {}
            manager: kubectl
            operation: Apply
            time: "2026-01-01T00:00:04Z"
          - apiVersion: apps/v1
            fieldsType: FieldsV1
            fieldsV1:
              "f:spec":
                "f:replicas": {}
              "f:status":
                "f:replicas": {}
            manager: scaler
            operation: Update
            subresource: scale
            time: "2026-01-01T00:00:02Z"
          name: web
        spec:
          replicas: 5
          selector:
            matchLabels:
              app: web
          strategy: {}
          template:
            metadata:
              labels:
                app: web
            spec:
              containers:
              - env:
                - name: F
                  value: f
                image: a:2
                name: web
        status:
          replicas: 5
    "#]]);
}

#[test]
fn what_was_there_before_the_first_apply_is_owned_too() {
    let mut bench = Bench::new("", "ConfigMap");
    bench.live = Some(bench.complete("{metadata: {name: a, uid: u}, data: {x: '1'}}"));
    let conflict = bench.apply("bob", "{metadata: {name: a}, data: {x: '2', y: '1'}}", false).unwrap_err();
    assert_eq!(
        conflict.message,
        r#"Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.x"#
    );
    bench.apply("bob", "{metadata: {name: a}, data: {x: '1'}}", false).unwrap();
    bench.check(expect![[r#"
        apiVersion: v1
        data:
          x: "1"
        kind: ConfigMap
        metadata:
          managedFields:
          - apiVersion: v1
            fieldsType: FieldsV1
            fieldsV1:
              "f:data":
                "f:x": {}
            manager: bob
            operation: Apply
          - apiVersion: v1
            fieldsType: FieldsV1
            fieldsV1:
              "f:data":
                ".": {}
                "f:x": {}
            manager: before-first-apply
            operation: Update
            time: "2026-01-01T00:00:02Z"
          name: a
          uid: u
    "#]]);
}

#[test]
fn what_kubectl_applied_by_itself_is_its_own() {
    let mut bench = Bench::new("", "ConfigMap");
    let annotation = r#"{kubectl.kubernetes.io/last-applied-configuration: '{"data":{"x":"1"}}'}"#;
    bench.update(
        "kubectl-client-side-apply",
        "",
        &format!("{{metadata: {{name: a, annotations: {annotation}}}, data: {{x: '1', y: '1'}}}}"),
    );
    let conflict = bench.apply("kubectl", "{metadata: {name: a}, data: {x: '2', y: '2'}}", false).unwrap_err();
    assert_eq!(
        conflict.message,
        r#"Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using v1: .data.y"#
    );
    bench.apply("kubectl", "{metadata: {name: a}, data: {x: '2'}}", false).unwrap();
}

#[test]
fn bad_configurations() {
    let mut bench = Bench::new("apps", "Deployment");
    let all = [
        "{metadata: {name: a, managedFields: []}}",
        "{metadata: {name: a}, spec: {foo: 1}}",
        "{metadata: {name: a}, spec: {template: {spec: {containers: [{name: a}, {name: a}]}}}}",
    ];
    let texts: Vec<_> = all.iter().map(|text| bench.apply("a", text, false).unwrap_err().message + "\n").collect();
    expect![[r#"
        metadata.managedFields must be nil
        failed to create typed patch object (/a; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema
        failed to merge config (/a; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name="a"]
    "#]].assert_eq(&texts.concat());
}

#[test]
fn many_updaters_share_one_entry() {
    let mut bench = Bench::new("", "ConfigMap");
    let mut data = String::new();
    for step in 0..14 {
        data.push_str(&format!("k{step}: v, "));
        let managed = bench.live.as_ref().map(|live| live["metadata"]["managedFields"].to_string());
        let managed = managed.map(|entries| format!(", managedFields: {entries}")).unwrap_or_default();
        bench.update(&format!("m{step:02}"), "", &format!("{{metadata: {{name: a{managed}}}, data: {{{data}}}}}"));
    }
    let live = bench.live.expect("it was written");
    let names: Vec<_> = live["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["manager"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 10);
    assert!(names.contains(&"ancient-changes") && names.contains(&"m13") && !names.contains(&"m00"));
}

#[test]
fn what_is_owned_through_one_version_is_seen_through_another() {
    let mut bench = Bench::new("autoscaling", "HorizontalPodAutoscaler");
    bench.kind.version = "v2".to_owned();
    let metrics = |percent: u8, more: &str| {
        format!(
            "{{spec: {{maxReplicas: 3, metrics: [{{type: Resource, resource: {{name: cpu, target: \
             {{type: Utilization, averageUtilization: {percent}}}}}}}]{more}}}}}"
        )
    };
    bench.apply("alice", &metrics(50, ", minReplicas: 2"), false).unwrap();
    bench.through("v1");
    let changed = "{spec: {targetCPUUtilizationPercentage: 60}}";
    let conflict = bench.apply("bob", changed, false).unwrap_err();
    assert_eq!(conflict.message, r#"Apply failed with 1 conflict: conflict with "alice": .spec.metrics"#);
    bench.apply("bob", changed, true).unwrap();
    bench.update("carol", "", "{spec: {maxReplicas: 9, minReplicas: 2, targetCPUUtilizationPercentage: 60}}");
    bench.through("v2");
    let conflict = bench.apply("dave", &metrics(70, ""), false).unwrap_err();
    expect![[r#"
        Apply failed with 2 conflicts: conflicts with "bob":
        - .spec.targetCPUUtilizationPercentage
        conflicts with "carol" using autoscaling/v1:
        - .spec.maxReplicas"#]]
    .assert_eq(&conflict.message);
    // What bob applied through v1 goes when he applies something else through v2.
    bench.apply("bob", "{spec: {minReplicas: 2}}", false).unwrap();
    bench.check(expect![[r#"
        apiVersion: autoscaling/v2
        kind: HorizontalPodAutoscaler
        metadata:
          managedFields:
          - apiVersion: autoscaling/v2
            fieldsType: FieldsV1
            fieldsV1:
              "f:spec":
                "f:minReplicas": {}
            manager: alice
            operation: Apply
            time: "2026-01-01T00:00:01Z"
          - apiVersion: autoscaling/v2
            fieldsType: FieldsV1
            fieldsV1:
              "f:spec":
                "f:minReplicas": {}
            manager: bob
            operation: Apply
            time: "2026-01-01T00:00:06Z"
          - apiVersion: autoscaling/v1
            fieldsType: FieldsV1
            fieldsV1:
              "f:spec":
                "f:maxReplicas": {}
            manager: carol
            operation: Update
            time: "2026-01-01T00:00:04Z"
        spec:
          maxReplicas: 9
          minReplicas: 2
        status:
          currentMetrics: null
    "#]]);
}

#[test]
fn owners_through_a_version_that_is_no_more_own_nothing() {
    let mut def = by_kind(&GroupVersionKind::new("", "v1", "ConfigMap")).expect("it is in the catalogue").clone();
    def.group = "example.com".into();
    let versions = vec!["v1".to_owned(), "v2".to_owned()];
    let storage_version = "v2".to_owned();
    let custom = skiff_kinds::def::Custom { source: String::new(), storage_version, versions, conversion: None };
    def.custom = Some(custom.into());
    let seen = |version: &str| match def.in_version(&Value::Null, "example.com/v1", version) {
        InVersion::Same => "the same",
        InVersion::Other(..) => "another",
        InVersion::Unknown => "none",
    };
    assert_eq!(["example.com/v2", "example.com/v1beta1", "v1"].map(seen), ["the same", "none", "none"]);
}
