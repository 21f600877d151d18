//! A connection between accept and HTTP: its client's address, its admission, its TLS handshake.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use actix_http::Protocol;
use actix_http::error::DispatchError;
use rustls::ServerConfig;
use tokio::net::TcpStream;

use crate::access::admission::Lease;
use crate::access::client::ClientAddr;
use crate::http::app::App;
use crate::http::guests::Guests;
use crate::http::proxy_protocol;
use crate::http::takeover::Takeable;
use crate::http::transport::{self, HandshakeError, Transport};
use crate::metrics::Rejection;

/// Prepares an accepted connection for HTTP. Returns it with its protocol and its peer's address.
pub(crate) async fn ready_for_http(
    mut stream: TcpStream,
    app: Arc<App>,
    tls: Option<Arc<ServerConfig>>,
    guests: Rc<Guests>,
) -> Result<(Takeable, Protocol, Option<SocketAddr>), DispatchError> {
    let peer = stream.peer_addr()?;
    // Without a place the connection is closed at once.
    let place = guests.enter().ok_or(DispatchError::DisconnectTimeout)?;
    let (client, lease) = place.waiting(arrive(&mut stream, peer.ip(), &app)).await?;
    let lease = lease.map(Rc::new);
    let stream = match tls {
        None => Transport::Plain(stream),
        // Boxed, so that connections without TLS do not carry the size of a handshake.
        Some(config) => match place.waiting(Box::pin(Transport::secured(stream, config))).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "a handshake of TLS comes to nothing");
                guests.no_handshake();
                match error {
                    HandshakeError::PlainHttp(mut stream) => {
                        transport::explain(&mut stream).await;
                        guests.see_out(Transport::Plain(stream), place, lease);
                    }
                    HandshakeError::Disagreed(stream, _) => {
                        guests.see_out(Transport::Plain(stream), place, lease);
                    }
                    HandshakeError::Failed(_) => {}
                }
                return Err(DispatchError::DisconnectTimeout);
            }
        },
    };
    let protocol = stream.protocol();
    let io = Takeable::new(stream, place, &guests);
    io.is_of(client, lease);
    Ok((io, protocol, Some(peer)))
}

/// Finds the client's address and admits the connection. A refused connection is closed without an
/// answer, which costs least.
async fn arrive(
    stream: &mut TcpStream,
    peer: IpAddr,
    app: &App,
) -> Result<(ClientAddr, Option<Lease>), DispatchError> {
    let client = proxy_protocol::client(stream, peer, &app.config.server).await;
    let client = client.inspect_err(|error| {
        app.reject(Rejection::ProxyHeader);
        tracing::debug!(%peer, %error, "a trusted proxy did not say whose its connection is");
    })?;
    let lease = app.admission.connection(client).map_err(|refused| {
        app.reject(refused.over.reason());
        DispatchError::DisconnectTimeout
    })?;
    Ok((client, lease))
}
