//! The connection of a model's gateway to its Redis, with RESP3 on the wire.

use std::collections::{HashSet, VecDeque};

use sse_gateway::broker::redis::resp;

use super::redis::Caller;

/// A request that a gateway's ingest sends to Redis.
pub enum Request {
    Subscribe(String),
    Unsubscribe(String),
    Tick(Caller),
}

/// The connection of a gateway's ingest.
pub struct Link {
    pub server: usize,
    pub run: String,
    subscribed: HashSet<String>,
    pub requests: VecDeque<Request>,
    /// Whole values on their way to the gateway.
    pub replies: VecDeque<Vec<u8>>,
    /// Whether the server's end is open.
    pub open: bool,
}

impl Link {
    pub fn to(server: usize, run: String) -> Self {
        Link {
            server,
            run,
            subscribed: HashSet::new(),
            requests: VecDeque::new(),
            replies: VecDeque::new(),
            open: true,
        }
    }

    /// Redis has run a subscription, or the end of one, and confirms it.
    pub fn confirm(&mut self, verb: &str, channel: &str) {
        match verb {
            "subscribe" => self.subscribed.insert(channel.to_owned()),
            _ => self.subscribed.remove(channel),
        };
        let (a, b) = (verb.len(), channel.len());
        let push = format!(">3\r\n${a}\r\n{verb}\r\n${b}\r\n{channel}\r\n:1\r\n");
        self.replies.push_back(push.into_bytes());
    }

    /// A message is published on this server. It arrives if its channel is subscribed.
    pub fn publish(&mut self, channel: &str, message: &[u8]) {
        if !self.open || !self.subscribed.contains(channel) {
            return;
        }
        let (a, b) = (channel.len(), message.len());
        let head = format!(">3\r\n$7\r\nmessage\r\n${a}\r\n{channel}\r\n${b}\r\n");
        self.replies.push_back([head.as_bytes(), message, b"\r\n"].concat());
    }
}

/// The first word of a packed command, all its words, and its length in bytes.
pub fn words(packed: &[u8]) -> (String, Vec<String>, usize) {
    let (value, length) = resp::parse(packed).unwrap().unwrap();
    let words = value.elements().iter().map(|word| word.text().unwrap().to_owned());
    let words: Vec<String> = words.collect();
    (words[0].clone(), words, length)
}

pub fn request(packed: &[u8]) -> (Request, usize) {
    let (verb, words, length) = words(packed);
    let request = match verb.as_str() {
        "SUBSCRIBE" => Request::Subscribe(words[1].clone()),
        "UNSUBSCRIBE" => Request::Unsubscribe(words[1].clone()),
        _ => Request::Tick(Caller::of(&words[4..])),
    };
    (request, length)
}
