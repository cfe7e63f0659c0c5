//! Commands in containers, attached streams, terminals and ports.

use futures_util::FutureExt;
use skiff_cri::*;
use skiff_streams::{ExitStatus, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Test;
use crate::world::{World, script, text_of_log};

pub const TESTS: &[Test] = &[
    ("a_command_runs_as_the_container_does", || exec().boxed()),
    ("a_command_that_takes_too_long_is_ended", || exec_timeout().boxed()),
    ("a_command_can_talk", || exec_streams().boxed()),
    ("a_command_can_have_a_terminal", || exec_terminal().boxed()),
    ("streams_of_a_container_can_be_joined", || attach().boxed()),
    ("the_first_visitor_hears_what_was_said_before", || attach_late().boxed()),
    ("a_containers_terminal_can_be_joined", || attach_terminal().boxed()),
    ("ports_of_a_sandbox_can_be_reached", || ports().boxed()),
    ("a_log_can_be_rotated", || rotate().boxed()),
    ("no_line_of_a_flood_is_lost", || flood().boxed()),
];

async fn exec() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script("app", "sleep 1000");
    config.working_dir = "/srv/work".into();
    config.envs = vec![KeyValue { key: "COLOUR".into(), value: "blue".into() }];
    config.linux.as_mut().expect("set").security_context.as_mut().expect("set").run_as_username = "web".into();
    let id = world.run(&sandbox, config).await;
    let same = "id -u; id -g; pwd; echo $COLOUR; hostname; grep -E 'CapEff|CapBnd' /proc/self/status; cat /proc/self/cgroup; readlink /proc/self/ns/pid";
    let (code, out, errors) = world.exec(&id, same).await;
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(
        out.starts_with("33\n34\n/srv/work\nblue\npod\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\n"),
        "{out}"
    );
    let cgroups = out.lines().filter(|line| line.contains(&id)).count();
    assert!(cgroups >= 1 || out.contains("0::/\n"), "{out}");
    assert_eq!(world.exec(&id, "echo no >&2; exit 7").await, (7, String::new(), "no\n".to_owned()));
    let missing = ExecSyncRequest { container_id: id, cmd: vec!["nothing".into()], timeout: 0 };
    let error = world.runtime().exec_sync(missing).await.expect_err("cannot run");
    assert!(error.message.ends_with("exec: \"nothing\": executable file not found in $PATH"), "{error}");
}

async fn exec_timeout() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let id = world.run(&sandbox, script("app", "sleep 1000")).await;
    let request = ExecSyncRequest { container_id: id.clone(), cmd: vec!["sleep".into(), "500".into()], timeout: 1 };
    let error = world.runtime().exec_sync(request).await.expect_err("takes too long");
    assert_eq!(error.code, Code::DeadlineExceeded);
    let (_, out, _) = world.exec(&id, "ps -o args").await;
    assert!(!out.contains("sleep 500"), "{out}");
}

async fn exec_streams() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let id = world.run(&sandbox, script("app", "sleep 1000")).await;
    let request = ExecRequest {
        container_id: id,
        cmd: ["sh", "-c", "cat; echo end >&2; exit 5"].map(str::to_owned).to_vec(),
        stdin: true,
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let process = world.runtime().stream_backend().exec(&request).await.expect("runs");
    let (mut stdin, mut stdout) = (process.stdin.expect("open"), process.stdout.expect("open"));
    stdin.write_all(b"hello\n").await.expect("takes it");
    drop(stdin);
    let (mut out, mut errors) = (String::new(), String::new());
    stdout.read_to_string(&mut out).await.expect("text");
    process.stderr.expect("open").read_to_string(&mut errors).await.expect("text");
    assert_eq!((out.as_str(), errors.as_str()), ("hello\n", "end\n"));
    assert_eq!(process.exit.await, ExitStatus::Exited(5));
}

async fn exec_terminal() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let id = world.run(&sandbox, script("app", "sleep 1000")).await;
    let request = ExecRequest {
        container_id: id,
        cmd: vec!["sh".into()],
        stdin: true,
        stdout: true,
        tty: true,
        ..Default::default()
    };
    let process = world.runtime().stream_backend().exec(&request).await.expect("runs");
    process.resize.send(TerminalSize { width: 90, height: 30 }).await.expect("is heard");
    let (mut stdin, mut stdout) = (process.stdin.expect("open"), process.stdout.expect("open"));
    stdin
        .write_all(b"while [ \"$(stty size)\" != '30 90' ]; do :; done; echo si''ze; exit 4\n")
        .await
        .expect("takes it");
    let mut out = String::new();
    stdout.read_to_string(&mut out).await.expect("text");
    assert!(out.contains("size\r\n"), "{out}");
    assert_eq!(process.exit.await, ExitStatus::Exited(4));
}

