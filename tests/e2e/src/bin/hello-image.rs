//! Writes the test image as a tar: `hello-image FILE`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let file = std::env::args().nth(1).ok_or_else(|| std::io::Error::other("usage: hello-image FILE"))?;
    skiff_e2e::cluster::hello_image("v1").save("localhost:5000/hello:v1", Path::new(&file))
}
