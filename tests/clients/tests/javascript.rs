//! A program written in JavaScript, on the client from npm.

use std::path::Path;

use skiff_clients::{built, program, succeed};
use skiff_e2e::Cluster;

#[test]
fn the_javascript_client() {
    let cluster = Cluster::up("js");
    succeed(program(&cluster, Path::new("node"), &["--test"]).current_dir(built().join("javascript")));
}
