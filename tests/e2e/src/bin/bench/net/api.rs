//! Many objects through `kubectl proxy`, on connections that are kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Nothing that is asked takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many connections make objects.
const WRITERS: usize = 8;

/// A connection to the API.
pub struct Api(BufReader<TcpStream>);

impl Api {
    /// Opens one to a `kubectl proxy`.
    pub fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("kubectl proxy listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a duration above zero");
        stream.set_nodelay(true).expect("a TCP socket");
        Self(BufReader::new(stream))
    }

    /// One request that must succeed; the answer's body.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> String {
        let media = if method == "PATCH" { "application/strategic-merge-patch+json" } else { "application/json" };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all(format!("{head}{body}").as_bytes()).expect("kubectl proxy reads");
        let (status, text) = self.answer().expect("kubectl proxy answers");
        assert!(status.contains(" 20"), "{method} {path}: {status}: {text}");
        text
    }

    fn answer(&mut self) -> std::io::Result<(String, String)> {
        let status = self.line()?;
        let (mut length, mut is_chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(": ") {
                None => break,
                Some(("content-length", text)) => length = text.parse().map_err(std::io::Error::other)?,
                Some(("transfer-encoding", _)) => is_chunked = true,
                Some(_) => {}
            }
        }
        let mut body = Vec::new();
        while is_chunked {
            let size = usize::from_str_radix(&self.line()?, 16).map_err(std::io::Error::other)?;
            (&mut self.0).take(size as u64).read_to_end(&mut body)?;
            self.line()?;
            is_chunked = size > 0;
        }
        (&mut self.0).take(length).read_to_end(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

/// Creates many objects by several connections at a time.
pub fn create_all(address: &str, objects: &[(String, Value)]) {
    std::thread::scope(|scope| {
        for part in objects.chunks(objects.len().div_ceil(WRITERS).max(1)) {
            scope.spawn(move || {
                let mut api = Api::open(address);
                for (path, object) in part {
                    api.request("POST", path, &object.to_string());
                }
            });
        }
    });
}
