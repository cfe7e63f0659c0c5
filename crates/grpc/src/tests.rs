//! Calls through a socket: both sides of this crate against each other.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use prost::Message;
use tokio::net::UnixListener;

use super::*;

#[derive(Clone, PartialEq, Message)]
struct Words {
    #[prost(string, tag = "1")]
    text: String,
}

struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn call(&self, service: &str, method: &str, message: Bytes) -> GrpcResult<Reply> {
        let request: Words = decode(&message)?;
        let answer = |text: String| Words { text };
        match method {
            "Echo" => Ok(Reply::message(&answer(format!("{service} {}", request.text)))),
            "Hang" => std::future::pending().await,
            "Count" => {
                let numbers = (0..3).map(move |number| Ok(answer(number.to_string()).encode_to_vec().into()));
                let broken = stream::iter([Err(GrpcError::data_loss_for_tests())]);
                Ok(Reply::Many(Box::pin(stream::iter(numbers).chain(broken))))
            }
            _ => Err(GrpcError::unimplemented(format!("unknown method {method}"))),
        }
    }
}

impl GrpcError {
    fn data_loss_for_tests() -> Self {
        Self { code: Code::DataLoss, message: "that is all".to_owned() }
    }
}

struct Served {
    folder: std::path::PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    fn start(name: &str) -> (Self, Channel) {
        let folder = std::env::temp_dir().join(format!("skiff-grpc-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let socket = folder.join("s");
        std::fs::remove_file(&socket).unwrap_or_default();
        let listener = UnixListener::bind(&socket).expect("a socket");
        let task = tokio::spawn(serve(listener, Arc::new(Echo)));
        let channel = Channel::new(&format!("unix://{}", socket.display())).expect("an endpoint");
        (Self { folder, task }, channel)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
        std::fs::remove_dir_all(&self.folder).expect("the folder goes");
    }
}

async fn ask(channel: &Channel, method: &str, text: &str) -> GrpcResult<String> {
    let request = Words { text: text.to_owned() };
    let limit = Some(std::time::Duration::from_secs(30));
    let answer: Words = channel.unary(&format!("/a.B/{method}"), &request, limit).await?;
    Ok(answer.text)
}

#[tokio::test]
async fn calls_are_answered_also_many_at_once() {
    let (_served, channel) = Served::start("calls");
    let long = "x".repeat(1 << 20);
    let (one, two, three) =
        tokio::join!(ask(&channel, "Echo", "1"), ask(&channel, "Echo", &long), ask(&channel, "No", ""));
    assert_eq!(one, Ok("a.B 1".to_owned()));
    assert_eq!(two.expect("answered").len(), "a.B ".len() + long.len());
    assert_eq!(three, Err(GrpcError::unimplemented("unknown method No")));
}

#[tokio::test]
async fn a_stream_gives_its_messages_and_then_its_status() {
    let (_served, channel) = Served::start("stream");
    let messages: Streaming<Words> = channel.streaming("/a.B/Count", &Words::default()).await.expect("begins");
    let got: Vec<_> =
        messages.map(|message| message.map(|answer| answer.text).map_err(|error| error.code)).collect().await;
    assert_eq!(got, [Ok("0".to_owned()), Ok("1".to_owned()), Ok("2".to_owned()), Err(Code::DataLoss)]);
}

#[tokio::test]
async fn a_service_that_is_away_is_unavailable_and_may_come_back() {
    let (served, channel) = Served::start("away");
    assert!(ask(&channel, "Echo", "").await.is_ok());
    let away = Channel::new("/nowhere/s").expect("an endpoint");
    let error = ask(&away, "Echo", "").await.expect_err("nobody listens");
    assert_eq!(
        error.to_string(),
        "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: \
         dial unix /nowhere/s: connect: no such file or directory\""
    );
    assert_eq!(Channel::new("tcp://1.2.3.4:5").expect_err("refused").code, Code::InvalidArgument);
    drop(served);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_ends() {
    let (_served, channel) = Served::start("late");
    let error = ask(&channel, "Hang", "").await.expect_err("too late");
    assert_eq!(error.code, Code::DeadlineExceeded);
}
