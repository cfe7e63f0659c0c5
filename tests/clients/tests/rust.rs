//! A program written in Rust: the operator of `examples/operator`, on kube-rs.

use skiff_clients::{built, program, succeed};
use skiff_e2e::Cluster;

#[test]
fn an_operator_on_kube_rs() {
    let cluster = Cluster::up("rs");
    succeed(&mut program(&cluster, &built().join("rust/bin/skiff-example-operator"), &["try"]));
}
