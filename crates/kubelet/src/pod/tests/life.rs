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
    check(WEB, |world| world.delete(30), expect![[""]]);
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
        expect![[""]],
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
        expect![[""]],
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
        expect![[""]],
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
        expect![[""]],
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
    check(yaml, |world| world.exit("init", 1), expect![[""]]);
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
        expect![[""]],
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
        expect![[""]],
    );
}

#[test]
fn a_reboot_makes_a_new_sandbox_and_counts_the_restart() {
    check(WEB, |world| world.reboot(), expect![[""]]);
}

#[test]
fn a_new_agent_takes_over_what_runs() {
    check(PROBED, |world| {
        world.pass(3);
        world.restart_agent();
        world.pass(3);
    }, expect![[""]]);
}

#[test]
fn a_deadline_ends_the_pod() {
    let yaml = WEB.replace("spec:", "spec:\n  activeDeadlineSeconds: 60");
    check(&yaml, |world| world.pass(60), expect![[""]]);
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
        expect![[""]],
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
        expect![[""]],
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
        expect![[""]],
    );
}
