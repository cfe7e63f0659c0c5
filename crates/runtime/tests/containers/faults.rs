//! Disks that are full or cannot be written, and containers that take more than is theirs: contained, told, survived. The
//! small disks are mounted in the tests' own mount namespace.

use std::path::{Path, PathBuf};

use futures_util::FutureExt;
use rustix::mount::{MountFlags, mount, mount_remount};
use skiff_cri::*;

use crate::Test;
use crate::world::{World, script};

pub const TESTS: &[Test] = &[
    ("a_full_disk_stops_no_container_and_is_told", || full_disk().boxed()),
    ("a_log_that_finds_no_room_goes_on_later", || full_logs().boxed()),
    ("a_disk_that_cannot_be_written_is_told_and_survived", || read_only_disk().boxed()),
    ("a_fork_bomb_stays_in_its_pod", || fork_bomb().boxed()),
];

/// Enough for a few small containers.
const DISK_BYTES: u32 = 8 << 20;

/// Puts a small disk in a folder of the world, before the runtime begins to use it.
fn small_disk(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    let options = std::ffi::CString::new(format!("size={DISK_BYTES},mode=755")).expect("text");
    mount("tmpfs", folder, "tmpfs", MountFlags::empty(), Some(options.as_c_str())).expect("a tmpfs");
}

/// Takes all room that is left; gives the file that took it.
fn fill(folder: &Path) -> PathBuf {
    use std::io::Write;
    let path = folder.join("filler");
    let mut file = std::fs::File::create(&path).expect("a file");
    for size in [64 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    path
}

async fn world_on_a_small_disk() -> World {
    let mut world = World::new().await;
    world.forget();
    small_disk(&world.folder.join("root"));
    world.start().await;
    world
}

async fn full_disk() {
    let world = world_on_a_small_disk().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let idle = world.run(&sandbox, script("idle", "sleep 1000")).await;
    // A container that fills the disk itself is told so, like any program.
    let what = "dd if=/dev/zero of=/file bs=1M count=64 2>&1; echo ended; sleep 1000";
    let greedy = world.run(&sandbox, script("greedy", what)).await;
    while !world.log(&greedy).await.contains("ended") {
        tokio::task::yield_now().await;
    }
    assert!(world.log(&greedy).await.contains("No space left on device"));
    let filler = fill(&world.folder.join("root"));
    // What runs, runs on, and can be looked at and entered.
    assert_eq!(world.exec(&idle, "echo alive").await.1, "alive\n");
    let refused = world.create(&sandbox, script("late", "true")).await.expect_err("there is no room");
    assert!(refused.message.contains("No space left on device"), "{refused}");
    let sandbox_refused = RunPodSandboxRequest {
        config: Some(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: "late".into(), uid: "2".into(), ..Default::default() }),
            ..world.sandbox_config()
        }),
        ..Default::default()
    };
    let refused = world.runtime().run_pod_sandbox(sandbox_refused).await.expect_err("there is no room");
    assert!(refused.message.contains("No space left on device"), "{refused}");
    // The end of a container is heard of though it cannot be written down.
    world.exec(&greedy, "kill -9 1").await;
    let stop = StopContainerRequest { container_id: greedy.clone(), timeout: 0 };
    world.runtime().stop_container(stop).await.expect("it stops");
    assert_eq!(world.wait_exit(&greedy).await.exit_code, 137);
    // What it took is free again once it is removed, which needs no room.
    let remove = RemoveContainerRequest { container_id: greedy };
    world.runtime().remove_container(remove).await.expect("it is removed");
    std::fs::remove_file(filler).expect("it goes");
    assert_eq!(world.output(&sandbox, script("later", "echo room")).await.0, "stdout F room\n");
    world.stop_and_remove(&sandbox).await;
    assert_eq!(left(&world), Vec::<String>::new());
}

