//! Decoding bodies: upstream's shape, and upstream's words for what is wrong.

use expect_test::{Expect, expect};
use skiff_kinds::by_kind;
use skiff_kinds::decode::{FieldValidation, decode};
use skiff_object::node::Format;
use skiff_object::{GroupVersionKind, yaml};

fn check(kind: (&str, &str, &str), validation: FieldValidation, body: &str, want: Expect) {
    let def = by_kind(&GroupVersionKind::new(kind.0, kind.1, kind.2)).expect("it is in the catalogue");
    let format = if body.trim_start().starts_with(['{', '[']) { Format::Json } else { Format::Yaml };
    let text = match decode(def, body.as_bytes(), format, validation) {
        Ok(decoded) => {
            let warnings: String = decoded.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
            format!("{warnings}{}", yaml::write(&decoded.object).expect("it is JSON"))
        }
        Err(status) => format!("{} {}\n", status.code, status.message),
    };
    want.assert_eq(&text);
}

const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");

#[test]
fn objects_take_upstreams_shape() {
    check(
        DEPLOYMENT,
        FieldValidation::Strict,
        "
metadata:
  name: web
  creationTimestamp: null
  labels: {}
spec:
  replicas: 0
  paused: false
  minReadySeconds: 0
  template:
    spec:
      nodeSelector: {}
      securityContext: {}
      containers:
      - name: a
        image: b
        args: []
        resources: {limits: {cpu: 1000m, memory: 1024Mi, example.com/x: 3}}
        ports: [{containerPort: 80}]
        env: [{name: E, value: ''}]
",
        expect![[r#"
            apiVersion: apps/v1
            kind: Deployment
            metadata:
              name: web
            spec:
              replicas: 0
              selector: null
              strategy: {}
              template:
                metadata: {}
                spec:
                  containers:
                  - env:
                    - name: E
                    image: b
                    name: a
                    ports:
                    - containerPort: 80
                    resources:
                      limits:
                        cpu: "1"
                        example.com/x: "3"
                        memory: 1Gi
                  securityContext: {}
            status: {}
        "#]],
    );
    check(
        ("", "v1", "ConfigMap"),
        FieldValidation::Strict,
        r#"{"metadata":{"name":"a"},"data":{"k":null}}"#,
        expect![[r#"
        apiVersion: v1
        data:
          k: ""
        kind: ConfigMap
        metadata:
          name: a
    "#]],
    );
    check(
        ("rbac.authorization.k8s.io", "v1", "Role"),
        FieldValidation::Strict,
        r#"{"metadata":{"name":"a"}}"#,
        expect![[r#"
            apiVersion: rbac.authorization.k8s.io/v1
            kind: Role
            metadata:
              name: a
            rules: null
        "#]],
    );
}

#[test]
fn unknown_and_doubled_fields() {
    let body =
        r#"{"spec":{"foo":1,"template":{"spec":{"containers":[{"name":"a","bar":1,"image":"x","image":"y"}]}}}}"#;
    check(
        DEPLOYMENT,
        FieldValidation::Strict,
        body,
        expect![[r#"
        400 Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.foo", unknown field "spec.template.spec.containers[0].bar", duplicate field "spec.template.spec.containers[0].image"
    "#]],
    );
    check(
        DEPLOYMENT,
        FieldValidation::Warn,
        body,
        expect![[r#"
        warning: unknown field "spec.foo"
        warning: unknown field "spec.template.spec.containers[0].bar"
        warning: duplicate field "spec.template.spec.containers[0].image"
        apiVersion: apps/v1
        kind: Deployment
        metadata: {}
        spec:
          selector: null
          strategy: {}
          template:
            metadata: {}
            spec:
              containers:
              - image: "y"
                name: a
                resources: {}
        status: {}
    "#]],
    );
    check(
        ("", "v1", "ConfigMap"),
        FieldValidation::Strict,
        "data: {a: b, a: c}\nx: 1\n",
        expect![[r#"
            400 ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "data.a", unknown field "x"
        "#]],
    );
}

#[test]
fn mistyped_fields() {
    let all = [
        r#"{"spec":{"replicas":"3"}}"#,
        r#"{"spec":{"replicas":1.5}}"#,
        r#"{"spec":{"replicas":3000000000}}"#,
        r#"{"spec":[]}"#,
        r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
        r#"{"spec":{"template":{"spec":{"containers":[{"env":[{"name":"a","value":1}]}]}}}}"#,
        r#"{"spec":{"template":{"spec":{"containers":[{"imagePullPolicy":true}]}}}}"#,
        r#"{"spec":{"template":{"spec":{"containers":["a"]}}}}"#,
        r#"{"spec":{"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}}}"#,
        r#"{"spec":{"strategy":{"rollingUpdate":{"maxSurge":true}}}}"#,
        r#"{"metadata":{"labels":{"a":1}}}"#,
        r#"{"metadata":{"creationTimestamp":"soon"}}"#,
        r#"{"kind":"Pod","apiVersion":"v1"}"#,
        r#"{"kind":"Pod"}"#,
        r#"{"kind":5}"#,
        r#"[]"#,
        r#"{"a""#,
    ];
    let out: String = all
        .iter()
        .map(|body| {
            let def = by_kind(&GroupVersionKind::new("apps", "v1", "Deployment")).expect("it is in the catalogue");
            let error = decode(def, body.as_bytes(), Format::Json, FieldValidation::Ignore).expect_err(body);
            assert_eq!(error.code, 400);
            format!("{}\n", error.message)
        })
        .collect();
    expect![[r#"
        Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32
        Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32
        Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32
        Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec
        Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container
        Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string
        Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal bool into Go struct field Container.spec.template.spec.containers.imagePullPolicy of type v1.PullPolicy
        Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field PodSpec.spec.template.spec.containers of type v1.Container
        Deployment in version "v1" cannot be handled as a Deployment: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
        Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal bool into Go struct field RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32
        Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string
        Deployment in version "v1" cannot be handled as a Deployment: parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006"
        the API version in the data (v1) does not match the expected API version (apps/v1)
        Pod in version "v1" cannot be handled as a Deployment: the kind does not match the expected kind "Deployment"
        the object provided is unrecognized (must be of type Deployment): couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string
        the object provided is unrecognized (must be of type Deployment): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }
        the object provided is unrecognized (must be of type Deployment): couldn't get version/kind; json parse error: unexpected end of JSON input ({"a")
    "#]].assert_eq(&out);
}
