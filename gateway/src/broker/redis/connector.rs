//! Opens the ingest's connection to Redis, over TCP, TLS or a Unix socket, and greets the server in
//! RESP3.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use redis::{Cmd, ConnectionAddr, ConnectionInfo};
use rustls::pki_types::ServerName;
use sse_contract::Reply;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::broker::redis::place::Server;
use crate::broker::redis::resp::{self, ProtocolError, Value};
use crate::broker::redis::settings::RedisTls;
use crate::config::pem;

/// A byte stream to Redis.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why a session could not begin, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The network failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Redis did not answer within this time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The server does not speak RESP3.
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    /// Redis answered, but no session is possible: it refused a command, is too old, or is no
    /// master.
    #[error("{0}")]
    Refused(String),
    /// Redis holds a different contract than this gateway speaks. Retrying does not help.
    #[error("{0}")]
    Mismatch(String),
}

impl From<String> for SessionError {
    fn from(text: String) -> Self {
        SessionError::Refused(text)
    }
}

/// A connection, with the input that was read but not yet parsed.
pub(crate) struct Connection {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) input: BytesMut,
}

/// Connects and authenticates, at whatever kind of server. Fails with `Timeout` if all of it takes
/// longer than `timeout`.
pub(crate) async fn dial(server: &Server, timeout: Duration) -> Result<Connection, SessionError> {
    let work = async {
        let stream = open(server.info().addr(), server.tls(), timeout).await?;
        let mut connection = Connection { stream, input: BytesMut::with_capacity(64 * 1024) };
        connection.greet(server.info()).await?;
        Ok(connection)
    };
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(SessionError::Timeout(timeout)))
}

/// Connects, authenticates, and checks that the server is a master of version 7 or newer. Fails
/// with `Timeout` if all of it takes longer than `timeout`.
pub(crate) async fn connect(
    server: &Server,
    timeout: Duration,
) -> Result<Connection, SessionError> {
    let work = async {
        let mut connection = dial(server, timeout).await?;
        connection.check_role().await?;
        Ok(connection)
    };
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(SessionError::Timeout(timeout)))
}

async fn open(
    addr: &ConnectionAddr,
    tls: &RedisTls,
    timeout: Duration,
) -> Result<Box<dyn Stream>, SessionError> {
    Ok(match addr {
        ConnectionAddr::Tcp(host, port) => Box::new(tcp(host, *port, timeout).await?),
        ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
            let tcp = tcp(host, *port, timeout).await?;
            let name = ServerName::try_from(host.clone())
                .map_err(|_| SessionError::Refused(format!("{host:?} is no name for TLS")))?;
            Box::new(TlsConnector::from(tls_config(tls)?).connect(name, tcp).await?)
        }
        ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
        other => return Err(SessionError::Refused(format!("no way to connect to {other}"))),
    })
}

async fn tcp(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    // The name is resolved at every connect, because Redis may have moved to another address.
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    // The ingest mostly receives, so without keepalive it would not notice that its peer is gone.
    // (A peer that hangs is found by the tick.) The kernel takes whole seconds, at least one.
    let time = timeout.max(Duration::from_secs(1));
    let keepalive = socket2::TcpKeepalive::new().with_time(time).with_interval(time);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

fn tls_config(tls: &RedisTls) -> Result<Arc<rustls::ClientConfig>, SessionError> {
    let refused = |error: rustls::Error| SessionError::Refused(error.to_string());
    let roots = match &tls.authorities {
        Some(authorities) => authorities.clone(),
        None => Arc::new(native_roots()?),
    };
    let builder = rustls::ClientConfig::builder_with_provider(pem::provider())
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_root_certificates(roots);
    Ok(Arc::new(match &tls.identity {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(refused)?
        }
        None => builder.with_no_client_auth(),
    }))
}

fn native_roots() -> Result<rustls::RootCertStore, SessionError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let text = "no root certificates found (redis.ca or SSL_CERT_FILE names a file of them)";
        return Err(SessionError::Refused(text.to_owned()));
    }
    Ok(roots)
}

impl Connection {
    /// Sends one command.
    pub(crate) async fn send(&mut self, cmd: &Cmd) -> Result<(), SessionError> {
        self.stream.write_all(&cmd.get_packed_command()).await?;
        Ok(self.stream.flush().await?)
    }

    /// Sends one command, waits for its answer and passes it to `read`. Pushes before the answer
    /// are dropped, so this is for the beginning of a session, before anything is subscribed.
    pub(crate) async fn call<T>(
        &mut self,
        cmd: &Cmd,
        read: impl FnOnce(&Value<'_>) -> T,
    ) -> Result<T, SessionError> {
        self.send(cmd).await?;
        loop {
            if let Some((value, used)) = resp::parse(&self.input)? {
                if matches!(value, Value::Push(_)) {
                    bytes::Buf::advance(&mut self.input, used);
                    continue;
                }
                let answer = read(&value);
                bytes::Buf::advance(&mut self.input, used);
                return Ok(answer);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Sends one command whose answer is a number, a text or an error.
    pub(crate) async fn ask(&mut self, cmd: &Cmd) -> Result<Reply, SessionError> {
        self.call(cmd, |value| match value {
            Value::Error(text) => Reply::Error(String::from_utf8_lossy(text).into_owned()),
            Value::Integer(n) => Reply::Integer(*n),
            other => Reply::Text(other.text().unwrap_or_default().to_owned()),
        })
        .await
    }

    async fn greet(&mut self, info: &ConnectionInfo) -> Result<(), SessionError> {
        let mut hello = redis::cmd("HELLO");
        hello.arg(3);
        let settings = info.redis_settings();
        if let Some(password) = settings.password() {
            hello.arg("AUTH").arg(settings.username().unwrap_or("default")).arg(password);
        }
        hello.arg("SETNAME").arg("sse-gateway");
        let version = self.call(&hello, hello_version).await??;
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < 7) {
            return Err(SessionError::Refused(format!(
                "Redis 7 or newer is needed, this is {version}"
            )));
        }
        Ok(())
    }

    async fn check_role(&mut self) -> Result<(), SessionError> {
        let role = self
            .call(&redis::cmd("ROLE"), |value| {
                value.elements().first().and_then(Value::text).unwrap_or("unknown").to_owned()
            })
            .await?;
        // A restricted user may not be allowed ROLE. If the server is a replica then, the first
        // tick fails, because it writes.
        if role == "slave" || role == "sentinel" {
            return Err(SessionError::Refused(format!(
                "this Redis is a {role}, a master is needed"
            )));
        }
        Ok(())
    }
}

fn hello_version(value: &Value<'_>) -> Result<String, SessionError> {
    if let Value::Error(text) = value {
        return Err(SessionError::Refused(String::from_utf8_lossy(text).into_owned()));
    }
    let pairs = value.elements().chunks_exact(2);
    let version = pairs.filter(|pair| pair[0].text() == Some("version")).find_map(|p| p[1].text());
    Ok(version.unwrap_or("unknown").to_owned())
}
