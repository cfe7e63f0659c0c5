//! How the types of the API merge in a strategic merge patch.

use skiff_object::patch::{FieldMerge, MergeSchema};

use super::{Definition, Shape, Type};

impl MergeSchema for Definition {
    fn field(&self, name: &str) -> Option<FieldMerge<'_>> {
        let field = Definition::field(self, name)?;
        Some(FieldMerge {
            inner: schema_of(&field.ty),
            merge: field.merge,
            replace: field.replace,
            key: field.merge_key,
        })
    }
}

/// A map from any key to values of one type.
impl MergeSchema for Type {
    fn field(&self, _: &str) -> Option<FieldMerge<'_>> {
        match self {
            Self::Map(value) => Some(FieldMerge { inner: schema_of(value), ..FieldMerge::default() }),
            _ => None,
        }
    }
}

fn schema_of(ty: &Type) -> Option<&dyn MergeSchema> {
    match ty {
        Type::Ref(_) => {
            let definition = ty.definition().filter(|definition| definition.shape == Shape::Struct)?;
            Some(definition)
        }
        Type::List(item) => schema_of(item),
        Type::Map(_) => Some(ty),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::Value;
    use skiff_object::node::{Format, Node};
    use skiff_object::patch::strategic_merge;
    use skiff_object::yaml;

    use crate::schema::definition;

    fn check(name: &str, object: &str, patch: &str, want: Expect) {
        let tree = |text: &str| Node::parse(text.as_bytes(), Format::Yaml).map_or(Value::Null, Node::into_value);
        let schema = definition(name).expect("it is in the facts");
        let text = match strategic_merge(tree(object), tree(patch), schema) {
            Ok(object) => yaml::write(&object).expect("a tree can be written"),
            Err(status) => format!("{} {}\n", status.code, status.message),
        };
        want.assert_eq(&text);
    }

    const POD: &str = "io.k8s.api.core.v1.Pod";
    const OBJECT: &str = "
metadata: {finalizers: [a, b], labels: {x: y, z: z}}
spec:
  containers:
  - {name: a, image: a, env: [{name: E, value: e}, {name: F, value: f}], args: [x]}
  - {name: b, image: b}
  tolerations: [{key: a}]
  volumes: [{name: v, emptyDir: {}}]
";

    #[test]
    fn lists_merge_as_their_types_say() {
        check(
            POD,
            OBJECT,
            "
metadata: {finalizers: [c, b], labels: {x: null, m: m, gone: null}}
spec:
  containers:
  - {name: c, image: c}
  - {name: a, image: new, env: [{name: E, $patch: delete}, {name: G, value: g}], args: [w]}
  tolerations: [{key: b}]
  volumes: [{name: v, $retainKeys: [name, secret], emptyDir: null, secret: {secretName: s}}]
",
            expect![[r#"
                metadata:
                  finalizers:
                  - c
                  - a
                  - b
                  labels:
                    m: m
                    z: z
                spec:
                  containers:
                  - image: c
                    name: c
                  - args:
                    - w
                    env:
                    - name: G
                      value: g
                    - name: F
                      value: f
                    image: new
                    name: a
                  - image: b
                    name: b
                  tolerations:
                  - key: b
                  volumes:
                  - name: v
                    secret:
                      secretName: s
            "#]],
        );
    }

    #[test]
    fn directives() {
        check(
            POD,
            OBJECT,
            "
metadata: {$deleteFromPrimitiveList/finalizers: [a], labels: {$patch: replace, only: this}}
spec:
  $setElementOrder/containers: [{name: b}, {name: m}, {name: a}]
  containers: [{name: m, image: m}]
  volumes: [{$patch: replace}, {name: w}]
  securityContext: {$patch: delete}
",
            expect![[r#"
                metadata:
                  finalizers:
                  - b
                  labels:
                    only: this
                spec:
                  containers:
                  - image: b
                    name: b
                  - image: m
                    name: m
                  - args:
                    - x
                    env:
                    - name: E
                      value: e
                    - name: F
                      value: f
                    image: a
                    name: a
                  tolerations:
                  - key: a
                  volumes:
                  - name: w
            "#]],
        );
        check(
            POD,
            OBJECT,
            "spec: {containers: [{image: x}]}",
            expect![[r#"
            500 map: map[image:x] does not contain declared merge key: name
        "#]],
        );
        check(
            POD,
            OBJECT,
            "spec: {containers: [{name: x, $patch: turn}]}",
            expect![[r#"
            422 the server rejected our request due to an error in our request
        "#]],
        );
        check(
            POD,
            OBJECT,
            "spec: {volumes: [{name: v, $retainKeys: [name], secret: {}}]}",
            expect![[r#"
            400 invalid patch format of retainKeys
        "#]],
        );
        check(
            POD,
            OBJECT,
            "spec: {$setElementOrder/containers: [{name: a}], containers: [{name: z}]}",
            expect![[r#"
            500 The order in patch list:
            [map[name:z]]
             doesn't match $setElementOrder list:
            [map[name:a]]

        "#]],
        );
        check(
            "io.k8s.api.policy.v1.PodDisruptionBudget",
            "spec: {selector: {matchLabels: {a: b}}}",
            "spec: {selector: {matchLabels: {c: d}}}",
            expect![[r#"
                spec:
                  selector:
                    matchLabels:
                      c: d
            "#]],
        );
        check(
            "io.k8s.api.core.v1.ConfigMap",
            "data: {a: b, c: d}",
            "data: {a: null, e: f}\nbinaryData: {x: null}",
            expect![[r#"
                binaryData: {}
                data:
                  c: d
                  e: f
            "#]],
        );
    }
}
