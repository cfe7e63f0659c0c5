//! What a container sees and may do.

use futures_util::FutureExt;
use skiff_cri::*;

use crate::Test;
use crate::world::{World, script};

pub const TESTS: &[Test] = &[
    ("a_container_sees_its_own_small_world", || a_small_world().boxed()),
    ("users_and_capabilities_are_as_asked", || users_and_capabilities().boxed()),
    ("the_default_seccomp_profile_holds_also_for_commands", || seccomp().boxed()),
    ("programs_of_32_bits_run_by_the_same_rules", || smaller_programs().boxed()),
    ("volumes_are_mounted_as_asked", || volumes().boxed()),
    ("mounts_propagate_as_asked", || propagation().boxed()),
    ("a_read_only_root_cannot_be_written", || read_only_root().boxed()),
    ("an_image_cannot_lead_a_mount_out_of_its_root", || no_way_out().boxed()),
    ("pods_on_the_host_share_its_namespaces", || on_the_host().boxed()),
    ("processes_can_be_shared_between_containers", || shared_processes().boxed()),
    ("memory_beyond_the_limit_is_an_oom_kill", || oom().boxed()),
    ("devices_are_guarded_on_every_cgroup_version", || devices().boxed()),
    ("limits_can_be_changed_while_it_runs", || update().boxed()),
];

pub fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

pub async fn lines(world: &World, sandbox: &str, config: ContainerConfig) -> Vec<String> {
    let (log, status) = world.output(sandbox, config).await;
    assert_eq!(status.exit_code, 0, "{status:?}\n{log}");
    log.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned()).collect()
}

async fn a_small_world() {
    let world = World::new().await;
    let dns = DnsConfig { servers: vec!["10.96.0.10".into()], ..Default::default() };
    let sandbox = world.sandbox(&PodSandboxConfig { dns_config: Some(dns), ..world.sandbox_config() }).await;
    let what = "echo $$; hostname; pwd; cat /etc/resolv.conf /etc/hostname; echo $PATH $FROM $HOSTNAME $HOME; \
        ls /dev | tr '\\n' ' '; echo; id -u; ls / | tr '\\n' ' '; echo; readlink /proc/self/ns/net; cat /proc/net/dev | wc -l; echo hi > /dev/null; ls /dev/shm";
    let seen = lines(&world, &sandbox, script("app", what)).await;
    let root = "1,pod,/,nameserver 10.96.0.10,pod".split(',');
    assert_eq!(seen[..5], root.map(str::to_owned).collect::<Vec<_>>());
    assert_eq!(seen[5], "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin image pod /root");
    assert_eq!(
        seen[6],
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ".replace("core ", "")
    );
    assert_eq!(seen[7..9], ["0", "bin dev etc proc run sys tmp "]);
    let own = std::fs::read_link("/proc/self/ns/net").expect("a link").display().to_string();
    assert!(seen[9] != own && seen[9].starts_with("net:["), "{}", seen[9]);
    assert_eq!(seen[10], "3", "only the loopback");
    assert_eq!(seen.len(), 11);
}

async fn users_and_capabilities() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let what = "id -u; id -g; id -G; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | tr '\\t' ' '; echo out > /dev/stdout";
    let mut config = script("web", what);
    security(&mut config).run_as_username = "web".into();
    security(&mut config).supplemental_groups = vec![2000];
    security(&mut config).no_new_privs = true;
    let drop = Capability {
        drop_capabilities: vec!["ALL".into()],
        add_capabilities: vec!["NET_BIND_SERVICE".into()],
        ..Default::default()
    };
    security(&mut config).capabilities = Some(drop);
    let seen = lines(&world, &sandbox, config).await;
    // A user other than root keeps none in effect, as with every runtime; the bounding set is what was left.
    let none = "CapEff: 0000000000000000";
    let some = "CapBnd: 0000000000000400";
    assert_eq!(seen, ["33", "34", "34 50 2000", none, some, "NoNewPrivs: 1", "out"]);
    let (seen, _) = world.output(&sandbox, script("root", "grep CapEff /proc/self/status")).await;
    assert!(seen.ends_with("CapEff:\t00000000a80425fb\n"), "{seen}");
}

async fn seccomp() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script("app", "sleep 1000");
    security(&mut config).seccomp = Some(SecurityProfile::default());
    security(&mut config).run_as_username = "web".into();
    let id = world.run(&sandbox, config).await;
    let attempt = "grep Seccomp: /proc/self/status; (echo forks) & wait; unshare -U true";
    let (code, out, errors) = world.exec(&id, attempt).await;
    assert_eq!((code, out.as_str()), (1, "Seccomp:\t2\nforks\n"));
    assert!(errors.contains("Operation not permitted"), "{errors}");
    let id = world.run(&sandbox, script("free", "sleep 1000")).await;
    assert_eq!(world.exec(&id, attempt).await.1, "Seccomp:\t0\nforks\n");
}

