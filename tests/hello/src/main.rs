//! The program inside the test images: a web server whose behaviour the tests can steer.
//!
//! `hello --port=8080` answers every path with its version and host name. `/healthz` and `/readyz` answer 200 until
//! `/healthz/fail` or `/readyz/fail` was asked for (`/readyz/mend` mends it); `/exit/N` ends the program with code N;
//! `/env/NAME` and `/file/PATH` show what the container sees; `/slow/MS` answers after a while. `/echo` switches to a
//! protocol of lines that come back. With `--udp` datagrams come back too, with the host name before them. With `--say=TEXT`
//! and `--times=N` it first says a line as often as that, as quickly as it is heard.
//! On SIGTERM it goes on answering until the connections it has are served, then ends with 0.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// What the tests can change.
struct State {
    healthy: AtomicBool,
    ready: AtomicBool,
    open: AtomicUsize,
    version: String,
    host: String,
}

static ENDING: AtomicBool = AtomicBool::new(false);

extern "C" fn on_sigterm(_: libc::c_int) {
    ENDING.store(true, Ordering::SeqCst);
}

fn main() -> io::Result<()> {
    let mut port = 8080;
    let mut answers_datagrams = false;
    let (mut line, mut times) = (String::new(), 1);
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("--port", value)) => port = value.parse().map_err(io::Error::other)?,
            Some(("--say", text)) => line = format!("{text}\n"),
            Some(("--times", value)) => times = value.parse().map_err(io::Error::other)?,
            None if argument == "--udp" => answers_datagrams = true,
            _ => return Err(io::Error::other(format!("unknown argument {argument}"))),
        }
    }
    catch_sigterm();
    say(&line, times)?;
    let state = Arc::new(State {
        healthy: AtomicBool::new(true),
        ready: AtomicBool::new(true),
        open: AtomicUsize::new(0),
        version: std::fs::read_to_string("/version").unwrap_or_else(|_| "v0".into()).trim().to_owned(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned(),
    });
    let everywhere = everywhere(port);
    let listener = TcpListener::bind(&everywhere[..])?;
    if answers_datagrams {
        let (socket, host) = (UdpSocket::bind(&everywhere[..])?, state.host.clone());
        std::thread::spawn(move || answer_datagrams(&socket, &host));
    }
    println!("hello {} listening on {port}", state.version);
    let serving = state.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = serving.clone();
            state.open.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                if let Err(error) = answer(&stream, &state) {
                    eprintln!("connection: {error}");
                }
                state.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    wait_for_the_end(&state);
    println!("hello {} ends", state.version);
    Ok(())
}

/// Says a line many times. Many of them are written at once, so that whoever listens is what it takes time for.
fn say(line: &str, times: usize) -> io::Result<()> {
    const BLOCK_BYTES: usize = 64 * 1024;
    if line.is_empty() {
        return Ok(());
    }
    let at_once = (BLOCK_BYTES / line.len()).max(1);
    let block = line.repeat(at_once.min(times));
    let mut out = io::stdout().lock();
    for _ in 0..times / at_once {
        out.write_all(block.as_bytes())?;
    }
    out.write_all(line.repeat(times % at_once).as_bytes())?;
    out.flush()
}

/// All addresses of both families, or those of IPv4 where there are no others.
fn everywhere(port: u16) -> [SocketAddr; 2] {
    [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}

/// Every datagram comes back with the host's name before it.
fn answer_datagrams(socket: &UdpSocket, host: &str) {
    let mut buffer = [0; 1024];
    loop {
        let answered = socket.recv_from(&mut buffer).and_then(|(length, from)| {
            let text = format!("{host} {}", String::from_utf8_lossy(&buffer[..length]));
            socket.send_to(text.as_bytes(), from)
        });
        if let Err(error) = answered {
            eprintln!("datagram: {error}");
        }
    }
}

/// Waits for SIGTERM, then until the connections that are still coming in are served.
fn wait_for_the_end(state: &State) {
    const POLL: Duration = Duration::from_millis(50);
    // Rules that still point here are changed within moments; until then new connections are served.
    const LINGER: u32 = 20;
    while !ENDING.load(Ordering::SeqCst) {
        std::thread::sleep(POLL);
    }
    let mut quiet = 0;
    while quiet < LINGER {
        std::thread::sleep(POLL);
        quiet = if state.open.load(Ordering::SeqCst) == 0 { quiet + 1 } else { 0 };
    }
}

#[expect(unsafe_code, reason = "std has no way to catch a signal")]
fn catch_sigterm() {
    let handler: extern "C" fn(libc::c_int) = on_sigterm;
    // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
    unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
}

fn answer(mut stream: &TcpStream, state: &State) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.take(64 << 10));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
    }
    if path == "/echo" {
        return echo(stream, &mut reader);
    }
    let (status, body) = respond(&path, state);
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

/// Gives every line back, until there are no more.
fn echo(mut stream: &TcpStream, lines: &mut impl BufRead) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")?;
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        stream.write_all(line.as_bytes())?;
        line.clear();
    }
    Ok(())
}

fn respond(path: &str, state: &State) -> (&'static str, String) {
    let flag =
        |ok: bool| if ok { ("200 OK", "ok\n".to_owned()) } else { ("500 Internal Server Error", "failed\n".into()) };
    let set = |flag: &AtomicBool, value: bool| {
        flag.store(value, Ordering::SeqCst);
        ("200 OK", "done\n".to_owned())
    };
    match path {
        "/healthz" => flag(state.healthy.load(Ordering::SeqCst)),
        "/readyz" => flag(state.ready.load(Ordering::SeqCst)),
        "/healthz/fail" => set(&state.healthy, false),
        "/readyz/fail" => set(&state.ready, false),
        "/readyz/mend" => set(&state.ready, true),
        _ => respond_with_argument(path, state),
    }
}

fn respond_with_argument(path: &str, state: &State) -> (&'static str, String) {
    if let Some(code) = path.strip_prefix("/exit/") {
        std::process::exit(code.parse().unwrap_or(1));
    }
    if let Some(name) = path.strip_prefix("/env/") {
        return ("200 OK", std::env::var(name).unwrap_or_default() + "\n");
    }
    if let Some(file) = path.strip_prefix("/file") {
        return match std::fs::read_to_string(file) {
            Ok(text) => ("200 OK", text),
            Err(error) => ("404 Not Found", format!("{error}\n")),
        };
    }
    if let Some(millis) = path.strip_prefix("/slow/") {
        std::thread::sleep(Duration::from_millis(millis.parse().unwrap_or(0)));
    }
    ("200 OK", format!("hello {} from {}\n", state.version, state.host))
}
