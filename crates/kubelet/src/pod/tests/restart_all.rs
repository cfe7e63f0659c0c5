//! One container ends so that all begin anew.

use expect_test::expect;

use super::world::check;

const JOB: &str = "
metadata: {name: job}
spec:
  restartPolicy: Never
  initContainers:
  - {name: prepare, image: job:v1, imagePullPolicy: IfNotPresent}
  containers:
  - {name: done, image: job:v1, imagePullPolicy: IfNotPresent}
  - {name: other, image: job:v1, imagePullPolicy: IfNotPresent, lifecycle: {preStop: {exec: {command: [wait]}}}}
  - name: watcher
    image: job:v1
    imagePullPolicy: IfNotPresent
    restartPolicyRules:
    - {action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}
";

#[test]
fn all_containers_begin_anew_from_the_first_one_on() {
    check(
        JOB,
        |world| {
            world.exit("prepare", 0);
            world.exit("done", 0);
            world.take_log();
            world.exit("watcher", 42);
            world.exit("prepare", 0);
        },
        expect![[r#"
            0s    * watcher exits with 42
            0s      event Killing: Stopping container other
            0s      status Running | prepare ended 0 Completed, ready | done ended 0 Completed | other running, started, ready | watcher ended 42 Error | SI-- | AllContainersRestarting (RestartAllContainersStarted: container exited with restart policy rule)
            0s    stop other within 30s, without hook
            0s      status Running | prepare PodInitializing, was ended 0 Completed | done ContainerCreating, was ended 0 Completed | other ContainerCreating, was ended 143 Error | watcher ContainerCreating, was ended 42 Error | SI--
            0s      event Pulled: Container image "job:v1" already present on machine and can be accessed by the pod
            0s    start prepare #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | prepare running, was ended 0 Completed, restarts 1, started | done ContainerCreating, was ended 0 Completed | other ContainerCreating, was ended 143 Error | watcher ContainerCreating, was ended 42 Error | SI--
            0s    * prepare exits with 0
            0s      status Running | prepare ended 0 Completed, was ended 0 Completed, restarts 1, ready | done ContainerCreating, was ended 0 Completed | other ContainerCreating, was ended 143 Error | watcher ContainerCreating, was ended 42 Error | SI--
            0s    remove prepare #0
            0s      event Pulled: Container image "job:v1" already present on machine and can be accessed by the pod
            0s      event Pulled: Container image "job:v1" already present on machine and can be accessed by the pod
            0s      event Pulled: Container image "job:v1" already present on machine and can be accessed by the pod
            0s    start done #1
            0s    start other #1
            0s    start watcher #1
            0s      event Created: Container created
            0s      event Started: Container started
            0s      event Created: Container created
            0s      event Started: Container started
            0s      event Created: Container created
            0s      event Started: Container started
            0s      status Running | prepare ended 0 Completed, was ended 0 Completed, restarts 1, ready | done running, was ended 0 Completed, restarts 1, started, ready | other running, was ended 143 Error, restarts 1, started, ready | watcher running, was ended 42 Error, restarts 1, started, ready | SIRC
        "#]],
    );
}

#[test]
fn other_codes_restart_nobody() {
    check(
        JOB,
        |world| {
            world.exit("prepare", 0);
            world.exit("done", 0);
            world.take_log();
            world.exit("watcher", 1);
            world.exit("other", 0);
        },
        expect![[r#"
            0s    * watcher exits with 1
            0s      status Running | prepare ended 0 Completed, ready | done ended 0 Completed | other running, started, ready | watcher ended 1 Error | SI--
            0s    * other exits with 0
            0s      status Failed | prepare ended 0 Completed, ready | done ended 0 Completed | other ended 0 Completed | watcher ended 1 Error | SI--
            0s    stop sandbox-0
            0s    tear down volumes
            0s      status Failed | prepare ended 0 Completed, ready | done ended 0 Completed | other ended 0 Completed | watcher ended 1 Error | -I--
        "#]],
    );
}
