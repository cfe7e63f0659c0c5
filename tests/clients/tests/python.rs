//! Programs written in Python: the client, the asynchronous client, and an operator on kopf.

use skiff_clients::{built, program, sources, succeed};
use skiff_e2e::Cluster;

#[test]
fn the_python_clients() {
    let cluster = Cluster::up("py");
    for name in ["test_client.py", "test_asyncio.py", "test_kopf.py"] {
        let file = sources().join("python").join(name);
        succeed(program(&cluster, &built().join("python/bin/python"), &["-W", "ignore"]).arg(file));
    }
}
