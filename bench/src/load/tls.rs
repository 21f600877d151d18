//! TLS of one connection: what the network brings goes in, what the server said comes out. It never
//! waits: the loop says when there is something to read.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{SendFlags, send};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// What all connections of a load have in common: the roots and so on, and whom the server must prove to be.
pub type Settings = (Arc<ClientConfig>, ServerName<'static>);

/// A session.
#[derive(Debug)]
pub struct Tls(Box<ClientConnection>);

impl Tls {
    /// A session that sends a request as soon as its handshake is done.
    pub fn begin((config, name): &Settings, request: &[u8]) -> Result<Tls, String> {
        let mut session = ClientConnection::new(config.clone(), name.clone()).map_err(text)?;
        session.writer().write_all(request).map_err(text)?;
        Ok(Tls(Box::new(session)))
    }

    /// Sends what is to be sent: some hundred bytes into an empty buffer, so that less than all of it is
    /// a fault.
    pub fn flush(&mut self, socket: &OwnedFd) -> Result<(), String> {
        while self.0.wants_write() {
            self.0.write_tls(&mut Socket(socket)).map_err(|error| format!("send: {error}"))?;
        }
        Ok(())
    }

    /// Takes bytes from the network and hands on those that the server said.
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

/// The sending half of a socket.
struct Socket<'a>(&'a OwnedFd);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
