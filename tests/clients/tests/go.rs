//! Programs written in Go: client-go, a controller-runtime operator, and Helm.

use skiff_clients::{built, program, sources, succeed};
use skiff_e2e::Cluster;

/// The Go tests of one package, in the package's folder.
fn package(cluster: &Cluster, name: &str) {
    let folder = sources().join("go").join(name);
    let binary = built().join("go").join(format!("{name}.test"));
    let mut tests = program(cluster, &binary, &["-test.v", "-test.timeout=300s"]);
    succeed(tests.current_dir(folder).env("HELM", built().join("go").join("helm")));
}

#[test]
fn client_go() {
    package(&Cluster::up("go"), "core");
}

#[test]
fn an_operator_on_controller_runtime() {
    package(&Cluster::up("goop"), "operator");
}

#[test]
fn helm() {
    package(&Cluster::up("helm"), "helm");
}