/// What pods left beside the disk itself.
fn left(world: &World) -> Vec<String> {
    let disks = ["/root ", "/logs "].map(|disk| format!("{}{disk}", world.folder.display()));
    world.traces().into_iter().filter(|trace| !disks.iter().any(|disk| trace.contains(disk))).collect()
}

async fn full_logs() {
    let world = World::new().await;
    let logs = world.folder.join("logs");
    small_disk(&logs);
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let id = world.run(&sandbox, script("app", "while true; do echo line; read go < /tmp/go; done")).await;
    while !world.log(&id).await.contains("line") {
        tokio::task::yield_now().await;
    }
    world.exec(&id, "mkfifo /tmp/go").await;
    let filler = fill(&logs);
    // Lines that find no room are lost; their writer is not held up by them.
    for _ in 0..3 {
        assert_eq!(world.exec(&id, "echo on > /tmp/go; echo told").await.1, "told\n");
    }
    std::fs::remove_file(filler).expect("it goes");
    let before = world.log(&id).await.len();
    while world.log(&id).await.len() == before {
        world.exec(&id, "echo on > /tmp/go").await;
    }
    world.stop_and_remove(&sandbox).await;
}

async fn read_only_disk() {
    let world = world_on_a_small_disk().await;
    let disk = world.folder.join("root");
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let idle = world.run(&sandbox, script("idle", "sleep 1000")).await;
    let options = |flags| mount_remount(&disk, flags, "").map_err(std::io::Error::from);
    // A file system with open files for writing refuses; a disk with errors is made read-only all the same, as is this view.
    let view = MountFlags::BIND | MountFlags::RDONLY;
    options(view).expect("it can be made read-only");
    let refused = world.create(&sandbox, script("late", "true")).await.expect_err("it cannot be written");
    assert!(refused.message.contains("Read-only file system"), "{refused}");
    assert_eq!(world.exec(&idle, "echo alive").await.1, "alive\n");
    let stop = StopContainerRequest { container_id: idle.clone(), timeout: 0 };
    world.runtime().stop_container(stop).await.expect("it stops");
    assert_eq!(world.wait_exit(&idle).await.exit_code, 137);
    options(MountFlags::BIND).expect("it can be written again");
    world.stop_and_remove(&sandbox).await;
    assert_eq!(left(&world), Vec::<String>::new());
}

/// As many processes as the pod may have in this test.
const PROCESSES: &str = "64";

async fn fork_bomb() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let other = world.sandbox_config();
    let other = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata { name: "other".into(), uid: "2".into(), ..Default::default() }),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("{}/other", world.cgroup),
            ..other.linux.clone().expect("set")
        }),
        ..other
    };
    let other = world.sandbox(&other).await;
    let neighbour = world.run(&other, script("neighbour", "sleep 1000")).await;
    let idle = world.run(&sandbox, script("idle", "sleep 1000")).await;
    let limits = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|root| format!("{root}{}/pod/pids.max", world.cgroup));
    let limit = limits.iter().find(|file| Path::new(file).exists()).expect("the pod's cgroup counts processes");
    std::fs::write(limit, PROCESSES).expect("a limit");
    let bomb = world.run(&sandbox, script("bomb", "bomb() { bomb | bomb & }; bomb; sleep 1000")).await;
    while !world.log(&bomb).await.contains("can't fork") {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.exec(&neighbour, "echo alive").await.1, "alive\n");
    let stop = StopContainerRequest { container_id: bomb.clone(), timeout: 0 };
    world.runtime().stop_container(stop).await.expect("it stops");
    assert_eq!(world.wait_exit(&bomb).await.exit_code, 137);
    // With the bomb all its processes are gone, so that the rest of the pod can go on.
    assert_eq!(world.exec(&idle, "echo alive").await.1, "alive\n");
    world.stop_and_remove(&sandbox).await;
    world.stop_and_remove(&other).await;
    assert_eq!(world.traces(), Vec::<String>::new());
}
