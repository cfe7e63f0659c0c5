//! The access log.

use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;

/// Writes down the lines of the access log, without how long anything took.
struct Log(Arc<Mutex<String>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "took" {
            write!(self.0, "{}={value:?} ", field.name()).expect("room");
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "ingress"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        *self.0.lock() += &format!("{}\n", line.0.trim_end());
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn requests_are_written_to_the_log_by_either_way() {
    in_own_namespace(async || {
        let mut outcomes = Vec::new();
        for serve in [Client::quick, Client::whole] {
            let lines = Arc::<Mutex<String>>::default();
            let _guard = tracing::subscriber::set_default(Log(lines.clone()));
            let endpoint = Endpoint::answering(usual).await;
            let mut client =
                serve(&proxy(&[endpoint.address], json!({ "ingress.skiff.io/enable-access-log": "true" })));
            let head = "HEAD /none HTTP/1.1\r\nHost: WEB.example:80\r\n\r\n";
            client.say(format!("{}{head}{}{LAST}", get("/a?b=c"), get("/garbage")).as_bytes()).await;
            client.hear().await;
            outcomes.push(std::mem::take(&mut *lines.lock()));
        }
        assert_eq!(outcomes[0], outcomes[1]);
        let first = r#"message=192.0.2.9 web.example "GET /a?b=c HTTP/1.1" route=Ingress shop/web status=200"#;
        assert_eq!(outcomes[0].lines().next(), Some(first), "{}", outcomes[0]);
        assert_eq!(outcomes[0].lines().count(), 4);
    });
}
