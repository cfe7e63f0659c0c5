//! A small cluster for the tests.

use super::{Names, Zone};

pub(super) fn zone() -> Zone {
    let range = |text: &str| text.parse().expect("a range");
    Zone {
        domain: "cluster.local".into(),
        servers: ["10.96.0.10", "fd00:10:96::a"].map(|text| text.parse().expect("an address")).to_vec(),
        own_ranges: ["10.244.0.0/16", "10.96.0.0/12", "fd00:10:244::/56", "fd00:10:96::/112"].map(range).to_vec(),
    }
}

fn service(name: &str, spec: &str) -> String {
    format!("metadata: {{name: {name}, namespace: default}}\nspec: {{{spec}}}")
}

/// The Service and the slice of this name.
pub(super) fn objects(name: &str) -> [String; 2] {
    let spec = match name {
        "web" => {
            "clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1], ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]"
        }
        "dual" => "clusterIP: 10.96.1.2, clusterIPs: [10.96.1.2, 'fd00::1'], ports: [{port: 80}]",
        "six" => "clusterIP: None, clusterIPs: [None], ipFamilies: [IPv6], ports: [{name: sql, port: 5432}]",
        "db" | "lonely" => "clusterIP: None, clusterIPs: [None], ports: [{name: sql, port: 5432}]",
        "outside" => "type: ExternalName, externalName: Example.COM.",
        "inside" => "type: ExternalName, externalName: web.default.svc.cluster.local",
        "circle" => "type: ExternalName, externalName: circle.default.svc.cluster.local",
        "nowhere" => "type: ExternalName, externalName: none.default.svc.cluster.local",
        _ => "ports: [{port: 80}]",
    };
    let endpoints = match name {
        "db" => {
            "- {addresses: [10.244.0.5], hostname: db-0, conditions: {ready: true}}\n\
             - {addresses: [10.244.0.6]}\n\
             - {addresses: [10.244.0.7], hostname: db-9, conditions: {ready: false}}\n"
        }
        "six" => {
            "- {addresses: ['fd00:10:244::5'], hostname: six-0}\n\
             - {addresses: ['fd00:10:244:0:1::6']}\n"
        }
        _ => "  []",
    };
    let family = if name == "six" { "IPv6" } else { "IPv4" };
    let slice = format!(
        "metadata:\n  name: {name}-1\n  namespace: default\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: {family}\nports: [{{name: sql, port: 5432, protocol: TCP}}]\nendpoints:\n{endpoints}"
    );
    [service(name, spec), slice]
}

pub(super) fn cluster() -> Names {
    let mut names = Names::new(zone());
    names.put_namespace("default", true);
    for name in ["web", "dual", "db", "six", "lonely", "outside", "inside", "circle", "nowhere", "pending"] {
        let [service, slice] = objects(name);
        names.put_service(&serde_saphyr::from_str(&service).expect("a Service"));
        names.put_slice(&serde_saphyr::from_str(&slice).expect("a slice"));
    }
    names
}
