//! A real gateway in this process, with the broker in memory. Anybody may publish and listen.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use sse_gateway::{Config, Gateway};

pub struct RealGateway {
    pub url: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RealGateway {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a gateway with these further settings.
    pub fn with(further: &[(&str, &str)]) -> Self {
        let settings = [
            ("broker", "memory"),
            ("auth.open", "true"),
            ("server.listen", "127.0.0.1:0"),
            ("admin.listen", "127.0.0.1:0"),
            ("server.workers", "1"),
            ("drain.spread", "0s"),
        ];
        let settings = settings.iter().chain(further);
        let settings: Vec<_> =
            settings.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let config = Config::load(None, std::iter::empty(), &settings).unwrap();
        let (started, start) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let gateway = Gateway::bind(config, Duration::ZERO).await.unwrap();
                started.send(gateway.addr()).unwrap();
                gateway.run(async { stopped.await.unwrap_or(()) }).await.unwrap();
            });
        });
        let url = format!("http://{}", start.recv().unwrap());
        RealGateway { url, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for RealGateway {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}
