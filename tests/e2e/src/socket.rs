//! A WebSocket to an API server behind `kubectl proxy`, as a browser would open it: message by message.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The longest message whose length is in its second byte.
const SHORT: u8 = 125;

/// The longest that a message may be waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// An open WebSocket.
pub struct Socket {
    stream: BufReader<TcpStream>,
    /// The protocol that the server chose.
    pub protocol: Option<String>,
}

impl Socket {
    /// Opens one at a path, asking for protocols as a header lists them.
    ///
    /// # Errors
    /// The server does not answer, or not with a WebSocket: its answer's first line.
    pub fn open(address: &str, path: &str, protocols: &str) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let protocols = match protocols {
            "" => String::new(),
            some => format!("Sec-WebSocket-Protocol: {some}\r\n"),
        };
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocols}\r\n"
        )?;
        let mut stream = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let first = lines.first().cloned().unwrap_or_default();
        if !first.starts_with("HTTP/1.1 101") {
            return Err(std::io::Error::other(first));
        }
        let header = |line: &String| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-protocol").then(|| value.trim().to_owned())
        };
        Ok(Self { protocol: lines.iter().find_map(header), stream })
    }

    /// The next message; nothing once the server has closed.
    ///
    /// # Errors
    /// The connection broke within a message.
    pub fn receive(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        const CLOSE: u8 = 8;
        const OPCODE: u8 = 0xf;
        let mut head = [0; 2];
        if self.stream.fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.stream.read_exact(&mut head)?;
        let length = match head[1] {
            short @ ..=SHORT => u64::from(short),
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length)?;
                u64::from(u16::from_be_bytes(length))
            }
            _ => {
                let mut length = [0; 8];
                self.stream.read_exact(&mut length)?;
                u64::from_be_bytes(length)
            }
        };
        if head[0] & OPCODE == CLOSE {
            return Ok(None);
        }
        let mut message = Vec::new();
        (&mut self.stream).take(length).read_to_end(&mut message)?;
        Ok(Some(message))
    }

    /// All messages until the server closes.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn rest(mut self) -> std::io::Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        while let Some(message) = self.receive()? {
            all.push(message);
        }
        Ok(all)
    }
}
