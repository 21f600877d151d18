//! Closes the connection behind an answer that was given before the request's body was read to its
//! end.
//!
//! actix does so by itself if the body's length was declared. If nobody consumes a chunked body,
//! actix keeps reading it, without a bound in time or bytes, and its end may never come. But it
//! treats a body as still in use while something holds it. So the answer holds the body until the
//! answer is complete. `guests.rs` then discards what the client still sends, with both bounds.

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

/// A request's body: its handler reads it, and its answer holds it.
#[derive(Clone)]
pub(crate) struct Shared(Rc<RefCell<Payload>>);

/// A response body that holds its request's body.
pub(crate) struct Holding<B> {
    body: B,
    _request: Option<Shared>,
}

/// Makes a chunked request body shared between handler and answer; none for other bodies.
pub(crate) fn share(request: &mut ServiceRequest) -> Option<Shared> {
    // Few requests have a chunked body; the others keep actix's payload unchanged.
    if !request.chunked().unwrap_or(false) {
        return None;
    }
    let shared = Shared(Rc::new(RefCell::new(request.take_payload())));
    let reader = Box::pin(shared.clone());
    request.set_payload(Payload::Stream { payload: reader });
    Some(shared)
}

/// Makes the answer hold the request's body until the answer is complete.
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
