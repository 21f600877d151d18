//! reqwest-eventsource, which comes back by itself.
//!
//! Prints one JSON line for each thing that happened, see ../../README.md.

use futures_util::StreamExt;
use reqwest_eventsource::{Event, EventSource};
use serde_json::{Value, json};

fn tell(line: Value) {
    println!("{line}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let url = std::env::args().nth(1).expect("usage: with_reqwest_eventsource URL");
    let mut source = EventSource::get(url);
    while let Some(event) = source.next().await {
        match event {
            Ok(Event::Open) => tell(json!({"what": "open"})),
            Ok(Event::Message(event)) => tell(json!({
                "what": "event", "type": event.event, "id": event.id, "data": event.data
            })),
            Err(error) => tell(json!({"what": "error", "why": error.to_string()})),
        }
    }
    tell(json!({"what": "end"}));
}
