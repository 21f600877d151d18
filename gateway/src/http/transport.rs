//! The transport of a client's connection: plain TCP, or TLS over it.
//!
//! The handshake is a separate step between accepting a connection and serving it.

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

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A client's connection, before its first request is read.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS. Boxed, because a session is large and this enum is moved often.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What a client proved by its connection alone. Handlers find it in the connection's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// The client showed no certificate.
    Anonymous,
    /// The client holds a certificate that was verified against `tls.client_ca`.
    Certified,
}

/// Why a TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The client sent plain HTTP.
    #[error("the client speaks HTTP without TLS")]
    PlainHttp(TcpStream),
    /// The handshake failed by what the client sent. The client may still be sending, so the
    /// connection has to be closed in stages, or the client would lose the TLS alert.
    #[error("{1}")]
    Disagreed(TcpStream, io::Error),
    /// The connection broke, or the handshake took too long.
    #[error("{0}")]
    Failed(#[from] io::Error),
}

impl Transport {
    /// Does the TLS handshake.
    pub(crate) async fn secured(
        stream: TcpStream,
        config: Arc<ServerConfig>,
    ) -> Result<Self, HandshakeError> {
        let handshake = async {
            // A TLS record begins with a small number, an HTTP request with the letters of its
            // method.
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

    /// The HTTP version that the handshake chose; HTTP/1 without TLS.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Transport::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Protocol::Http2
            }
            _ => Protocol::Http1,
        }
    }

    /// What the client proved.
    pub(crate) fn client(&self) -> Client {
        match self {
            // A certificate that cannot be verified fails the handshake, so this one is valid.
            Transport::Tls(stream) if stream.get_ref().1.peer_certificates().is_some() => {
                Client::Certified
            }
            _ => Client::Anonymous,
        }
    }

    /// The TCP connection below. Bytes that a TLS session has not written yet are lost.
    pub(crate) fn into_tcp(self) -> TcpStream {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.into_inner().0,
        }
    }
}

/// Answers a client that speaks plain HTTP on a TLS port, in plain HTTP.
pub(crate) async fn explain(stream: &mut TcpStream) {
    let mut request = vec![0; 4096];
    // Unread bytes would make the kernel reset the connection, and the client would lose the
    // answer.
    let _ = stream.try_read(&mut request);
    // An error means that the client is gone. The answer fits into any socket buffer, so this does
    // not block.
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
