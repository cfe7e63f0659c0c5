//! Streams between kubectl and containers: exec, attach, port-forward, proxy, cp and logs, over WebSockets and SPDY.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, http_get};
use skiff_e2e::socket::Socket;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: "localhost:5000/hello:v1"}
  - {name: talk, image: "localhost:5000/hello:v1", stdin: true, command: [sh, -c, "echo ready; while read line; do echo got $line; done; sleep 1000"]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

/// What turns kubectl's streams to SPDY.
const SPDY: [(&str, &str); 2] =
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];

#[test]
fn streams() {
    let cluster = Cluster::up("streams");
    cluster.create(POD);
    cluster.ready("web");
    for environment in [&[][..], &SPDY[..]] {
        exec(&cluster, environment);
        terminals(&cluster, environment);
        attach(&cluster, environment);
        port_forward(&cluster, environment);
        copies(&cluster, environment);
    }
    proxy(&cluster);
    by_hand(&cluster);
    logs(&cluster);
    a_pod_for_a_moment(&cluster);
}

type Environment<'a> = &'a [(&'a str, &'a str)];

struct Said {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

/// Runs kubectl in an environment, with something on its standard input.
fn run(cluster: &Cluster, environment: Environment, arguments: &[&str], input: &[u8]) -> Said {
    let mut command = cluster.kubectl_command(arguments);
    command.envs(environment.iter().copied());
    talk(command, input)
}

fn talk(mut command: Command, input: &[u8]) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Written beside the reading: what is large would fill both pipes.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    drop(writer.join().unwrap());
    Said {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    }
}

fn exec(cluster: &Cluster, environment: Environment) {
    let both = run(
        cluster,
        environment,
        &["exec", "web", "-c", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 5"],
        b"",
    );
    assert_eq!(both.stdout, "out\n");
    assert_eq!(both.stderr, "err\ncommand terminated with exit code 5\n");
    assert_eq!(both.code, Some(5));
    let megabytes = vec![b'x'; 5 << 20];
    let counted = run(cluster, environment, &["exec", "-i", "web", "-c", "web", "--", "wc", "-c"], &megabytes);
    assert_eq!(counted.stdout, format!("{}\n", megabytes.len()), "{}", counted.stderr);
    let back =
        run(cluster, environment, &["exec", "web", "-c", "web", "--", "dd", "if=/dev/zero", "bs=1M", "count=5"], b"");
    assert_eq!(back.stdout.len(), 5 << 20, "{}", back.stderr);
    let none = run(cluster, environment, &["exec", "web", "-c", "web", "--", "/no/such"], b"");
    assert_ne!(none.code, Some(0));
    assert!(none.stderr.contains("/no/such") && none.stderr.contains("no such file or directory"), "{}", none.stderr);
    let wrong = run(cluster, environment, &["exec", "web", "-c", "nope", "--", "true"], b"");
    assert!(
        wrong.stderr.contains("container nope is not valid for pod web")
            || wrong.stderr.contains("container not found"),
        "{}",
        wrong.stderr
    );
}

/// Runs kubectl at a terminal of the given size.
fn at_a_terminal(cluster: &Cluster, environment: Environment, line: &str, input: &[u8]) -> Said {
    let mut command = Command::new("script");
    command.args(["-qec", &format!("stty rows 33 cols 101; exec kubectl {line}"), "/dev/null"]);
    command
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("HOME", cluster.folder())
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm");
    command.envs(environment.iter().copied());
    talk(command, input)
}

fn terminals(cluster: &Cluster, environment: Environment) {
    let said = at_a_terminal(cluster, environment, "exec -it web -c web -- tty", b"");
    assert!(said.stdout.contains("/dev/pts/"), "{}{}", said.stdout, said.stderr);
    let shell = at_a_terminal(cluster, environment, "exec -it web -c web -- sh", b"echo $((6*7))\nexit 4\n");
    assert!(shell.stdout.contains("42\r\n"), "{}", shell.stdout);
    assert_eq!(shell.code, Some(4), "{}", shell.stdout);
    // The size arrives on a stream of its own, perhaps a moment after the program began.
    let size = "exec -it web -c web -- sh -c 'until test \"$(busybox stty size)\" = \"33 101\"; do sleep 0.05; done; echo same size'";
    let said = at_a_terminal(cluster, environment, size, b"");
    assert!(said.stdout.contains("same size"), "{}", said.stdout);
}

/// A kubectl that goes on, read line by line.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(cluster: &Cluster, environment: Environment, line: &str) -> Self {
        let mut command = cluster.kubectl_command(&line.split_whitespace().collect::<Vec<_>>());
        command.envs(environment.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn say(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn end(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        ended.map(drop).unwrap_or_else(|error| eprintln!("kubectl: {error}"));
    }
}

fn attach(cluster: &Cluster, environment: Environment) {
    let mut attached = Running::start(cluster, environment, "attach -i -q web -c talk");
    attached.say("one\n");
    assert_eq!(attached.line(), "got one\n");
    attached.say("two\n");
    assert_eq!(attached.line(), "got two\n");
    attached.end();
}

fn port_forward(cluster: &Cluster, environment: Environment) {
    for target in ["pod/web :8080", "service/web :80"] {
        let mut forward = Running::start(cluster, environment, &format!("port-forward {target}"));
        let line = forward.line();
        let address = line.split_whitespace().nth(2).unwrap().to_owned();
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let address = address.clone();
                std::thread::spawn(move || http_get(&address, "/slow/100"))
            })
            .collect();
        for client in clients {
            assert_eq!(client.join().unwrap().unwrap(), "hello v1 from web\n");
        }
        assert_eq!(http_get(&address, "/").unwrap(), "hello v1 from web\n");
        forward.end();
    }
}

