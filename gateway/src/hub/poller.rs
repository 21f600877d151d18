//! The readiness of sockets that were taken over: one epoll for each worker, which the worker's
//! runtime watches.
//!
//! To register each socket with the runtime would cost more than a kilobyte for each connection.
//! This costs the kernel's entry alone.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use tokio::io::unix::AsyncFd;

/// A worker's epoll.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: AsyncFd<Epoll>,
}

#[derive(Debug)]
struct Epoll(OwnedFd);

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What happened to a socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readiness {
    /// The token that was given to [`Poller::add`].
    pub token: u64,
    /// The client sent something, or closed the connection.
    pub readable: bool,
    /// The socket's buffer has room again.
    pub writable: bool,
    /// The connection has ended.
    pub hung_up: bool,
}

impl Poller {
    /// Creates an empty epoll. Must be called within the worker's runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll(epoll::create(CreateFlags::CLOEXEC)?);
        #[expect(deprecated, reason = "its replacement is unsafe; the descriptor is owned here")]
        let epoll = AsyncFd::new(epoll)?;
        Ok(Poller { epoll })
    }

    /// Watches a socket, edge-triggered, until it is closed.
    pub(crate) fn add(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll.get_ref().0, socket, EventData::new_u64(token), flags)?;
        Ok(())
    }

    /// Waits until a socket is ready, then appends one batch to `ready`. The next call returns the
    /// rest.
    pub(crate) async fn wait(&self, ready: &mut Vec<Readiness>) -> io::Result<()> {
        let mut guard = self.epoll.readable().await?;
        let mut events: [Event; 256] =
            [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 256];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = match epoll::wait(&self.epoll.get_ref().0, &mut events[..], Some(&now)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            let (flags, data) = (event.flags, event.data);
            ready.push(Readiness {
                token: data.u64(),
                readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP),
                writable: flags.contains(EventFlags::OUT),
                hung_up: flags.intersects(EventFlags::ERR | EventFlags::HUP),
            });
        }
        // A full batch may have left some behind, so readiness is cleared only after a smaller one.
        if count < events.len() {
            guard.clear_ready();
        }
        Ok(())
    }
}
