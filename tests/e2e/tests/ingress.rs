//! Ingress on a node: real pods behind the node's ports 80 and 443, and clients outside of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{Answer, eventually, http_get};
use skiff_e2e::rolling::{Hammer, web};

const REPLICAS: usize = 2;

const SERVED: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: safe, annotations: {ingress.skiff.io/force-ssl-redirect: "true"}}
spec:
  rules:
  - host: "*.safe.example"
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
"#;

#[test]
fn ingress() {
    let cluster = Cluster::up("ingress");
    cluster.create(&(web(REPLICAS) + SERVED));
    cluster.rollout("web");
    let mut address = String::new();
    eventually("the Ingress has an address", || {
        let ingress = cluster.get("ingress/web");
        assert_eq!(ingress["spec"]["ingressClassName"], "skiff");
        address = ingress["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or_default().to_owned();
        !address.is_empty()
    });
    eventually("the pods are reached", || http_get(&format!("{address}:80"), "/").is_ok());
    the_secure_port_speaks_http2(&address);
    connections_become_something_else(&address);
    no_request_is_lost(&cluster, &address);
}

fn curl(arguments: &[&str]) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20"]).args(arguments);
    Answer::of(curl.output().unwrap()).ok()
}

fn the_secure_port_speaks_http2(address: &str) {
    let place = format!("a.safe.example:443:{address}");
    let shown = "%{http_version} %{http_code} %{redirect_url}\n";
    let secure = curl(&["--insecure", "--resolve", &place, "--write-out", shown, "https://a.safe.example/"]);
    assert!(secure.starts_with("hello v1 from web-") && secure.ends_with("\n2 200 \n"), "{secure}");
    let place = format!("a.safe.example:80:{address}");
    let plain = curl(&["--resolve", &place, "--write-out", shown, "http://a.safe.example/a?b=c"]);
    assert!(plain.ends_with("1.1 308 https://a.safe.example/a?b=c\n"), "{plain}");
}

fn connections_become_something_else(address: &str) {
    let mut stream = TcpStream::connect((address, 80)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /echo HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("HTTP/1.1 101 Switching Protocols"));
    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert!(head.iter().any(|line| line.eq_ignore_ascii_case("upgrade: echo")), "{head:?}");
    for word in ["first", "second"] {
        writeln!(stream, "{word}").unwrap();
        assert_eq!(lines.next().as_deref(), Some(word));
    }
}

/// All pods are replaced, twice, under a client that never pauses.
fn no_request_is_lost(cluster: &Cluster, address: &str) {
    let hammer = Hammer::start(format!("{address}:80"));
    eventually("the client asks", || hammer.asked() > 0);
    for image in ["localhost:5000/hello:v2", "localhost:5000/hello:v1"] {
        cluster.kubectl(&format!("set image deployment/web web={image}")).ok();
        cluster.rollout("web");
    }
    let (asked, failed) = hammer.end();
    println!("{asked} requests while all pods were replaced twice");
    assert!(failed.is_empty(), "{} of {asked} failed: {failed:#?}", failed.len());
}
