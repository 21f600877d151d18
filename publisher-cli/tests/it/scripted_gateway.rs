//! A gateway that answers one connection after another as a script says, and records the requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// A request that arrived.
#[derive(Debug)]
pub struct Request {
    /// The request line.
    pub line: String,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The items of an NDJSON body.
    pub fn items(&self) -> Vec<Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The data of the items.
    pub fn data(&self) -> Vec<String> {
        self.items().iter().map(|item| item["data"].as_str().unwrap().to_owned()).collect()
    }

    fn read(stream: &TcpStream) -> Option<Request> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            match header.trim_end().split_once(": ") {
                Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
                None => break,
            }
        }
        let mut request =
            Request { line: line.trim_end().to_owned(), headers, body: String::new() };
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        request.body = String::from_utf8(body).unwrap();
        Some(request)
    }
}

/// Answers one connection, after its request was read. The connection is closed afterwards.
pub type Step = Box<dyn FnOnce(&Request, &mut TcpStream) + Send>;

pub struct ScriptedGateway {
    pub url: String,
    thread: JoinHandle<Vec<Request>>,
}

impl ScriptedGateway {
    /// Answers one connection with each step. Further connections are refused.
    pub fn play(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for step in steps {
                let (mut stream, _) = listener.accept().unwrap();
                let request = Request::read(&stream).expect("a request");
                step(&request, &mut stream);
                requests.push(request);
            }
            requests
        });
        ScriptedGateway { url, thread }
    }

    /// Waits until all steps are done, and returns the requests.
    pub fn requests(self) -> Vec<Request> {
        self.thread.join().unwrap()
    }
}

/// Sends these bytes.
pub fn reply(bytes: impl Into<String>) -> Step {
    let bytes = bytes.into();
    Box::new(move |_, stream| {
        // The client may close the connection early.
        stream.write_all(bytes.as_bytes()).ok();
    })
}

/// Sends these bytes, then waits until the client closes the connection.
pub fn reply_and_hold(bytes: impl Into<String>) -> Step {
    let bytes = bytes.into();
    Box::new(move |_, stream| {
        stream.write_all(bytes.as_bytes()).ok();
        stream.read_to_end(&mut Vec::new()).ok();
    })
}

/// Reports that a request arrived, then continues with `then`.
pub fn announce(to: mpsc::Sender<()>, then: Step) -> Step {
    Box::new(move |request, stream| {
        to.send(()).unwrap();
        then(request, stream);
    })
}

/// Waits for a message, then continues with `then`.
pub fn wait_for(word: mpsc::Receiver<()>, then: Step) -> Step {
    Box::new(move |request, stream| {
        word.recv().ok();
        then(request, stream);
    })
}

/// Publishes every item. Its id is the word and the number of its line.
pub fn publish_all(word: &'static str) -> Step {
    publish_some(word, usize::MAX, true)
}

/// Answers with at most `most` results. Unless `whole`, the answer is then cut off.
pub fn publish_some(word: &'static str, most: usize, whole: bool) -> Step {
    Box::new(move |request, stream| {
        let results = request.items().into_iter().take(most).enumerate().map(|(at, item)| {
            let id = format!("{word}-{}", at + 1);
            json!({ "line": at + 1, "channel": item["channel"], "id": id }).to_string() + "\n"
        });
        let body: String = results.collect();
        let length = body.len() + usize::from(!whole);
        let head = response_head("200 OK", "application/x-ndjson", length);
        stream.write_all((head + &body).as_bytes()).ok();
    })
}

/// A complete answer.
pub fn response(status: &str, content_type: &str, extra: &str, body: &str) -> String {
    let head = response_head(status, content_type, body.len());
    let (status_line, headers) = head.split_once("\r\n").unwrap();
    format!("{status_line}\r\n{extra}{headers}{body}")
}

fn response_head(status: &str, content_type: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    )
}

/// The beginning of an event stream that ends when the connection closes.
pub fn stream(blocks: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n{blocks}"
    )
}
