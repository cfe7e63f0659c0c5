//! From a sandbox to nothing: starting, output, exits, stopping, removing.

use futures_util::FutureExt;
use skiff_cri::*;

use crate::Test;
use crate::world::{World, script, text_of_log};

pub const TESTS: &[Test] = &[
    ("a_container_runs_and_leaves_its_output_and_exit_code", || a_container_runs().boxed()),
    ("a_pod_leaves_no_trace", || a_pod_leaves_no_trace().boxed()),
];

async fn a_container_runs() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let (log, status) = world.output(&sandbox, script("app", "echo out; echo err >&2; exit 3")).await;
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F out"]);
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at, "{status:?}");
    let (_, status) = world.output(&sandbox, script("fine", "true")).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    assert_eq!(text_of_log(&status.log_path), "");
}

async fn a_pod_leaves_no_trace() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    world.run(&sandbox, script("one", "sleep 1000")).await;
    world.run(&sandbox, script("two", "true")).await;
    world.stop_and_remove(&sandbox).await;
    assert_eq!(world.traces(), Vec::<String>::new());
    let list = world.runtime().list_containers(ListContainersRequest::default()).await.expect("a list");
    assert_eq!(list.containers, []);
}
