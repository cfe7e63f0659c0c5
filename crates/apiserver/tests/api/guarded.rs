//! What the built-in plugins of admission refuse, complete and warn of, as clients see it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::Cluster;
use expect_test::{Expect, expect};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use skiff_apiserver::admission::plugins::Settings;

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn cluster() -> Cluster {
    with(Settings::default()).await
}

async fn with(settings: Settings) -> Cluster {
    let cluster = Cluster::with(|config| config.admission = settings).await;
    post(&cluster, "/api/v1/namespaces/default/serviceaccounts", "{\"metadata\":{\"name\":\"default\"}}").await;
    cluster
}

fn switched_on(names: &[&str]) -> Settings {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    Settings::read(&names, &[], None).expect("they are known")
}

async fn post(cluster: &Cluster, path: &str, body: &str) -> serde_json::Value {
    let made = cluster.tree(&format!("POST {path}\n\n{body}")).await;
    settle(cluster).await;
    made
}

async fn outcome(cluster: &Cluster, request: &str, expected: Expect) {
    expected.assert_eq(&cluster.outcome(request).await);
}

/// Waits until admission sees what was written: a list waits for that too.
async fn settle(cluster: &Cluster) {
    cluster.tree("GET /api/v1/namespaces").await;
}

/// A Pod with something in its spec and something in its container.
fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}"}},"spec":{{{spec}"containers":[{{"name":"c","image":"busybox"{container}}}]}}}}"#
    )
}

