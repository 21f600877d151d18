//! Publishes through a gateway. Each request is one NDJSON `POST /publish`.

use std::time::{Duration, SystemTime};

use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use serde::Serialize;

use crate::attempt::{Answer, Attempt, Reason, Target};
use crate::http_answer::{Answers, refused};
use crate::http_client::{HttpClient, NoAnswer, next_chunk, read_document};
use crate::http_head::{media_type, retry_after};
use crate::item::Event;

const NDJSON: &str = "application/x-ndjson";

/// A gateway to publish to.
pub struct HttpTarget {
    client: HttpClient,
    /// The longest silence while an answer is read.
    wait: Duration,
}

/// An item of `POST /publish`.
#[derive(Serialize)]
struct Item<'a> {
    channel: &'a str,
    data: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    idempotency_key: &'a str,
}

impl HttpTarget {
    /// A target that uses this client. `wait` is the longest silence while an answer is read.
    pub fn new(client: HttpClient, wait: Duration) -> Self {
        HttpTarget { client, wait }
    }
}

impl Target for HttpTarget {
    fn place(&self) -> String {
        self.client.base().to_string()
    }

    async fn send(&mut self, events: &[&Event]) -> Attempt {
        let all = events.len();
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static(NDJSON)),
            (ACCEPT, HeaderValue::from_static("application/x-ndjson, application/problem+json")),
        ];
        let mut response =
            match self.client.send(Method::POST, "/publish", &headers, body(events)).await {
                Ok(response) => response,
                Err(NoAnswer { text, connected }) => {
                    let answer = again(text, connected);
                    return Attempt { connected, ..Attempt::alike(all, answer) };
                }
            };
        let status = response.status();
        let retry_after = retry_after(response.headers(), SystemTime::now());
        let media_type = media_type(response.headers());
        // An NDJSON answer has results whatever its status: if all items failed alike, the status
        // is theirs.
        if !status.is_success() && media_type != NDJSON {
            // If the document cannot be read, the status alone says enough.
            let document = read_document(response.body_mut(), self.wait).await.unwrap_or_default();
            return Attempt { retry_after, ..refused(all, status, response.headers(), &document) };
        }
        if media_type != NDJSON {
            let reason = Reason::new(format!("what answers there (HTTP {status}) is no gateway"));
            return Attempt { stop: true, ..Attempt::alike(all, Answer::Refused(reason)) };
        }
        let mut answers = Answers::new(all);
        let why = loop {
            let step = match next_chunk(response.body_mut(), self.wait).await {
                Ok(Some(chunk)) => answers.feed(&chunk),
                Ok(None) => break answers.end().err(),
                Err(why) => Err(why),
            };
            if let Err(why) = step {
                break Some(why);
            }
        };
        let why = why.unwrap_or_else(|| "the answer ended without a result".to_owned());
        Attempt { retry_after, ..answers.finish(again(why, true)) }
    }
}

fn again(text: String, perhaps_published: bool) -> Answer {
    Answer::Again { reason: Reason::new(text), perhaps_published }
}

fn body(events: &[&Event]) -> Vec<u8> {
    let mut body = Vec::with_capacity(events.iter().map(|event| event.size() + 64).sum());
    for event in events {
        let item = Item {
            channel: event.channel.as_str(),
            data: &event.data,
            event: event.event.as_ref().map(|event| event.as_str()),
            idempotency_key: &event.key,
        };
        serde_json::to_writer(&mut body, &item).expect("text is written to memory");
        body.push(b'\n');
    }
    body
}
