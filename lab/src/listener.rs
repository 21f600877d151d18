//! A TCP listener for small test servers.

use std::io::Result;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Accepts connections until it is dropped, and serves each in its own thread.
#[derive(Debug)]
pub struct Listener {
    /// The address it listens on.
    pub addr: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Listener {
    /// Listens on `host`, on a port that the kernel chooses.
    pub fn on(host: IpAddr, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let addr = listener.local_addr()?;
        let (over, serve) = (Arc::new(AtomicBool::new(false)), Arc::new(serve));
        let ended = over.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(client) = client {
                    let serve = serve.clone();
                    thread::spawn(move || serve(client));
                }
            }
        });
        Ok(Listener { addr, over })
    }

    /// Listens on 127.0.0.1.
    #[track_caller]
    pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::on([127, 0, 0, 1].into(), serve).expect("a port")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, which then sees `over`.
        let _ = TcpStream::connect(self.addr);
    }
}