/// A program of 32 bits for x86: it writes "32" by call 4, tries call 288 (`keyctl`), which the default profile refuses, and
/// exits by call 1 with the error number that it got.
#[rustfmt::skip]
const PROGRAM: [u8; 136] = [
    0x7f, 0x45, 0x4c, 0x46, 0x01, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x03, 0x00,
    0x01, 0x00, 0x00, 0x00, 0x54, 0x80, 0x04, 0x08, 0x34, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x34, 0x00, 0x20, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x80, 0x04, 0x08, 0x00, 0x80, 0x04, 0x08, 0x88, 0x00, 0x00, 0x00, 0x88, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00,
    0x00, 0x10, 0x00, 0x00, 0xb8, 0x04, 0x00, 0x00, 0x00, 0xbb, 0x01, 0x00, 0x00, 0x00, 0xb9, 0x85, 0x80, 0x04, 0x08, 0xba,
    0x03, 0x00, 0x00, 0x00, 0xcd, 0x80, 0xb8, 0x20, 0x01, 0x00, 0x00, 0x31, 0xdb, 0xb9, 0xfd, 0xff, 0xff, 0xff, 0x31, 0xd2,
    0xcd, 0x80, 0xf7, 0xd8, 0x89, 0xc3, 0xb8, 0x01, 0x00, 0x00, 0x00, 0xcd, 0x80, 0x33, 0x32, 0x0a,
];

async fn smaller_programs() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let world = World::new().await;
    let file = world.folder.join("program");
    std::fs::write(&file, PROGRAM).expect("a file");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it can be run");
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script("app", "/program; echo ended with $?");
    config.mounts = vec![Mount {
        host_path: file.display().to_string(),
        container_path: "/program".into(),
        readonly: true,
        ..Default::default()
    }];
    security(&mut config).seccomp = Some(SecurityProfile::default());
    assert_eq!(lines(&world, &sandbox, config).await, ["32", "ended with 1"]);
}

async fn volumes() {
    let world = World::new().await;
    let (data, file) = (world.folder.join("data"), world.folder.join("file"));
    std::fs::create_dir_all(data.join("inner")).expect("a folder");
    std::fs::write(&file, "from the host").expect("a file");
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mount = |host: &std::path::Path, container: &str, readonly| Mount {
        host_path: host.display().to_string(),
        container_path: container.into(),
        readonly,
        ..Default::default()
    };
    let what = "echo written > /data/new; cat /etc/config/file; echo no > /etc/config/file || echo refused; \
        echo no > /all/new || echo refused; mkdir /deep/er && echo made";
    let mut config = script("app", what);
    config.mounts = vec![
        mount(&data, "/deep", false),
        mount(&data.join("inner"), "/data", false),
        mount(&file, "/etc/config/file", true),
        Mount { recursive_read_only: true, ..mount(&data, "/all", true) },
    ];
    let (log, status) = world.output(&sandbox, config).await;
    assert_eq!(status.exit_code, 0, "{log}");
    assert_eq!(log.matches("refused").count(), 2, "{log}");
    assert!(log.contains("from the host") && log.contains("made"), "{log}");
    assert_eq!(std::fs::read_to_string(data.join("inner/new")).expect("is written"), "written\n");
    let mut missing = script("missing", "true");
    missing.mounts = vec![mount(&world.folder.join("nowhere"), "/x", false)];
    let id = world.create(&sandbox, missing).await.expect("is made");
    let error = world.start_container(&id).await.expect_err("cannot start");
    assert!(error.message.contains("nowhere") && error.message.contains("No such file"), "{error}");
    let status = world.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
}

