//! Connects to Redis for the ingest: TCP, TLS or a Unix socket, and speaks RESP3 up to a usable session.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use redis::{Cmd, ConnectionAddr, ConnectionInfo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::broker::redis::library::Answer;
use crate::broker::redis::resp::{self, ProtocolError, Value};
use crate::broker::redis::settings::RedisTls;
use crate::config::pem;

/// A byte stream to Redis.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why a session could not begin or had to end.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The network failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Redis did not answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It is not Redis, or it is broken.
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    /// Redis answered, and what it said rules a session out.
    #[error("{0}")]
    Refused(String),
    /// Redis holds another contract than this gateway speaks; waiting does not help.
    #[error("{0}")]
    Mismatch(String),
}

impl From<String> for SessionError {
    fn from(text: String) -> Self {
        SessionError::Refused(text)
    }
}

/// A connection with what was read from it and not yet understood.
pub(crate) struct Connection {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) input: BytesMut,
}

/// Connects, authenticates and checks that this is a master of a version that serves.
pub(crate) async fn connect(
    info: &ConnectionInfo,
    tls: &RedisTls,
    timeout: Duration,
) -> Result<Connection, SessionError> {
    let work = async {
        let stream = open(info.addr(), tls, timeout).await?;
        let mut connection = Connection { stream, input: BytesMut::with_capacity(64 * 1024) };
        connection.greet(info).await?;
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
    // The name is looked up anew at every connect: nothing assumes that Redis keeps its address.
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    // A connection that mostly receives has no other way to notice that its peer is gone for good; the
    // tick finds one that hangs.
    // Whole seconds, one at least, are all that the kernel takes.
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
    /// Sends one command and waits for its answer; pushes before it are passed over. For the beginning of
    /// a session, when nothing is subscribed.
    pub(crate) async fn call<T>(
        &mut self,
        cmd: &Cmd,
        read: impl FnOnce(&Value<'_>) -> T,
    ) -> Result<T, SessionError> {
        self.stream.write_all(&cmd.get_packed_command()).await?;
        self.stream.flush().await?;
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
    pub(crate) async fn ask(&mut self, cmd: &Cmd) -> Result<Answer, SessionError> {
        self.call(cmd, |value| match value {
            Value::Error(text) => Answer::Error(String::from_utf8_lossy(text).into_owned()),
            Value::Integer(n) => Answer::Integer(*n),
            other => Answer::Text(other.text().unwrap_or_default().to_owned()),
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
        let role = self
            .call(&redis::cmd("ROLE"), |value| {
                value.elements().first().and_then(Value::text).unwrap_or("unknown").to_owned()
            })
            .await?;
        // ROLE may be refused to a restricted user; the first write then finds a replica.
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
