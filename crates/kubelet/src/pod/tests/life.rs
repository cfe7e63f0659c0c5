//! The scenarios.

use expect_test::expect;

use super::world::check;
use crate::pod::types::*;

const WEB: &str = "
metadata: {name: web}
spec:
  containers:
  - {name: web, image: web:v1, imagePullPolicy: IfNotPresent}
";

#[test]
fn a_pod_starts_and_is_deleted() {
    check(
        WEB,
        |world| world.delete(30),
        expect![[r#"
        0s      status Pending | web ContainerCreating | -I--
        0s    set up volumes
        0s    run sandbox #0
        0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
        0s      status Pending | web ContainerCreating | SI--
        0s    start web #0
        0s      event Created: Container created
        0s      event Started: Container started
        0s      status Running | web running, started, ready | SIRC
        0s    * deleted with a grace of 30s
        0s      event Killing: Stopping container web
        0s    stop web within 30s
        0s      status Failed | web ended 143 Error | SI--
        0s    stop sandbox-0
        0s    tear down volumes
        0s      status Failed | web ended 143 Error | -I--
        0s    delete the Pod's object
        0s    remove sandbox-0
        0s    clean up
    "#]],
    );
}

#[test]
fn a_crashing_container_comes_back_later_and_later() {
    check(
        WEB,
        |world| {
            world.exit("web", 1);
            world.exit("web", 1);
            world.pass(10);
            world.exit("web", 2);
            world.pass(25);
            // Quiet for ten minutes, it starts from the shortest delay again.
            world.pass(1300);
            world.exit("web", 1);
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Pending | web ContainerCreating | SI--
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
            0s    * web exits with 1
            0s      event !BackOff: Back-off restarting failed container web in pod web_default(uid)
            0s      status Running | web CrashLoopBackOff (back-off 10s restarting failed container=web pod=web_default(uid)), was ended 1 Error, restarts 1 | SI--
            0s    remove web #0
            10s     event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            10s   start web #2
            10s     event Created: Container created
            10s     event Started: Container started
            10s     status Running | web running, was ended 1 Error, restarts 2, started, ready | SIRC
            10s   * web exits with 2
            10s     event !BackOff: Back-off restarting failed container web in pod web_default(uid)
            10s     status Running | web CrashLoopBackOff (back-off 20s restarting failed container=web pod=web_default(uid)), was ended 2 Error, restarts 2 | SI--
            10s   remove web #1
            30s     event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            30s   start web #3
            30s     event Created: Container created
            30s     event Started: Container started
            30s     status Running | web running, was ended 2 Error, restarts 3, started, ready | SIRC
            1335s * web exits with 1
            1335s   status Running | web ended 1 Error, was ended 2 Error, restarts 3 | SI--
            1335s remove web #2
            1335s   event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            1335s start web #4
            1335s   event Created: Container created
            1335s   event Started: Container started
            1335s   status Running | web running, was ended 1 Error, restarts 4, started, ready | SIRC
        "#]],
    );
}

#[test]
fn an_image_that_cannot_be_pulled_is_tried_again() {
    let yaml = WEB.replace("IfNotPresent", "Always");
    check(
        &yaml,
        |world| {
            world.fail("pull", "ErrImagePull", "rpc error: code = NotFound desc = no such image");
            world.exit("web", 1);
            world.pass(5);
            world.pass(10);
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulling: Pulling image "web:v1"
            0s      status Pending | web ContainerCreating | SI--
            0s    pull web:v1 for web
            0s      event Pulled: Successfully pulled image "web:v1" in 1.317s (1.317s including waiting). Image size: 5 bytes.
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, started, ready | SIRC
            0s    * web exits with 1
            0s      event Pulling: Pulling image "web:v1"
            0s      status Running | web ended 1 Error | SI--
            0s    pull web:v1 for web
            0s      event !Failed: Failed to pull image "web:v1": rpc error: code = NotFound desc = no such image
            0s      event !Failed: Error: ErrImagePull
            0s      status Running | web ErrImagePull (rpc error: code = NotFound desc = no such image), was ended 1 Error | SI--
            2s      event BackOff: Back-off pulling image "web:v1"
            2s      event !Failed: Error: ImagePullBackOff
            2s      status Running | web ImagePullBackOff (Back-off pulling image "web:v1": ErrImagePull: rpc error: code = NotFound desc = no such image), was ended 1 Error | SI--
            10s     event Pulling: Pulling image "web:v1"
            10s   pull web:v1 for web
            10s     event Pulled: Successfully pulled image "web:v1" in 1.317s (1.317s including waiting). Image size: 5 bytes.
            10s     status Running | web ended 1 Error, was ended 1 Error | SI--
            10s   start web #1
            10s     event Created: Container created
            10s     event Started: Container started
            10s     status Running | web running, was ended 1 Error, restarts 1, started, ready | SIRC
        "#]],
    );
}

#[test]
fn an_image_that_is_there_after_all_is_not_pulled() {
    check(
        WEB,
        |world| {
            world.fail("inspect", "ImageInspectError", "server is not initialized yet");
            world.exit("web", 1);
            world.pass(5);
            world.pass(10);
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Pending | web ContainerCreating | SI--
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, started, ready | SIRC
            0s    * web exits with 1
            0s      status Running | web ended 1 Error | SI--
            0s      event !InspectFailed: Failed to inspect image "web:v1": server is not initialized yet
            0s      event !Failed: Error: ImageInspectError
            0s      status Running | web ImageInspectError (server is not initialized yet), was ended 1 Error | SI--
            2s      event BackOff: Back-off pulling image "web:v1"
            2s      event !Failed: Error: ImagePullBackOff
            2s      status Running | web ImagePullBackOff (Back-off pulling image "web:v1": ImageInspectError: server is not initialized yet), was ended 1 Error | SI--
            10s     event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            10s     status Running | web ended 1 Error, was ended 1 Error | SI--
            10s   start web #1
            10s     event Created: Container created
            10s     event Started: Container started
            10s     status Running | web running, was ended 1 Error, restarts 1, started, ready | SIRC
        "#]],
    );
}

#[test]
fn init_containers_run_in_order_and_once() {
    let yaml = "
metadata: {name: web}
spec:
  initContainers:
  - {name: first, image: a}
  - {name: side, image: b, restartPolicy: Always}
  - {name: second, image: a}
  containers:
  - {name: web, image: web:v1}
";
    check(
        yaml,
        |world| {
            world.exit("first", 0);
            world.exit("second", 1);
            world.exit("second", 0);
            world.exit("side", 1);
            world.delete(30);
        },
        expect![[r#"
            0s      status Pending | first PodInitializing | side PodInitializing | second PodInitializing | web PodInitializing | ----
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "a" already present on machine and can be accessed by the pod
            0s      status Pending | first PodInitializing | side PodInitializing | second PodInitializing | web PodInitializing | S---
            0s    start first #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Pending | first running, started | side PodInitializing | second PodInitializing | web PodInitializing | S---
            0s    * first exits with 0
            0s      event Pulled: Container image "b" already present on machine and can be accessed by the pod
            0s      status Pending | first ended 0 Completed, ready | side PodInitializing | second PodInitializing | web PodInitializing | S---
            0s    start side #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      event Pulled: Container image "a" already present on machine and can be accessed by the pod
            0s      status Pending | first ended 0 Completed, ready | side running, started, ready | second PodInitializing | web PodInitializing | S---
            0s    start second #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Pending | first ended 0 Completed, ready | side running, started, ready | second running, started | web PodInitializing | S---
            0s    * second exits with 1
            0s      status Pending | first ended 0 Completed, ready | side running, started, ready | second ended 1 Error | web PodInitializing | S---
            0s      event Pulled: Container image "a" already present on machine and can be accessed by the pod
            0s    start second #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Pending | first ended 0 Completed, ready | side running, started, ready | second running, was ended 1 Error, restarts 1, started | web PodInitializing | S---
            0s    * second exits with 0
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Pending | first ended 0 Completed, ready | side running, started, ready | second ended 0 Completed, was ended 1 Error, restarts 1, ready | web ContainerCreating | SI--
            0s    remove second #0
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | first ended 0 Completed, ready | side running, started, ready | second ended 0 Completed, was ended 1 Error, restarts 1, ready | web running, started, ready | SIRC
            0s    * side exits with 1
            0s      status Running | first ended 0 Completed, ready | side ended 1 Error | second ended 0 Completed, was ended 1 Error, restarts 1, ready | web running, started, ready | SI--
            0s      event Pulled: Container image "b" already present on machine and can be accessed by the pod
            0s    start side #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | first ended 0 Completed, ready | side running, was ended 1 Error, restarts 1, started, ready | second ended 0 Completed, was ended 1 Error, restarts 1, ready | web running, started, ready | SIRC
            0s    * deleted with a grace of 30s
            0s      event Killing: Stopping container web
            0s    stop web within 30s
            0s      event Killing: Stopping container side
            0s      status Running | first ended 0 Completed, ready | side running, was ended 1 Error, restarts 1, started, ready | second ended 0 Completed, was ended 1 Error, restarts 1, ready | web ended 143 Error | SI--
            0s    stop side within 30s
            0s      status Failed | first ended 0 Completed, ready | side ended 143 Error, was ended 1 Error, restarts 1 | second ended 0 Completed, was ended 1 Error, restarts 1, ready | web ended 143 Error | SI--
            0s    stop sandbox-0
            0s    tear down volumes
            0s      status Failed | first ended 0 Completed, ready | side ended 143 Error, was ended 1 Error, restarts 1 | second ended 0 Completed, was ended 1 Error, restarts 1, ready | web ended 143 Error | -I--
            0s    delete the Pod's object
            0s    remove sandbox-0
            0s    clean up
        "#]],
    );
}

#[test]
fn a_job_pod_ends_by_itself() {
    let yaml = "
metadata: {name: job}
spec:
  restartPolicy: OnFailure
  containers:
  - {name: one, image: a}
  - {name: two, image: a}
";
    check(
        yaml,
        |world| {
            world.exit("one", 0);
            world.exit("two", 3);
            world.exit("two", 0);
            world.restart_agent();
            world.delete(30);
        },
        expect![[r#"
            0s      status Pending | one ContainerCreating | two ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "a" already present on machine and can be accessed by the pod
            0s      event Pulled: Container image "a" already present on machine and can be accessed by the pod
            0s      status Pending | one ContainerCreating | two ContainerCreating | SI--
            0s    start one #0
            0s    start two #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | one running, started, ready | two running, started, ready | SIRC
            0s    * one exits with 0
            0s      status Running | one ended 0 Completed | two running, started, ready | SI--
            0s    * two exits with 3
            0s      status Running | one ended 0 Completed | two ended 3 Error | SI--
            0s      event Pulled: Container image "a" already present on machine and can be accessed by the pod
            0s    start two #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | one ended 0 Completed | two running, was ended 3 Error, restarts 1, started, ready | SI--
            0s    * two exits with 0
            0s      status Succeeded | one ended 0 Completed | two ended 0 Completed, was ended 3 Error, restarts 1 | SI--
            0s    stop sandbox-0
            0s    tear down volumes
            0s      status Succeeded | one ended 0 Completed | two ended 0 Completed, was ended 3 Error, restarts 1 | -I--
            0s    * the agent starts anew
            0s      status Succeeded | one ended 0 Completed | two ended 0 Completed, was ended 3 Error, restarts 1 | -I--
            0s    stop sandbox-0
            0s    tear down volumes
            0s    * deleted with a grace of 30s
            0s    delete the Pod's object
            0s    remove sandbox-0
            0s    clean up
        "#]],
    );
}

#[test]
fn a_failed_init_container_fails_a_pod_that_does_not_restart() {
    let yaml = "
metadata: {name: job}
spec:
  restartPolicy: Never
  initContainers:
  - {name: init, image: a}
  containers:
  - {name: web, image: a}
";
    check(
        yaml,
        |world| world.exit("init", 1),
        expect![[r#"
        0s      status Pending | init PodInitializing | web PodInitializing | ----
        0s    set up volumes
        0s    run sandbox #0
        0s      event Pulled: Container image "a" already present on machine and can be accessed by the pod
        0s      status Pending | init PodInitializing | web PodInitializing | S---
        0s    start init #0
        0s      event Created: Container created
        0s      event Started: Container started
        0s      status Pending | init running, started | web PodInitializing | S---
        0s    * init exits with 1
        0s      status Failed | init ended 1 Error | web PodInitializing | S---
        0s    stop sandbox-0
        0s    tear down volumes
        0s      status Failed | init ended 1 Error | web PodInitializing | ----
    "#]],
    );
}

const PROBED: &str = "
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: web
    image: web:v1
    startupProbe: {httpGet: {port: 80}, periodSeconds: 2, failureThreshold: 3}
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 3, failureThreshold: 2, successThreshold: 2}
    livenessProbe: {httpGet: {port: 80}, periodSeconds: 10, failureThreshold: 2, initialDelaySeconds: 5}
";

#[test]
fn probes_start_ready_and_restart() {
    check(
        PROBED,
        |world| {
            world.pass(9);
            world.answer(ProbeKind::Readiness, ProbeResult::Failure);
            world.pass(6);
            world.answer(ProbeKind::Readiness, ProbeResult::Success);
            world.pass(6);
            world.answer(ProbeKind::Liveness, ProbeResult::Failure);
            world.pass(20);
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Pending | web ContainerCreating | SI--
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running | SI--
            0s      status Running | web running, started | SI--
            3s      status Running | web running, started, ready | SIRC
            12s     event !Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 500
            15s     event !Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 500
            15s     status Running | web running, started | SI--
            21s     status Running | web running, started, ready | SIRC
            25s     event !Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 500
            35s     event !Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 500
            35s     event Killing: Container web failed liveness probe, will be restarted
            35s   stop web within 5s
            35s     status Running | web ended 143 Error | SI--
            35s     event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            35s   start web #1
            35s     event Created: Container created
            35s     event Started: Container started
            35s     status Running | web running, was ended 143 Error, restarts 1 | SI--
            35s     status Running | web running, was ended 143 Error, restarts 1, started | SI--
            38s     status Running | web running, was ended 143 Error, restarts 1, started, ready | SIRC
            40s     event !Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 500
        "#]],
    );
}

#[test]
fn a_slow_starter_is_asked_often_at_first() {
    check(
        PROBED,
        |world| {
            world.exit("web", 0);
            world.answer(ProbeKind::Startup, ProbeResult::Failure);
            world.exit("web", 0);
            world.pass(11);
            world.answer(ProbeKind::Startup, ProbeResult::Success);
            world.pass(1);
            // One that never starts is ended after its failures at full periods.
            world.answer(ProbeKind::Startup, ProbeResult::Failure);
            world.exit("web", 0);
            world.pass(30);
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Pending | web ContainerCreating | SI--
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running | SI--
            0s      status Running | web running, started | SI--
            0s    * web exits with 0
            0s      status Running | web ended 0 Completed | SI--
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s    start web #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, was ended 0 Completed, restarts 1 | SI--
            0s      status Running | web running, was ended 0 Completed, restarts 1, started | SI--
            0s    * web exits with 0
            0s      event !BackOff: Back-off restarting failed container web in pod web_default(uid)
            0s      status Running | web CrashLoopBackOff (back-off 10s restarting failed container=web pod=web_default(uid)), was ended 0 Completed, restarts 1 | SI--
            0s    remove web #0
            10s     event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            10s   start web #2
            10s     event Created: Container created
            10s     event Started: Container started
            10s     status Running | web running, was ended 0 Completed, restarts 2 | SI--
            11s     status Running | web running, was ended 0 Completed, restarts 2, started | SI--
            12s   * web exits with 0
            12s     event !BackOff: Back-off restarting failed container web in pod web_default(uid)
            12s     status Running | web CrashLoopBackOff (back-off 20s restarting failed container=web pod=web_default(uid)), was ended 0 Completed, restarts 2 | SI--
            12s   remove web #1
            32s     event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            32s   start web #3
            32s     event Created: Container created
            32s     event Started: Container started
            32s     status Running | web running, was ended 0 Completed, restarts 3 | SI--
            34s     event !Unhealthy: Startup probe failed: HTTP probe failed with statuscode: 500
            36s     event !Unhealthy: Startup probe failed: HTTP probe failed with statuscode: 500
            38s     event !Unhealthy: Startup probe failed: HTTP probe failed with statuscode: 500
            38s     event Killing: Container web failed startup probe, will be restarted
            38s   stop web within 5s
            38s     event !BackOff: Back-off restarting failed container web in pod web_default(uid)
            38s     status Running | web CrashLoopBackOff (back-off 40s restarting failed container=web pod=web_default(uid)), was ended 143 Error, restarts 3 | SI--
            38s   remove web #2
        "#]],
    );
}

#[test]
fn what_cannot_be_made_is_told_and_tried_again() {
    check(
        WEB,
        |world| {
            world.exit("web", 0);
            world.fail("start", "CreateContainerConfigError", "configmap \"config\" not found");
            world.exit("web", 0);
            world.pass(10);
            world.pass(10);
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Pending | web ContainerCreating | SI--
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, started, ready | SIRC
            0s    * web exits with 0
            0s      status Running | web ended 0 Completed | SI--
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s    start web #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, was ended 0 Completed, restarts 1, started, ready | SIRC
            0s    * web exits with 0
            0s      event !BackOff: Back-off restarting failed container web in pod web_default(uid)
            0s      status Running | web CrashLoopBackOff (back-off 10s restarting failed container=web pod=web_default(uid)), was ended 0 Completed, restarts 1 | SI--
            0s    remove web #0
            10s     event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            10s   start web #2
            10s     event !Failed: Error: configmap "config" not found
            10s     status Running | web CrashLoopBackOff (back-off 20s restarting failed container=web pod=web_default(uid)), was ended 0 Completed, restarts 1 | SI--
            20s     event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            20s   start web #2
            20s     event Created: Container created
            20s     event Started: Container started
            20s     status Running | web running, was ended 0 Completed, restarts 2, started, ready | SIRC
        "#]],
    );
}

#[test]
fn a_reboot_makes_a_new_sandbox_and_counts_the_restart() {
    check(
        WEB,
        |world| world.reboot(),
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Pending | web ContainerCreating | SI--
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, started, ready | SIRC
            0s    * the machine reboots
            0s    * the agent starts anew
            0s      status Running | web ended 255 Error | -I--
            0s    set up volumes
            0s    stop sandbox-0
            0s      event SandboxChanged: Pod sandbox changed, it will be killed and re-created.
            0s    run sandbox #1
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Running | web ended 255 Error | SI--
            0s    start web #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, was ended 255 Error, restarts 1, started, ready | SIRC
        "#]],
    );
}

#[test]
fn what_nobody_knows_of_is_ended_before_another_follows() {
    check(
        WEB,
        |world| {
            world.newest("web").state = RunState::Unknown;
            world.run();
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Pending | web ContainerCreating | SI--
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, started, ready | SIRC
            0s      event Killing: Container is in "unknown" state, try killing it before starting a new one
            0s      status Running | web ended 137 ContainerStatusUnknown | SI--
            0s    stop web within 30s
            0s      status Running | web ended 143 Error | SI--
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s    start web #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, was ended 143 Error, restarts 1, started, ready | SIRC
        "#]],
    );
}

#[test]
fn what_has_vanished_starts_again_unless_it_runs_only_once() {
    check(
        WEB,
        |world| world.vanish(),
        expect![[r#"
        0s      status Pending | web ContainerCreating | -I--
        0s    set up volumes
        0s    run sandbox #0
        0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
        0s      status Pending | web ContainerCreating | SI--
        0s    start web #0
        0s      event Created: Container created
        0s      event Started: Container started
        0s      status Running | web running, started, ready | SIRC
        0s    * the runtime has lost all
        0s    * the agent starts anew
        0s      status Running | web ContainerCreating, was ended 137 ContainerStatusUnknown, restarts 1 | -I--
        0s    set up volumes
        0s    run sandbox #0
        0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
        0s      status Running | web ContainerCreating, was ended 137 ContainerStatusUnknown, restarts 1 | SI--
        0s    start web #1
        0s      event Created: Container created
        0s      event Started: Container started
        0s      status Running | web running, was ended 137 ContainerStatusUnknown, restarts 1, started, ready | SIRC
    "#]],
    );
    let once = WEB.replace("spec:", "spec:\n  restartPolicy: Never");
    check(
        &once,
        |world| world.vanish(),
        expect![[r#"
        0s      status Pending | web ContainerCreating | -I--
        0s    set up volumes
        0s    run sandbox #0
        0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
        0s      status Pending | web ContainerCreating | SI--
        0s    start web #0
        0s      event Created: Container created
        0s      event Started: Container started
        0s      status Running | web running, started, ready | SIRC
        0s    * the runtime has lost all
        0s    * the agent starts anew
        0s      status Failed | web ended 137 ContainerStatusUnknown | -I--
        0s    tear down volumes
    "#]],
    );
}

#[test]
fn a_new_agent_takes_over_what_runs() {
    check(
        PROBED,
        |world| {
            world.pass(3);
            world.restart_agent();
            world.pass(3);
        },
        expect![[r#"
        0s      status Pending | web ContainerCreating | -I--
        0s    set up volumes
        0s    run sandbox #0
        0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
        0s      status Pending | web ContainerCreating | SI--
        0s    start web #0
        0s      event Created: Container created
        0s      event Started: Container started
        0s      status Running | web running | SI--
        0s      status Running | web running, started | SI--
        3s      status Running | web running, started, ready | SIRC
        3s    * the agent starts anew
        3s      status Running | web running, started, ready | SIRC
        3s    set up volumes
    "#]],
    );
}

#[test]
fn a_container_that_ended_comes_back_after_a_runtime_that_was_away() {
    check(
        WEB,
        |world| {
            world.take_log();
            world.exit("web", 1);
            world.exit("web", 0);
            world.reach_runtime(false);
            world.pass(5);
            world.reach_runtime(true);
            world.pass(10);
        },
        expect![[r#"
            0s    * web exits with 1
            0s      status Running | web ended 1 Error | SI--
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s    start web #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, was ended 1 Error, restarts 1, started, ready | SIRC
            0s    * web exits with 0
            0s      event !BackOff: Back-off restarting failed container web in pod web_default(uid)
            0s      status Running | web CrashLoopBackOff (back-off 10s restarting failed container=web pod=web_default(uid)), was ended 0 Completed, restarts 1 | SI--
            0s    remove web #0
            0s    * the runtime does not answer
            5s    * the runtime answers
            10s     event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            10s   start web #2
            10s     event Created: Container created
            10s     event Started: Container started
            10s     status Running | web running, was ended 0 Completed, restarts 2, started, ready | SIRC
        "#]],
    );
}

#[test]
fn a_deadline_ends_the_pod() {
    let yaml = WEB.replace("spec:", "spec:\n  activeDeadlineSeconds: 60");
    check(
        &yaml,
        |world| world.pass(60),
        expect![[r#"
        0s      status Pending | web ContainerCreating | -I--
        0s    set up volumes
        0s    run sandbox #0
        0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
        0s      status Pending | web ContainerCreating | SI--
        0s    start web #0
        0s      event Created: Container created
        0s      event Started: Container started
        0s      status Running | web running, started, ready | SIRC
        60s     event DeadlineExceeded: Pod was active on the node longer than the specified deadline
        60s     event Killing: Stopping container web
        60s   stop web within 30s
        60s     status Failed (DeadlineExceeded: Pod was active on the node longer than the specified deadline) | web ended 143 Error | SI--
        60s   stop sandbox-0
        60s   tear down volumes
        60s     status Failed (DeadlineExceeded: Pod was active on the node longer than the specified deadline) | web ended 143 Error | -I--
    "#]],
    );
}

#[test]
fn a_slow_stop_can_be_hurried() {
    check(
        WEB,
        |world| {
            world.stuck.insert("kill".into());
            world.delete(30);
            world.pass(5);
            world.delete(0);
            world.exit("web", 137);
            let id = "id-1".to_owned();
            world.finish(Task::Kill { id, grace_seconds: 30 }, Ended::Well);
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Pending | web ContainerCreating | SI--
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, started, ready | SIRC
            0s    * deleted with a grace of 30s
            0s      event Killing: Stopping container web
            0s    stop web within 30s
            5s    * deleted with a grace of 0s
            5s    stop web within 1s, without hook
            5s    * web exits with 137
            5s      status Failed | web ended 137 Error | SI--
            5s    stop sandbox-0
            5s    tear down volumes
            5s      status Failed | web ended 137 Error | -I--
            5s    delete the Pod's object
            5s    remove sandbox-0
            5s    clean up
        "#]],
    );
}

#[test]
fn a_pod_deleted_during_a_pull_gives_it_up() {
    let yaml = WEB.replace("IfNotPresent", "Always");
    check(
        &yaml,
        |world| {
            world.stuck.insert("pull".into());
            world.exit("web", 1);
            world.delete(30);
            world.finish(Task::Image("web".into()), Ended::Cancelled);
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulling: Pulling image "web:v1"
            0s      status Pending | web ContainerCreating | SI--
            0s    pull web:v1 for web
            0s      event Pulled: Successfully pulled image "web:v1" in 1.317s (1.317s including waiting). Image size: 5 bytes.
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, started, ready | SIRC
            0s    * web exits with 1
            0s      event Pulling: Pulling image "web:v1"
            0s      status Running | web ended 1 Error | SI--
            0s    pull web:v1 for web
            0s    * deleted with a grace of 30s
            0s      status Failed | web ended 1 Error | SI--
            0s    stop sandbox-0
            0s    tear down volumes
            0s      status Failed | web ended 1 Error | -I--
            0s    delete the Pod's object
            0s    remove sandbox-0
            0s    clean up
        "#]],
    );
}

#[test]
fn a_changed_image_replaces_the_container() {
    check(
        WEB,
        |world| {
            let spec = world.pod.spec.as_mut().expect("the Pod has a spec");
            spec.containers[0].image = Some("web:v2".into());
            world.lose_image("web:v2");
            world.run();
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Pending | web ContainerCreating | SI--
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, started, ready | SIRC
            0s      event Killing: Container web definition changed, will be restarted
            0s    stop web within 30s
            0s      status Running | web ended 143 Error | SI--
            0s      event Pulling: Pulling image "web:v2"
            0s    pull web:v2 for web
            0s      event Pulled: Successfully pulled image "web:v2" in 1.317s (1.317s including waiting). Image size: 5 bytes.
            0s    start web #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, was ended 143 Error, restarts 1, started, ready | SIRC
        "#]],
    );
}

#[test]
fn what_changes_while_volumes_are_renewed_is_not_forgotten() {
    check(
        WEB,
        |world| {
            world.stuck.insert("volumes".into());
            world.change_objects();
            // The renewal that is under way may have read them already.
            world.change_objects();
            world.stuck.clear();
            world.finish(Task::Volumes, Ended::VolumesReady { refresh_at: None });
            world.fail("volumes", "", "configmap \"a\" not found");
            world.change_objects();
            world.pass(60);
        },
        expect![[r#"
            0s      status Pending | web ContainerCreating | -I--
            0s    set up volumes
            0s    run sandbox #0
            0s      event Pulled: Container image "web:v1" already present on machine and can be accessed by the pod
            0s      status Pending | web ContainerCreating | SI--
            0s    start web #0
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | web running, started, ready | SIRC
            0s    * objects change
            0s    set up volumes
            0s    * objects change
            0s    set up volumes
            0s    * objects change
            0s    set up volumes
            0s      event !FailedMount: configmap "a" not found
            0s    set up volumes
        "#]],
    );
}
