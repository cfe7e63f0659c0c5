//! What runs inside of a network namespace, on one core: the servers behind Services, and the loads. The benchmark starts
//! its own program again for each; what it measured is one line of JSON.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{dns, load};

/// The first argument of such a program.
pub const INSIDE: &str = "--inside";
/// No connection may take longer, no answer either.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is tried again whether somebody answers.
const LOOK_AGAIN: Duration = Duration::from_micros(300);
const PIECE: usize = 64 << 10;

/// Runs one of the programs.
pub fn run(arguments: &[String]) {
    let text = |at: usize| arguments.get(at).unwrap_or_else(|| panic!("argument {at} of {arguments:?}")).as_str();
    let number = |at: usize| text(at).parse::<usize>().expect("a number");
    let address = |at: usize| text(at).parse::<SocketAddr>().expect("an address with its port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let measured = runtime.block_on(async {
        match text(0) {
            "serve" => serve(address(1)).await,
            "keep" => load::keep(address(1), number(2), Duration::from_millis(number(3) as u64)).await,
            "connect" => load::connect(address(1), number(2), number(3)).await,
            "fetch" => load::fetch(address(1), number(2)).await,
            "ask" => dns::ask(address(1), text(2), number(3), Duration::from_millis(number(4) as u64)).await,
            "watch" => watch(address(1)).await,
            other => panic!("there is no {other:?}"),
        }
    });
    println!("{measured}");
}

/// Ends the program when the one that started it is gone.
fn end_with_parent() {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let ended = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(i32::from(ended.is_err()));
    });
}

/// Tells the one that started this program.
fn tell(what: &Value) {
    println!("{what}");
    std::io::stdout().flush().expect("somebody listens");
}

/// A web server: `/N` answers with N bytes. Connections are kept unless the request says otherwise.
async fn serve(address: SocketAddr) -> Value {
    let listener = TcpListener::bind(address).await.expect("a free port");
    end_with_parent();
    tell(&json!("ready"));
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Whoever goes away in the middle is no concern of the server's.
                answer(stream).await.map_or_else(drop, drop);
            });
        }
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let piece = vec![b'x'; PIECE];
    let mut buffer = vec![0; 4096];
    let mut filled = 0;
    loop {
        let Some(end) = buffer[..filled].windows(4).position(|part| part == b"\r\n\r\n") else {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            continue;
        };
        let head = &buffer[..end];
        let closes = head.windows(17).any(|part| part == b"Connection: close");
        let length = head.split(|byte| *byte == b' ').nth(1).and_then(|path| std::str::from_utf8(&path[1..]).ok());
        let mut length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        buffer.copy_within(end + 4..filled, 0);
        filled -= end + 4;
        let mut head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
        if length <= 4096 {
            head.push_str(std::str::from_utf8(&piece[..length]).expect("letters"));
            length = 0;
        }
        stream.write_all(head.as_bytes()).await?;
        while length > 0 {
            let part = length.min(PIECE);
            stream.write_all(&piece[..part]).await?;
            length -= part;
        }
        if closes {
            return Ok(());
        }
    }
}

/// For each word that it is told, `up` or `down`, tells when the address began to answer or ceased to: the time of day in
/// nanoseconds.
async fn watch(address: SocketAddr) -> Value {
    tell(&json!("ready"));
    for word in std::io::stdin().lines().map_while(Result::ok) {
        let start = Instant::now();
        loop {
            let connecting = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await;
            if connecting.is_ok_and(|connected| connected.is_ok()) == (word == "up") {
                break;
            }
            if start.elapsed() > PATIENCE {
                return json!({"failed": format!("{address} is not {word}")});
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        tell(&json!({"at": time_of_day()}));
    }
    json!("end")
}

/// The time of day in nanoseconds, the same for all processes.
pub fn time_of_day() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_nanos()).expect("a year before 2554")
}
