//! What a client's bytes travel on: a TCP connection as it is, or TLS on it.
//!
//! The handshake is a step of its own between accepting a connection and serving it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::Protocol;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::http::problem;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A client's connection, before it is known what is asked on it.
#[derive(Debug)]
pub(crate) enum Transport {
    /// TCP.
    Plain(TcpStream),
    /// TLS. Boxed, because the session is large and this is moved about.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Who a client proved to be, by the connection alone. Handlers find it in the connection's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// Nobody in particular.
    Anonymous,
    /// The holder of a certificate that was verified against `tls.client_ca`.
    Certified,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The client speaks HTTP without TLS.
    #[error("the client speaks HTTP without TLS")]
    PlainHttp(TcpStream),
    /// The client and we agree on no session. It may still send, and is to read why.
    #[error("{1}")]
    Disagreed(TcpStream, io::Error),
    /// The network or the time.
    #[error("{0}")]
    Failed(#[from] io::Error),
}

impl Transport {
    /// Does the handshake of TLS.
    pub(crate) async fn secured(
        stream: TcpStream,
        config: Arc<ServerConfig>,
    ) -> Result<Self, HandshakeError> {
        let handshake = async {
            // A record of TLS begins with a small number, a request with the name of its method.
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
                return Err(HandshakeError::PlainHttp(stream));
            }
            let accepted = TlsAcceptor::from(config).accept(stream).into_fallible().await;
            accepted.map_err(|(error, stream)| HandshakeError::Disagreed(stream, error))
        };
        match timeout(HANDSHAKE, handshake).await {
            Ok(done) => done.map(|stream| Transport::Tls(stream.into())),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// What is spoken on it.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Transport::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Protocol::Http2
            }
            _ => Protocol::Http1,
        }
    }

    /// Who its client is.
    pub(crate) fn client(&self) -> Client {
        match self {
            // One that cannot be verified ends the handshake.
            Transport::Tls(stream) if stream.get_ref().1.peer_certificates().is_some() => {
                Client::Certified
            }
            _ => Client::Anonymous,
        }
    }

    /// The TCP connection below. What a session still has to write is lost.
    pub(crate) fn into_tcp(self) -> TcpStream {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.into_inner().0,
        }
    }
}

/// Tells a client that speaks HTTP on a port of TLS, in its own words.
pub(crate) async fn explain(stream: &mut TcpStream) {
    let mut request = vec![0; 4096];
    // What is not read would make the kernel reset the connection, and the client lose the answer.
    let _ = stream.try_read(&mut request);
    // The client may be gone, and what is written fits into any socket's buffer.
    let _ = stream.write_all(&problem::https_wanted()).await;
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
