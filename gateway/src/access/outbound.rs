//! HTTP client for the gateway's own requests: key sets, forward authentication and spans.
//!
//! Requests are bounded in time, answers in size. Redirects are not followed: requests contain
//! secrets, which must go only where the operator's URL points.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use url::Url;

/// HTTP client with a pool of idle connections.
#[derive(Clone)]
pub struct Outbound {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbound")
    }
}

/// An HTTP request.
#[derive(Debug)]
pub struct Question<'a> {
    /// Its method.
    pub method: Method,
    /// Its URL.
    pub url: &'a Url,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; empty: none.
    pub body: Bytes,
    /// The longest time for request and answer together.
    pub timeout: Duration,
    /// The most bytes of the answer's body.
    pub most: usize,
}

/// An HTTP response.
#[derive(Debug)]
pub struct Answered {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Outbound {
    /// Trusts the system's root certificates, or those that `SSL_CERT_FILE` names.
    pub fn new() -> Self {
        let mut roots = RootCertStore::empty();
        // Missing or unreadable roots are no error here; the TLS handshake that needs them fails.
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

    /// Sends a request. The error says what went wrong and contains nothing of the request.
    pub async fn ask(&self, question: Question<'_>) -> Result<Answered, String> {
        let Question { method, url, headers, body, timeout, most } = question;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() =
            url.as_str().parse().map_err(|_| "the URL cannot be asked".to_owned())?;
        *request.headers_mut() = headers;
        // Boxed because the future takes about 1 KB, which every request's future would hold
        // otherwise.
        let whole = Box::pin(async {
            let answer = self.client.request(request).await.map_err(|error| causes(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, most).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok(Answered { status: head.status, headers: head.headers, body })
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

/// The error with its chain of causes; the outermost error says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
