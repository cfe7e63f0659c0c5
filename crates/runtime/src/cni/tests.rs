//! A chain of made-up plugins that write down what they were asked.

use std::os::unix::fs::PermissionsExt;

use skiff_cri::PodSandboxMetadata;

use super::*;

/// Writes down verb, sandbox and what it was told that was said before; fails where a file tells it to.
const PLUGIN: &str = r#"#!/bin/sh
request=$(cat)
folder=$(dirname "$0")
kind=$(basename "$0")
case $request in *prevResult*) before=" after another" ;; *) before="" ;; esac
echo "$kind $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS$before" >> "$folder/../log"
if [ -e "$folder/../$kind-fails" ]; then
  echo '{"cniVersion": "1.0.0", "code": 11, "msg": "no room"}'
  exit 1
fi
if [ "$CNI_COMMAND" = ADD ]; then
  echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/16"}]}'
fi
"#;

/// A folder with two plugins and a network of them; gone with the value.
struct World(PathBuf);

impl World {
    fn new(name: &str) -> Self {
        let world = Self(std::env::temp_dir().join(format!("skiff-cni-{name}-{}", std::process::id())));
        for folder in ["net.d", "bin"] {
            fs::create_dir_all(world.0.join(folder)).expect("a writable folder");
        }
        for kind in ["first", "second"] {
            let file = world.0.join("bin").join(kind);
            fs::write(&file, PLUGIN).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("made a program");
        }
        world.configure("1.0.0", &["first", "second"]);
        world
    }

    fn configure(&self, version: &str, kinds: &[&str]) {
        let plugins: Vec<_> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
        let list = json!({"cniVersion": version, "name": "net", "plugins": plugins});
        fs::write(self.0.join("net.d/10-net.conflist"), list.to_string()).expect("written");
    }

    fn open(&self) -> Result<CniNetwork, String> {
        CniNetwork::open(CniConfig {
            config_folder: self.0.join("net.d"),
            plugin_folders: vec![self.0.join("nothing-here"), self.0.join("bin")],
            state_folder: self.0.join("state"),
        })
    }

    /// What plugins wrote down since the last look.
    fn log(&self) -> Vec<String> {
        let file = self.0.join("log");
        let lines =
            fs::read_to_string(&file).unwrap_or_default().lines().map(|line| line.trim_end().to_owned()).collect();
        fs::write(&file, "").expect("written");
        lines
    }
}

impl Drop for World {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_else(|error| eprintln!("{}: {error}", self.0.display()));
    }
}

fn pod() -> PodSandboxConfig {
    let metadata = PodSandboxMetadata { name: "p".into(), namespace: "n".into(), uid: "u".into(), attempt: 0 };
    PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() }
}

#[tokio::test]
async fn a_sandbox_joins_and_leaves_by_the_chain_of_that_time() {
    let world = World::new("joins");
    let network = world.open().expect("all is there");
    let netns = Path::new("/proc/self/ns/net");
    let addresses = network.setup("a", netns, &pod()).await.expect("it joins");
    assert_eq!(addresses, [IpAddr::from([10, 1, 0, 5])]);
    let joined = ["first ADD a /proc/self/ns/net", "second ADD a /proc/self/ns/net after another"];
    assert_eq!(world.log(), joined);

    // By now the network is another; what was done is undone all the same, by whoever did it.
    world.configure("1.0.0", &["first"]);
    network.teardown("a", Some(netns), &pod()).await.expect("it leaves");
    let left = ["second DEL a /proc/self/ns/net after another", "first DEL a /proc/self/ns/net after another"];
    assert_eq!(world.log(), left);
    network.teardown("a", None, &pod()).await.expect("it may be repeated");
    assert_eq!(world.log(), [""; 0]);
}

#[tokio::test]
async fn what_failed_is_told_and_undone() {
    let world = World::new("fails");
    let network = world.open().expect("all is there");
    fs::write(world.0.join("second-fails"), "").expect("written");
    let error = network.setup("a", Path::new("/proc/self/ns/net"), &pod()).await.expect_err("the second fails");
    assert_eq!(error.message, r#"plugin type="second" failed (add): no room"#);
    assert_eq!(world.log().len(), 2);
    // What cannot be undone now is not forgotten.
    network.teardown("a", None, &pod()).await.expect_err("the second fails still");
    assert_eq!(world.log(), ["second DEL a"]);
    fs::remove_file(world.0.join("second-fails")).expect("it is there");
    network.teardown("a", None, &pod()).await.expect("it leaves");
    assert_eq!(world.log(), ["second DEL a", "first DEL a"]);
}

#[tokio::test]
async fn what_is_left_is_tidied_up_and_what_is_there_looked_at() {
    let world = World::new("tidies");
    world.configure("1.1.0", &["first"]);
    let network = world.open().expect("all is there");
    let netns = PathBuf::from("/proc/self/ns/net");
    for id in ["a", "b"] {
        network.setup(id, &netns, &pod()).await.expect("it joins");
    }
    network.ready().await.expect("it says so");
    assert_eq!(world.log().last().map(String::as_str), Some("first STATUS"));
    network.tidy(["a".to_owned()].into()).await;
    assert_eq!(world.log(), ["first DEL b  after another", "first GC"]);
    network.look_at(&[("a".to_owned(), Some(netns))]);
    assert_eq!(world.log(), ["first CHECK a /proc/self/ns/net after another"]);
}

#[test]
fn a_network_that_cannot_be_is_refused_with_its_reason() {
    let world = World::new("refuses");
    let refused = || world.open().err().expect("it cannot be");
    world.configure("1.0.0", &["first", "third"]);
    assert!(refused().contains(r#"failed to find plugin "third" in path"#), "{}", refused());
    fs::write(world.0.join("net.d/05-broken.conf"), "{").expect("written");
    assert!(refused().contains("05-broken.conf"), "the first file counts: {}", refused());
    fs::remove_dir_all(world.0.join("net.d")).expect("it is there");
    assert!(refused().contains("net.d"), "{}", refused());
    fs::create_dir_all(world.0.join("net.d")).expect("a writable folder");
    assert!(refused().contains("no CNI network is configured"), "{}", refused());
}