async fn attach() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script("app", "while read line; do echo \"got $line\"; done; echo over >&2");
    (config.stdin, config.stdin_once) = (true, true);
    let id = world.run(&sandbox, config).await;
    let request =
        AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: true, ..Default::default() };
    let process = world.runtime().stream_backend().attach(&request).await.expect("joins");
    let (mut stdin, mut stdout) = (process.stdin.expect("open"), process.stdout.expect("open"));
    stdin.write_all(b"one\ntwo\n").await.expect("takes it");
    drop(stdin);
    let (mut out, mut errors) = (String::new(), String::new());
    stdout.read_to_string(&mut out).await.expect("text");
    process.stderr.expect("open").read_to_string(&mut errors).await.expect("text");
    assert_eq!((out.as_str(), errors.as_str()), ("got one\ngot two\n", "over\n"));
    assert_eq!(process.exit.await, ExitStatus::Exited(0));
    let status = world.wait_exit(&id).await;
    assert_eq!(text_of_log(&status.log_path), "stdout F got one\nstdout F got two\nstderr F over\n");
}

async fn attach_late() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script("app", "echo early; echo wrong >&2; read line; echo late");
    (config.stdin, config.stdin_once) = (true, true);
    let id = world.run(&sandbox, config).await;
    let log = world.status(&id).await.log_path;
    while !text_of_log(&log).contains("wrong") {
        tokio::task::yield_now().await;
    }
    let request =
        AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: true, ..Default::default() };
    let backend = world.runtime().stream_backend();
    let first = backend.attach(&request).await.expect("joins");
    let second = backend.attach(&request).await.expect("joins");
    first.stdin.expect("open").write_all(b"\n").await.expect("takes it");
    let (mut to_first, mut wrong, mut to_second) = (String::new(), String::new(), String::new());
    first.stdout.expect("open").read_to_string(&mut to_first).await.expect("text");
    first.stderr.expect("open").read_to_string(&mut wrong).await.expect("text");
    second.stdout.expect("open").read_to_string(&mut to_second).await.expect("text");
    assert_eq!((to_first.as_str(), wrong.as_str(), to_second.as_str()), ("early\nlate\n", "wrong\n", "late\n"));
    world.wait_exit(&id).await;
    let Err(error) = backend.attach(&request).await else { panic!("an ended container has nobody to talk to") };
    assert!(error.message.contains("is not running"), "{error}");
}

async fn attach_terminal() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script("app", "read line; stty size; echo \"got $line\"; exit 2");
    (config.stdin, config.tty) = (true, true);
    let id = world.run(&sandbox, config).await;
    let request =
        AttachRequest { container_id: id.clone(), stdin: true, stdout: true, tty: true, ..Default::default() };
    let backend = world.runtime().stream_backend();
    let process = backend.attach(&request).await.expect("joins");
    let mut stdin = process.stdin.expect("open");
    stdin.write_all(b"hello\n").await.expect("takes it");
    let mut out = String::new();
    process.stdout.expect("open").read_to_string(&mut out).await.expect("text");
    assert!(out.contains("got hello\r\n"), "{out}");
    assert_eq!(world.wait_exit(&id).await.exit_code, 2);
}

async fn ports() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let id = world.run(&sandbox, script("app", "echo ready; echo hello | nc -l -p 8080")).await;
    let listens = "while ! grep -q ':1F90 ' /proc/net/tcp /proc/net/tcp6; do :; done";
    assert_eq!(world.exec(&id, listens).await.0, 0);
    let backend = world.runtime().stream_backend();
    let mut stream = backend.connect(&sandbox, 8080).await.expect("connects");
    let mut said = [0; 6];
    stream.read_exact(&mut said).await.expect("text");
    assert_eq!(&said, b"hello\n");
    let error = backend.connect(&sandbox, 1).await.expect_err("nobody listens");
    assert!(error.message.contains("Connection refused"), "{error}");
}

async fn rotate() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script("app", "echo before; read line; echo after");
    config.stdin = true;
    let id = world.run(&sandbox, config).await;
    let log = world.status(&id).await.log_path;
    world.exec(&id, "true").await;
    while text_of_log(&log).is_empty() {
        tokio::task::yield_now().await;
    }
    std::fs::rename(&log, format!("{log}.1")).expect("moves");
    let request = ReopenContainerLogRequest { container_id: id.clone() };
    world.runtime().reopen_container_log(request).await.expect("opens");
    let attach = AttachRequest { container_id: id.clone(), stdin: true, ..Default::default() };
    let process = world.runtime().stream_backend().attach(&attach).await.expect("joins");
    process.stdin.expect("open").write_all(b"\n").await.expect("takes it");
    world.wait_exit(&id).await;
    assert_eq!(text_of_log(&format!("{log}.1")), "stdout F before\n");
    assert_eq!(text_of_log(&log), "stdout F after\n");
}

/// More at once than a pipe holds, on both streams, and once more after a pause.
async fn flood() {
    const LINES: usize = 100_000;
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let line = "x".repeat(99);
    let text = format!(
        "yes {line} | head -n {LINES} > /lines; cat /lines; cat /lines >&2; sleep 1.5; echo calm; cat /lines; echo over"
    );
    let id = world.run(&sandbox, script("app", &text)).await;
    let log = text_of_log(&world.wait_exit(&id).await.log_path);
    let count = |wanted: &str| log.lines().filter(|line| *line == wanted).count();
    assert_eq!(count(&format!("stdout F {line}")), 2 * LINES);
    assert_eq!(count(&format!("stderr F {line}")), LINES);
    assert_eq!((count("stdout F calm"), count("stdout F over")), (1, 1));
    assert_eq!(log.lines().count(), 3 * LINES + 2, "nothing else was said");
    world.stop_and_remove(&sandbox).await;
}
