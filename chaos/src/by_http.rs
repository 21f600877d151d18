//! Publishes through a gateway and interprets its answers.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ledger::now_ms;
use crate::payload::{Stamp, channel_in_url, channel_name};
use crate::publisher::{Answer, Answers, exchange, refused};
use crate::stage::Stage;
use crate::tally::Wrong;

/// The longest wait for a gateway's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends publications to a random gateway, in one request.
pub async fn publish(stage: &Stage, rng: &mut fastrand::Rng, stamps: &[Stamp]) -> Answers {
    let gateways = &stage.places.gateways;
    let addr = gateways[rng.usize(..gateways.len())];
    let sent_ms = now_ms();
    let single = matches!(stamps, [only] if only.channels().len() == 1) && rng.bool();
    let request = if single { one(stage.seed, stamps[0]) } else { many(stage.seed, stamps) };
    let answer = tokio::time::timeout(PATIENCE, exchange(addr, request.as_bytes())).await;
    let (head, body) = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            return Answers::nothing(stamps);
        }
        _ => return Answers::default(),
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !matches!(status, "200" | "207" | "403" | "503") {
        refused(stage, &format!("{status} {body}"), sent_ms);
    }
    let mut answers = Answers::default();
    for line in body.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_default();
        let place = value["line"].as_u64().unwrap_or(1) as usize;
        let Some(stamp) = place.checked_sub(1).and_then(|n| stamps.get(n)) else { continue };
        let answer = read(stage, &value, sent_ms);
        for channel in stamp.channels() {
            let named = value["channel"].as_str();
            if named.is_none_or(|name| name == channel_name(*channel)) {
                answers.note(*stamp, *channel, answer);
            }
        }
    }
    answers
}

/// Interprets one result: that of an item, or the problem document of a whole request.
fn read(stage: &Stage, value: &Value, sent_ms: u64) -> Answer {
    if let Some(id) = value["id"].as_str().and_then(|id| id.parse().ok()) {
        return Answer::Event(id);
    }
    let kind = value["error"]["type"].as_str().or(value["type"].as_str()).unwrap_or_default();
    match kind.strip_prefix("urn:sse-gateway:").unwrap_or_default() {
        "redis-unavailable" | "unavailable" => Answer::Nothing,
        "publish-outcome-unknown" => Answer::Unknown,
        "publish-denied" => {
            refused(stage, &value.to_string(), sent_ms);
            Answer::Nothing
        }
        // The suite uses each key for one publication only.
        "idempotency-conflict" => {
            stage.wrong(Wrong::Duplicated, format!("a key is said to be used: {value}"));
            Answer::Never
        }
        "" => Answer::Unknown,
        _ => {
            refused(stage, &value.to_string(), sent_ms);
            Answer::Nothing
        }
    }
}

fn one(seed: u64, stamp: Stamp) -> String {
    let channel = channel_in_url(stamp.channel);
    let key = stamp.key().map_or(String::new(), |key| format!("\r\nIdempotency-Key: {key}"));
    post(&format!("/channels/{channel} HTTP/1.1{key}"), &stamp.text(seed))
}

fn many(seed: u64, stamps: &[Stamp]) -> String {
    let line = |stamp: &Stamp| {
        let names: Vec<_> = stamp.channels().iter().map(|c| channel_name(*c)).collect();
        let mut item = json!({ "data": stamp.text(seed) });
        match &names[..] {
            [name] => item["channel"] = json!(name),
            _ => item["channels"] = json!(names),
        }
        if let Some(key) = stamp.key() {
            item["idempotency_key"] = json!(key);
        }
        format!("{item}\n")
    };
    let body: String = stamps.iter().map(line).collect();
    post("/publish HTTP/1.1\r\nContent-Type: application/x-ndjson", &body)
}

fn post(head: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {head}\r\nHost: chaos\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}