fn copies(cluster: &Cluster, environment: Environment) {
    let there = cluster.folder().join("there");
    let back = cluster.folder().join("back");
    std::fs::create_dir_all(there.join("deep")).unwrap();
    std::fs::write(there.join("a"), "first").unwrap();
    std::fs::write(there.join("deep/b"), vec![7_u8; 1 << 20]).unwrap();
    let to = run(cluster, environment, &["cp", &there.display().to_string(), "web:/tmp/copy", "-c", "web"], b"");
    assert_eq!(to.code, Some(0), "{}", to.stderr);
    let from = run(cluster, environment, &["cp", "web:/tmp/copy", &back.display().to_string(), "-c", "web"], b"");
    assert_eq!(from.code, Some(0), "{}", from.stderr);
    assert_eq!(std::fs::read(back.join("a")).unwrap(), b"first");
    assert_eq!(std::fs::read(back.join("deep/b")).unwrap(), vec![7_u8; 1 << 20]);
    std::fs::remove_dir_all(&back).unwrap();
    run(cluster, environment, &["exec", "web", "-c", "web", "--", "rm", "-r", "/tmp/copy"], b"");
}

fn proxy(cluster: &Cluster) {
    let mut proxy = Running::start(cluster, &[], "proxy --port=0 --accept-hosts=.*");
    let line = proxy.line();
    let address = line.trim().rsplit(' ').next().unwrap().to_owned();
    assert!(http_get(&address, "/api").unwrap().contains("APIVersions"), "{line}");
    assert!(http_get(&address, "/api/v1/namespaces/default/pods").unwrap().contains("PodList"));
    assert_eq!(http_get(&address, "/api/v1/namespaces/default/pods/web:8080/proxy/").unwrap(), "hello v1 from web\n");
    assert_eq!(http_get(&address, "/api/v1/namespaces/default/services/web/proxy/").unwrap(), "hello v1 from web\n");
    proxy.end();
}

/// What a browser does: WebSockets without kubectl, by every protocol that is documented.
fn by_hand(cluster: &Cluster) {
    let mut proxy = Running::start(cluster, &[], "proxy --port=0 --reject-paths=^$");
    let line = proxy.line();
    let address = line.trim().rsplit(' ').next().unwrap().to_owned();
    let pod = "/api/v1/namespaces/default/pods/web";
    let exec = format!("{pod}/exec?container=web&stdout=1&stderr=1&command=sh&command=-c&command=echo+remote");
    let succeeds = |message: &[u8]| {
        let status: serde_json::Value = serde_json::from_slice(message).unwrap();
        status["status"] == "Success"
    };
    for (protocol, has_status) in [
        ("v5.channel.k8s.io", true),
        ("v4.channel.k8s.io", true),
        ("v3.channel.k8s.io", false),
        ("channel.k8s.io", false),
    ] {
        let socket = Socket::open(&address, &exec, protocol).unwrap();
        assert_eq!(socket.protocol.as_deref(), Some(protocol));
        let said = socket.rest().unwrap();
        let of = |channel: u8| -> Vec<u8> {
            let messages = said.iter().filter(|message| message.first() == Some(&channel));
            messages.flat_map(|message| message[1..].to_vec()).collect()
        };
        assert_eq!(of(1), b"remote\n", "{protocol}: {said:?}");
        let status = of(3);
        assert_eq!(!status.is_empty() && succeeds(&status), has_status, "{protocol}: {said:?}");
    }
    let socket = Socket::open(&address, &exec, "base64.channel.k8s.io").unwrap();
    assert!(socket.rest().unwrap().contains(&b"1cmVtb3RlCg==".to_vec()));
    let log = format!("{pod}/log?container=web");
    for (protocol, expected) in [
        ("", &b"hello v1 listening on 8080\n"[..]),
        ("binary.k8s.io", b"hello v1 listening on 8080\n"),
        ("base64.binary.k8s.io", b"aGVsbG8gdjEgbGlzdGVuaW5nIG9uIDgwODAK"),
    ] {
        let socket = Socket::open(&address, &log, protocol).unwrap();
        assert_eq!(socket.protocol.as_deref().unwrap_or(""), protocol);
        assert_eq!(socket.rest().unwrap().concat(), expected, "{protocol}");
    }
    let refused = |path: &str, protocol: &str| Socket::open(&address, path, protocol).err().unwrap().to_string();
    assert!(refused(&log, "chat").starts_with("HTTP/1.1 403"));
    assert!(refused(&log.replace("=web", "=nope"), "binary.k8s.io").starts_with("HTTP/1.1 400"));
    proxy.end();
}

