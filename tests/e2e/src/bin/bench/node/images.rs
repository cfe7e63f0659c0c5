//! A large layer, packed by gzip and by zstd: imported (hashed twice and unpacked), beside GNU tar that only unpacks it and
//! a plain copy of its bytes, which is what the disk allows.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Node;

/// Where files for the layer are taken from, until there are enough.
const SOURCES: [&str; 4] = ["usr/lib", "usr/bin", "usr/share", "usr"];
/// No single command takes longer.
const COMMAND_SECONDS: &str = "240";

/// What the disk allows: the layer's bytes, written.
pub fn disk(node: &Node<'_>) {
    if !node.is_embedded() {
        return;
    }
    let layer = layer(node);
    let script = format!("cat {} > copy && sync -f copy && rm copy", layer.display());
    let megabytes = megabytes(&layer);
    println!("| writing {megabytes} MB to this disk | - | {:.1} s |", timed(node.folder, &script));
}

/// The large layer, which is made when it is first asked for.
fn layer(node: &Node<'_>) -> PathBuf {
    let layer = node.folder.join("layer.tar");
    if !layer.exists() {
        make_layer(node.folder, node.size.layer_bytes);
    }
    layer
}

fn megabytes(layer: &Path) -> u64 {
    std::fs::metadata(layer).expect("the layer").len() / 1_000_000
}

/// A tar of about the wanted size of whatever this machine has installed.
fn make_layer(folder: &Path, bytes: u64) {
    let (mut files, mut size) = (Vec::new(), 0);
    for source in SOURCES {
        collect(&Path::new("/").join(source), bytes, &mut files, &mut size);
    }
    let list: Vec<String> = files.iter().map(|file| format!("{}\n", &file.display().to_string()[1..])).collect();
    std::fs::write(folder.join("files"), list.concat()).expect("a writable folder");
    // Made under another name, so that one that was cut short is not taken for whole.
    shell(
        folder,
        "tar --create --file made.tar --directory / --no-recursion --files-from files; mv made.tar layer.tar",
    );
}

fn collect(folder: &Path, bytes: u64, files: &mut Vec<PathBuf>, size: &mut u64) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if *size >= bytes {
            return;
        }
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        // A name per line, as tar wants it.
        let plain = path.to_str().is_some_and(|path| !path.contains(['\n', '\\']));
        if meta.is_dir() {
            collect(&path, bytes, files, size);
        } else if meta.is_file() && plain && !files.contains(&path) {
            *size += meta.len();
            files.push(path);
        }
    }
}

fn shell(folder: &Path, script: &str) {
    let mut command = Command::new("timeout");
    command.args([COMMAND_SECONDS, "sh", "-ec", script]).current_dir(folder).stdin(Stdio::null());
    assert!(command.status().expect("timeout is installed").success(), "{script}");
}

fn timed(folder: &Path, script: &str) -> f64 {
    shell(folder, "sync -f .");
    let start = Instant::now();
    shell(folder, script);
    start.elapsed().as_secs_f64()
}

/// Imports of the layer in one packing, beside GNU tar where that has not been measured already.
pub fn import(node: &Node<'_>, packing: &str) {
    if Command::new(packing).arg("--version").stdout(Stdio::null()).status().is_err() {
        return node.line(&format!("importing a layer packed by {packing}"), &format!("{packing} is not installed"));
    }
    let (folder, layer) = (node.folder, layer(node));
    let pack = if packing == "gzip" { "gzip --fast" } else { "zstd --quiet -3 --stdout" };
    shell(folder, &format!("{pack} < layer.tar > packed"));
    let (packed, image, reference) =
        (folder.join("packed"), folder.join("image.tar"), format!("localhost:5000/large:{packing}"));
    skiff_e2e::image::of_layer(&layer, &packed, packing)
        .and_then(|made| made.save(&reference, &image))
        .expect("written");
    let image = image.display().to_string();
    let (mut ours, mut tars) = (Vec::new(), Vec::new());
    for _ in 0..node.size.import_runs {
        shell(folder, "sync -f .");
        let start = Instant::now();
        match node.containerd {
            None => node.cluster.skiff(&["image", "import", &image]).ok(),
            Some(containerd) => containerd.ctr(&["images", "import", &image]).ok(),
        };
        ours.push(start.elapsed().as_secs_f64());
        match node.containerd {
            None => node.cluster.skiff(&["image", "rm", &reference]).ok(),
            Some(containerd) => containerd.ctr(&["images", "rm", "--sync", &reference]).ok(),
        };
        if node.is_embedded() {
            shell(folder, "mkdir out");
            let unpack = format!("{packing} -dc < packed | tar --extract --file - --directory out && sync -f out");
            tars.push(timed(folder, &unpack));
            shell(folder, "rm -r out");
        }
    }
    let ours = crate::percentile(&ours, 0.5);
    let beside = match tars[..] {
        [] => String::new(),
        _ => {
            let tars = crate::percentile(&tars, 0.5);
            format!("; GNU tar with sync {tars:.1} s; ratio {:.2}", ours / tars)
        }
    };
    let figure = format!("importing a layer of {} MB packed by {packing}", megabytes(&layer));
    node.line(&figure, &format!("{ours:.1} s{beside}"));
}
