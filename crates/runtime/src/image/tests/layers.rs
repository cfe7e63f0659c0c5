//! Layers, good ones and bad ones.

use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use expect_test::{Expect, expect};
use tar::EntryType;

use super::super::apply::apply;
use super::*;

/// Makes entries that the library would not write itself.
struct Entries(tar::Builder<Vec<u8>>);

impl Entries {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryType, path: &str, link: &str, content: &[u8], mode: u32) -> Self {
        let mut header = tar::Header::new_gnu();
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.add(EntryType::Regular, path, "", content.as_bytes(), 0o644)
    }

    fn folder(self, path: &str) -> Self {
        self.add(EntryType::Directory, path, "", b"", 0o750)
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, path, target, b"", 0o777)
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Link, path, target, b"", 0o644)
    }

    fn extended(mut self, fields: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(fields.iter().copied()).unwrap();
        self
    }

    fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn opened(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// A folder's content, a line for each name.
fn tree(root: &Path) -> String {
    let mut text = String::new();
    let mut walk = vec![root.to_owned()];
    while let Some(path) = walk.pop() {
        let stat = std::fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let what = if kind.is_dir() {
            let mut inner: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            inner.sort();
            walk.extend(inner.into_iter().rev());
            "folder".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", std::fs::read_link(&path).unwrap().display())
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {}:{}", stat.rdev() >> 8, stat.rdev() & 0xff)
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("{:?} {}", std::fs::read_to_string(&path).unwrap(), stat.nlink())
        };
        let mut attributes = String::new();
        for attribute in ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.note"] {
            let mut value = [0; 64];
            if let Ok(length) = rustix::fs::lgetxattr(&path, attribute, &mut value) {
                write!(attributes, " {attribute}={}", String::from_utf8_lossy(&value[..length])).unwrap();
            }
        }
        let (mode, time) = (stat.mode() & 0o7777, stat.mtime());
        let time = if time > 1_700_000_000 { "now".to_owned() } else { format!("{time}.{}", stat.mtime_nsec()) };
        writeln!(text, "/{name} {mode:o} {}:{} {time} {what}{attributes}", stat.uid(), stat.gid()).unwrap();
    }
    text
}

fn check(entries: Entries, expected: Expect) {
    let folder = Folder::new("layer");
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(folder.path().join("outside"), "safe").unwrap();
    let shown = match apply(entries.tar().as_slice(), opened(&root), &[]) {
        Ok(_) => tree(&root),
        Err(error) => error.to_string(),
    };
    assert_eq!(std::fs::read_to_string(folder.path().join("outside")).unwrap(), "safe");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "something was written outside");
    expected.assert_eq(&shown);
}