fn logs(cluster: &Cluster) {
    assert_eq!(cluster.kubectl("logs web -c web").ok(), "hello v1 listening on 8080\n");
    let unnamed = cluster.kubectl("logs web");
    assert!(unnamed.stderr.contains(r#"Defaulted container "web" out of: web, talk"#), "{unnamed:?}");
    let wrong = cluster.kubectl("logs web -c nope");
    assert_eq!(wrong.stderr, "error: container nope is not valid for pod web\n");
    let line = r#"
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: localhost:5000/hello:v1
    stdin: true
    command: [sh, -c, "if test -e /kept/was; then echo again; else touch /kept/was; for i in $(seq 5); do echo line $i; done; fi; while read line; do echo $line; case $line in end*) exit 3;; esac; done"]
    volumeMounts: [{name: kept, mountPath: /kept}]
  volumes: [{name: kept, emptyDir: {}}]
"#;
    cluster.create(line);
    cluster.ready("writer");
    eventually("all lines are written", || cluster.kubectl("logs writer").stdout.lines().count() == 5);
    assert_eq!(cluster.kubectl("logs writer --tail=2").ok(), "line 4\nline 5\n");
    assert_eq!(cluster.kubectl("logs writer --limit-bytes=6").ok(), "line 1");
    assert_eq!(cluster.kubectl("logs writer --since=1h").ok().lines().count(), 5);
    assert_eq!(cluster.kubectl("logs writer --since-time=2999-01-01T00:00:00Z").ok(), "");
    let stamped = cluster.kubectl("logs writer --timestamps --tail=1").ok();
    assert!(stamped.starts_with("20") && stamped.ends_with("Z line 5\n"), "{stamped}");
    let none = cluster.kubectl("logs writer --previous");
    assert!(none.stderr.contains(r#"previous terminated container "main" in pod "writer" not found"#), "{none:?}");
    let mut follow = Running::start(cluster, &[], "logs -f writer --tail=1");
    assert_eq!(follow.line(), "line 5\n");
    let mut attached = Running::start(cluster, &[], "attach -i -q writer");
    attached.say("spoken\n");
    assert_eq!(follow.line(), "spoken\n");
    attached.say("end\n");
    assert_eq!(follow.line(), "end\n");
    assert_eq!(follow.line(), "", "following ends with the container");
    attached.end();
    follow.end();
    eventually("it runs again", || cluster.kubectl("logs writer").stdout == "again\n");
    assert_eq!(cluster.kubectl("logs writer --previous --tail=1").ok(), "end\n");
    assert!(cluster.kubectl("logs -l app=web --all-containers --prefix").ok().contains("[pod/web/talk] ready\n"));
}

fn a_pod_for_a_moment(cluster: &Cluster) {
    let said = at_a_terminal(
        cluster,
        &[],
        "run moment --image=localhost:5000/hello:v1 --restart=Never -it --rm -- sh",
        b"echo $((6*7))\nexit\n",
    );
    assert!(said.stdout.contains("42\r\n"), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains(r#"pod "moment" deleted"#), "{}{}", said.stdout, said.stderr);
    assert_eq!(cluster.kubectl("get pod moment").code, 1);
    let piped = cluster
        .kubectl_with("run piped --image=localhost:5000/hello:v1 --restart=Never -i --rm --quiet -- cat", "through\n")
        .ok();
    assert!(piped.contains("through"), "{piped}");
}
