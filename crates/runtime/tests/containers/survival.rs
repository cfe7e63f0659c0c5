//! Ends that nobody planned: of skiff, of a shim, of both.

use futures_util::FutureExt;
use skiff_cri::*;

use crate::Test;
use crate::world::{World, script, text_of_log};

pub const TESTS: &[Test] = &[
    ("containers_outlive_the_runtime", || outlive().boxed()),
    ("exits_meanwhile_are_known_after_a_restart", || exits_meanwhile().boxed()),
    ("a_killed_shim_takes_its_containers_along", || killed_shim().boxed()),
    ("a_reboot_is_noticed", || reboot().boxed()),
    ("stopping_asks_first_and_insists_then", || stopping().boxed()),
];

async fn shim_pid(world: &World, sandbox: &str) -> rustix::process::Pid {
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.into(), verbose: true };
    let info = world.runtime().pod_sandbox_status(request).await.expect("a status").info["info"].clone();
    let pid = info.split("/proc/").nth(1).and_then(|rest| rest.split('/').next()).and_then(|pid| pid.parse().ok());
    rustix::process::Pid::from_raw(pid.expect("a pid")).expect("not zero")
}

async fn sandbox_state(world: &World, sandbox: &str) -> i32 {
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.into(), verbose: false };
    world.runtime().pod_sandbox_status(request).await.expect("a status").status.expect("set").state
}

async fn outlive() {
    let mut world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script("app", "echo $$-started; read line; echo still here");
    config.stdin = true;
    let id = world.run(&sandbox, config).await;
    let made = world.create(&sandbox, script("made", "echo made")).await.expect("is made");
    let before = world.status(&id).await;
    world.forget();
    world.start().await;
    assert_eq!(world.status(&id).await, before);
    assert_eq!(sandbox_state(&world, &sandbox).await, PodSandboxState::SandboxReady as i32);
    let again = world.start_container(&id).await.expect_err("it runs already");
    assert_eq!(again.code, Code::FailedPrecondition);
    let attach = AttachRequest { container_id: id.clone(), stdin: true, ..Default::default() };
    let process = world.runtime().stream_backend().attach(&attach).await.expect("joins");
    tokio::io::AsyncWriteExt::write_all(&mut process.stdin.expect("open"), b"\n").await.expect("takes it");
    let status = world.wait_exit(&id).await;
    assert_eq!(text_of_log(&status.log_path), "stdout F 1-started\nstdout F still here\n");
    world.start_container(&made).await.expect("one that was only made starts now");
    world.wait_exit(&made).await;
    world.stop_and_remove(&sandbox).await;
    assert_eq!(world.traces(), Vec::<String>::new());
}

async fn exits_meanwhile() {
    let mut world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let flag = world.folder.join("flag");
    std::fs::create_dir(&flag).expect("a folder");
    let mut config = script("app", "while [ ! -e /flag/go ]; do :; done; exit 9");
    config.mounts =
        vec![Mount { host_path: flag.display().to_string(), container_path: "/flag".into(), ..Default::default() }];
    let id = world.run(&sandbox, config).await;
    world.forget();
    std::fs::write(flag.join("go"), "").expect("a file");
    let exit = world.folder.join(format!("root/sandboxes/{sandbox}/containers/{id}/exit.json"));
    while !exit.exists() {
        tokio::task::yield_now().await;
    }
    world.start().await;
    let status = world.status(&id).await;
    assert_eq!((status.state, status.exit_code), (ContainerState::ContainerExited as i32, 9));
    assert!(status.finished_at > status.started_at && status.started_at > 0);
}

async fn killed_shim() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let id = world.run(&sandbox, script("app", "sleep 1000")).await;
    let request = ContainerStatusRequest { container_id: id.clone(), verbose: true };
    let info = world.runtime().container_status(request).await.expect("a status").info["info"].clone();
    let digits = info.split("\"pid\":").nth(1).expect("a pid").split(|letter: char| !letter.is_ascii_digit());
    let pid: i32 = digits.into_iter().next().and_then(|pid| pid.parse().ok()).expect("a number");
    rustix::process::kill_process(shim_pid(&world, &sandbox).await, rustix::process::Signal::KILL).expect("it runs");
    let status = world.wait_exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    assert_eq!(sandbox_state(&world, &sandbox).await, PodSandboxState::SandboxNotready as i32);
    let gone = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    while !gone() {
        tokio::task::yield_now().await;
    }
    world.stop_and_remove(&sandbox).await;
    assert_eq!(world.traces(), Vec::<String>::new());
}

async fn reboot() {
    let mut world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let ran = world.run(&sandbox, script("ran", "sleep 1000")).await;
    let made = world.create(&sandbox, script("made", "true")).await.expect("is made");
    let shim = shim_pid(&world, &sandbox).await;
    world.forget();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).expect("it runs");
    while std::fs::read_to_string(format!("/proc/{}/stat", shim.as_raw_nonzero()))
        .is_ok_and(|stat| !stat.contains(") Z "))
    {
        tokio::task::yield_now().await;
    }
    world.start().await;
    assert_eq!(sandbox_state(&world, &sandbox).await, PodSandboxState::SandboxNotready as i32);
    for id in [ran, made] {
        let status = world.status(&id).await;
        assert_eq!((status.state, status.exit_code, status.reason.as_str()), (2, 255, "Unknown"));
    }
    let config = CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(script("new", "true")),
        ..Default::default()
    };
    let error = world.runtime().create_container(config).await.expect_err("not in a dead sandbox");
    assert_eq!(error.code, Code::FailedPrecondition);
    world.stop_and_remove(&sandbox).await;
    assert_eq!(world.traces(), Vec::<String>::new());
}

async fn stopping() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let polite = script("polite", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
    let stubborn = script("stubborn", "trap '' TERM; echo up; while :; do sleep 1; done");
    let mut codes = Vec::new();
    for config in [polite, stubborn] {
        let id = world.run(&sandbox, config).await;
        let log = world.status(&id).await.log_path;
        while !text_of_log(&log).contains("up") {
            tokio::task::yield_now().await;
        }
        let request = StopContainerRequest { container_id: id.clone(), timeout: 1 };
        world.runtime().stop_container(request.clone()).await.expect("stops");
        world.runtime().stop_container(request).await.expect("stopping again is fine");
        codes.push(world.status(&id).await.exit_code);
    }
    assert_eq!(codes, [0, 137]);
}
