//! HTTP/2 requests, which actix runs each in a task of its own: contains their panics and counts
//! them.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::{Request, Version};
use actix_service::{Service, ServiceFactory, apply_fn_factory};
use actix_web::body::EitherBody;
use actix_web::dev::ServiceResponse;
use bytes::Bytes;

use crate::http::takeover::{TakeoverOrder, UnderWay};
use crate::panics;

/// Wraps `app` for HTTP/2. actix runs each HTTP/2 request in a task of its own, where a panic would
/// end the process instead of the request. Nor does actix count or bound the requests under way.
pub(crate) fn attended<B: MessageBody + 'static>(
    app: impl ServiceFactory<
        Request,
        Config = (),
        Response = ServiceResponse<B>,
        Error = actix_web::Error,
        InitError = (),
    >,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = ServiceResponse<EitherBody<B, BoxBody>>,
    Error = actix_web::Error,
    InitError = (),
> {
    apply_fn_factory(app, |request: Request, app| {
        let order = request.conn_data::<TakeoverOrder>();
        let of_http2 = order.filter(|_| request.version() == Version::HTTP_2);
        let under_way = of_http2.map(TakeoverOrder::begins_request);
        let answer = panics::handling(app.call(request));
        async move {
            let response = answer.await?;
            let Some(under_way) = under_way else { return Ok(response.map_into_left_body()) };
            let attend = |_: &mut _, body| Attended { body, _under_way: under_way };
            let attended = response.map_into_boxed_body().map_body(attend);
            Ok(attended.map_into_boxed_body().map_into_right_body())
        }
    })
}

/// A response body whose request counts as under way until the body is dropped.
struct Attended {
    body: BoxBody,
    _under_way: UnderWay,
}

impl MessageBody for Attended {
    type Error = Box<dyn std::error::Error>;

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
