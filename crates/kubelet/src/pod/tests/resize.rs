//! Scenarios of resources that change under running containers, of restart rules, of image volumes and of evictions.

use expect_test::expect;

use super::world::check;
use crate::pod::types::*;

const SIZED: &str = "
metadata: {name: web}
spec:
  containers:
  - name: web
    image: web:v1
    imagePullPolicy: IfNotPresent
    resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 200m, memory: 64Mi}}
    resizePolicy:
    - {resourceName: cpu, restartPolicy: NotRequired}
    - {resourceName: memory, restartPolicy: RestartContainer}
";

#[test]
fn resources_change_in_place_or_by_a_restart_as_the_policy_says() {
    check(
        SIZED,
        |world| {
            world.take_log();
            world.allocate("web", "cpu", "300m");
            world.fail("resize", "", "the kernel said no");
            world.allocate("web", "cpu", "400m");
            world.pass(1);
            world.allocate("web", "memory", "128Mi");
        },
        expect![[r#"
            0s    * cpu of web becomes 300m
            0s      event ResizeStarted: Pod resize started: {"containers":[{"name":"web","resources":{"limits":{"cpu":"300m","memory":"64Mi"},"requests":{"cpu":"300m","memory":"64Mi"}}}],"generation":1}
            0s      status Running | web running, started, ready | SIRC | PodResizeInProgress | web has 100m cpu
            0s    resize web
            0s      event ResizeCompleted: Pod resize completed: {"containers":[{"name":"web","resources":{"limits":{"cpu":"300m","memory":"64Mi"},"requests":{"cpu":"300m","memory":"64Mi"}}}],"generation":1}
            0s      status Running | web running, started, ready | SIRC | web has 300m cpu
            0s    * cpu of web becomes 400m
            0s      event ResizeStarted: Pod resize started: {"containers":[{"name":"web","resources":{"limits":{"cpu":"400m","memory":"64Mi"},"requests":{"cpu":"400m","memory":"64Mi"}}}],"generation":1}
            0s      status Running | web running, started, ready | SIRC | PodResizeInProgress | web has 300m cpu
            0s    resize web
            0s      event !ResizeError: Pod resize error: the kernel said no
            0s      status Running | web running, started, ready | SIRC | PodResizeInProgress (Error: the kernel said no) | web has 300m cpu
            0s    resize web
            0s      event ResizeCompleted: Pod resize completed: {"containers":[{"name":"web","resources":{"limits":{"cpu":"400m","memory":"64Mi"},"requests":{"cpu":"400m","memory":"64Mi"}}}],"generation":1}
            0s      status Running | web running, started, ready | SIRC | web has 400m cpu
            1s    * memory of web becomes 128Mi
            1s      event Killing: Container web resize requires restart
            1s      event ResizeStarted: Pod resize started: {"containers":[{"name":"web","resources":{"limits":{"cpu":"400m","memory":"128Mi"},"requests":{"cpu":"400m","memory":"128Mi"}}}],"generation":1}
            1s      status Running | web running, started, ready | SIRC | PodResizeInProgress | web has 400m cpu
            1s    stop web within 30s
            1s      status Running | web ended 143 Error | SI-- | PodResizeInProgress | web has 400m cpu
            1s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            1s    start web #1
            1s      event Created: Container created
            1s      event Started: Container started
            1s      event ResizeCompleted: Pod resize completed: {"containers":[{"name":"web","resources":{"limits":{"cpu":"400m","memory":"128Mi"},"requests":{"cpu":"400m","memory":"128Mi"}}}],"generation":1}
            1s      status Running | web running, was ended 143 Error, restarts 1, started, ready | SIRC | web has 400m cpu
        "#]],
    );
}

#[test]
fn the_same_in_other_units_is_no_change_and_the_smallest_amounts_are_told_as_asked() {
    check(
        SIZED,
        |world| {
            world.allocate("web", "cpu", "2m");
            world.take_log();
            world.allocate("web", "cpu", "0.002");
            // The kernel gives no less than two milliprocessors, whatever is asked for.
            world.allocate("web", "cpu", "1m");
        },
        expect![[r#"
            0s    * cpu of web becomes 0.002
            0s    * cpu of web becomes 1m
            0s      event ResizeStarted: Pod resize started: {"containers":[{"name":"web","resources":{"limits":{"cpu":"1m","memory":"64Mi"},"requests":{"cpu":"1m","memory":"64Mi"}}}],"generation":1}
            0s      status Running | web running, started, ready | SIRC | PodResizeInProgress | web has 2m cpu
            0s    resize web
            0s      event ResizeCompleted: Pod resize completed: {"containers":[{"name":"web","resources":{"limits":{"cpu":"1m","memory":"64Mi"},"requests":{"cpu":"1m","memory":"64Mi"}}}],"generation":1}
            0s      status Running | web running, started, ready | SIRC | web has 1m cpu
        "#]],
    );
}

#[test]
fn what_cannot_be_given_is_told() {
    check(
        SIZED,
        |world| {
            world.take_log();
            world.view.resize_pending = Some(("Deferred".into(), "Node didn't have enough resource: cpu".into()));
            world.run();
            world.run();
            world.view.resize_pending = None;
            world.run();
        },
        expect![[r#"
            0s      event !ResizeDeferred: Pod resize Deferred: {"containers":[{"name":"web","resources":{"limits":{"cpu":"200m","memory":"64Mi"},"requests":{"cpu":"100m","memory":"64Mi"}}}],"generation":1}, Node didn't have enough resource: cpu
            0s      status Running | web running, started, ready | SIRC | PodResizePending (Deferred: Node didn't have enough resource: cpu) | web has 100m cpu
            0s      status Running | web running, started, ready | SIRC | web has 100m cpu
        "#]],
    );
}

#[test]
fn a_restart_rule_overrides_the_policy_for_its_exit_codes() {
    check(
        "
metadata: {name: job}
spec:
  restartPolicy: Never
  containers:
  - name: job
    image: job:v1
    imagePullPolicy: IfNotPresent
    restartPolicy: Never
    restartPolicyRules:
    - {action: Restart, exitCodes: {operator: In, values: [42]}}
",
        |world| {
            world.take_log();
            world.exit("job", 42);
            world.exit("job", 1);
        },
        expect![[r#"
            0s    * job exits with 42
            0s      status Running | job ended 42 Error | SI--
            0s      event Pulled: Container image "job:v1" already present on machine and can be accessed by the pod
            0s    start job #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | job running, was ended 42 Error, restarts 1, started, ready | SIRC
            0s    * job exits with 1
            0s      status Failed | job ended 1 Error, was ended 42 Error, restarts 1 | SI--
            0s    stop sandbox-0
            0s    tear down volumes
            0s      status Failed | job ended 1 Error, was ended 42 Error, restarts 1 | -I--
        "#]],
    );
}

#[test]
fn an_init_container_that_may_not_be_restarted_fails_the_pod() {
    check(
        "
metadata: {name: web}
spec:
  initContainers:
  - {name: once, image: web:v1, imagePullPolicy: IfNotPresent, restartPolicy: Never}
  containers:
  - {name: web, image: web:v1, imagePullPolicy: IfNotPresent}
",
        |world| {
            world.take_log();
            world.exit("once", 3);
        },
        expect![[r#"
            0s    * once exits with 3
            0s      status Failed | once ended 3 Error | web PodInitializing | S---
            0s    stop sandbox-0
            0s    tear down volumes
            0s      status Failed | once ended 3 Error | web PodInitializing | ----
        "#]],
    );
}

#[test]
fn image_volumes_are_pulled_before_the_container_starts() {
    check(
        "
metadata: {name: web}
spec:
  containers:
  - name: web
    image: web:v1
    imagePullPolicy: IfNotPresent
    volumeMounts: [{name: model, mountPath: /model}]
  volumes:
  - {name: model, image: {reference: 'model:v1', pullPolicy: Always}}
",
        |world| {
            world.exit("web", 1);
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulling: Pulling image "model:v1"
            0s      status Pending | web ContainerCreating | SI--
            0s    pull model:v1 for volume:model
            0s      event Pulled: Successfully pulled image "model:v1" in 1.317s (1.317s including waiting). Image size: 5 bytes.
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, started, ready | SIRC
            0s    * web exits with 1
            0s      status Running | web ended 1 Error | SI--
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s    start web #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, was ended 1 Error, restarts 1, started, ready | SIRC
        "#]],
    );
}

#[test]
fn an_evicted_pod_fails_with_the_nodes_reason() {
    check(
        SIZED,
        |world| {
            world.take_log();
            world.view.eviction = Some(Eviction {
                reason: "Evicted".into(),
                message: "The node was low on resource: memory. ".into(),
                grace_seconds: Some(0),
            });
            world.run();
        },
        expect![[r#"
            0s      event !Evicted: The node was low on resource: memory. 
            0s      event Killing: Stopping container web
            0s      status Running | web running, started, ready | SIRC | DisruptionTarget (TerminationByKubelet: The node was low on resource: memory. ) | web has 100m cpu
            0s    stop web within 1s
            0s      status Failed (Evicted: The node was low on resource: memory. ) | web ended 143 Error | SI-- | DisruptionTarget (TerminationByKubelet: The node was low on resource: memory. ) | web has 100m cpu
            0s    stop sandbox-0
            0s    tear down volumes
            0s      status Failed (Evicted: The node was low on resource: memory. ) | web ended 143 Error | -I-- | DisruptionTarget (TerminationByKubelet: The node was low on resource: memory. ) | web has 100m cpu
        "#]],
    );
}
