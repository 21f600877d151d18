//! TLS of one connection. It never blocks: the load's loop says when the socket is readable.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{SendFlags, send};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// What all connections of a load share: the configuration with the trusted roots, and the name
/// that the server's certificate must have.
pub type Settings = (Arc<ClientConfig>, ServerName<'static>);

/// A TLS session.
#[derive(Debug)]
pub struct Tls(Box<ClientConnection>);

impl Tls {
    /// Starts a session that sends `request` once the handshake is done.
    pub fn begin((config, name): &Settings, request: &[u8]) -> Result<Tls, String> {
        let mut session = ClientConnection::new(config.clone(), name.clone()).map_err(text)?;
        session.writer().write_all(request).map_err(text)?;
        Ok(Tls(Box::new(session)))
    }

    /// Sends what the session has to send. That is some hundred bytes and the socket's buffer is
    /// empty, so a full buffer is an error.
    pub fn flush(&mut self, socket: &OwnedFd) -> Result<(), String> {
        while self.0.wants_write() {
            self.0.write_tls(&mut Socket(socket)).map_err(|error| format!("send: {error}"))?;
        }
        Ok(())
    }

    /// Takes bytes from the network and passes on what the server said in them.
    pub fn take(
        &mut self,
        mut input: &[u8],
        mut said: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut piece = [0; 16 * 1024];
        while !input.is_empty() {
            self.0.read_tls(&mut input).map_err(text)?;
            self.0.process_new_packets().map_err(text)?;
            loop {
                match self.0.reader().read(&mut piece) {
                    Ok(0) => return Err("the server closed the connection".to_owned()),
                    Ok(count) => said(&piece[..count])?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(text(error)),
                }
            }
        }
        Ok(())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    format!("TLS: {error}")
}

/// Writes to a socket.
struct Socket<'a>(&'a OwnedFd);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
