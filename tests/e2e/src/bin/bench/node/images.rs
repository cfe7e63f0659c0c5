//! A large layer, packed by gzip and by zstd: imported (hashed twice and unpacked), beside GNU tar that only unpacks it and
//! a plain copy of its bytes, which is what the disk allows.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Node;

const LAYER_BYTES: u64 = 700_000_000;
/// Where files for the layer are taken from, until there are enough.
const SOURCES: [&str; 4] = ["usr/lib", "usr/bin", "usr/share", "usr"];
const RUNS: usize = 3;

/// Imports of the layer by either runtime.
pub fn measure(node: &Node<'_>) {
    let folder = node.cluster.folder().join("unpack");
    std::fs::create_dir_all(&folder).expect("a writable folder");
    let layer = make_layer(&folder);
    if node.is_embedded() {
        let seconds = timed(&folder, &format!("cat {} > copy && sync -f copy && rm copy", layer.display()));
        println!("| writing the bytes of the layer to this disk | - | {seconds:.1} s |");
    }
    for (name, pack) in [("gzip", "gzip --fast"), ("zstd", "zstd --quiet -3 --stdout")] {
        import(node, &folder, &layer, name, pack);
    }
    std::fs::remove_dir_all(&folder).expect("it goes");
}

/// A tar of about the wanted size of whatever this machine has installed.
fn make_layer(folder: &Path) -> PathBuf {
    let (mut files, mut size) = (Vec::new(), 0);
    for source in SOURCES {
        collect(Path::new("/").join(source), &mut files, &mut size);
    }
    let list: Vec<String> = files.iter().map(|file| format!("{}\n", &file.display().to_string()[1..])).collect();
    std::fs::write(folder.join("files"), list.concat()).expect("a writable folder");
    shell(folder, "tar --create --file layer.tar --directory / --no-recursion --files-from files");
    folder.join("layer.tar")
}

fn collect(folder: PathBuf, files: &mut Vec<PathBuf>, size: &mut u64) {
    let mut entries: Vec<_> = std::fs::read_dir(&folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if *size >= LAYER_BYTES {
            return;
        }
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        // A name per line, as tar wants it.
        let plain = path.to_str().is_some_and(|path| !path.contains(['\n', '\\']));
        if meta.is_dir() {
            collect(path, files, size);
        } else if meta.is_file() && plain && !files.contains(&path) {
            *size += meta.len();
            files.push(path);
        }
    }
}

fn shell(folder: &Path, script: &str) {
    let status = Command::new("sh").args(["-ec", script]).current_dir(folder).stdin(Stdio::null()).status();
    assert!(status.expect("a shell").success(), "{script}");
}

fn timed(folder: &Path, script: &str) -> f64 {
    shell(folder, "sync -f .");
    let start = Instant::now();
    shell(folder, script);
    start.elapsed().as_secs_f64()
}

fn import(node: &Node<'_>, folder: &Path, layer: &Path, name: &str, pack: &str) {
    if Command::new(name).arg("--version").stdout(Stdio::null()).status().is_err() {
        node.line(&format!("unpacking a layer packed by {name}"), &format!("{name} is not installed"));
        return;
    }
    shell(folder, &format!("{pack} < layer.tar > packed"));
    let (packed, image, reference) =
        (folder.join("packed"), folder.join("image.tar"), format!("localhost:5000/large:{name}"));
    skiff_e2e::image::of_layer(layer, &packed, name).and_then(|made| made.save(&reference, &image)).expect("written");
    let image = image.display().to_string();
    let (mut ours, mut tars) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
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
        shell(folder, "mkdir out");
        tars.push(timed(
            folder,
            &format!("{name} -dc < packed | tar --extract --file - --directory out && sync -f out"),
        ));
        shell(folder, "rm -r out");
    }
    let (ours, tars) = (crate::percentile(&ours, 0.5), crate::percentile(&tars, 0.5));
    let megabytes = std::fs::metadata(layer).expect("the layer").len() / 1_000_000;
    let text = format!("{ours:.1} s; GNU tar with sync {tars:.1} s; ratio {:.2}", ours / tars);
    node.line(&format!("importing a layer of {megabytes} MB packed by {name}"), &text);
}
