//! What drivers are asked, by tables.

use std::sync::Arc;

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::CSIDriverSpec;

use super::*;

fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).expect("valid YAML")
}

fn persistent(spec: &str) -> Wanted {
    let volume: PersistentVolume = yaml(&format!("{{metadata: {{name: pv}}, spec: {spec}}}"));
    let spec = volume.spec.expect("it has one");
    let source = spec.csi.clone().expect("it is a driver's");
    Wanted::persistent("pv", &spec, &source, false)
}

#[test]
fn names_are_those_that_upstream_makes() {
    let pod: Pod = yaml("{metadata: {uid: u}, spec: {containers: [], volumes: [{name: v, csi: {driver: d.x}}]}}");
    let volume = &pod.spec.as_ref().expect("a spec").volumes.as_ref().expect("volumes")[0];
    let wanted = Wanted::inline(&pod, volume, volume.csi.as_ref().expect("a driver's"));
    // What a program of another maker computes: `printf uv | sha256sum`.
    assert_eq!(wanted.handle, format!("csi-{}", sha256_hex(&["uv"])));
    let paths = Paths { root: "/k".into(), logs: "/l".into() };
    assert_eq!(wanted.target(&pod, &paths), Path::new("/k/pods/u/volumes/kubernetes.io~csi/v/mount"));
    let memory = wanted.remembered("n1", &CSIDriverSpec::default());
    let staged = memory.staging(&paths);
    assert!(staged.starts_with("/k/plugins/kubernetes.io/csi/d.x") && staged.ends_with("globalmount"));
    let block = Memory { block: true, ..memory };
    assert_eq!(block.staging(&paths), Path::new("/k/plugins/kubernetes.io/csi/volumeDevices/staging/v"));
    assert_eq!(block.staging_memory(&paths), Path::new("/k/plugins/kubernetes.io/csi/volumeDevices/v/data"));
}

#[test]
fn volumes_are_used_as_their_modes_say() {
    let check = |modes: &str, tells_writers: bool, number: i32| {
        let wanted = persistent(&format!("{{accessModes: [{modes}], csi: {{driver: d, volumeHandle: h}}}}"));
        let mode = wanted.capability(tells_writers, Some(5)).access_mode.expect("always");
        assert_eq!(mode.mode, number, "{modes}");
    };
    check("ReadWriteOnce", false, 1);
    check("ReadWriteOnce", true, 7);
    check("ReadWriteOncePod", true, 6);
    check("ReadOnlyMany", true, 3);
    check("ReadWriteMany", false, 5);
}

#[test]
fn files_go_to_the_group_as_the_driver_says() {
    let check = |policy: &str, fs_type: &str, mode: &str, expected: bool| {
        let driver: CSIDriverSpec = yaml(&format!("{{fsGroupPolicy: {policy}}}"));
        let source = format!("{{accessModes: [{mode}], csi: {{driver: d, volumeHandle: h, fsType: '{fs_type}'}}}}");
        assert_eq!(persistent(&source).takes_group(&driver), expected, "{policy} {fs_type:?} {mode}");
    };
    check("File", "", "ReadWriteMany", true);
    check("None", "ext4", "ReadWriteOnce", false);
    check("ReadWriteOnceWithFSType", "ext4", "ReadWriteOnce", true);
    check("ReadWriteOnceWithFSType", "", "ReadWriteOnce", false);
    check("ReadWriteOnceWithFSType", "ext4", "ReadWriteMany", false);
}

#[test]
fn drivers_are_told_of_the_pod_where_they_want_it() {
    let check = |driver: &str, expected: Expect| {
        let driver: CSIDriverSpec = yaml(driver);
        let pod: Pod =
            yaml("{metadata: {name: p, namespace: n, uid: u}, spec: {serviceAccountName: a, containers: []}}");
        let tokens = token_requests(&driver)
            .into_iter()
            .map(|source| (source, ("t".to_owned(), "2026-01-01T00:00:00Z".to_owned())))
            .collect();
        let wanted = persistent("{csi: {driver: d, volumeHandle: h, volumeAttributes: {speed: high}}}");
        let told: BTreeMap<_, _> = wanted.context(&pod, &driver, tokens_text(&tokens).as_deref()).into_iter().collect();
        expected.assert_eq(&format!("{told:?}"));
    };
    check("{}", expect![[r#"{"speed": "high"}"#]]);
    check(
        "{podInfoOnMount: true, tokenRequests: [{audience: vault}]}",
        expect![[
            r#"{"csi.storage.k8s.io/ephemeral": "false", "csi.storage.k8s.io/pod.name": "p", "csi.storage.k8s.io/pod.namespace": "n", "csi.storage.k8s.io/pod.uid": "u", "csi.storage.k8s.io/serviceAccount.name": "a", "csi.storage.k8s.io/serviceAccount.tokens": "{\"vault\":{\"expirationTimestamp\":\"2026-01-01T00:00:00Z\",\"token\":\"t\"}}", "speed": "high"}"#
        ]],
    );
}

#[tokio::test]
async fn a_driver_that_is_gone_keeps_what_it_mounted() {
    let folder = std::env::temp_dir().join(format!("skiff-csi-{}", skiff_base::ids::Ids::random().suffix(8)));
    let drivers: Arc<Drivers> = Drivers::new(Paths { root: folder.clone(), logs: folder.clone() }, Arc::default());
    let volume = folder.join("pods/u/volumes").join(FOLDER).join("v");
    let memory = Memory { driver_name: "d.x".into(), spec_vol_id: "v".into(), ..Memory::default() };
    memory.save(&volume).expect("written");
    let refused = drivers.unpublish_all("u").await;
    let stays = Memory::load(&volume).ok();
    let none = drivers.unpublish_all("other").await;
    std::fs::remove_dir_all(&folder).expect("it goes");
    assert_eq!(
        refused,
        Err("kubernetes.io/csi: unmounting volume \"v\": driver name d.x not found in the list of registered CSI drivers"
            .to_owned())
    );
    assert_eq!((stays, none), (Some(memory), Ok(())));
}
