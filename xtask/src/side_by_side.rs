//! Test programs of whole nodes, several at a time: each waits for most of its time.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::thread;

use crate::shell::{self, cargo, output};

/// One file of tests, built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The file's name without its ending.
    pub name: String,
    /// What was built of it.
    executable: PathBuf,
    /// Where its tests expect to be run.
    folder: PathBuf,
}

/// What a program said, and whether all its tests passed.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The program's name.
    pub name: String,
    /// Standard output and error, in the order in which they came.
    pub said: Vec<String>,
    /// Whether it ended well.
    pub passed: bool,
}

/// How many programs run at the same time.
pub fn lanes() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Builds the test programs of a package.
///
/// # Errors
/// They do not build.
pub fn build(package: &str) -> Result<Vec<Program>, String> {
    let tests = ["test", "--package", package, "--no-run"];
    shell::run(&mut cargo(&tests))?;
    let built = output(cargo(&tests).args(["--message-format=json", "--quiet"]))?;
    Ok(built.lines().filter_map(|line| program(&serde_json::from_str(line).ok()?)).collect())
}

/// The test program that a message of cargo tells of.
fn program(message: &serde_json::Value) -> Option<Program> {
    if message["profile"]["test"] != true {
        return None;
    }
    Some(Program {
        name: message["target"]["name"].as_str()?.to_owned(),
        executable: message["executable"].as_str()?.into(),
        folder: PathBuf::from(message["manifest_path"].as_str()?).parent()?.into(),
    })
}

/// Runs programs in their order, so many at a time, and tells each one's verdict when it has ended.
///
/// # Errors
/// A program cannot be started.
pub fn run(
    programs: Vec<Program>,
    lanes: usize,
    prepare: impl Fn(&mut Command) + Sync,
    mut tell: impl FnMut(Verdict),
) -> Result<(), String> {
    let waiting = Mutex::new(programs.into_iter());
    let (verdicts, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..lanes {
            let (waiting, prepare, verdicts) = (&waiting, &prepare, verdicts.clone());
            scope.spawn(move || {
                let next = || waiting.lock().ok().and_then(|mut programs| programs.next());
                while let Some(program) = next() {
                    if verdicts.send(judge(&program, prepare)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(verdicts);
        told.into_iter().try_for_each(|verdict| verdict.map(&mut tell))
    })
}

fn judge(program: &Program, prepare: impl Fn(&mut Command)) -> Result<Verdict, String> {
    let failed = |error| format!("{}: {error}", program.executable.display());
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    let mut command = Command::new(&program.executable);
    command.current_dir(&program.folder);
    prepare(&mut command);
    command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
    let mut child = command.spawn().map_err(failed)?;
    // It holds the pipe's other end, and would keep it open.
    drop(command);
    let lines = BufReader::new(reader).split(b'\n').map_while(Result::ok);
    let said = lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect();
    let status = child.wait().map_err(failed)?;
    Ok(Verdict { name: program.name.clone(), said, passed: status.success() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str) -> Program {
        Program { name: name.to_owned(), executable: "/bin/sh".into(), folder: "/".into() }
    }

    fn script_of(command: &mut Command, script: &str) {
        command.args(["-c", script]);
    }

    #[test]
    fn cargo_tells_of_test_programs() {
        let message = |test: bool, executable: &str| {
            serde_json::from_str(&format!(
                r#"{{"target": {{"name": "pods"}}, "profile": {{"test": {test}}}, "executable": {executable},
                    "manifest_path": "/p/Cargo.toml"}}"#
            ))
            .expect("a message")
        };
        let pods = Program { name: "pods".into(), executable: "/t/pods".into(), folder: "/p".into() };
        assert_eq!(program(&message(true, r#""/t/pods""#)), Some(pods));
        assert_eq!(program(&message(false, r#""/t/pods""#)), None);
        assert_eq!(program(&message(true, "null")), None);
    }

    #[test]
    fn each_program_is_told_of_as_a_whole() {
        let mut told = Vec::new();
        let script = "pwd; echo wrong >&2; exit 1";
        run(
            vec![shell("a"), shell("b"), shell("c")],
            2,
            |command| script_of(command, script),
            |verdict| {
                told.push((verdict.name, verdict.said.join(" "), verdict.passed));
            },
        )
        .expect("they are started");
        told.sort();
        assert_eq!(told, ["a", "b", "c"].map(|name| (name.to_owned(), "/ wrong".to_owned(), false)));
    }

    #[test]
    fn programs_run_at_the_same_time_and_no_more_of_them_than_lanes() {
        let folder = std::env::temp_dir().join(format!("lanes-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder");
        // Each waits for the other one, and says how many there are.
        let script =
            "echo > $$; for i in $(seq 1000); do [ $(ls | wc -l) -ge 2 ] && break; sleep 0.01; done; ls | wc -l";
        let mut said = Vec::new();
        let programs = ["a", "b"].map(|name| Program { folder: folder.clone(), ..shell(name) });
        run(programs.into(), 2, |command| script_of(command, script), |verdict| said.extend(verdict.said))
            .expect("they are started");
        std::fs::remove_dir_all(&folder).expect("the folder goes");
        assert_eq!(said, ["2", "2"]);
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let gone = Program { executable: "/gone".into(), ..shell("gone") };
        let error = run(vec![gone], 1, |_| {}, |_| {}).expect_err("it is not there");
        assert!(error.starts_with("/gone: No such file"), "{error}");
    }
}
