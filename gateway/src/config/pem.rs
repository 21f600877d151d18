//! PEM files: certificates, keys and authorities, for TLS on the gateway's own ports and towards Redis.
//!
//! An error names the setting, the file and what is wrong with it, and never holds anything of what the file says: it may
//! be a key.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// A file that a setting names is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} = {:?}: {what}", file.setting, file.path)]
pub struct BadFile {
    file: PemFile,
    what: String,
}

/// A file and the setting that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PemFile {
    /// The setting.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
}

/// The one crypto provider of this program.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl PemFile {
    /// The file that a setting names; none if the setting is empty.
    pub(crate) fn of(setting: &'static str, path: &str) -> Option<Self> {
        (!path.is_empty()).then(|| PemFile { setting, path: path.into() })
    }

    fn bad(&self, what: impl ToString) -> BadFile {
        BadFile { file: self.clone(), what: what.to_string() }
    }

    /// What is in it.
    pub(crate) fn read(&self) -> Result<Vec<u8>, BadFile> {
        std::fs::read(&self.path).map_err(|error| self.bad(error))
    }

    /// The certificates in it, at least one: the leaf first, then whoever signed it.
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

    /// The certificates in it, as authorities that are trusted.
    pub(crate) fn authorities(&self) -> Result<RootCertStore, BadFile> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| {
                self.bad(format!("a certificate in it is not that of an authority ({error})"))
            })?;
        }
        Ok(roots)
    }

    /// The private key in it.
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

/// A certificate and the key that fits it.
pub(crate) fn certified_key(certificate: &PemFile, key: &PemFile) -> Result<CertifiedKey, BadFile> {
    use rustls::{Error, InconsistentKeys};
    let chain = certificate.certificates()?;
    let private = key.private_key()?;
    let kind = "the key in it is of no kind that is taken: RSA of 2048 bits or more, ECDSA on P-256 or P-384, Ed25519";
    let signer =
        rustls::crypto::ring::sign::any_supported_type(&private).map_err(|_| key.bad(kind))?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        // Of a key that cannot tell, the handshake will.
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

/// What is wrong with a text that is to be PEM. The library's own words may hold some of the text.
fn not_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "an -----END …----- is missing in it",
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN …----- in it is not well formed",
        pem::Error::Base64Decode(_) => "what stands between BEGIN and END in it is not base64",
        _ => "it is not PEM",
    }
}

/// For a client that asks a port of this machine whether it answers: it sends nothing that is worth a secret, takes any
/// certificate, because the name and the authority are none of a probe's business, and has the holder prove that it is
/// the holder.
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
