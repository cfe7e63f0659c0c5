//! Archives as docker and others write them, and broken ones.

use super::*;

/// An OCI layout with one image.
pub(super) fn layout(sample: &Sample, name: Option<&str>) -> Vec<u8> {
    let mut manifest = pointer("application/vnd.oci.image.manifest.v1+json", &sample.manifest);
    if let Some(name) = name {
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    }
    layout_of(&json!({ "schemaVersion": 2, "manifests": [manifest] }), &sample.blobs())
}

fn layout_of(index: &Value, blobs: &[&[u8]]) -> Vec<u8> {
    let index = index.to_string();
    let names: Vec<String> = blobs.iter().map(|blob| format!("blobs/sha256/{}", Digest::of(blob).hex())).collect();
    let mut files: Vec<(&str, &[u8])> = vec![("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)];
    files.extend(names.iter().map(String::as_str).zip(blobs.iter().copied()));
    files.push(("index.json", index.as_bytes()));
    tar_of(&files)
}

/// What `docker save` wrote for many years: layers in folders of their own, a repeated one as a link.
fn saved(sample: &Sample, tags: Value) -> Vec<u8> {
    let config_name = format!("{}.json", sample.id().hex());
    let layers: Vec<String> = (0..sample.layers.len()).map(|number| format!("layer{number}/layer.tar")).collect();
    let manifest = json!([{ "Config": config_name, "RepoTags": tags, "Layers": layers }]).to_string();
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    };
    add("stored/layer.tar", &sample.layers[0].0);
    for (name, (blob, _)) in layers.iter().zip(&sample.layers).skip(1) {
        add(name, blob);
    }
    add(&config_name, &sample.config);
    add("manifest.json", manifest.as_bytes());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, &layers[0], "../stored/layer.tar").unwrap();
    tar.into_inner().unwrap()
}

async fn import(archive: &[u8], names: &[&str]) -> Result<(ImageRecord, Rootfs), String> {
    let folder = Folder::new("import");
    let path = folder.path().join("archive");
    std::fs::write(&path, archive).unwrap();
    let store = open(&folder);
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let imported = store.import(&path, &names).await;
    let imported = imported.map_err(|error| error.to_string().replace(&path.display().to_string(), "FILE"))?;
    let rootfs = store.rootfs(&imported[0].id.to_string()).unwrap();
    assert_eq!(contents(&rootfs, "etc/a"), ["1", "2"]);
    assert_eq!(contents(&rootfs, "etc/c"), ["3"]);
    Ok((imported[0].clone(), rootfs))
}

#[tokio::test]
async fn archives_of_all_kinds_are_read() {
    let sample = Sample::hello();
    let tags = json!(["localhost:5000/hello:v1", "hello:v2"]);
    let names = ["docker.io/library/hello:v2", "localhost:5000/hello:v1"];
    for archive in [saved(&sample, tags.clone()), gzip(&saved(&sample, tags))] {
        let (image, rootfs) = import(&archive, &[]).await.unwrap();
        assert_eq!(image.tags, names);
        assert_eq!((image.id.clone(), rootfs.layers.len()), (sample.id(), 3));
        let config = image.config;
        assert_eq!(config.entrypoint.unwrap(), ["/hello"]);
        assert_eq!(config.stop_signal.unwrap(), "SIGQUIT");
        assert_eq!((config.user.unwrap(), config.working_dir.unwrap()), ("1000:1000".into(), "/work".into()));
    }
    let (image, _) = import(&layout(&sample, Some("localhost:5000/hello:v1")), &[]).await.unwrap();
    assert_eq!(image.tags, ["localhost:5000/hello:v1"]);
    assert_eq!(image.digests, [format!("localhost:5000/hello@{}", Digest::of(&sample.manifest))]);
    let (image, _) = import(&layout(&sample, Some("v1")), &[]).await.unwrap();
    assert_eq!((image.tags.len(), image.digests.len()), (0, 0), "a tag alone names nothing");
    let (image, _) = import(&gzip(&layout(&sample, None)), &["hello"]).await.unwrap();
    assert_eq!(image.tags, ["docker.io/library/hello:latest"]);
}

