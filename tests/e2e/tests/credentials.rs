//! Programs that give credentials of registries: what they are told of the service account that an image is pulled for.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

const ACCOUNT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: puller, annotations: {registry.example/identity: someone, registry.example/other: unasked}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: pulls}
rules:
- {apiGroups: [''], resources: [registry.example], resourceNames: [puller], verbs: [request-serviceaccounts-token-audience]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: pulls}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: pulls}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:nodes'}]
";

/// A Pod whose image is asked for each time.
fn pod(name: &str, account: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  serviceAccountName: {account}
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: main, image: 'localhost:5000/hello:v1', imagePullPolicy: Always, command: [sleep, '1000']}}
"
    )
}

#[test]
fn programs_are_told_of_service_accounts() {
    let cluster = Cluster::empty("credentials");
    let folder = cluster.folder().to_owned();
    let asked = folder.join("asked");
    let answer = json!({"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Image", "cacheDuration": "1h", "auth": {"localhost:5000": {"username": "u", "password": "p"}}});
    let program = folder.join("provider");
    std::fs::write(&program, format!("#!/bin/sh\n(cat; echo) >> {}\necho '{answer}'\n", asked.display()))
        .expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let config = folder.join("credentials.yaml");
    let text = "
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: provider
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ['localhost:5000']
  defaultCacheDuration: 1h
  tokenAttributes:
    serviceAccountTokenAudience: registry.example
    cacheType: ServiceAccount
    requireServiceAccount: true
    requiredServiceAccountAnnotationKeys: [registry.example/identity]
";
    std::fs::write(&config, text).expect("written");
    let (config, programs) = (config.display().to_string(), folder.display().to_string());
    let arguments =
        ["up", "--image-credential-provider-config", &config, "--image-credential-provider-bin-dir", &programs];
    cluster.skiff(&arguments).ok();
    cluster.create(ACCOUNT);
    // The second Pod of an account is served by what the first one got; one whose account asks for nothing is not served.
    for (name, account) in [("plain", "default"), ("first", "puller"), ("second", "puller")] {
        cluster.create(&pod(name, account));
        // There is no registry: what counts is what comes before it is asked.
        eventually(&format!("the image of {name} is pulled in vain"), || {
            let pod = cluster.get(&format!("pod {name}"));
            let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
            matches!(reason.as_str(), Some("ErrImagePull" | "ImagePullBackOff"))
        });
    }
    let asked = std::fs::read_to_string(&asked).expect("the program was asked");
    let requests: Vec<Value> = asked.lines().map(|line| serde_json::from_str(line).expect("a request")).collect();
    assert_eq!(requests.len(), 1, "{asked}");
    assert_eq!(requests[0]["image"], "localhost:5000/hello");
    assert_eq!(requests[0]["serviceAccountAnnotations"], json!({"registry.example/identity": "someone"}));
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": requests[0]["serviceAccountToken"], "audiences": ["registry.example"]}});
    let reviews = "create --raw /apis/authentication.k8s.io/v1/tokenreviews -f -";
    let told: Value = serde_json::from_str(&cluster.kubectl_with(reviews, &review.to_string()).ok()).expect("JSON");
    assert_eq!(told["status"]["user"]["username"], "system:serviceaccount:default:puller", "{told}");
    assert_eq!(told["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["first"]));
    assert_eq!(told["status"]["audiences"], json!(["registry.example"]));
}