async fn propagation() {
    let world = World::new().await;
    let shared = world.folder.join("shared");
    for name in ["inner", "later", "made"] {
        std::fs::create_dir_all(shared.join(name)).expect("a folder");
    }
    rustix::mount::mount_bind(&shared, &shared).expect("mounts");
    rustix::mount::mount_change(&shared, rustix::mount::MountPropagationFlags::SHARED).expect("is shared");
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mount = |propagation: MountPropagation| Mount {
        host_path: shared.display().to_string(),
        container_path: "/shared".into(),
        propagation: propagation as i32,
        ..Default::default()
    };
    let mut ids = Vec::new();
    for mode in [
        MountPropagation::PropagationPrivate,
        MountPropagation::PropagationHostToContainer,
        MountPropagation::PropagationBidirectional,
    ] {
        let mut config = script("app", "sleep 1000");
        config.metadata.as_mut().expect("set").attempt = mode as u32;
        config.mounts = vec![mount(mode)];
        security(&mut config).privileged = true;
        ids.push(world.run(&sandbox, config).await);
    }
    let tmpfs = rustix::mount::MountFlags::empty();
    rustix::mount::mount("test", shared.join("later"), "tmpfs", tmpfs, None).expect("mounts");
    std::fs::write(shared.join("later/file"), "").expect("a file");
    let mut seen = Vec::new();
    for id in &ids {
        seen.push(world.exec(id, "ls /shared/later").await.1);
    }
    assert_eq!(seen, ["", "file\n", "file\n"]);
    for id in &ids {
        world.exec(id, "mkdir -p /shared/made; mount -t tmpfs made /shared/made; touch /shared/made/file").await;
        seen.push(std::fs::read_dir(shared.join("made")).expect("a folder").count().to_string());
    }
    // What the first two mounted stayed with them; what the third mounted is seen by the host.
    assert_eq!(seen[3..], ["0", "0", "1"]);
}

async fn read_only_root() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script(
        "app",
        "touch /x || echo refused; touch /dev/shm/y && echo shm; ls /proc/acpi /proc/timer_list; cat /proc/kcore; touch /proc/sys/kernel/x || echo ro",
    );
    security(&mut config).readonly_rootfs = true;
    security(&mut config).masked_paths = vec!["/proc/kcore".into(), "/proc/acpi".into(), "/proc/none".into()];
    security(&mut config).readonly_paths = vec!["/proc/sys".into()];
    let (log, _) = world.output(&sandbox, config).await;
    for expected in ["stdout F refused", "stdout F shm", "stdout F ro"] {
        assert!(log.contains(expected), "{expected} in {log}");
    }
    assert!(!log.contains("Operation not permitted"), "{log}");
}

async fn no_way_out() {
    let world = World::new().await;
    let outside = world.folder.join("outside");
    std::fs::create_dir_all(&outside).expect("a folder");
    let base = world.folder.join("layers/base");
    std::os::unix::fs::symlink(&outside, base.join("escape")).expect("a link");
    std::os::unix::fs::symlink("../../../../../../../..", base.join("up")).expect("a link");
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script("app", "ls /escape/");
    let mount = |to: &str| Mount { host_path: "/proc/self".into(), container_path: to.into(), ..Default::default() };
    config.mounts = vec![
        Mount { host_path: world.folder.join("layers/users").display().to_string(), ..mount("/escape/in") },
        Mount { host_path: world.folder.join("layers/users").display().to_string(), ..mount("/up/tmp/in") },
    ];
    let (log, status) = world.output(&sandbox, config).await;
    assert_eq!((log.as_str(), status.exit_code), ("stdout F in\n", 0));
    assert_eq!(std::fs::read_dir(&outside).expect("a folder").count(), 0, "nothing was made outside");
    assert!(!std::path::Path::new("/tmp/in").exists());
    let mut in_proc = script("proc", "true");
    in_proc.mounts = vec![Mount { host_path: "/tmp".into(), ..mount("/proc/driver") }];
    let id = world.create(&sandbox, in_proc).await.expect("is made");
    let error = world.start_container(&id).await.expect_err("is refused");
    assert!(error.message.contains("inside /proc"), "{error}");
}

async fn on_the_host() {
    let world = World::new().await;
    let options = NamespaceOption {
        network: NamespaceMode::Node as i32,
        pid: NamespaceMode::Node as i32,
        ipc: NamespaceMode::Node as i32,
        ..Default::default()
    };
    let mut config = world.sandbox_config();
    config.linux.as_mut().expect("set").security_context.as_mut().expect("set").namespace_options =
        Some(options.clone());
    let sandbox = world.sandbox(&config).await;
    let mut app = script("app", "for n in net pid ipc uts; do readlink /proc/self/ns/$n; done; sleep 100 & echo");
    security(&mut app).namespace_options = Some(options);
    let seen = lines(&world, &sandbox, app).await;
    for (line, name) in seen.iter().zip(["net", "pid", "ipc", "uts"]) {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).expect("a link").display().to_string();
        assert_eq!(*line, own);
    }
    let status = world
        .runtime()
        .pod_sandbox_status(PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false })
        .await;
    assert_eq!(status.expect("a status").status.expect("set").network, None);
    // The process that it left in the background went with it.
    world.stop_and_remove(&sandbox).await;
    assert_eq!(world.traces(), Vec::<String>::new());
}

