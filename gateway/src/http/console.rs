//! The live console at `GET /`: one page that loads nothing else.
//!
//! The page is put together once, when the gateway starts, from the files in `console/`: its
//! markup, its style, and its scripts, which share one scope. Comments and indentation are left out,
//! because only readers of the source need them. The page is then compressed, and its entity tags
//! and the hashes of its Content-Security-Policy are computed. An answer copies nothing.

use std::fmt::Write as _;
use std::io::Write as _;

use actix_web::http::header::{
    self, AcceptEncoding, ETag, Encoding, EntityTag, Header, HeaderValue, IfNoneMatch,
};
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{Digest, SHA256, digest};
use serde_json::json;

use crate::config::{BrokerKind, Config};
use crate::http::app::App;
use crate::http::problem::Problem;
use crate::http::routes::not_found;

const PAGE: &str = include_str!("console/page.html");
const STYLE: &str = include_str!("console/page.css");
/// The scripts, in the order in which they use each other.
const SCRIPT: &str = concat!(
    include_str!("console/words.js"),
    include_str!("console/events.js"),
    include_str!("console/stream.js"),
    include_str!("console/list.js"),
    include_str!("console/detail.js"),
    include_str!("console/publish.js"),
    include_str!("console/tools.js"),
    include_str!("console/page.js"),
);

/// The page in both forms, and the headers that go with it.
#[derive(Debug)]
pub(crate) struct Console {
    plain: Form,
    gzip: Form,
    /// The value of `Content-Security-Policy`.
    policy: HeaderValue,
}

/// The page as it is sent.
#[derive(Debug)]
struct Form {
    body: Bytes,
    tag: EntityTag,
}

impl Console {
    /// Puts the page together, with what it has to know of this gateway.
    pub(crate) fn new(config: &Config) -> Self {
        let style = minifier::css::minify(STYLE).expect("the style is CSS").to_string();
        let script = minifier::js::minify(SCRIPT).to_string();
        // A semicolon before a brace says nothing, in either. No text of the page has the two.
        let [style, script] = [style, script].map(|text| text.replace(";}", "}"));
        let markup: String = PAGE.lines().map(str::trim_start).collect();
        let page = markup
            .replacen("/*about*/", &about(config), 1)
            .replacen("/*style*/", &style, 1)
            .replacen("/*script*/", &script, 1);
        let hash = digest(&SHA256, page.as_bytes());
        let tag = &URL_SAFE_NO_PAD.encode(hash)[..22];
        Console {
            // RFC 9110 §8.8.3: two encodings of a page are two representations.
            gzip: Form {
                body: gzip(page.as_bytes()),
                tag: EntityTag::new_strong(format!("{tag}-gzip")),
            },
            plain: Form { body: page.into(), tag: EntityTag::new_strong(tag.to_owned()) },
            policy: policy(&style, &script),
        }
    }

    fn answer(&self, asked: &HttpRequest) -> HttpResponse {
        let form = if takes_gzip(asked) { &self.gzip } else { &self.plain };
        let known = match IfNoneMatch::parse(asked) {
            Ok(IfNoneMatch::Any) => true,
            Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|tag| tag.weak_eq(&form.tag)),
            Err(_) => false,
        };
        let mut answer = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        answer
            .insert_header(ETag(form.tag.clone()))
            .insert_header((header::VARY, "accept-encoding"))
            // A browser asks each time, and is answered 304 until the gateway changes.
            .insert_header((header::CACHE_CONTROL, "no-cache"))
            .insert_header((header::CONTENT_SECURITY_POLICY, self.policy.clone()))
            .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((header::REFERRER_POLICY, "no-referrer"));
        if known {
            return answer.finish();
        }
        if std::ptr::eq(form, &self.gzip) {
            answer.insert_header((header::CONTENT_ENCODING, "gzip"));
        }
        answer.content_type("text/html; charset=utf-8").body(form.body.clone())
    }
}

/// Handles `GET /`. Without `server.console` there is no such resource.
pub(crate) async fn get(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, Problem> {
    match &app.console {
        Some(console) => Ok(console.answer(&request)),
        None => not_found(request).await,
    }
}

/// What the page has to know of this gateway, as JSON. It holds numbers and fixed words alone, so
/// nothing in it can end the element that it stands in.
fn about(config: &Config) -> String {
    let ms = |duration: std::time::Duration| duration.as_millis() as u64;
    let broker = match config.broker {
        BrokerKind::Memory => "memory",
        BrokerKind::Redis => "redis",
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "broker": broker,
        "heartbeat": ms(config.stream.heartbeat),
        "history": config.history.max_len,
        "ttl": ms(config.history.ttl),
    })
    .to_string()
}

/// The Content-Security-Policy: the page's own style and script, by their hashes, and requests to
/// its own gateway. (The icon is a `data:` image.)
fn policy(style: &str, script: &str) -> HeaderValue {
    let hash = |text: &str| {
        let hash: Digest = digest(&SHA256, text.as_bytes());
        STANDARD.encode(hash)
    };
    let mut policy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'"
        .to_owned();
    let _ = write!(policy, "; style-src 'sha256-{}'", hash(style));
    let _ = write!(policy, "; script-src 'sha256-{}'", hash(script));
    HeaderValue::from_str(&policy).expect("base64 may stand in a header")
}

fn gzip(page: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(page).and_then(|()| encoder.finish());
    written.expect("memory takes all bytes").into()
}
/// Whether the client names gzip, and does not prefer the plain page (RFC 9110 §12.5.3).
fn takes_gzip(request: &HttpRequest) -> bool {
    let supported = [Encoding::identity(), Encoding::gzip()];
    let accepted = AcceptEncoding::parse(request).ok();
    accepted.and_then(|accepted| accepted.negotiate(supported.iter())) == Some(Encoding::gzip())
}
