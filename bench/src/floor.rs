//! The floor: the least that a delivery can cost. For an event, this server only calls `write(2)`
//! with the same prebuilt bytes for each socket, in a plain loop.
//!
//! It has no channels, ids, history or queue: **a socket that does not take a whole event at once
//! is counted and closed.** Every `POST` goes to every stream. `GET /dropped` returns how many
//! streams were closed. Any other `GET` opens a stream.
//!
//! Each thread has its own listener (`SO_REUSEPORT`), epoll and streams. The thread that receives a
//! `POST` also passes the event to the other threads.

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
/// Marks the epoll token of a stream. A token without it belongs to a connection that has yet to
/// send its request.
const STREAM: u64 = 1 << 62;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-store\r\nConnection: close\r\n\r\n:\n\n";

/// A running floor. Dropping it stops it.
#[derive(Debug)]
pub struct Floor {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
    peers: Vec<Peer>,
    threads: Vec<JoinHandle<()>>,
}

/// Sends events to a thread.
#[derive(Debug, Clone)]
struct Peer {
    // Unbounded: with bounded inboxes, two threads that send to each other could both block
    // forever.
    inbox: Sender<Arc<[u8]>>,
    wake: Arc<OwnedFd>,
}

impl Peer {
    fn wake(&self) {
        // The write fails only if the counter is full, and then the thread will wake anyway.
        let _ = write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Floor {
    /// Binds the address and starts the threads.
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

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many streams were closed because their socket did not take a whole event at once.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits for the threads, which run until the process is killed.
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
                        // The client has closed the stream: clients of streams send nothing.
                        self.streams.try_remove((token & !STREAM) as usize);
                    }
                    token => self.request(token as usize),
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok(socket) = accept_with(&self.listener, SocketFlags::NONBLOCK) {
            // Otherwise Nagle's algorithm could hold back an answer to a publisher.
            let _ = sockopt::set_tcp_nodelay(&socket, true);
            let entry = self.requests.vacant_entry();
            let data = EventData::new_u64(entry.key() as u64);
            if epoll::add(&self.epoll, &socket, data, EventFlags::IN).is_ok() {
                entry.insert(Request::new(socket));
            }
        }
    }

    /// Delivers the events that other threads received.
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
                    // Fails only if the other thread has ended, because the floor stops.
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

    /// Writes an event to each stream: the loop whose cost the floor measures.
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
