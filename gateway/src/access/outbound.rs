//! What the gateway itself asks of others over HTTP: key sets, and whether a request is allowed.
//!
//! Bounded in time and in size. Redirects are not followed: what is asked holds secrets, and goes where the operator
//! pointed it.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use awc::{Client, Connector};
use bytes::Bytes;
use rustls::{ClientConfig, RootCertStore};
use url::Url;

/// Asks others.
#[derive(Clone)]
pub struct Outbound {
    tls: Arc<ClientConfig>,
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

thread_local! {
    /// Connections are kept for the next question, by each thread for itself.
    static CLIENT: RefCell<Option<Client>> = const { RefCell::new(None) };
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
        Outbound { tls: Arc::new(tls) }
    }

    /// Asks; the error says what went wrong, without what was asked.
    pub async fn ask(&self, question: Question<'_>) -> Result<Answered, String> {
        let client =
            CLIENT.with_borrow_mut(|client| client.get_or_insert_with(|| self.client()).clone());
        let mut request =
            client.request(question.method, question.url.as_str()).timeout(question.timeout);
        for (name, value) in &question.headers {
            request = request.append_header((name.clone(), value.clone()));
        }
        let whole = async {
            let mut answer = request.send().await.map_err(|error| error.to_string())?;
            let body =
                answer.body().limit(question.most).await.map_err(|error| error.to_string())?;
            Ok(Answered { status: answer.status(), body })
        };
        match tokio::time::timeout(question.timeout, whole).await {
            Ok(answered) => answered,
            Err(_) => Err(format!("no answer within {:?}", question.timeout)),
        }
    }

    fn client(&self) -> Client {
        let connector = Connector::new().rustls_0_23(self.tls.clone());
        Client::builder().connector(connector).disable_redirects().finish()
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Outbound::new()
    }
}