async fn shared_processes() {
    let world = World::new().await;
    let options = NamespaceOption { pid: NamespaceMode::Pod as i32, ..Default::default() };
    let mut config = world.sandbox_config();
    config.linux.as_mut().expect("set").security_context.as_mut().expect("set").namespace_options =
        Some(options.clone());
    let sandbox = world.sandbox(&config).await;
    let mut one = script("one", "sleep 1234");
    security(&mut one).namespace_options = Some(options.clone());
    let id = world.run(&sandbox, one).await;
    let mut two = script("two", "ps -o pid,args");
    security(&mut two).namespace_options = Some(options);
    let seen = lines(&world, &sandbox, two).await;
    assert!(seen.iter().any(|line| line.contains("sleep 1234")), "{seen:?}");
    assert!(seen.iter().any(|line| line.trim().starts_with("1 ")), "{seen:?}");
    // A debugging container joins another one's processes.
    let mut debug = script("debug", "ps -o pid,args");
    security(&mut debug).namespace_options =
        Some(NamespaceOption { pid: NamespaceMode::Target as i32, target_id: id, ..Default::default() });
    let seen = lines(&world, &sandbox, debug).await;
    assert!(seen.iter().any(|line| line.contains("sleep 1234")), "{seen:?}");
}

async fn oom() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script("app", "dd if=/dev/zero of=/dev/null bs=200M count=1");
    let limits = LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() };
    config.linux.as_mut().expect("set").resources = Some(limits);
    let (_, status) = world.output(&sandbox, config).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

async fn devices() {
    for world in [World::new().await, World::on_cgroup_v2().await] {
        let sandbox = world.sandbox(&world.sandbox_config()).await;
        let what = "mknod /tmp/kmsg c 1 11 && echo made; head -c 1 /tmp/kmsg 2>&1; head -c 1 /dev/zero | wc -c; cat /proc/self/cgroup";
        let (log, status) = world.output(&sandbox, script("app", what)).await;
        assert_eq!(status.exit_code, 0, "{log}");
        assert!(log.contains("made") && log.contains("Operation not permitted") && log.contains("F 1\n"), "{log}");
        let id = world.run(&sandbox, script("idle", "sleep 1000")).await;
        let (_, out, _) =
            world.exec(&id, "head -c 1 /tmp/none /dev/null; mknod /tmp/k c 1 11; cat /tmp/k || echo denied").await;
        assert!(out.contains("denied"), "{out}");
        let mut config = script("privileged", "mknod /tmp/kmsg c 1 3; cat /tmp/kmsg && ls /dev/kmsg");
        security(&mut config).privileged = true;
        let (log, status) = world.output(&sandbox, config).await;
        assert_eq!((log.as_str(), status.exit_code), ("stdout F /dev/kmsg\n", 0));
        world.stop_and_remove(&sandbox).await;
        assert_eq!(world.traces(), Vec::<String>::new());
    }
}

async fn update() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let mut config = script("app", "sleep 1000");
    // Memory and swap together have the same limit as memory alone, as agents ask for it: both grow, then shrink.
    let of_memory = |bytes: i64| LinuxContainerResources {
        memory_limit_in_bytes: bytes,
        memory_swap_limit_in_bytes: bytes,
        ..Default::default()
    };
    let limits = LinuxContainerResources { cpu_shares: 100, ..of_memory(64 << 20) };
    config.linux.as_mut().expect("set").resources = Some(limits);
    let id = world.run(&sandbox, config).await;
    let read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    assert!(world.exec(&id, read).await.1.starts_with(&format!("{}\n", 64 << 20)));
    for bytes in [256 << 20, 128 << 20] {
        let linux = Some(of_memory(bytes));
        let request = UpdateContainerResourcesRequest { container_id: id.clone(), linux, ..Default::default() };
        world.runtime().update_container_resources(request).await.expect("is changed");
        assert!(world.exec(&id, read).await.1.starts_with(&format!("{bytes}\n")));
    }
    let resources = world.status(&id).await.resources.expect("set").linux.expect("set");
    assert_eq!((resources.memory_limit_in_bytes, resources.cpu_shares), (128 << 20, 100));
    let stats = world
        .runtime()
        .container_stats(ContainerStatsRequest { container_id: id })
        .await
        .expect("stats")
        .stats
        .expect("set");
    assert!(stats.memory.expect("set").usage_bytes.expect("set").value > 0);
    assert!(stats.cpu.expect("set").usage_core_nano_seconds.expect("set").value > 0);
}
