//! A stream's socket with TLS. The hub owns the session as it owns the socket.
//!
//! Data is sealed at once, in records of up to 16 KiB, and at most one record waits for the kernel.
//! While a record waits, its last byte counts as not accepted. So the caller still has something to
//! write, and learns from that alone that the socket is full. When that byte is offered again after
//! the record was sent, it counts as written and is not sealed again.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags};
use rustls::{ProtocolVersion, ServerConnection};
use smallvec::SmallVec;

use crate::stream::sink::ClientSide;

/// The maximum size of a record, in bytes (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;
/// How many bytes a client may send on a stream. Nothing is expected from it, and each byte costs a
/// decryption.
const SENT_BY_CLIENT: u32 = 256 * 1024;
/// How many records one key may seal in TLS 1.2, which cannot change keys. Half of what is safe
/// with AES-GCM: beyond the safe limit the library refuses to seal and reports no error.
const SEALED: u32 = 1 << 23;

/// A socket that was taken over, and its session.
pub struct TlsSocket {
    fd: OwnedFd,
    session: ServerConnection,
    /// The last byte sealed was reported as not accepted, and will be offered again.
    held_back: bool,
    /// How many bytes the client sent.
    heard: u32,
    /// How many records were sealed; counted in TLS 1.2 only.
    sealed: u32,
}

impl fmt::Debug for TlsSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSocket").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl AsFd for TlsSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl TlsSocket {
    /// Takes a non-blocking socket and its session, whose handshake is done.
    pub fn new(fd: OwnedFd, session: ServerConnection) -> Self {
        TlsSocket { fd, session, held_back: false, heard: 0, sealed: 0 }
    }

    /// Writes what fits now, and returns how many bytes were accepted. The slices must begin with
    /// the first byte that the last call did not accept.
    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.push()? {
            return Ok(0);
        }
        let mut accepted = usize::from(std::mem::take(&mut self.held_back));
        loop {
            let record = record(slices, accepted);
            let size: usize = record.iter().map(|slice| slice.len()).sum();
            if size == 0 {
                return Ok(accepted);
            }
            self.seal(&record, size)?;
            accepted += size;
            if !self.push()? {
                self.held_back = true;
                return Ok(accepted - 1);
            }
        }
    }

    /// Ends the session in order, if the closing alert fits now.
    pub fn close(&mut self) {
        self.session.send_close_notify();
        // Ignored, because the client may be gone.
        let _ = self.push();
    }

    /// Whether a byte is sealed that was reported as not accepted.
    pub fn holds_back(&self) -> bool {
        self.held_back
    }

    fn seal(&mut self, record: &[IoSlice<'_>], size: usize) -> io::Result<()> {
        if self.session.protocol_version() == Some(ProtocolVersion::TLSv1_2) {
            self.sealed += 1;
            if self.sealed > SEALED {
                return Err(io::Error::other("the session's keys have sealed as much as they may"));
            }
        }
        match self.session.writer().write_vectored(record)? {
            n if n == size => Ok(()),
            _ => Err(io::Error::other("the session does not seal a whole record")),
        }
    }

    /// Hands sealed bytes to the kernel. Returns whether it took them all.
    fn push(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Socket(&self.fd)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads what the client sent: the end of the session, new keys, or data, which is discarded.
    pub fn drain(&mut self) -> ClientSide {
        match self.read_all() {
            Ok(()) => ClientSide::Open,
            Err(_) => {
                // Sends the alert that names the error, if there is one.
                let _ = self.push();
                ClientSide::Gone
            }
        }
    }

    /// Reads until nothing is left. An error means that the connection has ended.
    fn read_all(&mut self) -> io::Result<()> {
        loop {
            self.throw_away()?;
            match self.session.read_tls(&mut Socket(&self.fd)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    let processed = self.session.process_new_packets();
                    processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Sends the answer to new keys. If it does not fit now, it goes before the next record.
        self.push().map(drop)
    }

    /// Discards the data that the session decrypted. A session that was closed in order is an
    /// error, too.
    fn throw_away(&mut self) -> io::Result<()> {
        let mut scrap = [0; 4096];
        loop {
            match self.session.reader().read(&mut scrap) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.heard += n as u32;
                    if self.heard > SENT_BY_CLIENT {
                        return Err(io::Error::other("the client sends more than a stream takes"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The bytes of the next record, after the first `skipped`.
fn record<'a>(slices: &'a [IoSlice<'_>], mut skipped: usize) -> SmallVec<[IoSlice<'a>; 8]> {
    let mut room = RECORD;
    let mut record = SmallVec::new();
    for slice in slices {
        let rest = &slice[skipped.min(slice.len())..];
        skipped -= slice.len() - rest.len();
        let taken = &rest[..rest.len().min(room)];
        room -= taken.len();
        if !taken.is_empty() {
            record.push(IoSlice::new(taken));
        }
        if room == 0 {
            break;
        }
    }
    record
}

/// A non-blocking socket, as the session reads and writes it.
struct Socket<'a>(&'a OwnedFd);

impl Read for Socket<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self.0, buf, RecvFlags::DONTWAIT)?.1)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, buf, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [one] => self.write(one),
            several => Ok(rustix::io::writev(self.0, several)?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes both ends of a session whose handshake is done, for tests.
#[cfg(test)]
pub(crate) fn session(
    version: &'static rustls::SupportedProtocolVersion,
) -> (ServerConnection, rustls::ClientConnection) {
    use std::sync::Arc;
    use std::sync::OnceLock;

    use rustls::pki_types::ServerName;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use crate::config::pem::{any_certificate, provider};

    static PEM: OnceLock<Vec<u8>> = OnceLock::new();
    let pem = PEM.get_or_init(|| {
        let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                         -subj /CN=test -keyout /dev/stdout -out /dev/stdout";
        let openssl =
            std::process::Command::new("openssl").args(arguments.split_whitespace()).output();
        openssl.expect("openssl, which scripts/test installs").stdout
    });
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pem).unwrap()],
            PrivateKeyDer::from_pem_slice(pem).unwrap(),
        )
        .unwrap();
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    let name = ServerName::try_from("test").unwrap();
    let mut client = rustls::ClientConnection::new(any_certificate(), name).unwrap();
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (server, client)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// The socket keeps to its bound while the reader takes nothing, and no byte is lost.
    #[test]
    fn one_record_waits_at_most_and_its_last_byte_is_offered_again() {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let (session, mut client) = session(version);
            let (fd, mut wire) = UnixStream::pair().unwrap();
            fd.set_nonblocking(true).unwrap();
            let mut socket = TlsSocket::new(fd.into(), session);
            let data: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
            let mut accepted = socket.write_vectored(&[IoSlice::new(&data)]).unwrap();
            assert!(socket.holds_back() && accepted < data.len());
            for _ in 0..3 {
                assert_eq!(socket.write_vectored(&[IoSlice::new(&data[accepted..])]).unwrap(), 0);
            }
            assert!(accepted > 16 * 1024, "the kernel took some");
            let mut got = Vec::new();
            wire.set_nonblocking(true).unwrap();
            while got.len() < data.len() {
                if accepted < data.len() {
                    let halves = data[accepted..].split_at((data.len() - accepted) / 2);
                    let slices = [IoSlice::new(halves.0), IoSlice::new(halves.1)];
                    accepted += socket.write_vectored(&slices).unwrap();
                }
                if client.read_tls(&mut wire).is_ok() {
                    client.process_new_packets().unwrap();
                    let _ = client.reader().read_to_end(&mut got);
                }
            }
            assert!(got == data && accepted == data.len() && !socket.holds_back());
        }
    }
}
