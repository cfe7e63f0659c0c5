//! Volumes on a real file system, in a folder of the test's own.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skiff_base::ids::Ids;

use super::*;
use crate::config::{NodeFacts, Objects};

struct Trial {
    folder: PathBuf,
    pod: Pod,
    objects: Objects,
    node: NodeFacts,
    round: usize,
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("cannot remove {}: {error}", self.folder.display());
        }
    }
}

impl Trial {
    fn new(volumes: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("skiff-volumes-{}", Ids::random().suffix(10)));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let text = format!(
            "{{metadata: {{name: p, namespace: ns, uid: u, labels: {{a: b}}}}, spec: {{containers: [{{name: c}}], volumes: {volumes}}}}}"
        );
        let text = text.replace("FOLDER", &folder.to_string_lossy());
        let pod = serde_saphyr::from_str(&text).expect("valid YAML of a Pod");
        let paths = Paths { root: folder.clone(), logs: folder.join("log") };
        let node = NodeFacts { paths, ..NodeFacts::default() };
        Self { folder, pod, objects: Objects::default(), node, round: 0 }
    }

    fn config_map(&mut self, data: &str) {
        let map = format!("{{metadata: {{name: m}}, data: {data}}}");
        let map = serde_saphyr::from_str(&map).expect("valid YAML of a ConfigMap");
        self.objects.config_maps = BTreeMap::from([("m".to_owned(), Arc::new(map))]);
    }

    fn set_up(&mut self) -> Result<(), String> {
        self.round += 1;
        let version = format!("v{}", self.round);
        set_up(&self.pod, &self.objects, &Tokens::new(), &self.node, &NoMounts, &version)
    }

    /// Names and contents of what a volume shows.
    fn shows(&self, volume: &str) -> Vec<String> {
        let root = &locations(&self.pod, &self.node.paths, &Objects::default())[volume];
        let mut found = Vec::new();
        list(root, root, &mut found);
        found.sort();
        found
    }
}

fn list(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("the volume is there").flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with("..") {
            continue;
        }
        let meta = std::fs::metadata(&path).expect("the link leads somewhere");
        if meta.is_dir() {
            list(root, &path, found);
        } else {
            let name = path.strip_prefix(root).expect("it is below").display().to_string();
            let text = std::fs::read_to_string(&path).expect("it can be read");
            found.push(format!("{name} {:o} {text}", meta.permissions().mode() & 0o777));
        }
    }
}

#[test]
fn a_config_map_shows_its_newest_entries_and_no_others() {
    let mut trial = Trial::new("[{name: v, configMap: {name: m, defaultMode: 0o600}}]");
    assert_eq!(trial.set_up(), Err("MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found".to_owned()));
    trial.config_map("{a: '1', b: '2'}");
    trial.set_up().expect("it can be set up");
    assert_eq!(trial.shows("v"), ["a 600 1", "b 600 2"]);
    let root = trial.folder.join("pods/u/volumes/kubernetes.io~configmap/v");
    let before = std::fs::read_link(root.join("..data")).expect("the link is there");
    trial.set_up().expect("it can be repeated");
    assert_eq!(std::fs::read_link(root.join("..data")).expect("the link is there"), before, "nothing has changed");
    trial.config_map("{a: '3', c: '4'}");
    trial.set_up().expect("it can be changed");
    assert_eq!(trial.shows("v"), ["a 600 3", "c 600 4"]);
    assert!(!root.join(before).exists(), "the old set is gone");
}

#[test]
fn items_and_downward_files_go_where_they_are_told() {
    let mut trial = Trial::new(
        "[{name: v, projected: {sources: [
            {configMap: {name: m, items: [{key: a, path: sub/x, mode: 0o400}]}},
            {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}]}}]",
    );
    trial.config_map("{a: '1', b: '2'}");
    trial.set_up().expect("it can be set up");
    assert_eq!(trial.shows("v"), ["labels 644 a=\"b\"", "sub/x 400 1"]);
}

#[test]
fn host_paths_are_what_they_shall_be() {
    let check = |kind: &str| Trial::new(&format!("[{{name: v, hostPath: {{path: FOLDER/x, type: {kind}}}}}]")).set_up();
    assert_eq!(check("DirectoryOrCreate"), Ok(()));
    assert_eq!(check("FileOrCreate"), Ok(()));
    let refused = check("Directory").expect_err("there is no such folder");
    assert!(refused.contains("hostPath type check failed") && refused.ends_with("x is not a directory"), "{refused}");
    let refused = Trial::new("[{name: v, iscsi: {iqn: q, lun: 0, targetPortal: t}}]").set_up().expect_err("no plugin");
    assert!(refused.ends_with("no volume plugin matched"), "{refused}");
}

#[test]
fn an_empty_folder_is_kept_and_then_taken_away() {
    let mut trial = Trial::new("[{name: v, emptyDir: {}}]");
    trial.set_up().expect("it can be set up");
    let root = locations(&trial.pod, &trial.node.paths, &Objects::default())["v"].clone();
    std::fs::write(root.join("kept"), "x").expect("anybody may write");
    trial.set_up().expect("it can be repeated");
    assert_eq!(trial.shows("v"), ["kept 644 x"]);
    assert_eq!(std::fs::metadata(&root).expect("it is there").permissions().mode() & 0o777, 0o777);
    tear_down(&trial.node.paths.pod("u"), &NoMounts).expect("it can be taken away");
    assert!(!root.exists());
}

#[test]
fn sub_paths_are_made_and_do_not_lead_out() {
    let mut trial = Trial::new("[{name: v, emptyDir: {}}]");
    trial.set_up().expect("it can be set up");
    let root = locations(&trial.pod, &trial.node.paths, &Objects::default())["v"].clone();
    std::os::unix::fs::symlink("/", root.join("out")).expect("a link can be made");
    let prepare = |sub_path: &str| {
        let container = format!("{{name: c, volumeMounts: [{{name: v, mountPath: /v, subPath: {sub_path}}}]}}");
        let container = serde_saphyr::from_str(&container).expect("valid YAML of a container");
        prepare_sub_paths(&trial.pod, &container, &BTreeMap::new(), &Objects::default(), &trial.node, &NoMounts)
    };
    assert_eq!(prepare("a/b").map(|places| places.len()), Ok(1));
    assert!(root.join("a/b").is_dir());
    for escaping in ["out/etc", "out/skiff-no-such-folder/x", "../x"] {
        assert!(prepare(escaping).is_err(), "{escaping}");
    }
}
