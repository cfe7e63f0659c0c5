//! What kubectl prints, command by command, compared with the text files in `kubectl/`.
//!
//! `$ get pods` is a command; lines with `<` are its standard input; then comes what it prints: standard output as it
//! is, standard error after `!`, and an exit code that is not 0 after `?`. What varies is replaced by words such as
//! AGE, and runs of spaces by two. `UPDATE_EXPECT=1` writes the files anew.

use std::fmt::Write as _;
use std::path::PathBuf;

use regex::Regex;
use skiff_e2e::Cluster;

/// One command of a file.
#[derive(Default)]
struct Step {
    line: String,
    input: String,
    expected: String,
}

/// What stands before the first command, and the commands.
fn parse(text: &str) -> (String, Vec<Step>) {
    let (mut head, mut steps) = (String::new(), Vec::<Step>::new());
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { line: command.to_owned(), ..Step::default() });
            continue;
        }
        match (steps.last_mut(), line.strip_prefix("< ")) {
            (None, _) => head = head + line + "\n",
            (Some(step), Some(input)) => step.input = std::mem::take(&mut step.input) + input + "\n",
            (Some(step), None) => step.expected = std::mem::take(&mut step.expected) + line + "\n",
        }
    }
    (head, steps)
}

/// Words of a command line; single quotes hold words together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted, mut current) = (Vec::new(), false, None::<String>);
    for letter in line.chars() {
        match letter {
            '\'' => {
                quoted = !quoted;
                current.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(current.take()),
            letter => current.get_or_insert_default().push(letter),
        }
    }
    words.extend(current);
    words
}

/// Replaces what varies from run to run.
struct Normal {
    rules: Vec<(Regex, &'static str)>,
}

impl Normal {
    fn new(cluster: &Cluster) -> Self {
        let node = regex::escape(&cluster.name);
        let rules = [
            (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UID"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
            (r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
            (r"\b(sha256|containerd|skiff)[:/]+[0-9a-f]{64}\b", "ID"),
            (r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b", "IP"),
            (r"-[0-9bcdf-hj-np-tv-z]{8,10}-[0-9bcdf-hj-np-tv-z]{5}\b", "-HASH-RAND"),
            (r"-[0-9bcdf-hj-np-tv-z]{8,10}\b", "-HASH"),
            (r"pod-template-hash=\S+?\b", "pod-template-hash=HASH"),
            (r"-[bcdf-hj-np-tv-xz24-9]{5}\b", "-RAND"),
            (r"\b(\d+[smhd])+\b", "AGE"),
            // How often a rollout is looked at before it is done differs.
            (r"(?m)^Waiting for .*\n", ""),
            (r"<invalid>", "AGE"),
            (r"Resource Version:\s+\d+", "Resource Version: N"),
            (r"\b3[0-2]\d{3}/TCP", "NODEPORT/TCP"),
            (r#"resourceVersion: "\d+""#, r#"resourceVersion: "N""#),
            (r"[ \t]+", " "),
            (r" +(\n|$)", "$1"),
        ];
        let mut all = vec![(Regex::new(&node).expect("an escaped name"), "NODE")];
        all.extend(rules.map(|(pattern, word)| (Regex::new(pattern).expect("a constant pattern"), word)));
        Self { rules: all }
    }

    fn apply(&self, text: &str) -> String {
        self.rules.iter().fold(text.to_owned(), |text, (pattern, word)| pattern.replace_all(&text, *word).into_owned())
    }
}

/// Runs all commands of a file and compares.
fn check(name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kubectl").join(format!("{name}.txt"));
    let (head, steps) = parse(&std::fs::read_to_string(&path).expect("the file is there"));
    let cluster = Cluster::up(name);
    let normal = Normal::new(&cluster);
    let (mut whole, mut problems) = (head, String::new());
    for step in &steps {
        let mut arguments = words(&step.line);
        arguments.iter_mut().for_each(|word| *word = word.replace("NODE", &cluster.name));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let answer = if step.input.is_empty() {
            cluster.kubectl_args(&arguments)
        } else {
            cluster.kubectl_args_with(&arguments, &step.input)
        };
        let mut printed = normal.apply(&answer.stdout);
        for line in normal.apply(&answer.stderr).lines().filter(|line| !line.contains("version difference")) {
            writeln!(printed, "! {line}").expect("a String takes all");
        }
        if answer.code != 0 {
            writeln!(printed, "? {}", answer.code).expect("a String takes all");
        }
        if !printed.is_empty() && !printed.ends_with('\n') {
            printed.push('\n');
        }
        if printed.trim_end() != step.expected.trim_end() {
            writeln!(problems, "$ {}\n--- expected\n{}--- printed\n{printed}", step.line, step.expected)
                .expect("as above");
        }
        let input: String = step.input.lines().map(|line| format!("< {line}\n")).collect();
        write!(
            whole,
            "$ {}\n{input}{}\n",
            step.line,
            printed.trim_end().to_owned() + if printed.trim_end().is_empty() { "" } else { "\n" }
        )
        .expect("as above");
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, whole).expect("the file can be written");
    } else {
        assert!(problems.is_empty(), "{problems}");
    }
}

#[test]
fn workloads() {
    check("workloads");
}

#[test]
fn objects() {
    check("objects");
}
