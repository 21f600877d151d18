//! Response bodies that are event streams, for actix to send.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

use crate::stream::body_pipe::{Ending, PipeReader, Unfinished};

/// A stream whose socket stays with actix (HTTP/2, or `stream.takeover` off).
#[derive(Debug)]
pub(crate) struct StreamBody(pub PipeReader);

impl MessageBody for StreamBody {
    type Error = Unfinished;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Unfinished>>> {
        self.0.poll(cx)
    }
}

/// A body that sends fixed bytes and then ends unfinished, so that the client comes back.
#[derive(Debug)]
pub(crate) struct LastWords {
    words: Option<Bytes>,
    ending: Ending,
}

impl LastWords {
    /// A body that sends `words`.
    pub(crate) fn new(words: Box<[u8]>) -> Self {
        LastWords { words: Some(Bytes::from(words)), ending: Ending::default() }
    }
}

impl MessageBody for LastWords {
    type Error = Unfinished;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Unfinished>>> {
        match self.words.take() {
            Some(words) => Poll::Ready(Some(Ok(words))),
            None => self.ending.poll(cx),
        }
    }
}