#[tokio::test]
async fn of_several_platforms_the_one_for_this_machine_is_taken() {
    let sample = Sample::hello();
    let (arch, variant) = platform::candidates(std::env::consts::ARCH)[0];
    let mut mine = pointer("application/vnd.oci.image.manifest.v1+json", &sample.manifest);
    mine["platform"] = json!({ "os": "linux", "architecture": arch, "variant": variant });
    let mut other = pointer("application/vnd.oci.image.manifest.v1+json", b"not in the archive");
    other["platform"] = json!({ "os": "linux", "architecture": "s390x" });
    let index = json!({ "schemaVersion": 2, "manifests": [other, mine] }).to_string().into_bytes();
    let mut top = pointer("application/vnd.oci.image.index.v1+json", &index);
    top["annotations"] = json!({ "io.containerd.image.name": "docker.io/library/hello:v1" });
    let mut blobs = sample.blobs();
    blobs.push(&index);
    let archive = layout_of(&json!({ "schemaVersion": 2, "manifests": [top] }), &blobs);
    let (image, _) = import(&archive, &[]).await.unwrap();
    assert_eq!(image.digests, [format!("docker.io/library/hello@{}", Digest::of(&index))]);
    assert_eq!(image.manifests, [Digest::of(&index), Digest::of(&sample.manifest)]);
}

#[tokio::test]
async fn broken_archives_are_refused() {
    let sample = Sample::hello();
    let code = "rpc error: code = InvalidArgument desc = importing FILE: ";
    let check = async |archive: &[u8], expected: &str| {
        let error = import(archive, &[]).await.unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    };
    let nothing =
        format!("{code}it is no image: there is neither an index.json (OCI) nor a manifest.json (docker save)");
    check(&tar_of(&[("a", b"b")]), &nothing).await;
    check(b"", &nothing).await;
    check(b"this is no tar at all, but some text that is long enough", &format!("{code}the archive is broken: ")).await;
    let whole = gzip(&layout(&sample, None));
    check(&whole[..whole.len() - 100], &format!("{code}the archive is broken: ")).await;
    check(&layout(&sample, None)[..2000], &format!("{code}the archive is broken: ")).await;
    check(b"BZh91AY&SY", &format!("{code}the archive is broken: bzip2 compression is not supported")).await;
    let swapped = tar_of(&[("oci-layout", b"{}"), (&format!("blobs/sha256/{}", "0".repeat(64)), b"x")]);
    check(&swapped, &format!("{code}blobs/sha256/{} is damaged: its digest is sha256:", "0".repeat(64))).await;
    let missing = json!([{ "Config": "c.json", "Layers": ["l/layer.tar"] }]).to_string();
    check(&tar_of(&[("manifest.json", missing.as_bytes())]), &format!("{code}c.json is missing")).await;
    let tampered = Sample { layers: vec![(tar_of(&[("evil", b"")]), sample.layers[0].1.clone())], ..Sample::hello() };
    let absent = layout(&tampered, None);
    check(&absent, "rpc error: code = NotFound desc = importing FILE: content digest sha256:").await;
    let folder = Folder::new("absent");
    let error = open(&folder).import("/nowhere/x.tar", &[]).await.unwrap_err();
    assert_eq!(error.message, "importing /nowhere/x.tar: No such file or directory (os error 2)");
}

#[tokio::test]
async fn layers_that_are_not_what_the_configuration_says_are_refused() {
    let mut sample = Sample::new("wrong", &[tar_of(&[("a", b"1")])]);
    let other = Sample::new("other", &[tar_of(&[("a", b"2")])]);
    sample.layers = other.layers;
    let mut manifest: Value = serde_json::from_slice(&other.manifest).unwrap();
    manifest["config"] = pointer("application/vnd.oci.image.config.v1+json", &sample.config);
    sample.manifest = manifest.to_string().into_bytes();
    let error = import(&layout(&sample, None), &[]).await.unwrap_err();
    assert!(error.contains("code = FailedPrecondition desc = importing FILE: wrong diff id sha256:"), "{error}");
    manifest["layers"] = json!([]);
    sample.manifest = manifest.to_string().into_bytes();
    let error = import(&layout(&sample, None), &[]).await.unwrap_err();
    assert!(error.ends_with("mismatched image rootfs and manifest layers: 1 and 0"), "{error}");
}

#[tokio::test]
async fn what_is_saved_can_be_imported_again() {
    let folder = Folder::new("save");
    let sample = Sample::hello();
    for (number, archive) in
        [layout(&sample, Some("a.example/b:1")), saved(&sample, json!(["a.example/b:1"]))].into_iter().enumerate()
    {
        let store = ImageStore::open(folder.path().join(number.to_string()), ImageStoreOptions::default()).unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        std::fs::write(&first, archive).unwrap();
        store.import(&first, &[]).await.unwrap();
        store.save(&["a.example/b:1".to_owned()], &second).await.unwrap();
        let (image, _) = import(&std::fs::read(&second).unwrap(), &[]).await.unwrap();
        assert_eq!((image.id, image.tags), (sample.id(), vec!["a.example/b:1".to_owned()]));
        let missing = store.save(&["a.example/none:1".to_owned()], &second).await.unwrap_err();
        assert_eq!(missing.message, "image \"a.example/none:1\" not found");
    }
}
