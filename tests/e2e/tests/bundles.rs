//! ClusterTrustBundles: Pods that have them in their volumes, see them change, and wait for those that are not there.

use expect_test::expect;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, hello_image};

const GATES: &str = "ClusterTrustBundle=true,ClusterTrustBundleProjection=true";

/// A Pod with one projected source.
fn pod(name: &str, source: &str, context: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  securityContext: {context}
  containers:
  - name: main
    image: localhost:5000/hello:v1
    command: [sleep, '1000']
    volumeMounts: [{{name: trusted, mountPath: /trusted}}]
  volumes:
  - name: trusted
    projected: {{sources: [{{clusterTrustBundle: {source}}}]}}
"
    )
}

fn authority() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").pem().replace("\r\n", "\n")
}

fn bundle(name: &str, signer: &str, label: &str, certificates: &[&str]) -> String {
    let certificates = serde_json::Value::from(certificates.concat());
    format!(
        "---\napiVersion: certificates.k8s.io/v1beta1\nkind: ClusterTrustBundle\n\
         metadata: {{name: {name:?}, labels: {{for: {label}}}}}\n\
         spec: {{signerName: {signer:?}, trustBundle: {certificates}}}\n"
    )
}

/// Certificates in one order.
fn sorted(text: &str) -> Vec<String> {
    let mut all: Vec<_> = text.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect();
    all.sort();
    all
}

#[test]
fn pods_have_bundles_in_their_volumes() {
    let cluster = Cluster::empty("bundles");
    let refused = cluster.skiff(&["up", "--feature-gates", "Magic=true"]);
    assert!(refused.code != 0 && refused.stderr.contains("unrecognized feature gate: Magic"), "{refused:?}");
    let alone = cluster.skiff(&["up", "--feature-gates", "ClusterTrustBundleProjection=true"]);
    let words =
        "ClusterTrustBundleProjection is enabled, but depends on features that are disabled: [ClusterTrustBundle]";
    assert!(alone.code != 0 && alone.stderr.contains(words), "{alone:?}");
    let version = "certificates.k8s.io/v1beta1/clustertrustbundles=true";
    cluster.skiff(&["up", "--feature-gates", GATES, "--runtime-config", version]).ok();
    let file = cluster.folder().join("hello-v1.tar");
    hello_image("v1").save("localhost:5000/hello:v1", &file).expect("written");
    cluster.skiff(&["image", "import", &file.display().to_string()]).ok();
    let (one, two, three) = (authority(), authority(), authority());
    bundles_are_published(&cluster);
    cluster.create(&pod("named", "{name: plain, path: ca.pem}", "{}"));
    cluster.create(&pod("missing", "{name: none, path: ca.pem}", "{}"));
    cluster.create(&pod("unmatched", "{signerName: x.io/s, path: ca.pem}", "{}"));
    let apply = |manifest: &str| cluster.kubectl_with("apply -f -", manifest).ok();
    apply(&format!(
        "{}{}{}",
        bundle("plain", "", "a", &["words before\n", &one]),
        bundle("x.io:s:first", "x.io/s", "a", &[&one, &two]),
        bundle("x.io:s:second", "x.io/s", "b", &[&two, &three]),
    ));
    cluster.create(&pod("all", "{signerName: x.io/s, labelSelector: {}, path: deep/ca.pem}", "{runAsUser: 1000}"));
    let labels = "{signerName: x.io/s, labelSelector: {matchLabels: {for: b}}, path: ca.pem}";
    cluster.create(&pod("some", labels, "{}"));
    cluster.create(&pod("optional", "{name: none, path: ca.pem, optional: true}", "{}"));
    for name in ["named", "all", "some", "optional"] {
        cluster.ready(name);
    }
    let seen = |pod: &str, file: &str| cluster.sh(pod, &format!("cat /trusted/{file}")).ok();
    assert_eq!(seen("named", "ca.pem"), one, "without the words");
    assert_eq!(sorted(&seen("all", "deep/ca.pem")), sorted(&[&*one, &*two, &*three].concat()), "each is there once");
    assert_eq!(sorted(&seen("some", "ca.pem")), sorted(&[&*two, &*three].concat()));
    assert_eq!(seen("optional", "ca.pem"), "");
    let modes = |pod: &str, file: &str| cluster.sh(pod, &format!("stat -L -c '%a %u' /trusted/{file}")).ok();
    assert_eq!((modes("named", "ca.pem").trim(), modes("all", "deep/ca.pem").trim()), ("644 0", "600 1000"));

    // What changes is seen in the volume.
    apply(&bundle("plain", "", "a", &[&one, &two]));
    eventually("an update is seen", || sorted(&seen("named", "ca.pem")) == sorted(&[&*one, &*two].concat()));
    cluster.kubectl("delete clustertrustbundle x.io:s:first").ok();
    eventually("one that went is seen", || sorted(&seen("all", "deep/ca.pem")) == sorted(&[&*two, &*three].concat()));

    // What is not there is waited for.
    for (pod, why) in [
        ("missing", "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"none\" not found"),
        ("unmatched", "combination of signerName and labelSelector matched zero ClusterTrustBundles"),
    ] {
        eventually(&format!("{pod} tells why it waits"), || {
            let told = cluster
                .kubectl(&format!("get events --field-selector involvedObject.name={pod},reason=FailedMount -o json"));
            told.ok().contains(&format!(
                "MountVolume.SetUp failed for volume \\\"trusted\\\" : {}",
                why.replace('"', "\\\"")
            ))
        });
        assert_eq!(cluster.get(&format!("pod {pod}"))["status"]["phase"], "Pending");
    }
    apply(&bundle("none", "", "a", &[&three]));
    cluster.ready("missing");
    assert_eq!(seen("missing", "ca.pem"), three);
    eventually("what was optional came", || seen("optional", "ca.pem") == three);
}

/// The authority of the API server is published under the name of its signer, by whoever may attest for that alone.
fn bundles_are_published(cluster: &Cluster) {
    let signer = "spec.signerName=kubernetes.io/kube-apiserver-serving";
    let mut found = serde_json::Value::Null;
    eventually("the API server's authority is published", || {
        found = cluster.get(&format!("clustertrustbundles --field-selector {signer}"))["items"].clone();
        found.as_array().is_some_and(|items| items.len() == 1)
    });
    let root = cluster.get("configmap kube-root-ca.crt")["data"]["ca.crt"].clone();
    assert_eq!(found[0]["spec"]["trustBundle"], root);
    let name = found[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let shown = cluster.kubectl("get clustertrustbundles").ok();
    expect![[r#"
        NAME SIGNERNAME
        NAME kubernetes.io/kube-apiserver-serving
    "#]]
    .assert_eq(&shown.replace(&name, "NAME").lines().map(words).collect::<String>());
    // Another one of that signer does not stay.
    let other = bundle(
        "kubernetes.io:kube-apiserver-serving:other",
        "kubernetes.io/kube-apiserver-serving",
        "a",
        &[&authority()],
    );
    cluster.create(&other);
    eventually("only the published one stays", || {
        cluster.get(&format!("clustertrustbundles --field-selector {signer}"))["items"].as_array().map(Vec::len)
            == Some(1)
    });
    cluster.kubectl(&format!("delete clustertrustbundle {name}")).ok();
    eventually("it is published again", || cluster.kubectl(&format!("get clustertrustbundle {name}")).code == 0);
}

fn words(line: &str) -> String {
    format!("{}\n", line.split_whitespace().collect::<Vec<_>>().join(" "))
}
