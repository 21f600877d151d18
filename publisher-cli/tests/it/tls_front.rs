//! A TLS front for an HTTP server, with its own certificate and a thread for each connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sse_lab::certificate::certify;
use sse_lab::listener::Listener;
use sse_lab::scratch::Scratch;

/// Accepts TLS connections and forwards them to another server.
pub struct TlsFront {
    pub addr: SocketAddr,
    /// The path of the certificate. A client that trusts it accepts this front.
    pub certificate: PathBuf,
    _dir: Scratch,
    _listener: Listener,
}

impl TlsFront {
    /// A front for this HTTP server, with a certificate for `localhost`.
    pub fn of(server: SocketAddr) -> Self {
        let dir = Scratch::new("tls-front");
        let (key, certificate) = (dir.path().join("key.pem"), dir.path().join("certificate.pem"));
        certify(&certificate, &key).unwrap();
        let chain = vec![CertificateDer::from_pem_file(&certificate).unwrap()];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
            .unwrap();
        let config = Arc::new(config);
        let listener = Listener::start(move |client| {
            serve(config.clone(), client, server);
        });
        TlsFront { addr: listener.addr, certificate, _dir: dir, _listener: listener }
    }
}

/// Forwards one request after another, and each answer as far as it has arrived, until either side
/// closes. An answer that does not end occupies the connection.
fn serve(config: Arc<ServerConfig>, stream: TcpStream, server: SocketAddr) -> Option<()> {
    let mut client = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    let mut server = TcpStream::connect(server).ok()?;
    let (mut request, mut piece) = (Vec::new(), [0; 16 * 1024]);
    loop {
        while !is_whole(&request) {
            let count = client.read(&mut piece).ok().filter(|count| *count > 0)?;
            request.extend_from_slice(&piece[..count]);
        }
        let publishes = request.starts_with(b"POST");
        server.write_all(&request).ok()?;
        request.clear();
        loop {
            let count = server.read(&mut piece).ok().filter(|count| *count > 0)?;
            client.write_all(&piece[..count]).ok()?;
            if publishes {
                // The floor answers a publish in one write, so its answer arrives in one piece.
                break;
            }
        }
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.to_ascii_lowercase();
    let length = length.lines().find_map(|line| line.strip_prefix("content-length:"));
    body.len() >= length.map_or(0, |length| length.trim().parse().unwrap())
}
