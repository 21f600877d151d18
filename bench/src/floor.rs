//! The floor: what a delivery costs at the very least. A server that does nothing for an event but
//! `write(2)` the same prebuilt bytes to each socket, in a plain loop.
//!
//! It has no channels, no ids, no history and no queue: **a socket that does not take the whole event at
//! once is counted and closed.** Every `POST` goes to every stream. `GET /dropped` tells how many were
//! closed and closes; any other `GET` opens a stream.
//!
//! With two threads each has its own listener (`SO_REUSEPORT`), epoll and streams; the thread that was
//! posted to hands the event to the other.

mod request;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use request::{Request, Requested};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept_with, bind, getsockname, sockopt,
};
use rustix::net::{listen, socket_with};
use slab::Slab;

const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
/// Set in the token of a stream; without it, it is a connection that asks.
const STREAM: u64 = 1 << 62;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-store\r\nConnection: close\r\n\r\n:\n\n";

/// A running floor; dropping it ends it.
#[derive(Debug)]
pub struct Floor {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
    peers: Vec<Peer>,
    threads: Vec<JoinHandle<()>>,
}

/// The way to a thread.
#[derive(Debug, Clone)]
struct Peer {
    // Not bounded: a thread that waited for the other, while that waits for it, would wait for ever.
    inbox: Sender<Arc<[u8]>>,
    wake: Arc<OwnedFd>,
}

impl Peer {
    fn wake(&self) {
        // Only a full counter refuses, and then a wake is pending already.
        let _ = write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Floor {
    /// Binds and starts its threads.
    pub fn start(addr: SocketAddr, threads: usize) -> io::Result<Floor> {
        let first = bound(addr)?;
        let addr = SocketAddr::try_from(getsockname(&first)?)?;
        let mut listeners = vec![first];
        for _ in 1..threads {
            listeners.push(bound(addr)?);
        }
        let (stop, dropped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut ends = Vec::new();
        for listener in listeners {
            let (inbox, events) = mpsc::channel();
            let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
            ends.push((listener, events, Peer { inbox, wake }));
        }
        let peers: Vec<Peer> = ends.iter().map(|(.., peer)| peer.clone()).collect();
        let mut running = Vec::new();
        for (number, (listener, events, own)) in ends.into_iter().enumerate() {
            let mut others = peers.clone();
            others.remove(number);
            let (stop, dropped) = (stop.clone(), dropped.clone());
            let worker = Worker::new(listener, events, own, others, stop, dropped)?;
            running.push(std::thread::spawn(move || worker.run()));
        }
        Ok(Floor { addr, stop, dropped, peers, threads: running })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Streams closed because their socket did not take an event at once.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits for its end, which is the process's.
    pub fn join(mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.peers.iter().for_each(Peer::wake);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Worker {
    epoll: OwnedFd,
    listener: OwnedFd,
    events: Receiver<Arc<[u8]>>,
    own: Peer,
    others: Vec<Peer>,
    requests: Slab<Request>,
    streams: Slab<OwnedFd>,
    stop: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

impl Worker {
    fn new(
        listener: OwnedFd,
        events: Receiver<Arc<[u8]>>,
        own: Peer,
        others: Vec<Peer>,
        stop: Arc<AtomicBool>,
        dropped: Arc<AtomicU64>,
    ) -> io::Result<Worker> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        epoll::add(&epoll, &own.wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        let (requests, streams) = (Slab::new(), Slab::new());
        Ok(Worker { epoll, listener, events, own, others, requests, streams, stop, dropped })
    }

    fn run(mut self) {
        let mut ready: Vec<Event> = Vec::with_capacity(256);
        while !self.stop.load(Ordering::Relaxed) {
            ready.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut ready), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("epoll: {error}"),
            }
            for event in &ready {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    WAKE => self.receive(),
                    token if token & STREAM != 0 => {
                        // A stream's client has nothing to say: it closed.
                        self.streams.try_remove((token & !STREAM) as usize);
                    }
                    token => self.request(token as usize),
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok(socket) = accept_with(&self.listener, SocketFlags::NONBLOCK) {
            // Without it an answer to a publisher could wait for an acknowledgement.
            let _ = sockopt::set_tcp_nodelay(&socket, true);
            let entry = self.requests.vacant_entry();
            let data = EventData::new_u64(entry.key() as u64);
            if epoll::add(&self.epoll, &socket, data, EventFlags::IN).is_ok() {
                entry.insert(Request::new(socket));
            }
        }
    }

    /// What another thread was posted.
    fn receive(&mut self) {
        let _ = read(&self.own.wake, &mut [0_u8; 8]);
        while let Ok(frame) = self.events.try_recv() {
            self.deliver(&frame);
        }
    }

    fn request(&mut self, key: usize) {
        let Some(request) = self.requests.get_mut(key) else { return };
        match request.read() {
            Requested::Nothing => {}
            Requested::Closed => drop(self.requests.remove(key)),
            Requested::Stream => self.open(key),
            Requested::Dropped => {
                let count = self.dropped.load(Ordering::Relaxed);
                request.answer(&count.to_string());
                self.requests.remove(key);
            }
            Requested::Event(frame) => {
                let frame: Arc<[u8]> = frame.into();
                for peer in &self.others {
                    // A peer is gone only when all are about to end.
                    let _ = peer.inbox.send(frame.clone());
                    peer.wake();
                }
                self.deliver(&frame);
                if let Some(request) = self.requests.get_mut(key) {
                    request.answer("");
                }
            }
        }
    }

    fn open(&mut self, key: usize) {
        let socket = self.requests.remove(key).socket;
        if write(&socket, HEAD) != Ok(HEAD.len()) {
            return;
        }
        let entry = self.streams.vacant_entry();
        let data = EventData::new_u64(entry.key() as u64 | STREAM);
        let flags = EventFlags::IN | EventFlags::RDHUP;
        if epoll::modify(&self.epoll, &socket, data, flags).is_ok() {
            entry.insert(socket);
        }
    }

    /// The loop that all this is about.
    fn deliver(&mut self, frame: &[u8]) {
        let dropped = &self.dropped;
        self.streams.retain(|_, socket| {
            let whole = write(socket, frame) == Ok(frame.len());
            if !whole {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
            whole
        });
    }
}

fn bound(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &addr)?;
    listen(&socket, 4096)?;
    Ok(socket)
}
