//! What a container may ask for beyond the usual: profiles of the administrator, images as volumes, user namespaces.

use std::os::unix::fs::MetadataExt;

use futures_util::FutureExt;
use skiff_cri::security_profile::ProfileType;
use skiff_cri::*;

use crate::Test;
use crate::inside::{lines, security};
use crate::world::{World, script};

pub const TESTS: &[Test] = &[
    ("a_seccomp_profile_of_the_administrator_holds", || seccomp_profiles().boxed()),
    ("images_are_mounted_as_volumes", || image_volumes().boxed()),
    ("a_user_namespace_keeps_users_apart", || user_namespaces().boxed()),
];

async fn seccomp_profiles() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let file = world.folder.join("no-folders.json");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    std::fs::write(&file, profile).expect("written");
    let with = |name: &str, reference: String| {
        let mut config = script(name, "mkdir /tmp/a 2>&1; echo; touch /tmp/b && echo made; sleep 1000");
        let profile = SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: reference };
        security(&mut config).seccomp = Some(profile);
        config
    };
    for no_new_privs in [false, true] {
        let mut config = with(&format!("app-{no_new_privs}"), file.display().to_string());
        security(&mut config).no_new_privs = no_new_privs;
        let id = world.run(&sandbox, config).await;
        let command = ["sh", "-c", "mkdir /tmp/c 2>&1; touch /tmp/d && echo made"].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: id.clone(), cmd: command, timeout: 10 };
        let said = world.runtime().exec_sync(request).await.expect("runs").stdout;
        let said = String::from_utf8(said).expect("text");
        assert!(said.contains("No space left on device") && said.contains("made"), "{said}");
    }
    let missing = world.create(&sandbox, with("missing", "/nowhere.json".into())).await.expect_err("refused");
    assert!(missing.message.contains("cannot load seccomp profile \"/nowhere.json\""), "{missing}");
}

async fn image_volumes() {
    let world = World::new().await;
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let volume = |path: &str, sub_path: &str| Mount {
        container_path: path.into(),
        image: Some(ImageSpec { image: "busybox".into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        readonly: true,
        ..Default::default()
    };
    let what = "ls /whole | tr '\\n' ' '; echo; test -x /whole/bin/busybox && echo there; cat /users/passwd | head -n 1; \
        touch /whole/x 2>&1; touch /users/x 2>&1; cat /file | tail -n 1";
    let mut config = script("app", what);
    config.mounts = vec![volume("/whole", ""), volume("/users", "etc"), volume("/file", "etc/passwd")];
    let seen = lines(&world, &sandbox, config).await;
    assert!(seen[0].contains("bin") && seen[0].contains("etc"), "{seen:?}");
    assert_eq!(seen[1], "there");
    assert!(seen[2].starts_with("root:"), "{seen:?}");
    assert!(seen[3].contains("Read-only file system") && seen[4].contains("Read-only file system"), "{seen:?}");
    let refused = |sub_path: &'static str| {
        let config = ContainerConfig { mounts: vec![volume("/v", sub_path)], ..script("refused", "true") };
        world.create(&sandbox, config)
    };
    assert!(refused("../etc").await.expect_err("refused").message.contains("leads out of the image"));
    let id = refused("no/such").await.expect("made");
    let failed = world.start_container(&id).await.expect_err("there is no such folder");
    assert!(failed.message.contains("find \"no/such\" in the image"), "{failed}");
}

/// Where the ids of the pod begin outside.
const FIRST: u32 = 200_000;
const COUNT: u32 = 65_536;

async fn user_namespaces() {
    let world = World::new().await;
    let ids = || vec![IdMapping { host_id: FIRST, container_id: 0, length: COUNT }];
    let users = UserNamespace { mode: NamespaceMode::Pod as i32, uids: ids(), gids: ids() };
    let mut pod = world.sandbox_config();
    let options = pod.linux.as_mut().and_then(|linux| linux.security_context.as_mut()?.namespace_options.as_mut());
    options.expect("set").userns_options = Some(users);
    let sandbox = world.sandbox(&pod).await;
    let data = world.folder.join("data");
    std::fs::create_dir_all(&data).expect("a folder");
    std::fs::write(data.join("old"), "old").expect("a file");
    let what = "id -u; cat /proc/self/uid_map | tr -s ' '; stat -c %u:%g / /bin/busybox /data/old /dev /made | tr '\\n' ' '; echo; \
        echo new > /data/new && touch /root-file && echo written; hostname other 2>&1 || echo refused; \
        echo out > /dev/stdout; sleep 1000";
    let mut config = script("app", what);
    config.working_dir = "/made".into();
    config.mounts = vec![Mount {
        host_path: data.display().to_string(),
        container_path: "/data".into(),
        uid_mappings: ids(),
        gid_mappings: ids(),
        ..Default::default()
    }];
    security(&mut config).capabilities =
        Some(Capability { add_capabilities: vec!["SYS_ADMIN".into()], ..Default::default() });
    let id = world.run(&sandbox, config).await;
    let command = "id -u; mount -t tmpfs none /tmp && echo mounted; echo $(stat -c %u /proc/1)";
    let command = ["sh", "-c", command].map(str::to_owned).to_vec();
    let request = ExecSyncRequest { container_id: id.clone(), cmd: command, timeout: 10 };
    let said = world.runtime().exec_sync(request).await.expect("runs");
    let said = (String::from_utf8(said.stdout).expect("text"), String::from_utf8(said.stderr).expect("text"));
    assert_eq!(said, ("0\nmounted\n0\n".to_owned(), String::new()));
    let raw_log = std::path::PathBuf::from(world.status(&id).await.log_path);
    let read = || std::fs::read_to_string(&raw_log).expect("a log");
    while !read().ends_with(" out\n") {
        tokio::task::yield_now().await;
    }
    let stop = StopContainerRequest { container_id: id.clone(), timeout: 0 };
    world.runtime().stop_container(stop).await.expect("stops");
    let log = read();
    let seen: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    assert_eq!(seen[..3], ["0", " 0 200000 65536", "0:0 0:0 0:0 0:0 0:0 "], "{log}");
    assert_eq!(seen[3..], ["written", "out"], "the sandbox's host name may be changed: {log}");
    let owner = |file: &str| std::fs::metadata(data.join(file)).expect("a file").uid();
    assert_eq!((owner("old"), owner("new")), (0, 0), "the volume's ids are mapped");
    let run = RunPodSandboxRequest {
        config: Some({
            let mut host = pod.clone();
            let linux = host.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
            let options = linux.and_then(|security| security.namespace_options.as_mut()).expect("set");
            options.network = NamespaceMode::Node as i32;
            host
        }),
        ..Default::default()
    };
    let refused = world.runtime().run_pod_sandbox(run).await.expect_err("refused");
    assert!(refused.message.contains("host's network"), "{refused}");
}