#[tokio::test]
async fn limits_are_given_and_kept() {
    let cluster = cluster().await;
    let range = r#"{"metadata":{"name":"r"},"spec":{"limits":[{"type":"Container","max":{"cpu":"800m"},"min":{"cpu":"200m"}}]}}"#;
    post(&cluster, "/api/v1/namespaces/default/limitranges", range).await;
    let made = post(&cluster, PODS, &pod("a", "", "")).await;
    expect![[r#"{"limits":{"cpu":"800m"},"requests":{"cpu":"800m"}}"#]]
        .assert_eq(&made["spec"]["containers"][0]["resources"].to_string());
    expect![[r#""LimitRanger plugin set: cpu request for container c; cpu limit for container c""#]]
        .assert_eq(&made["metadata"]["annotations"]["kubernetes.io/limit-ranger"].to_string());
    let much = pod("b", "", r#","resources":{"limits":{"cpu":"1500m"}}"#);
    outcome(
        &cluster,
        &format!("POST {PODS}\n\n{much}"),
        expect![[r#"403 pods "b" is forbidden: maximum cpu usage per Container is 800m, but limit is 1500m"#]],
    )
    .await;
}

/// A quota whose status the controller has told already.
async fn quota(cluster: &Cluster, hard: &str, used: &str) {
    let path = "/api/v1/namespaces/default/resourcequotas";
    post(cluster, path, &format!(r#"{{"metadata":{{"name":"q"}},"spec":{{"hard":{hard}}}}}"#)).await;
    let status = format!(
        "PATCH {path}/q/status\nContent-Type: application/merge-patch+json\n\n{{\"status\":{{\"hard\":{hard},\"used\":{used}}}}}"
    );
    cluster.tree(&status).await;
    settle(cluster).await;
}

async fn used(cluster: &Cluster) -> String {
    cluster.tree("GET /api/v1/namespaces/default/resourcequotas/q").await["status"]["used"].to_string()
}

#[tokio::test]
async fn a_quota_is_charged_and_never_passed() {
    let cluster = cluster().await;
    quota(&cluster, r#"{"pods":"10","count/secrets":"1"}"#, r#"{"pods":"0","count/secrets":"0"}"#).await;
    let tries = (0..100).map(|at| {
        let request = format!("POST {PODS}\n\n{}", pod(&format!("p{at}"), "", ""));
        let cluster = &cluster;
        async move { cluster.outcome(&request).await }
    });
    let outcomes = futures_util::future::join_all(tries).await;
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "201").count(), 10);
    expect![[r#"403 pods "p99" is forbidden: exceeded quota: q, requested: pods=1, used: pods=10, limited: pods=10"#]]
        .assert_eq(&outcomes[99]);
    assert_eq!(used(&cluster).await, r#"{"count/secrets":"0","pods":"10"}"#);
    let secrets = "/api/v1/namespaces/default/secrets";
    outcome(&cluster, &format!("POST {secrets}?dryRun=All\n\n{{\"metadata\":{{\"name\":\"s\"}}}}"), expect!["201"])
        .await;
    outcome(&cluster, &format!("POST {secrets}\n\n{{\"metadata\":{{\"name\":\"s\"}}}}"), expect!["201"]).await;
    outcome(
        &cluster,
        &format!("POST {secrets}\n\n{{\"metadata\":{{\"name\":\"t\"}}}}"),
        expect![[r#"403 secrets "t" is forbidden: exceeded quota: q, requested: count/secrets=1, used: count/secrets=1, limited: count/secrets=1"#]],
    )
    .await;
}

#[tokio::test]
async fn a_change_is_charged_by_its_difference() {
    let cluster = cluster().await;
    quota(&cluster, r#"{"services.nodeports":"1"}"#, r#"{"services.nodeports":"0"}"#).await;
    let services = "/api/v1/namespaces/default/services";
    post(&cluster, services, r#"{"metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}"#).await;
    let to = |kind: &str, more: &str| {
        format!(
            "PATCH {services}/s\nContent-Type: application/merge-patch+json\n\n{{\"spec\":{{\"type\":\"{kind}\"{more}}}}}"
        )
    };
    cluster.tree(&to("NodePort", "")).await;
    assert_eq!(used(&cluster).await, r#"{"services.nodeports":"1"}"#);
    let two = r#","ports":[{"port":80,"name":"a"},{"port":81,"name":"b"}]"#;
    outcome(
        &cluster,
        &to("NodePort", two),
        expect![[r#"403 services "s" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1"#]],
    )
    .await;
    cluster.tree(&to("ClusterIP", "")).await;
    assert_eq!(used(&cluster).await, r#"{"services.nodeports":"0"}"#);
}

#[tokio::test]
async fn pod_security_refuses_and_warns() {
    let cluster = cluster().await;
    let label = |labels: &str| {
        format!(
            "PATCH /api/v1/namespaces/default\nContent-Type: application/merge-patch+json\n\n{{\"metadata\":{{\"labels\":{{{labels}}}}}}}"
        )
    };
    post(&cluster, PODS, &pod("old", r#""hostNetwork":true,"#, "")).await;
    let answer = cluster.send(&label(r#""pod-security.kubernetes.io/enforce":"restricted""#)).await;
    settle(&cluster).await;
    let warnings = |answer: &http::Response<skiff_apiserver::Body>| {
        let all = answer.headers().get_all("warning").iter();
        all.map(|warning| warning.to_str().expect("text").to_owned() + "\n").collect::<String>()
    };
    expect![[r#"
        299 - "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"restricted:latest\""
        299 - "old: host namespaces, allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile"
    "#]]
    .assert_eq(&warnings(&answer));
    outcome(
        &cluster,
        &format!("POST {PODS}\n\n{}", pod("new", "", "")),
        expect![[r#"403 pods "new" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#]],
    )
    .await;
    cluster.tree(&label(r#""pod-security.kubernetes.io/enforce":"baseline""#)).await;
    settle(&cluster).await;
    let deployment = r#"{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"hostPID":true,"containers":[{"name":"c","image":"i"}]}}}}"#;
    let answer = cluster.send(&format!("POST /apis/apps/v1/namespaces/default/deployments\n\n{deployment}")).await;
    assert_eq!(answer.status(), 201);
    expect![[r#"
        299 - "would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"
    "#]]
    .assert_eq(&warnings(&answer));
    outcome(
        &cluster,
        &label(r#""pod-security.kubernetes.io/enforce":"strict""#),
        expect![[r#"422 Namespace "default" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted"#]],
    )
    .await;
}

#[tokio::test]
async fn exemptions_and_defaults_come_from_a_file() {
    let config = serde_json::json!({"kind": "AdmissionConfiguration", "plugins": [{"name": "PodSecurity", "configuration":
        {"defaults": {"enforce": "baseline"}, "exemptions": {"usernames": ["builder"]}}}]});
    let cluster = with(Settings::read(&[], &[], Some(&config)).expect("it can be used")).await;
    let host = pod("a", r#""hostIPC":true,"#, "");
    outcome(
        &cluster,
        &format!("POST {PODS}\n\n{host}"),
        expect![[
            r#"403 pods "a" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostIPC=true)"#
        ]],
    )
    .await;
    let binding = r#"{"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"builder"}]}"#;
    post(&cluster, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    outcome(&cluster, &format!("POST {PODS}\nUser: builder\n\n{host}"), expect!["201"]).await;
}

#[tokio::test]
async fn certificates_are_asked_for_under_ones_own_name() {
    let cluster = cluster().await;
    let request = |name: &str, groups: &str, signer: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, groups);
        params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = params.serialize_request(&key).expect("a request").pem().expect("in PEM");
        let pem = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
        format!(
            r#"POST /apis/certificates.k8s.io/v1/certificatesigningrequests

{{"metadata":{{"name":"{name}"}},"spec":{{"username":"root","request":"{pem}","signerName":"{signer}","usages":["client auth"]}}}}"#
        )
    };
    let signer = "kubernetes.io/kube-apiserver-client";
    let made = cluster.tree(&request("mine", "dev", signer)).await;
    expect![[r#"["system:masters","system:authenticated"] "admin" null"#]]
        .assert_eq(&format!("{} {} {}", made["spec"]["groups"], made["spec"]["username"], made["spec"]["uid"]));
    outcome(
        &cluster,
        &request("all", "system:masters", signer),
        expect![[r#"403 certificatesigningrequests.certificates.k8s.io "all" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"#]],
    )
    .await;
    let role = r#"{"metadata":{"name":"r"},"rules":[{"apiGroups":["certificates.k8s.io"],"resources":["certificatesigningrequests/approval","certificatesigningrequests/status"],"verbs":["update","patch"]},{"apiGroups":["certificates.k8s.io"],"resources":["signers"],"resourceNames":["example.org/*"],"verbs":["approve","sign"]}]}"#;
    let roles = "/apis/rbac.authorization.k8s.io/v1";
    post(&cluster, &format!("{roles}/clusterroles"), role).await;
    let binding = r#"{"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"r"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"joe"}]}"#;
    post(&cluster, &format!("{roles}/clusterrolebindings"), binding).await;
    cluster.tree(&request("theirs", "dev", "example.org/one")).await;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let approve = |name: &str, part: &str, change: &str| {
        format!(
            "PATCH {path}/{name}/{part}\nUser: joe\nContent-Type: application/merge-patch+json\n\n{{\"status\":{change}}}"
        )
    };
    let approved = r#"{"conditions":[{"type":"Approved","status":"True","reason":"r","message":"m"}]}"#;
    outcome(
        &cluster,
        &approve("mine", "approval", approved),
        expect![[r#"403 certificatesigningrequests.certificates.k8s.io "mine" is forbidden: user not permitted to approve requests with signerName "kubernetes.io/kube-apiserver-client""#]],
    )
    .await;
    outcome(&cluster, &approve("theirs", "approval", approved), expect!["200"]).await;
    let failed = r#"{"conditions":[{"type":"Failed","status":"True","reason":"r","message":"m"}]}"#;
    outcome(
        &cluster,
        &approve("mine", "status", failed),
        expect![[r#"403 certificatesigningrequests.certificates.k8s.io "mine" is forbidden: user not permitted to sign requests with signerName "kubernetes.io/kube-apiserver-client""#]],
    )
    .await;
}

#[tokio::test]
async fn classes_complete_pods_and_ingresses() {
    let cluster = cluster().await;
    let class = r#"{"metadata":{"name":"vm"},"handler":"kata","overhead":{"podFixed":{"memory":"64Mi"}},"scheduling":{"nodeSelector":{"kvm":"yes"}}}"#;
    post(&cluster, "/apis/node.k8s.io/v1/runtimeclasses", class).await;
    let made = post(&cluster, PODS, &pod("a", r#""runtimeClassName":"vm","#, "")).await;
    expect![[r#"{"memory":"64Mi"} {"kvm":"yes"}"#]]
        .assert_eq(&format!("{} {}", made["spec"]["overhead"], made["spec"]["nodeSelector"]));
    outcome(
        &cluster,
        &format!("POST {PODS}\n\n{}", pod("b", r#""runtimeClassName":"none","#, "")),
        expect![[r#"403 pods "b" is forbidden: pod rejected: RuntimeClass "none" not found"#]],
    )
    .await;
    outcome(
        &cluster,
        &format!("POST {PODS}\n\n{}", pod("b", r#""overhead":{"cpu":"1"},"#, "")),
        expect![[r#"403 pods "b" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"#]],
    )
    .await;
    // The newest of several default classes counts, and of those of one second the first by name.
    let class = r#"{"metadata":{"name":"other","annotations":{"ingressclass.kubernetes.io/is-default-class":"true"}},"spec":{"controller":"example.org/c"}}"#;
    post(&cluster, "/apis/networking.k8s.io/v1/ingressclasses", class).await;
    let ingress =
        r#"{"metadata":{"name":"i"},"spec":{"defaultBackend":{"service":{"name":"s","port":{"number":80}}}}}"#;
    let made = post(&cluster, "/apis/networking.k8s.io/v1/namespaces/default/ingresses", ingress).await;
    assert_eq!(made["spec"]["ingressClassName"], "other");
    let node =
        post(&cluster, "/api/v1/nodes", r#"{"metadata":{"name":"n","labels":{"topology.kubernetes.io/zone":"z1"}}}"#)
            .await;
    expect![[r#"[{"effect":"NoSchedule","key":"node.kubernetes.io/not-ready"}]"#]]
        .assert_eq(&node["spec"]["taints"].to_string());
    let binding = r#"{"target":{"kind":"Node","name":"n"}}"#;
    outcome(&cluster, &format!("POST {PODS}/a/binding\n\n{binding}"), expect!["201"]).await;
    let placed = cluster.tree(&format!("GET {PODS}/a")).await;
    assert_eq!(placed["metadata"]["labels"]["topology.kubernetes.io/zone"], "z1");
}

#[tokio::test]
async fn what_is_switched_on_acts() {
    let names = ["AlwaysPullImages", "ExtendedResourceToleration", "DenyServiceExternalIPs", "PodNodeSelector"];
    let cluster = with(switched_on(&names)).await;
    let note = "PATCH /api/v1/namespaces/default\nContent-Type: application/merge-patch+json\n\n{\"metadata\":{\"annotations\":{\"scheduler.alpha.kubernetes.io/node-selector\":\"pool=a\"}}}";
    cluster.tree(note).await;
    settle(&cluster).await;
    let container = r#","imagePullPolicy":"Never","resources":{"requests":{"example.org/gpu":"1"},"limits":{"example.org/gpu":"1"}}"#;
    let made = post(&cluster, PODS, &pod("a", "", container)).await;
    expect![[r#""Always" {"pool":"a"} {"key":"example.org/gpu","operator":"Exists"}"#]].assert_eq(&format!(
        "{} {} {}",
        made["spec"]["containers"][0]["imagePullPolicy"], made["spec"]["nodeSelector"], made["spec"]["tolerations"][2]
    ));
    outcome(
        &cluster,
        &format!("POST {PODS}\n\n{}", pod("b", r#""nodeSelector":{"pool":"b"},"#, "")),
        expect![[
            r#"403 pods "b" is forbidden: pod node label selector conflicts with its namespace node label selector"#
        ]],
    )
    .await;
    let service = r#"{"metadata":{"name":"s"},"spec":{"externalIPs":["192.0.2.7"],"ports":[{"port":80}]}}"#;
    outcome(
        &cluster,
        &format!("POST /api/v1/namespaces/default/services\n\n{service}"),
        expect![[r#"403 services "s" is forbidden: Use of external IPs is denied by admission control."#]],
    )
    .await;
}

#[tokio::test]
async fn namespaces_say_what_their_pods_tolerate() {
    let config = serde_json::json!({"kind": "AdmissionConfiguration", "plugins": [{"name": "PodTolerationRestriction",
        "configuration": {"default": [{"key": "pool", "operator": "Exists"}]}}]});
    let on = ["PodTolerationRestriction".to_owned()];
    let cluster =
        with(Settings::read(&on, &["DefaultTolerationSeconds".to_owned()], Some(&config)).expect("it can be used"))
            .await;
    let made = post(&cluster, PODS, &pod("a", "", "")).await;
    expect![[r#"[{"key":"pool","operator":"Exists"}]"#]].assert_eq(&made["spec"]["tolerations"].to_string());
    let note = r#"PATCH /api/v1/namespaces/default
Content-Type: application/merge-patch+json

{"metadata":{"annotations":{"scheduler.alpha.kubernetes.io/defaultTolerations":"","scheduler.alpha.kubernetes.io/tolerationsWhitelist":"[{\"key\":\"own\",\"operator\":\"Exists\"}]"}}}"#;
    cluster.tree(note).await;
    settle(&cluster).await;
    let own = r#""tolerations":[{"key":"own","value":"x"}],"#;
    outcome(&cluster, &format!("POST {PODS}\n\n{}", pod("b", own, "")), expect!["201"]).await;
    let other = r#""tolerations":[{"operator":"Exists"}],"#;
    outcome(
        &cluster,
        &format!("POST {PODS}\n\n{}", pod("c", other, "")),
        expect!["500 pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist"],
    )
    .await;
}

#[tokio::test]
async fn owners_are_given_by_who_could_delete() {
    let cluster = with(switched_on(&["OwnerReferencesPermissionEnforcement"])).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let rule = r#"{"apiGroups":[""],"resources":["configmaps"],"verbs":["create"#;
    post(&cluster, roles, &format!(r#"{{"metadata":{{"name":"maker"}},"rules":[{rule}"]}}]}}"#)).await;
    post(&cluster, roles, &format!(r#"{{"metadata":{{"name":"remover"}},"rules":[{rule}","delete"]}}]}}"#)).await;
    for user in ["maker", "remover"] {
        let binding = format!(
            r#"{{"metadata":{{"name":"{user}"}},"roleRef":{{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"{user}"}},"subjects":[{{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"{user}"}}]}}"#
        );
        post(&cluster, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    }
    settle(&cluster).await;
    let made = |user: &str, name: &str, owner: &str| {
        let owners = if owner.is_empty() { String::new() } else { format!(r#","ownerReferences":[{owner}]"#) };
        format!("POST {maps}\nUser: {user}\n\n{{\"metadata\":{{\"name\":\"{name}\"{owners}}}}}")
    };
    let owner = |kind: &str, blocks: bool| {
        format!(r#"{{"apiVersion":"v1","kind":"{kind}","name":"o","uid":"u","blockOwnerDeletion":{blocks}}}"#)
    };
    outcome(&cluster, &made("maker", "a", ""), expect!["201"]).await;
    outcome(
        &cluster,
        &made("maker", "b", &owner("Secret", false)),
        expect![[r#"403 configmaps "b" is forbidden: cannot set an ownerRef on a resource you can't delete: , <nil>"#]],
    )
    .await;
    outcome(&cluster, &made("remover", "c", &owner("Secret", false)), expect!["201"]).await;
    outcome(&cluster, &made("remover", "d", &owner("Secret", true)), expect![[r#"403 configmaps "d" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>"#]]).await;
    outcome(&cluster, &made("remover", "e", &owner("Moon", true)), expect![[r#"403 configmaps "e" is forbidden: cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion v1 Kind Moon: no matches for kind "Moon" in version "v1""#]]).await;
}

#[tokio::test]
async fn events_are_limited_where_it_is_asked_for() {
    let config = serde_json::json!({"kind": "AdmissionConfiguration", "plugins": [{"name": "EventRateLimit",
        "configuration": {"limits": [{"type": "Namespace", "qps": 1, "burst": 2}]}}]});
    let on = ["EventRateLimit".to_owned()];
    let cluster = with(Settings::read(&on, &[], Some(&config)).expect("it can be used")).await;
    let event = |name: &str| {
        let about = r#"{"kind":"Pod","namespace":"default","name":"p"}"#;
        format!(
            "POST /api/v1/namespaces/default/events\n\n{{\"metadata\":{{\"name\":\"{name}\"}},\"involvedObject\":{about}}}"
        )
    };
    outcome(&cluster, &event("a"), expect!["201"]).await;
    outcome(&cluster, &event("b"), expect!["201"]).await;
    outcome(&cluster, &event("c"), expect!["429 limit reached on type Namespace for key default"]).await;
}

#[tokio::test]
async fn a_program_says_which_images_may_run() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let server = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = count.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                count.fetch_add(1, Ordering::Relaxed);
                async move {
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    let review: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                    let images = review["spec"]["containers"].as_array().expect("images");
                    let allowed = images.iter().all(|image| image["image"] != "bad");
                    let answer =
                        json!({"status": {"allowed": allowed, "reason": if allowed { "" } else { "it is bad" }}});
                    Ok::<_, Infallible>(http::Response::new(Full::new(bytes::Bytes::from(answer.to_string()))))
                }
            });
            let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    let config = |server: &str, allow: bool| {
        json!({"kind": "AdmissionConfiguration", "plugins": [{"name": "ImagePolicyWebhook", "configuration": {"imagePolicy": {
            "defaultAllow": allow, "retryBackoff": 1,
            "kubeConfig": {"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k"}}],
                "clusters": [{"name": "k", "cluster": {"server": server}}]}}}}]})
    };
    let on = ["ImagePolicyWebhook".to_owned()];
    let unnamed = Settings::read(&on, &[], None).expect_err("nobody is named");
    assert_eq!(unnamed, "ImagePolicyWebhook is on, and no configuration names whom to ask");
    let pod = |image: &str| {
        let pod = json!({"metadata": {"generateName": "p-"}, "spec": {"containers": [{"name": "c", "image": image}]}});
        format!("POST /api/v1/namespaces/default/pods\n\n{pod}")
    };
    let cluster = with(Settings::read(&on, &[], Some(&config(&server, false))).expect("it can be used")).await;
    outcome(&cluster, &pod("good"), expect!["201"]).await;
    outcome(&cluster, &pod("good"), expect!["201"]).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "an answer is remembered");
    outcome(
        &cluster,
        &pod("bad"),
        expect![[
            r#"403 pods "p-krctc" is forbidden: image policy webhook backend denied one or more images: it is bad"#
        ]],
    )
    .await;
    // Nobody listens there.
    let closed =
        with(Settings::read(&on, &[], Some(&config("http://127.0.0.1:1", false))).expect("it can be used")).await;
    outcome(
        &closed,
        &pod("good"),
        expect![[r#"403 pods "p-sjl6l" is forbidden: dial tcp 127.0.0.1:1: Connection refused (os error 111)"#]],
    )
    .await;
    let open = with(Settings::read(&on, &[], Some(&config("http://127.0.0.1:1", true))).expect("it can be used")).await;
    outcome(&open, &pod("good"), expect!["201"]).await;
}
