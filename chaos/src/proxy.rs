//! The wire between Redis and everybody else: a proxy that can cut, go silent and point elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is done to the connections of a link.
#[derive(Debug, Clone, Copy)]
struct Orders {
    target: SocketAddr,
    /// Connections made under a lower number are closed.
    cuts: u32,
    /// Connections made under a lower number stay open and carry nothing any more.
    silenced: u32,
    /// Nothing is carried on any connection for now.
    stalled: bool,
}

/// One address under which Redis is reached.
#[derive(Debug, Clone)]
pub struct Link {
    /// Where to connect.
    pub addr: SocketAddr,
    orders: Rc<watch::Sender<Orders>>,
}

impl Link {
    /// Listens on `host`, on a port of the kernel's choice.
    pub async fn open(host: IpAddr, target: SocketAddr) -> Result<Link, String> {
        let listener = TcpListener::bind((host, 0)).await;
        let listener = listener.map_err(|error| format!("listening on {host}: {error}"))?;
        let addr = listener.local_addr().map_err(|error| error.to_string())?;
        let orders = Orders { target, cuts: 0, silenced: 0, stalled: false };
        let (sender, receiver) = watch::channel(orders);
        tokio::task::spawn_local(accept(listener, receiver));
        Ok(Link { addr, orders: Rc::new(sender) })
    }

    /// Leads new connections to another server, and closes those there are.
    pub fn switch(&self, target: SocketAddr) {
        self.orders.send_modify(|orders| {
            orders.target = target;
            orders.cuts += 1;
        });
    }

    /// Leads new connections to another server, and leaves those there are where they are.
    pub fn redirect(&self, target: SocketAddr) {
        self.orders.send_modify(|orders| orders.target = target);
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Leaves every connection open and dead, as a lost router would. New ones work.
    pub fn silence(&self) {
        self.orders.send_modify(|orders| orders.silenced += 1);
    }

    /// Holds back everything, or lets it go on.
    pub fn stall(&self, stalled: bool) {
        self.orders.send_modify(|orders| orders.stalled = stalled);
    }
}

async fn accept(listener: TcpListener, orders: watch::Receiver<Orders>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::task::spawn_local(carry(client, orders.clone()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn carry(client: TcpStream, mut orders: watch::Receiver<Orders>) {
    let born = *orders.borrow_and_update();
    let connect = tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(born.target));
    let Ok(Ok(server)) = connect.await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, born, orders.clone()) => {}
        () = pump(from_server, to_client, born, orders.clone()) => {}
        // The suite's end closes everything as well.
        _ = orders.wait_for(|now| now.cuts > born.cuts) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    born: Orders,
    mut orders: watch::Receiver<Orders>,
) {
    let mut buffer = vec![0; 16 * 1024];
    let open = |now: &Orders| now.silenced == born.silenced && !now.stalled;
    loop {
        // What was read just before the wire went dead is held back like the rest.
        let read = from.read(&mut buffer).await;
        if orders.wait_for(open).await.is_err() {
            return;
        }
        match read {
            Ok(n) if n > 0 => {
                if to.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}
