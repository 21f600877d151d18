//! What the gateway itself asks of others over HTTP: key sets, and whether a request is allowed.
//!
//! Bounded in time and in size. Redirects are not followed: what is asked holds secrets, and goes where the operator
//! pointed it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use url::Url;

/// Asks others. Connections are kept for the next question.
#[derive(Clone)]
pub struct Outbound {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbound")
    }
}

/// A question.
#[derive(Debug)]
pub struct Question<'a> {
    /// How it is asked.
    pub method: Method,
    /// Where.
    pub url: &'a Url,
    /// With these headers.
    pub headers: HeaderMap,
    /// How long the whole may take.
    pub timeout: Duration,
    /// The most bytes that are read of an answer.
    pub most: usize,
}

/// An answer.
#[derive(Debug)]
pub struct Answered {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

impl Outbound {
    /// Trusts the system's root certificates (`SSL_CERT_FILE` names others).
    pub fn new() -> Self {
        let mut roots = RootCertStore::empty();
        // What is not there is told when it is needed: by the handshake that fails.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap_or_else(|error| unreachable!("ring has the safe versions: {error}"))
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Outbound { client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// Asks; the error says what went wrong, without what was asked.
    pub async fn ask(&self, question: Question<'_>) -> Result<Answered, String> {
        let Question { method, url, headers, timeout, most } = question;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() =
            url.as_str().parse().map_err(|_| "the URL cannot be asked".to_owned())?;
        *request.headers_mut() = headers;
        // Boxed: it takes a kilobyte, and so would each request about which somebody may have to be asked.
        let whole = Box::pin(async {
            let answer = self.client.request(request).await.map_err(|error| causes(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), most).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok(Answered { status, body })
        });
        match tokio::time::timeout(timeout, whole).await {
            Ok(answered) => answered,
            Err(_) => Err(format!("no answer within {timeout:?}")),
        }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Outbound::new()
    }
}

/// An error and what caused it: the outermost one says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
