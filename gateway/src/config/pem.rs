//! Reads PEM files: certificates, private keys and authorities for TLS, on the gateway's own ports
//! and towards Redis.
//!
//! An error names the setting, the file and the problem. It never quotes the file, which may hold a
//! private key.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// A file that a setting names cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} = {:?}: {what}", file.setting, file.path)]
pub struct BadFile {
    file: PemFile,
    what: String,
}

/// A file and the setting that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PemFile {
    /// The name of the setting.
    pub setting: &'static str,
    /// The path of the file.
    pub path: PathBuf,
}

/// The crypto provider that all TLS of this program uses.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl PemFile {
    /// The file of a setting; none if the setting is empty.
    pub(crate) fn of(setting: &'static str, path: &str) -> Option<Self> {
        (!path.is_empty()).then(|| PemFile { setting, path: path.into() })
    }

    fn bad(&self, what: impl ToString) -> BadFile {
        BadFile { file: self.clone(), what: what.to_string() }
    }

    /// The file's bytes.
    pub(crate) fn read(&self) -> Result<Vec<u8>, BadFile> {
        std::fs::read(&self.path).map_err(|error| self.bad(error))
    }

    /// The certificate chain in the file, at least one certificate: the leaf first, then its
    /// issuers.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, BadFile> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.read()?).collect();
        match found {
            Ok(found) if found.is_empty() => {
                Err(self.bad("there is no certificate in it (-----BEGIN CERTIFICATE-----)"))
            }
            Ok(found) => Ok(found),
            Err(error) => Err(self.bad(not_pem(&error))),
        }
    }

    /// The certificates in the file as trusted roots.
    pub(crate) fn authorities(&self) -> Result<RootCertStore, BadFile> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| {
                self.bad(format!("a certificate in it is not that of an authority ({error})"))
            })?;
        }
        Ok(roots)
    }

    /// The private key in the file.
    pub(crate) fn private_key(&self) -> Result<PrivateKeyDer<'static>, BadFile> {
        let text = self.read()?;
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
            pem::Error::NoItemsFound if memchr::memmem::find(&text, b"ENCRYPTED").is_some() => {
                self.bad("the key in it is encrypted; decrypt it (openssl pkey -in FILE)")
            }
            pem::Error::NoItemsFound => {
                self.bad("there is no private key in it (-----BEGIN PRIVATE KEY-----)")
            }
            error => self.bad(not_pem(&error)),
        })
    }
}

/// A certificate chain with its private key. Fails if the two do not match.
pub(crate) fn certified_key(certificate: &PemFile, key: &PemFile) -> Result<CertifiedKey, BadFile> {
    use rustls::{Error, InconsistentKeys};
    let chain = certificate.certificates()?;
    let private = key.private_key()?;
    let kind = "the key in it is of no kind that is taken: RSA of 2048 bits or more, ECDSA on P-256 or P-384, Ed25519";
    let signer =
        rustls::crypto::ring::sign::any_supported_type(&private).map_err(|_| key.bad(kind))?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        // If rustls cannot tell whether they match, the handshake will.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(Error::InconsistentKeys(_)) => {
            let what =
                format!("the key in it does not fit the certificate in {:?}", certificate.path);
            Err(key.bad(what))
        }
        Err(error) => {
            Err(certificate.bad(format!("the first certificate in it cannot be read ({error})")))
        }
    }
}

/// Describes a PEM error. The library's own message may quote the file.
fn not_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "an -----END …----- is missing in it",
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN …----- in it is not well formed",
        pem::Error::Base64Decode(_) => "what stands between BEGIN and END in it is not base64",
        _ => "it is not PEM",
    }
}

/// TLS for a health probe of a port on this machine. Accepts any certificate, because a probe sends
/// no secrets and checks neither name nor authority. The server must still prove that it holds the
/// certificate's key.
pub(crate) fn any_certificate() -> Arc<ClientConfig> {
    let provider = provider();
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of the default versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
