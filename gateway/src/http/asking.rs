//! An actix request in the form that access control reads.

use actix_web::HttpRequest;
use actix_web::http::header::HeaderValue;

use crate::access::asker::{Asker, NotUtf8};
use crate::access::client::ClientAddr;
use crate::config::ServerConfig;
use crate::config::origins::AllowedOrigins;
use crate::http::{client_addr, request};

/// A request, its client's address, and which proxies are trusted.
#[derive(Debug)]
pub struct Asking<'a> {
    /// The request.
    pub request: &'a HttpRequest,
    /// The client's address.
    pub client: ClientAddr,
    server: &'a ServerConfig,
}

impl<'a> Asking<'a> {
    /// Wraps `request`; `server` says which proxies may name its client and this site.
    pub fn of(request: &'a HttpRequest, server: &'a ServerConfig) -> Self {
        Asking { request, client: client_addr::of(request, server), server }
    }
}

impl Asker for Asking<'_> {
    fn header<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.request.headers().get_all(name).map(HeaderValue::as_bytes)
    }

    fn parameters(&self) -> Result<Vec<(String, String)>, NotUtf8> {
        request::query_pairs(self.request.query_string())
    }

    fn method(&self) -> &str {
        self.request.method().as_str()
    }

    fn path(&self) -> &str {
        self.request.path()
    }

    fn client(&self) -> ClientAddr {
        self.client
    }

    fn foreign_origin(&self, listed: &AllowedOrigins) -> Option<String> {
        request::foreign_origin(self.request, listed, self.server)
    }
}
