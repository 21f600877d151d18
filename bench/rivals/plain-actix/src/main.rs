//! A first version in Rust: actix-web, a `tokio::sync::broadcast` for each channel, a stream for
//! each reader. Nothing is tuned, and a slow reader misses events. Its only argument is the
//! address.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Mutex;

use actix_web::web::{self, Bytes};
use actix_web::{App, HttpResponse, HttpServer, Responder, get, post};
use futures_util::{StreamExt, stream};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

#[derive(Default)]
struct Channels(Mutex<HashMap<String, broadcast::Sender<String>>>);

impl Channels {
    fn sender(&self, name: &str) -> broadcast::Sender<String> {
        let mut channels = self.0.lock().unwrap();
        channels.entry(name.to_owned()).or_insert_with(|| broadcast::channel(100).0).clone()
    }
}

#[get("/events")]
async fn events(
    query: web::Query<HashMap<String, String>>,
    channels: web::Data<Channels>,
) -> impl Responder {
    let name = query.get("channel").map_or("", String::as_str);
    let events = BroadcastStream::new(channels.sender(name).subscribe())
        .filter_map(async |event| event.ok())
        .map(|event| Bytes::from(format!("data: {event}\n\n")));
    let hello = stream::iter([Bytes::from_static(b": hello\n\n")]);
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("Cache-Control", "no-cache"))
        .streaming(hello.chain(events).map(Ok::<_, Infallible>))
}

#[post("/channels/{name}")]
async fn publish(
    name: web::Path<String>,
    event: String,
    channels: web::Data<Channels>,
) -> impl Responder {
    let readers = channels.sender(&name).send(event).unwrap_or(0);
    HttpResponse::Ok().body(readers.to_string())
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let channels = web::Data::new(Channels::default());
    HttpServer::new(move || App::new().app_data(channels.clone()).service(events).service(publish))
        .bind(listen)?
        .run()
        .await
}
