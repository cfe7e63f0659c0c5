//! Workloads, PodGroups, and the Pods that are in groups: what may be in them, what may change, and what is shown.

use expect_test::expect;
use skiff_kinds::decode::blank;
use skiff_kinds::protobuf::{encode_any, tree};
use skiff_kinds::{by_kind, known};
use skiff_object::GroupVersionKind;

mod common;

use common::{each, each_change, row};

const WORKLOAD: &str = "{apiVersion: scheduling.k8s.io/v1alpha2, kind: Workload, metadata: {name: w}, spec: {@}}";
const GROUP: &str = "{apiVersion: scheduling.k8s.io/v1alpha2, kind: PodGroup, metadata: {name: g}, spec: {@}}";
const POD: &str =
    "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: d}, spec: {containers: [{name: c, image: i}], @}}";

#[test]
fn a_workload_has_templates_of_groups() {
    let nine = (0..9).map(|at| format!("{{name: t{at}, schedulingPolicy: {{basic: {{}}}}}}")).collect::<Vec<_>>();
    let nine = format!("podGroupTemplates: [{}]", nine.join(", "));
    let parts = [
        "podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}, {name: b, schedulingPolicy: {gang: {minCount: 2}}}]",
        "",
        &nine,
        "podGroupTemplates: [{name: '', schedulingPolicy: {basic: {}}}, {name: A, schedulingPolicy: {gang: {minCount: -1}}}]",
        "podGroupTemplates: [{name: a, schedulingPolicy: {}}, {name: b, schedulingPolicy: {basic: {}, gang: {minCount: 0}}}]",
        "podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}, {name: a, schedulingPolicy: {basic: {}}}]",
        "controllerRef: {apiGroup: batch, kind: Job, name: j}, podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}]",
        "controllerRef: {apiGroup: B, kind: '', name: a/b}, podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}]",
    ];
    each(
        WORKLOAD,
        &parts,
        expect![[r##"
        # podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}, {name: b, schedulingPolicy: {gang: {minCount: 2}}}]
        fine
        # 
        spec.podGroupTemplates: Required value
        # podGroupTemplates: [{name: t0, schedulingPolicy: {basic: {}}}, {name: t1, schedulingPolicy: {basic: {}}}, {name: t2, schedulingPolicy: {basic: {}}}, {name: t3, schedulingPolicy: {basic: {}}}, {name: t4, schedulingPolicy: {basic: {}}}, {name: t5, schedulingPolicy: {basic: {}}}, {name: t6, schedulingPolicy: {basic: {}}}, {name: t7, schedulingPolicy: {basic: {}}}, {name: t8, schedulingPolicy: {basic: {}}}]
        spec.podGroupTemplates: Too many: 9: must have at most 8 items
        # podGroupTemplates: [{name: '', schedulingPolicy: {basic: {}}}, {name: A, schedulingPolicy: {gang: {minCount: -1}}}]
        spec.podGroupTemplates[0].name: Required value
        spec.podGroupTemplates[1].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
        spec.podGroupTemplates[1].schedulingPolicy.gang.minCount: Invalid value: -1: must be greater than or equal to 1
        # podGroupTemplates: [{name: a, schedulingPolicy: {}}, {name: b, schedulingPolicy: {basic: {}, gang: {minCount: 0}}}]
        spec.podGroupTemplates[0].schedulingPolicy: Invalid value: "": must specify one of: `basic`, `gang`
        spec.podGroupTemplates[1].schedulingPolicy: Invalid value: "{basic, gang}": must specify exactly one of: `basic`, `gang`
        spec.podGroupTemplates[1].schedulingPolicy.gang.minCount: Required value
        # podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}, {name: a, schedulingPolicy: {basic: {}}}]
        spec.podGroupTemplates[1]: Duplicate value: {"name":"a","schedulingConstraints":null,"schedulingPolicy":{"basic":{}}}
        # controllerRef: {apiGroup: batch, kind: Job, name: j}, podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}]
        fine
        # controllerRef: {apiGroup: B, kind: '', name: a/b}, podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}]
        spec.controllerRef.apiGroup: Invalid value: "B": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        spec.controllerRef.kind: Required value
        spec.controllerRef.name: Invalid value: "a/b": may not contain '/'
    "##]],
    );
    let one = "podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}]";
    let with = format!("controllerRef: {{kind: Job, name: j}}, {one}");
    each_change(
        WORKLOAD,
        "",
        &[
            (one, one),
            (one, &with),
            (&with, one),
            (one, "podGroupTemplates: [{name: a, schedulingPolicy: {gang: {minCount: 2}}}]"),
        ],
        expect![[r##"
            # podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}] -> podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}]
            fine
            # podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}] -> controllerRef: {kind: Job, name: j}, podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}]
            spec.controllerRef: Invalid value: "null": field is immutable
            # controllerRef: {kind: Job, name: j}, podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}] -> podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}]
            spec.controllerRef: Invalid value: "null": field is immutable
            # podGroupTemplates: [{name: a, schedulingPolicy: {basic: {}}}] -> podGroupTemplates: [{name: a, schedulingPolicy: {gang: {minCount: 2}}}]
            spec.podGroupTemplates: Invalid value: "null": field is immutable
        "##]],
    );
}

#[test]
fn a_group_has_one_policy() {
    let parts = [
        "schedulingPolicy: {gang: {minCount: 3}}",
        "",
        "schedulingPolicy: {basic: {}, gang: {minCount: 1}}",
        "schedulingPolicy: {gang: {}}",
        "schedulingPolicy: {gang: {minCount: -3}}",
        "schedulingPolicy: {basic: {}}, podGroupTemplateRef: {workload: {workloadName: w, podGroupTemplateName: t}}",
        "schedulingPolicy: {basic: {}}, podGroupTemplateRef: {}",
        "schedulingPolicy: {basic: {}}, podGroupTemplateRef: {workload: {workloadName: W}}",
        "schedulingPolicy: {basic: {}}, disruptionMode: PodGroup, priority: 1000000000, priorityClassName: a",
        "schedulingPolicy: {basic: {}}, disruptionMode: All, priority: 1000000001, priorityClassName: A",
        "schedulingPolicy: {basic: {}}, schedulingConstraints: {topology: [{key: x.io/rack}]}",
        "schedulingPolicy: {basic: {}}, schedulingConstraints: {topology: [{key: ''}]}",
        "schedulingPolicy: {basic: {}}, schedulingConstraints: {topology: [{key: a}, {key: b}]}",
    ];
    each(
        GROUP,
        &parts,
        expect![[r##"
        # schedulingPolicy: {gang: {minCount: 3}}
        fine
        # 
        spec.schedulingPolicy: Invalid value: "": must specify one of: `basic`, `gang`
        # schedulingPolicy: {basic: {}, gang: {minCount: 1}}
        spec.schedulingPolicy: Invalid value: "{basic, gang}": must specify exactly one of: `basic`, `gang`
        # schedulingPolicy: {gang: {}}
        spec.schedulingPolicy.gang.minCount: Required value
        # schedulingPolicy: {gang: {minCount: -3}}
        spec.schedulingPolicy.gang.minCount: Invalid value: -3: must be greater than or equal to 1
        # schedulingPolicy: {basic: {}}, podGroupTemplateRef: {workload: {workloadName: w, podGroupTemplateName: t}}
        fine
        # schedulingPolicy: {basic: {}}, podGroupTemplateRef: {}
        spec.podGroupTemplateRef: Invalid value: "": must specify one of: `workload`
        # schedulingPolicy: {basic: {}}, podGroupTemplateRef: {workload: {workloadName: W}}
        spec.podGroupTemplateRef.workload.workloadName: Invalid value: "W": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        spec.podGroupTemplateRef.workload.podGroupTemplateName: Required value
        # schedulingPolicy: {basic: {}}, disruptionMode: PodGroup, priority: 1000000000, priorityClassName: a
        fine
        # schedulingPolicy: {basic: {}}, disruptionMode: All, priority: 1000000001, priorityClassName: A
        spec.disruptionMode: Unsupported value: "All": supported values: "Pod", "PodGroup"
        spec.priorityClassName: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        spec.priority: Invalid value: 1000000001: must be less than or equal to 1000000000
        # schedulingPolicy: {basic: {}}, schedulingConstraints: {topology: [{key: x.io/rack}]}
        fine
        # schedulingPolicy: {basic: {}}, schedulingConstraints: {topology: [{key: ''}]}
        spec.schedulingConstraints.topology[0].key: Required value
        # schedulingPolicy: {basic: {}}, schedulingConstraints: {topology: [{key: a}, {key: b}]}
        spec.schedulingConstraints.topology: Too many: 2: must have at most 1 item
    "##]],
    );
}

#[test]
fn a_group_never_changes() {
    let basic = "schedulingPolicy: {basic: {}}";
    let more = |more: &str| format!("{basic}, {more}");
    let changes = [
        (basic, basic.to_owned()),
        (basic, "schedulingPolicy: {gang: {minCount: 0}}".to_owned()),
        (basic, more("podGroupTemplateRef: {workload: {workloadName: w, podGroupTemplateName: t}}")),
        (basic, more("disruptionMode: PodGroup")),
        (basic, more("priority: 0")),
        (basic, more("priorityClassName: a")),
        (basic, more("schedulingConstraints: {topology: [{key: a}]}")),
    ];
    let changes: Vec<_> = changes.iter().map(|(from, to)| (*from, to.as_str())).collect();
    each_change(
        GROUP,
        "",
        &changes,
        expect![[r##"
        # schedulingPolicy: {basic: {}} -> schedulingPolicy: {basic: {}}
        fine
        # schedulingPolicy: {basic: {}} -> schedulingPolicy: {gang: {minCount: 0}}
        spec.schedulingPolicy: Invalid value: "null": field is immutable
        # schedulingPolicy: {basic: {}} -> schedulingPolicy: {basic: {}}, podGroupTemplateRef: {workload: {workloadName: w, podGroupTemplateName: t}}
        spec.podGroupTemplateRef: Invalid value: "null": field is immutable
        # schedulingPolicy: {basic: {}} -> schedulingPolicy: {basic: {}}, disruptionMode: PodGroup
        spec.disruptionMode: Invalid value: "null": field is immutable
        # schedulingPolicy: {basic: {}} -> schedulingPolicy: {basic: {}}, priority: 0
        spec.priority: Invalid value: "null": field is immutable
        # schedulingPolicy: {basic: {}} -> schedulingPolicy: {basic: {}}, priorityClassName: a
        spec.priorityClassName: Invalid value: "null": field is immutable
        # schedulingPolicy: {basic: {}} -> schedulingPolicy: {basic: {}}, schedulingConstraints: {topology: [{key: a}]}
        spec.schedulingConstraints: Invalid value: "null": field is immutable
    "##]],
    );
    let status = GROUP.replace("spec: {@}", "spec: {schedulingPolicy: {basic: {}}}, status: {@}");
    let condition = "conditions: [{type: PodGroupScheduled, status: 'True', reason: Scheduled, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]";
    let odd = "conditions: [{type: PodGroupScheduled, status: Maybe, reason: a b, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]";
    each_change(
        &status,
        "status",
        &[("", condition), ("", odd)],
        expect![[r##"
        #  -> conditions: [{type: PodGroupScheduled, status: 'True', reason: Scheduled, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]
        fine
        #  -> conditions: [{type: PodGroupScheduled, status: Maybe, reason: a b, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]
        status.conditions[0].status: Unsupported value: "Maybe": supported values: "False", "True", "Unknown"
        status.conditions[0].reason: Invalid value: "a b": a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')
    "##]],
    );
}

#[test]
fn a_pod_is_in_one_group_for_good() {
    let parts = ["schedulingGroup: {podGroupName: g}", "schedulingGroup: {podGroupName: G_1}", "schedulingGroup: {}"];
    each(
        POD,
        &parts,
        expect![[r##"
        # schedulingGroup: {podGroupName: g}
        fine
        # schedulingGroup: {podGroupName: G_1}
        spec.schedulingGroup.podGroupName: Invalid value: "G_1": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        # schedulingGroup: {}
        spec.schedulingGroup.podGroupName: Invalid value: "null": must specify one of: `podGroupName`
    "##]],
    );
    each_change(
        POD,
        "",
        &[("schedulingGroup: {podGroupName: g}", "schedulingGroup: {podGroupName: h}")],
        expect![[r##"
            # schedulingGroup: {podGroupName: g} -> schedulingGroup: {podGroupName: h}
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            - schedulingGroup: {"podGroupName":"g"}
            + schedulingGroup: {"podGroupName":"h"}

        "##]],
    );
}

#[test]
fn rows_tell_policy_workload_and_status() {
    let group = |spec: &str, conditions: &str| {
        row(&format!(
            "{{apiVersion: scheduling.k8s.io/v1alpha2, kind: PodGroup, metadata: {{name: g, creationTimestamp: '2026-03-04T05:05:07Z'}}, \
             spec: {{schedulingPolicy: {{{spec}}}, podGroupTemplateRef: {{workload: {{workloadName: w, podGroupTemplateName: t}}}}}}, \
             status: {{conditions: [{conditions}]}}}}"
        ))
    };
    let condition =
        |kind: &str, status: &str, reason: &str| format!("{{type: {kind}, status: '{status}', reason: {reason}}}");
    let scheduled = condition("PodGroupScheduled", "True", "Scheduled");
    assert_eq!(group("basic: {}", ""), "g | Basic | w | Pending | 60s");
    assert_eq!(group("gang: {minCount: 1}", &scheduled), "g | Gang | w | Scheduled | 60s");
    let waits = condition("PodGroupScheduled", "False", "Unschedulable");
    assert_eq!(group("gang: {minCount: 1}", &waits), "g | Gang | w | Unschedulable | 60s");
    let preempted = format!("{scheduled}, {}", condition("DisruptionTarget", "True", "PreemptionByScheduler"));
    assert_eq!(group("gang: {minCount: 1}", &preempted), "g | Gang | w | PreemptionByScheduler | 60s");
    let workload = "{apiVersion: scheduling.k8s.io/v1alpha2, kind: Workload, metadata: {name: w, creationTimestamp: '2026-03-04T05:05:07Z'}}";
    assert_eq!(row(workload), "w | 60s");
}

#[test]
fn they_go_there_and_back_in_protobuf_and_are_known_everywhere() {
    for kind in ["PodGroup", "Workload"] {
        let def = by_kind(&GroupVersionKind::new("scheduling.k8s.io", "v1alpha2", kind)).expect("it is known");
        assert!(!def.is_default() && known().iter().any(|known| std::ptr::eq(*known, def)));
        let mut object = blank(def);
        object["apiVersion"] = "scheduling.k8s.io/v1alpha2".into();
        object["kind"] = kind.into();
        let encoded = encode_any(&object).expect("a known kind");
        let read = tree(&encoded).expect("it was encoded just now");
        assert_eq!(read["kind"], kind);
        let decoded = skiff_kinds::decode::decode_tree(def, read, skiff_kinds::decode::FieldValidation::Strict);
        assert_eq!(decoded.expect("it has the shape of its kind").object, object);
        for tree in [serde_json::json!({}), serde_json::json!({"spec": 7, "status": [1]}), object] {
            let mut tree = tree;
            (def.default)(&mut tree);
            let context = skiff_kinds::def::Context { def, subresource: "", now: common::now() };
            (def.validate)(&context, &tree);
            assert_eq!((def.row)(def, &tree, common::now()).len(), def.columns.len());
        }
    }
}