#[test]
fn everything_keeps_its_kind_owner_mode_and_time() {
    let entries = Entries::new()
        .folder("./")
        .folder("dir/")
        .file("dir/file", "content")
        .add(EntryType::Regular, "dir/setuid", "", b"x", 0o4755)
        .symlink("dir/link", "../../outside")
        .hard_link("second", "dir/file")
        .add(EntryType::Char, "null", "", b"", 0o666)
        .add(EntryType::Fifo, "fifo", "", b"", 0o600)
        .extended(&[
            ("SCHILY.xattr.user.note", b"hi"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("mtime", b"12.5"),
            ("uid", b"3000000"),
        ])
        .file("noted", "");
    check(
        entries,
        expect![[r#"
        / 750 7:8 1000000000.0 folder
        /dir 750 7:8 1000000000.0 folder
        /dir/file 644 7:8 1000000000.0 "content" 2
        /dir/link 777 7:8 1000000000.0 -> ../../outside
        /dir/setuid 4755 7:8 1000000000.0 "x" 1
        /fifo 600 7:8 1000000000.0 fifo
        /noted 644 3000000:8 12.500000000 "" 1 user.note=hi
        /null 666 7:8 1000000000.0 device 1:3
        /second 644 7:8 1000000000.0 "content" 2
    "#]],
    );
}

#[test]
fn removed_names_become_devices_and_replaced_folders_opaque() {
    let entries = Entries::new()
        .file("etc/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "1")
        .file(".wh.again", "")
        .folder("again")
        .file(".wh.back", "")
        .file("back", "2")
        .folder("kept")
        .file(".wh.kept", "")
        .file(".wh..wh.plnk", "");
    check(
        entries,
        expect![[r#"
        / 755 0:0 now folder
        /again 750 7:8 1000000000.0 folder trusted.overlay.opaque=y
        /back 644 7:8 1000000000.0 "2" 1
        /etc 755 0:0 now folder
        /etc/gone 0 0:0 now device 0:0
        /kept 750 7:8 1000000000.0 folder trusted.overlay.opaque=y
        /opaque 755 0:0 now folder trusted.overlay.opaque=y
        /opaque/new 644 7:8 1000000000.0 "1" 1
    "#]],
    );
}

#[test]
fn later_entries_replace_earlier_ones() {
    let entries = Entries::new()
        .file("a/b/c", "1")
        .file("a", "2")
        .symlink("link", "target")
        .folder("link")
        .file("link/x", "3")
        .file("x", "4")
        .file("x", "5");
    check(
        entries,
        expect![[r#"
        / 755 0:0 now folder
        /a 644 7:8 1000000000.0 "2" 1
        /link 750 7:8 1000000000.0 folder
        /link/x 644 7:8 1000000000.0 "3" 1
        /x 644 7:8 1000000000.0 "5" 1
    "#]],
    );
}

#[test]
fn nothing_leads_out_of_the_layer() {
    check(
        Entries::new().file("../outside", "bad").file("/../../abs", "1").file("/etc/x", "2"),
        expect![[r#"
        / 755 0:0 now folder
        /abs 644 7:8 1000000000.0 "1" 1
        /etc 755 0:0 now folder
        /etc/x 644 7:8 1000000000.0 "2" 1
        /outside 644 7:8 1000000000.0 "bad" 1
    "#]],
    );
    check(
        Entries::new().symlink("up", "..").file("up/outside", "bad"),
        expect![[r#"
        / 755 0:0 now folder
        /outside 644 7:8 1000000000.0 "bad" 1
        /up 777 7:8 1000000000.0 -> ..
    "#]],
    );
    check(
        Entries::new()
            .symlink("abs", "/")
            .file("abs/outside", "bad")
            .folder("d")
            .symlink("d/up", "../../..")
            .file("d/up/y", "z"),
        expect![[r#"
            / 755 0:0 now folder
            /abs 777 7:8 1000000000.0 -> /
            /d 750 7:8 1000000000.0 folder
            /d/up 777 7:8 1000000000.0 -> ../../..
            /outside 644 7:8 1000000000.0 "bad" 1
            /y 644 7:8 1000000000.0 "z" 1
        "#]],
    );
    check(
        Entries::new().symlink("file", "../outside").file("file", "bad"),
        expect![[r#"
        / 755 0:0 now folder
        /file 644 7:8 1000000000.0 "bad" 1
    "#]],
    );
    check(
        Entries::new().hard_link("stolen", "../outside"),
        expect![[r#""stolen": No such file or directory (os error 2)"#]],
    );
    check(
        Entries::new().symlink("up", "..").hard_link("stolen", "up/outside"),
        expect![[r#""stolen": No such file or directory (os error 2)"#]],
    );
    check(
        Entries::new().symlink("up", "..").file("up/.wh.outside", ""),
        expect![[r#"
        / 755 0:0 now folder
        /outside 0 0:0 now device 0:0
        /up 777 7:8 1000000000.0 -> ..
    "#]],
    );
    check(Entries::new().file(".wh...", ""), expect![[r#"".wh...": invalid entry: a whiteout of nothing"#]]);
    check(
        Entries::new().symlink("loop", "loop").file("loop/x", ""),
        expect![[r#""loop/x": Too many levels of symbolic links (os error 40)"#]],
    );
}

#[test]
fn folders_that_a_layer_leaves_out_are_as_they_were_below() {
    let folder = Folder::new("below");
    let (below, above) = (folder.path().join("below"), folder.path().join("above"));
    for layer in [&below, &above] {
        std::fs::create_dir(layer).unwrap();
    }
    let lower = Entries::new().folder("var").folder("var/lib").add(EntryType::Directory, "tmp", "", b"", 0o1777);
    apply(lower.tar().as_slice(), opened(&below), &[]).unwrap();
    let upper = Entries::new().file("var/lib/x", "").file("tmp/y", "").file("other/z", "");
    let usage = apply(upper.tar().as_slice(), opened(&above), &[opened(&below)]).unwrap();
    assert_eq!(usage, Usage { bytes: 0, inodes: 7 });
    let shown: String = tree(&above)
        .lines()
        .filter(|line| line.contains("folder"))
        .skip(1)
        .fold(String::new(), |all, line| all + line + "\n");
    expect![[r#"
        /other 755 0:0 now folder
        /tmp 1777 7:8 1000000000.0 folder
        /var 750 7:8 1000000000.0 folder
        /var/lib 750 7:8 1000000000.0 folder
    "#]]
    .assert_eq(&shown);
}
