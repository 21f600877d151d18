//! What a server of a few lines begins with.

use std::io::Result;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Takes connections until it is dropped, each in a thread of its own.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens.
    pub addr: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Listener {
    /// On a port of the kernel's choice.
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

    /// On this machine.
    #[track_caller]
    pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::on([127, 0, 0, 1].into(), serve).expect("a port")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // So that whoever accepts sees it.
        let _ = TcpStream::connect(self.addr);
    }
}
