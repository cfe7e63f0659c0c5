//! Builds the programs of others that the `clients` layer runs, below `target/tools/clients`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::needs;
use crate::shell::{cargo, command, has, output, root, run};

/// The Go toolchain that is brought where there is none, or none that is new enough.
const GO_VERSION: &str = "1.26.8";
/// What the toolchain's archive must hash to.
const GO_SHA256: &str = "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7";

/// Builds all of them and tells where.
///
/// # Errors
/// Something cannot be installed or built.
pub fn build() -> Result<PathBuf, String> {
    let folder = needs::tools().join("clients");
    make(&folder)?;
    go(&folder.join("go"))?;
    python(&folder.join("python"))?;
    javascript(&folder.join("javascript"))?;
    operator(&folder.join("rust"))?;
    Ok(folder)
}

fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// The Go tests, one binary for each package, and Helm.
fn go(folder: &Path) -> Result<(), String> {
    make(folder)?;
    let go = go_toolchain()?;
    let go = |arguments: &[&str]| {
        let mut command = command(&go, arguments);
        // One that is brought by hand must not go and look for another.
        command.current_dir(root().join("tests/clients/go")).env("GOTOOLCHAIN", "local").env("GOBIN", folder);
        command
    };
    println!("building the Go clients");
    run(go(&["test", "-c", "-o"]).arg(folder).arg("./..."))?;
    run(&mut go(&["install", "tool"]))
}

/// An environment of its own with the Python clients in it.
fn python(folder: &Path) -> Result<(), String> {
    if output(command("python3", &["-c", "import venv, ensurepip"]).stderr(Stdio::null())).is_err() {
        needs::install_packages(&["python3", "python3-venv"])?;
    }
    println!("installing the Python clients");
    if !folder.join("bin/pip").is_file() {
        run(command("python3", &["-m", "venv"]).arg(folder))?;
    }
    let pip = folder.join("bin/pip").display().to_string();
    run(&mut command(&pip, &["install", "--quiet", "--requirement", "tests/clients/python/requirements.txt"]))
}

/// A copy of the JavaScript program with what it needs beside it.
fn javascript(folder: &Path) -> Result<(), String> {
    if !has("node") || !has("npm") {
        needs::install_packages(&["nodejs", "npm"])?;
    }
    println!("installing the JavaScript client");
    make(folder)?;
    for file in ["package.json", "package-lock.json", "client.test.js"] {
        let source = root().join("tests/clients/javascript").join(file);
        fs::copy(&source, folder.join(file)).map_err(|error| format!("{}: {error}", source.display()))?;
    }
    run(command("npm", &["ci", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(folder))
}

/// The operator on kube-rs, a workspace of its own.
fn operator(folder: &Path) -> Result<(), String> {
    println!("building the operator on kube-rs");
    let mut install = cargo(&["install", "--quiet", "--debug", "--locked", "--path", "examples/operator", "--root"]);
    run(install.arg(folder).env("CARGO_TARGET_DIR", folder.join("target")))
}

/// The `go` program: the machine's, or one of our own.
///
/// # Errors
/// There is none, and none can be brought.
pub fn go_toolchain() -> Result<String, String> {
    let own = needs::tools().join("go");
    let program = own.join("bin/go");
    for known in ["go".to_owned(), program.display().to_string()] {
        if (has(&known) || Path::new(&known).is_file()) && is_new_enough(&known) {
            return Ok(known);
        }
    }
    bring_go(&own)?;
    Ok(program.display().to_string())
}

fn is_new_enough(go: &str) -> bool {
    let mut ask = command(go, &["env", "GOVERSION"]);
    let said = output(ask.env("GOTOOLCHAIN", "local")).unwrap_or_default();
    numbers(said.trim().trim_start_matches("go")) >= numbers(GO_VERSION)[..2].to_vec()
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

/// Toolchains are modules too: an archive that the module proxy serves, and that needs no Go to be unpacked.
fn bring_go(folder: &Path) -> Result<(), String> {
    let arch = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let name = format!("v0.0.1-go{GO_VERSION}.linux-{arch}");
    let proxies = std::env::var("GOPROXY").unwrap_or_default();
    let proxy = proxies.split([',', '|']).find(|proxy| proxy.starts_with("http"));
    let url = format!("{}/golang.org/toolchain/@v/{name}.zip", proxy.unwrap_or("https://proxy.golang.org"));
    println!("bringing Go {GO_VERSION}");
    let staged = needs::tools().join("go-staged");
    make(&staged)?;
    let archive = staged.join("go.zip");
    run(command("curl", &["--silent", "--show-error", "--fail", "--location", "--output"]).arg(&archive).arg(url))?;
    let sum = output(command("sha256sum", &[]).arg(&archive))?;
    if arch == "amd64" && !sum.starts_with(GO_SHA256) {
        return Err(format!("the Go toolchain hashes to {sum}, not to {GO_SHA256}"));
    }
    run(command("busybox", &["unzip", "-q", "-o", "go.zip"]).current_dir(&staged))?;
    // The archive keeps no modes.
    let unpacked = staged.join(format!("golang.org/toolchain@{name}"));
    run(Command::new("chmod").args(["-R", "+x"]).args([unpacked.join("bin"), unpacked.join("pkg/tool")]))?;
    fs::rename(&unpacked, folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    fs::remove_dir_all(&staged).map_err(|error| format!("{}: {error}", staged.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("1.26.8") >= numbers("1.26"));
        assert!(numbers("1.9.1") < numbers("1.26"));
    }
}
