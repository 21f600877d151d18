//! A collector: an HTTP server that decodes the spans it is sent.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sse_lab::listener::Listener;

use crate::support::BOUND;

/// What a collector answers; none: it reads and keeps silent.
type Answer = Option<&'static str>;

const FINE: &str = "200 OK";

/// Takes spans until it is dropped.
pub struct Collector {
    pub addr: SocketAddr,
    exports: Receiver<Export>,
    answer: Arc<Mutex<Answer>>,
    _listener: Listener,
}

/// One request to the collector.
pub struct Export {
    /// The request's line and headers.
    pub head: String,
    /// The attributes of the resource.
    pub resource: BTreeMap<String, String>,
    pub spans: Vec<Span>,
}

impl Collector {
    /// A collector that takes everything.
    pub fn start() -> Self {
        Self::serving(Some(FINE), |client, serve| serve(&mut BufReader::new(client)))
    }

    /// A collector that answers nothing.
    pub fn hanging() -> Self {
        Self::serving(None, |client, serve| serve(&mut BufReader::new(client)))
    }

    /// A collector that speaks TLS, with this certificate and its key.
    pub fn with_tls(certificate: &Path, key: &Path) -> Self {
        let certificates = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .unwrap();
        let config = Arc::new(config);
        Self::serving(Some(FINE), move |client, serve| {
            let session = ServerConnection::new(config.clone()).unwrap();
            serve(&mut BufReader::new(StreamOwned::new(session, client)));
        })
    }

    fn serving(
        answer: Answer,
        with: impl Fn(TcpStream, &dyn Fn(&mut dyn Connection)) + Send + Sync + 'static,
    ) -> Self {
        let (sender, exports) = channel();
        let answer = Arc::new(Mutex::new(answer));
        let shared = (Mutex::new(sender), answer.clone());
        let listener = Listener::start(move |client| {
            let (sender, answer) = (shared.0.lock().unwrap().clone(), &shared.1);
            with(client, &move |connection| serve(connection, &sender, answer));
        });
        Collector { addr: listener.addr, exports, answer, _listener: listener }
    }

    /// Answers with this status from now on.
    pub fn answer(&self, status: &'static str) {
        *self.answer.lock().unwrap() = Some(status);
    }

    /// The setting that sends spans here.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The next request.
    #[track_caller]
    pub fn export(&self) -> Export {
        self.exports.recv_timeout(BOUND).expect("an export")
    }

    /// All spans so far. Complete once the gateway has ended.
    pub fn spans(&self) -> Vec<Span> {
        self.exports.try_iter().flat_map(|export| export.spans).collect()
    }
}

/// A connection of a client, with TLS or without.
pub trait Connection: BufRead {
    fn writer(&mut self) -> &mut dyn Write;
}

impl<T: Read + Write> Connection for BufReader<T> {
    fn writer(&mut self) -> &mut dyn Write {
        self.get_mut()
    }
}

/// Serves requests until the client leaves.
fn serve(connection: &mut dyn Connection, exports: &Sender<Export>, answer: &Mutex<Answer>) {
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match connection.read_line(&mut head) {
                Ok(1..) => {}
                // The client left.
                _ => return,
            }
        }
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.expect("a length").parse().unwrap()];
        connection.read_exact(&mut body).unwrap();
        if lower.contains("\r\ncontent-encoding: gzip\r\n") {
            let mut unpacked = Vec::new();
            GzDecoder::new(&body[..]).read_to_end(&mut unpacked).expect("gzip");
            body = unpacked;
        }
        let _ = exports.send(Export::of(head, &body));
        let answer = *answer.lock().unwrap();
        let Some(status) = answer else { continue };
        // An empty body is an empty ExportTraceServiceResponse: everything was taken.
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        if connection.writer().write_all(answer.as_bytes()).is_err() {
            return;
        }
        connection.writer().flush().unwrap();
    }
}

impl Export {
    fn of(head: String, body: &[u8]) -> Self {
        let request = ExportTraceServiceRequest::decode(body).expect("an OTLP request");
        let [of_gateway] = &request.resource_spans[..] else { panic!("{request:?}") };
        let resource = attributes(&of_gateway.resource.as_ref().unwrap().attributes);
        let spans = of_gateway.scope_spans.iter().flat_map(|scope| scope.spans.clone()).collect();
        Export { head, resource, spans }
    }
}

/// Attributes by name, with their values as text.
pub fn attributes(of: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let value = |pair: &KeyValue| text(pair.value.as_ref().unwrap().value.as_ref().unwrap());
    of.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
