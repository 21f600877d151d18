//! The HTTP client of `publish`, `tail` and `bench`: HTTP/1.1 on one connection at a time. Its
//! errors say whether the request may have arrived.
//!
//! awc is not used. It treats an HTTP/1.1 answer with neither a length nor chunks as one without a
//! body (actix-http 3.20), although RFC 9112 §6.3 says that its body ends with the connection.
//! Event streams may be such answers. awc also panics on a machine without root certificates, even
//! for `http://`.
//!
//! The client follows no redirects. A redirected POST would become a GET, and a token would go to a
//! server that the user did not name.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::address::BaseUrl;
use crate::plain::of_system;

/// Bytes of the longest document that [`read_document`] accepts.
const MAX_DOCUMENT: usize = 1 << 20;

/// The `User-Agent` header, unless the user gives another one.
pub const USER_AGENT_TEXT: &str = concat!("sse-publish/", env!("CARGO_PKG_VERSION"));

/// A client of one gateway.
pub struct HttpClient {
    base: BaseUrl,
    tls: Option<TlsConnector>,
    headers: HeaderMap,
    connect_wait: Duration,
    answer_wait: Duration,
    /// The connection of the last request, if it can carry another.
    idle: Option<SendRequest<Full<Bytes>>>,
}

/// Why no head of an answer arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct NoAnswer {
    /// A text for people, which does not name the server.
    pub text: String,
    /// Whether a connection was made, so that the request may have arrived.
    pub connected: bool,
}

impl NoAnswer {
    fn unconnected(why: impl Into<String>) -> Self {
        NoAnswer { text: why.into(), connected: false }
    }
}

impl HttpClient {
    /// A client that sends `headers` with every request. It waits at most `connect_wait` for a
    /// connection and `answer_wait` for the head of an answer. Fails if TLS is needed and there are
    /// no root certificates.
    pub fn new(
        base: BaseUrl,
        headers: Vec<(HeaderName, HeaderValue)>,
        connect_wait: Duration,
        answer_wait: Duration,
    ) -> Result<Self, String> {
        let tls = if base.is_tls() { Some(TlsConnector::from(tls_config()?)) } else { None };
        let host = HeaderValue::from_str(base.authority()).map_err(|_| "not a host".to_owned())?;
        let mut all = HeaderMap::new();
        all.insert(HOST, host);
        all.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_TEXT));
        for (name, value) in headers {
            // A Host or User-Agent from the user replaces the default.
            if name == HOST || name == USER_AGENT {
                all.insert(name, value);
            } else {
                all.append(name, value);
            }
        }
        Ok(HttpClient { base, tls, headers: all, connect_wait, answer_wait, idle: None })
    }

    /// Sends a request and waits for the head of its answer. `path` begins with a slash.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base.path()))
            .body(Full::new(Bytes::from(body)))
            .map_err(|why| NoAnswer::unconnected(why.to_string()))?;
        request.headers_mut().clone_from(&self.headers);
        request.headers_mut().extend(headers.iter().cloned());
        let mut connection = self.connection().await?;
        let broken = |text: String| NoAnswer { text, connected: true };
        match timeout(self.answer_wait, connection.send_request(request)).await {
            Ok(Ok(response)) => {
                self.idle = Some(connection);
                Ok(response)
            }
            Ok(Err(error)) if error.is_incomplete_message() => {
                Err(broken("the connection closed before an answer came".to_owned()))
            }
            Ok(Err(error)) => Err(broken(format!("the connection broke: {}", innermost(&error)))),
            Err(_) => {
                let wait = humantime::format_duration(self.answer_wait);
                Err(broken(format!("no answer within {wait}")))
            }
        }
    }

    /// Connects if there is no usable connection.
    pub async fn connect_ahead(&mut self) -> Result<(), NoAnswer> {
        self.idle = Some(self.connection().await?);
        Ok(())
    }

    async fn connection(&mut self) -> Result<SendRequest<Full<Bytes>>, NoAnswer> {
        // The connection is ready once its task has read the last answer to the end. It is closed
        // if that answer was dropped unread.
        if let Some(mut idle) = self.idle.take()
            && let Ok(Ok(())) = timeout(self.connect_wait, idle.ready()).await
        {
            return Ok(idle);
        }
        match timeout(self.connect_wait, self.connect()).await {
            Ok(connection) => connection.map_err(NoAnswer::unconnected),
            Err(_) => {
                let wait = humantime::format_duration(self.connect_wait);
                Err(NoAnswer::unconnected(format!("no connection within {wait}")))
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let (host, port) = (self.base.host(), self.base.port());
        let text = |why: std::io::Error| of_system(&why);
        let socket = TcpStream::connect((host, port)).await.map_err(text)?;
        socket.set_nodelay(true).map_err(text)?;
        let Some(tls) = &self.tls else { return handshake(socket).await };
        let name = ServerName::try_from(host.to_owned()).map_err(|why| why.to_string())?;
        handshake(tls.connect(name, socket).await.map_err(text)?).await
    }

    /// The gateway's base URL.
    pub fn base(&self) -> &BaseUrl {
        &self.base
    }
}

async fn handshake<S>(socket: S) -> Result<SendRequest<Full<Bytes>>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(socket)).await.map_err(|why| why.to_string())?;
    // The task ends with the connection, which closes when the sender and the last body are
    // dropped. Errors of the task also reach the request.
    tokio::spawn(connection);
    Ok(sender)
}

/// The TLS configuration. Root certificates are loaded only when TLS is needed, so that a container
/// without any can use `http://`.
pub fn tls_config() -> Result<Arc<rustls::ClientConfig>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        return Err(format!(
            "no root certificates found{why}; SSL_CERT_FILE may name a file of them"
        ));
    }
    let config =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

/// The text of an error's innermost source. hyper's own texts name only the layer.
fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

/// The next chunk of a body; `None` at its end. Fails if none arrives within `wait`.
pub async fn next_chunk(body: &mut Incoming, wait: Duration) -> Result<Option<Bytes>, String> {
    loop {
        let frame = match timeout(wait, body.frame()).await {
            Err(_) => return Err(format!("nothing came for {}", humantime::format_duration(wait))),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                return Err(format!("the answer broke off: {}", innermost(&error)));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        // Skips trailers.
        if let Ok(chunk) = frame.into_data() {
            return Ok(Some(chunk));
        }
    }
}

/// Reads a whole body of at most 1 MiB. Waits at most `wait` for each chunk.
pub async fn read_document(body: &mut Incoming, wait: Duration) -> Result<Vec<u8>, String> {
    let mut document = Vec::new();
    while let Some(chunk) = next_chunk(body, wait).await? {
        document.extend_from_slice(&chunk);
        if document.len() > MAX_DOCUMENT {
            return Err("the answer is too long".to_owned());
        }
    }
    Ok(document)
}
