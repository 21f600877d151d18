//! A request's body that was answered before it was read to its end: the connection is then closed behind the answer.
//!
//! actix does so where the body's length was said beforehand. A body in chunks that nobody wants it reads on to its end,
//! which may never come, with neither a bound in time nor in bytes. It takes a body for wanted as long as somebody holds
//! it; so the answer holds it until it is over. What the client still sends is then thrown away by `guests.rs`, which has
//! both bounds.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_http::error::PayloadError;
use actix_web::HttpMessage;
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use bytes::Bytes;
use futures_util::Stream;

/// A request's body, which its handler reads and its answer holds.
#[derive(Clone)]
pub(crate) struct Shared(Rc<RefCell<Payload>>);

/// An answer that holds its request's body.
pub(crate) struct Holding<B> {
    body: B,
    _request: Option<Shared>,
}

/// Shares the request's body, if it has one in chunks.
pub(crate) fn share(request: &mut ServiceRequest) -> Option<Shared> {
    // Nearly no request has one, and all others are left as they are.
    if !request.chunked().unwrap_or(false) {
        return None;
    }
    let shared = Shared(Rc::new(RefCell::new(request.take_payload())));
    let reader = Box::pin(shared.clone());
    request.set_payload(Payload::Stream { payload: reader });
    Some(shared)
}

/// The answer, which holds the request's body until it is over.
pub(crate) fn hold<B>(
    response: ServiceResponse<B>,
    request: Option<Shared>,
) -> ServiceResponse<Holding<B>> {
    response.map_body(|_, body| Holding { body, _request: request })
}

impl Stream for Shared {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}

impl<B: MessageBody + Unpin> MessageBody for Holding<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
