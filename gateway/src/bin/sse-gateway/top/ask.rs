//! Asks gateways' admin ports for their metrics and their streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

/// How long a gateway may take for all answers.
const PATIENCE: Duration = Duration::from_secs(2);
/// The port of an address without scheme and port: that of `admin.listen`.
const DEFAULT_PORT: u16 = 9090;
/// The most bytes of one answer.
const MOST: usize = 8 << 20;
/// How many streams are asked for: more than a screen shows.
pub const READERS: usize = 100;

/// One admin port, or several behind one name.
#[derive(Debug, Clone)]
pub struct Target {
    /// The host and port, as the operator wrote them.
    name: String,
    host: Host<String>,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    /// The API key to show. It goes only to a server whose certificate was checked, or where the
    /// operator chose HTTP.
    key: Option<HeaderValue>,
}

/// What a gateway answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its metrics, as text.
    pub metrics: String,
    /// Its streams, or why it does not tell of them.
    pub connections: Result<Value, String>,
}

/// A gateway's name, and its answer or why there is none.
pub type Answered = (String, Result<Answer, String>);

impl Target {
    /// The gateway with this admin address, on this machine.
    pub fn here(addr: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Self {
        let host = match addr {
            SocketAddr::V4(addr) => Host::Ipv4(*addr.ip()),
            SocketAddr::V6(addr) => Host::Ipv6(*addr.ip()),
        };
        Target { name: addr.to_string(), host, port: addr.port(), tls, key: None }
    }

    /// The gateways at this URL. The error says what is wrong with it.
    pub fn of(text: &str, key: Option<&str>) -> Result<Self, String> {
        let wrong = |why: &str| format!("--admin {text}: {why}");
        // Without a scheme it is a host, with a port or without. `admin` is no scheme with a port of
        // its own, so port 80 is told from none.
        let whole = if text.contains("://") { text.to_owned() } else { format!("admin://{text}") };
        let url = Url::parse(&whole).map_err(|error| wrong(&error.to_string()))?;
        let tls = match url.scheme() {
            "http" | "admin" => None,
            "https" => Some(Arc::new(trusting_the_system())),
            _ => return Err(wrong("write http:// or https://")),
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(wrong("name only the host and the port of the admin port"));
        }
        let host = url.host().ok_or_else(|| wrong("there is no host in it"))?.to_owned();
        let port = url.port_or_known_default().unwrap_or(DEFAULT_PORT);
        let key = key.map(|key| {
            let mut key =
                HeaderValue::from_str(key).map_err(|_| "the API key is no text".to_owned())?;
            key.set_sensitive(true);
            Ok::<_, String>(key)
        });
        let key = key.transpose()?;
        Ok(Target { name: format!("{host}:{port}"), host, port, tls, key })
    }

    /// Asks every gateway behind this name. `sort` is the order of the streams.
    pub async fn ask(&self, sort: &str) -> Vec<Answered> {
        let addrs = match tokio::time::timeout(PATIENCE, self.addresses()).await {
            Ok(Ok(addrs)) => addrs,
            Ok(Err(why)) => return vec![(self.name.clone(), Err(why))],
            Err(_) => {
                return vec![(self.name.clone(), Err("its name is not found in time".into()))];
            }
        };
        let alone = addrs.len() == 1;
        let each = addrs.into_iter().map(|addr| async move {
            let name = if alone { self.name.clone() } else { addr.to_string() };
            let answer = tokio::time::timeout(PATIENCE, self.ask_one(addr, sort)).await;
            (name, answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}"))))
        });
        join_all(each).await
    }

    /// The addresses behind the name: those of IPv4 if there are any, because a gateway that has
    /// both is one gateway.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let domain = match &self.host {
            Host::Ipv4(ip) => return Ok(vec![(*ip, self.port).into()]),
            Host::Ipv6(ip) => return Ok(vec![(*ip, self.port).into()]),
            Host::Domain(domain) => domain.as_str(),
        };
        let found = tokio::net::lookup_host((domain, self.port)).await;
        let found = found.map_err(|error| format!("its name leads nowhere: {error}"))?;
        let (mut four, six): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
        if four.is_empty() {
            four = six;
        }
        four.sort_unstable();
        four.dedup();
        if four.is_empty() { Err("its name has no address".to_owned()) } else { Ok(four) }
    }

    async fn ask_one(&self, addr: SocketAddr, sort: &str) -> Result<Answer, String> {
        let stream = TcpStream::connect(addr).await.map_err(|error| plain(&error))?;
        let Some(tls) = &self.tls else { return self.ask_on(stream, sort).await };
        let name = match &self.host {
            Host::Domain(domain) => ServerName::try_from(domain.clone()).map_err(|e| e.to_string()),
            Host::Ipv4(ip) => Ok(ServerName::IpAddress((*ip).into())),
            Host::Ipv6(ip) => Ok(ServerName::IpAddress((*ip).into())),
        };
        let stream = TlsConnector::from(tls.clone()).connect(name?, stream).await;
        self.ask_on(stream.map_err(|error| plain(&error))?, sort).await
    }

    async fn ask_on(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        sort: &str,
    ) -> Result<Answer, String> {
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let both = async {
            let (status, metrics) = self.get(&mut sender, "/metrics").await?;
            if status != StatusCode::OK {
                return Err(refusal(status, &metrics));
            }
            let path = format!("/connections?sort={sort}&limit={READERS}");
            let connections = match self.get(&mut sender, &path).await? {
                (StatusCode::OK, body) => serde_json::from_str(&body).map_err(|e| e.to_string()),
                (status, body) => Err(refusal(status, &body)),
            };
            Ok(Answer { metrics, connections })
        };
        tokio::select! {
            answered = both => answered,
            ended = connection => Err(ended.map_or_else(|error| error.to_string(), |()| "it closed the connection".to_owned())),
        }
    }

    async fn get(
        &self,
        sender: &mut SendRequest<Empty<Bytes>>,
        path: &str,
    ) -> Result<(StatusCode, String), String> {
        let mut request = Request::get(path).header(HOST, &self.name);
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// Says why a call was refused: what a problem document says (RFC 9457), or the status.
fn refusal(status: StatusCode, body: &str) -> String {
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    problem["detail"].as_str().map_or_else(|| format!("it answers {status}"), str::to_owned)
}

/// An error of the system, without its number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

fn trusting_the_system() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    // Unreadable roots are no error here; the handshake that needs them fails.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|error| unreachable!("ring has the safe versions: {error}"))
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_or_what_a_url_has_between_its_slashes() {
        for (text, name) in [
            ("http://127.0.0.1:9091", "127.0.0.1:9091"),
            ("10.0.0.1:9090", "10.0.0.1:9090"),
            ("gateways.internal", "gateways.internal:9090"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("https://gw.example/", "gw.example:443"),
            ("[::1]:9090", "[::1]:9090"),
        ] {
            assert_eq!(Target::of(text, None).unwrap().name, name);
        }
        for (text, why) in [
            ("ftp://a", "http://"),
            ("http://a/metrics", "only the host"),
            ("http://", "host"),
            ("http://a:x", "port"),
        ] {
            let error = Target::of(text, None).unwrap_err();
            assert!(error.starts_with("--admin ") && error.contains(why), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn a_name_with_both_families_is_asked_once_each() {
        let target = Target::of("localhost:9", None).unwrap();
        let addrs = target.addresses().await.unwrap();
        let four = addrs.iter().all(SocketAddr::is_ipv4);
        assert!(four || addrs.iter().all(SocketAddr::is_ipv6), "{addrs:?}");
    }
}
