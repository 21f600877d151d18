//! TLS of the gateway's own ports, as `[tls]` configures it. The certificate can change while
//! streams are open.
//!
//! A handshake uses the certificate that is current at that moment; open connections are not
//! affected. The files are checked every two seconds, and at a hangup (SIGHUP). If new files are
//! unusable, the current certificate stays, and the error is logged once.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus::IntCounterVec;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::TlsConfig;
use crate::config::pem::{self, BadFile, PemFile};

/// How often the files are checked for changes.
const LOOK: Duration = Duration::from_secs(2);

/// The TLS configurations of the gateway's ports.
#[derive(Debug, Clone)]
pub struct Tls {
    /// For the public port, with HTTP/2.
    pub public: Arc<ServerConfig>,
    /// For the admin port, if it speaks TLS. Without HTTP/2.
    pub admin: Option<Arc<ServerConfig>>,
    certificate: Arc<Certificate>,
}

impl Tls {
    /// Reads the files that the configuration names. None if it names no certificate; the error
    /// names the unusable file.
    pub fn of(config: &TlsConfig) -> Result<Option<Self>, BadFile> {
        let files = PemFile::of("tls.certificate", &config.certificate)
            .zip(PemFile::of("tls.key", &config.key));
        let Some((certificate, key)) = files else { return Ok(None) };
        let certificate = Arc::new(Certificate::read(certificate, key)?);
        let authorities = PemFile::of("tls.client_ca", &config.client_ca)
            .map(|file| file.authorities())
            .transpose()?
            .map(Arc::new);
        let of_port = |protocols: &[&[u8]]| {
            let mut port = server_config(certificate.clone(), authorities.clone());
            port.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(port)
        };
        Ok(Some(Tls {
            public: of_port(&[b"h2", b"http/1.1", b"http/1.0"]),
            admin: config.admin.then(|| of_port(&[b"http/1.1", b"http/1.0"])),
            certificate,
        }))
    }

    /// Reads the files again when they change or at SIGHUP, and counts the results in `reads`.
    /// Never returns, except with an error if SIGHUP cannot be caught.
    pub async fn follow_files(self, reads: IntCounterVec) -> Result<(), io::Error> {
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            let asked = tokio::time::timeout(LOOK, hangup.recv()).await.is_ok();
            match self.certificate.look(asked) {
                None => continue,
                Some(Ok(())) => {
                    reads.with_label_values(&["ok"]).inc();
                    tracing::info!("the certificate was read again; new connections are shown it");
                }
                Some(Err(error)) => {
                    reads.with_label_values(&["failed"]).inc();
                    tracing::error!(%error, "the certificate is of no use; the one before stays");
                }
            }
        }
    }
}

fn server_config(
    certificate: Arc<Certificate>,
    authorities: Option<Arc<rustls::RootCertStore>>,
) -> ServerConfig {
    let provider = pem::provider();
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .expect("ring has the ciphers of both versions");
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            // A client certificate is optional here, but one that is shown must be valid.
            let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider)
                .allow_unauthenticated()
                .build()
                .expect("there is an authority, and nobody has revoked anything");
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(certificate);
    // Clients keep their session as a sealed ticket, so a mass reconnect costs no signature per
    // client and the gateway stores no sessions.
    if let Ok(ticketer) = rustls::crypto::ring::Ticketer::new() {
        config.ticketer = ticketer;
    }
    config
}

/// The current certificate and key, and the files that they come from.
#[derive(Debug)]
struct Certificate {
    certificate: PemFile,
    key: PemFile,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    pair: Arc<CertifiedKey>,
    /// The files' stamps at the last read, even if that read failed.
    stamps: [Stamp; 2],
}

/// Identifies a file's version: device, inode, length, and modification time in s and ns. None if
/// the file cannot be examined.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Certificate {
    fn read(certificate: PemFile, key: PemFile) -> Result<Self, BadFile> {
        // Stamped before the read, so that a file that changes during the read is read again.
        let stamps = [stamp(&certificate), stamp(&key)];
        let pair = Arc::new(pem::certified_key(&certificate, &key)?);
        let current = RwLock::new(Current { pair, stamps });
        Ok(Certificate { certificate, key, current })
    }

    /// Reads the files again if their stamps have changed or if `asked`. None if nothing was read.
    fn look(&self, asked: bool) -> Option<Result<(), BadFile>> {
        let stamps = [stamp(&self.certificate), stamp(&self.key)];
        let known = self.current.read().unwrap_or_else(PoisonError::into_inner).stamps;
        if stamps == known && !asked {
            return None;
        }
        let read = pem::certified_key(&self.certificate, &self.key);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.stamps = stamps;
        Some(read.map(|pair| current.pair = Arc::new(pair)))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).pair.clone())
    }
}

fn stamp(file: &PemFile) -> Stamp {
    let data = std::fs::metadata(&file.path).ok()?;
    Some((data.dev(), data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}
