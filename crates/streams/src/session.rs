//! What a session is, whichever protocol carries it.

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

/// Messages of one direction that wait for the other side; a full queue makes the sender wait.
pub(crate) const QUEUE: usize = 16;

/// Which streams a command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streams {
    /// The caller sends input.
    pub stdin: bool,
    /// The caller wants output.
    pub stdout: bool,
    /// The caller wants errors apart (never with a terminal).
    pub stderr: bool,
    /// The command runs on a terminal.
    pub tty: bool,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl TerminalSize {
    /// Reads `{"Width":80,"Height":24}`.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let field = |name: &str| u16::try_from(value.get(name)?.as_u64()?).ok();
        Some(Self { width: field("Width")?, height: field("Height")? })
    }
}

/// What is to be sent: a part of a stream, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// Bytes for a stream.
    Data(u32, Bytes),
    /// The stream ends here.
    End(u32),
}

/// Where a session's output goes. Ends when the last clone is dropped or [`Output::end`] is called.
#[derive(Debug)]
pub struct Output {
    stream: u32,
    queue: mpsc::Sender<Outgoing>,
}

/// The caller went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller closed the connection")]
pub struct Gone;

impl Output {
    pub(crate) fn new(stream: u32, queue: mpsc::Sender<Outgoing>) -> Self {
        Self { stream, queue }
    }

    /// Sends bytes, waiting while the caller does not read.
    ///
    /// # Errors
    /// The caller went away.
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Ok(());
        }
        self.queue.send(Outgoing::Data(self.stream, bytes)).await.map_err(|_| Gone)
    }

    /// Ends the stream; the caller sees the end of file.
    ///
    /// # Errors
    /// The caller went away.
    pub async fn end(self) -> Result<(), Gone> {
        self.queue.send(Outgoing::End(self.stream)).await.map_err(|_| Gone)
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitStatus {
    /// It ran and ended with this code.
    Exited(i32),
    /// It could not be run, or was lost.
    Failed(String),
}

impl ExitStatus {
    /// The Status that the error stream carries from version 4 of the protocol on.
    pub(crate) fn to_json(&self) -> String {
        match self {
            Self::Exited(0) => json!({"metadata": {}, "status": "Success"}),
            Self::Exited(code) => json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(why) => json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {why}"),
                "details": {"causes": [{"message": why}]},
            }),
        }
        .to_string()
    }

    /// The text that the error stream carried before version 4.
    pub(crate) fn to_text(&self) -> Option<String> {
        match self {
            Self::Exited(0) => None,
            Self::Exited(code) => Some(format!("command terminated with non-zero exit code: exit status {code}")),
            Self::Failed(why) => Some(why.clone()),
        }
    }
}

/// A command with a caller on the other side.
#[derive(Debug)]
pub struct RemoteCommand {
    /// The caller's input; closed at its end.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    /// Output for the caller.
    pub stdout: Option<Output>,
    /// Errors for the caller.
    pub stderr: Option<Output>,
    /// Changes of the caller's terminal.
    pub resize: mpsc::Receiver<TerminalSize>,
    pub(crate) error: Output,
    pub(crate) statuses: bool,
    pub(crate) connection: KeepOpen,
}

/// What holds the connection open as long as the session lasts.
pub(crate) struct KeepOpen(
    #[expect(dead_code, reason = "it is held, not read")] pub(crate) Box<dyn std::any::Any + Send>,
);

impl std::fmt::Debug for KeepOpen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeepOpen")
    }
}

impl RemoteCommand {
    /// Tells the caller how the command ended; the session ends with it. The outputs must have got everything before.
    ///
    /// # Errors
    /// The caller went away.
    pub async fn finish(self, status: ExitStatus) -> Result<(), Gone> {
        let Self { stdout, stderr, error, statuses, stdin, connection, .. } = self;
        for output in [stdout, stderr].into_iter().flatten() {
            output.end().await?;
        }
        let text = if statuses { Some(status.to_json()) } else { status.to_text() };
        if let Some(text) = text {
            error.write(text).await?;
        }
        error.end().await?;
        drop((stdin, connection));
        Ok(())
    }
}

/// One connection that the caller forwards.
#[derive(Debug)]
pub struct ForwardedConnection {
    /// The port inside the pod.
    pub port: u16,
    /// What the caller sends; closed at its end.
    pub input: mpsc::Receiver<Bytes>,
    /// What the caller gets.
    pub output: Output,
    /// Where a failure is told in words.
    pub error: Output,
}

/// A port-forward session: connections come for as long as it lasts.
#[derive(Debug)]
pub struct PortForward {
    /// The connections as the caller opens them; closed when the caller goes.
    pub connections: mpsc::Receiver<ForwardedConnection>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_told_as_upstream_tells_them() {
        assert_eq!(ExitStatus::Exited(0).to_json(), r#"{"metadata":{},"status":"Success"}"#);
        let status: serde_json::Value = serde_json::from_str(&ExitStatus::Exited(3).to_json()).expect("JSON");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    }

    #[test]
    fn sizes_are_read() {
        let size = TerminalSize::parse(br#"{"Width":80,"Height":24}"#);
        assert_eq!(size, Some(TerminalSize { width: 80, height: 24 }));
        assert_eq!(TerminalSize::parse(b"nonsense"), None);
    }
}
