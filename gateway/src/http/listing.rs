//! `GET /connections` and `GET /channels` on the admin port: the streams and channels of this
//! gateway, a page at a time.

use std::collections::HashSet;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use sse_contract::{Channel, Cursor};

use crate::feed::listing::{ChannelEntry, StreamEntry, StreamFilter, StreamKey, StreamSort};
use crate::http::app::App;
use crate::http::operator;
use crate::http::problem::{Kind, Problem};
use crate::http::request;

/// Entries in one answer if `limit` is absent.
const DEFAULT_LIMIT: usize = 100;
/// The largest `limit`.
const MAX_LIMIT: usize = 1000;

/// Handles `GET /connections`.
pub(crate) async fn connections(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, Problem> {
    operator::check(&request, &app)?;
    let known = ["subject", "channel", "client", "sort", "limit", "next"];
    let query = Query::of(&request, &known)?;
    let filter = StreamFilter {
        subject: query.get("subject").map(Into::into),
        channel: query.get("channel").map(|name| request::channel(name, "channel")).transpose()?,
        client: query.parsed::<IpAddr>("client", "an IP address")?,
    };
    let sorts = [
        ("oldest", StreamSort::Oldest),
        ("newest", StreamSort::Newest),
        ("slowest", StreamSort::Slowest),
    ];
    let (name, sort) = query.sort(&sorts)?;
    let after = query.next(name, stream_key)?;
    let limit = query.limit()?;
    // One more than is shown, to see whether there is a next page.
    let found = app.find_streams(filter, sort, after, limit + 1).await;
    let shown = || found.entries.iter().take(limit);
    let next = (found.entries.len() > limit).then(|| shown().next_back()).flatten();
    let tls = app.config.tls.is_on();
    Ok(HttpResponse::Ok().json(json!({
        "connections": shown().map(|(_, entry)| stream(entry, tls)).collect::<Vec<_>>(),
        "matched": found.matched,
        "next": next.map(|(key, _)| {
            let StreamKey { rank: [a, b, c], worker, number } = key;
            format!("{name}.{a}.{b}.{c}.{worker}.{number}")
        }),
        "complete": found.complete,
    })))
}

/// Handles `GET /channels`.
pub(crate) async fn channels(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, Problem> {
    operator::check(&request, &app)?;
    let query = Query::of(&request, &["prefix", "sort", "limit", "next"])?;
    let (sort, by_name) = query.sort(&[("subscribers", false), ("name", true)])?;
    let after = query.next(sort, channel_key)?;
    let limit = query.limit()?;
    let found = app.find_channels(query.get("prefix").unwrap_or_default().into()).await;
    let matched = found.entries.len();
    let rank = |entry: &ChannelEntry| if by_name { 0 } else { usize::MAX - entry.subscribers };
    let all = found.entries.into_iter().map(|(name, entry)| ((rank(&entry), name), entry));
    let mut page: Vec<((usize, Channel), ChannelEntry)> =
        all.filter(|(key, _)| after.as_ref().is_none_or(|after| key > after)).collect();
    let more = page.len() > limit;
    if more {
        page.select_nth_unstable_by(limit, |(a, _), (b, _)| a.cmp(b));
        page.truncate(limit);
    }
    page.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let next = page.last().filter(|_| more);
    Ok(HttpResponse::Ok().json(json!({
        "channels": page.iter().map(|((_, name), entry)| channel(name, entry)).collect::<Vec<_>>(),
        "matched": matched,
        // A comma is in no channel's name. A plus would have to be escaped in a query.
        "next": next.map(|((rank, name), _)| {
            format!("{sort}.{rank}.{}", name.as_str().replace('+', ","))
        }),
        "complete": found.complete,
    })))
}

fn stream(entry: &StreamEntry, tls: bool) -> Value {
    let channels: Vec<&str> = entry.channels.iter().map(Channel::as_str).collect();
    json!({
        "id": entry.id,
        "client": entry.client.map(|(client, _)| client),
        "subject": entry.subject,
        "channels": channels,
        "channel_count": entry.channel_count,
        "http": entry.client.map(|(_, version)| version),
        "tls": tls,
        "opened_at": rfc3339(entry.opened),
        "age_seconds": entry.age.as_secs_f64(),
        "state": entry.state.as_str(),
        "position": entry.position.as_ref().map(Cursor::to_string),
        "behind_seconds": entry.behind.map(|behind| behind.as_secs_f64()),
        "queued_bytes": entry.queued_bytes,
        "queued_events": entry.queued_events,
        "stalled_seconds": entry.stalled.as_secs_f64(),
        "events": entry.written.map(|(events, _)| events),
        "bytes": entry.written.map(|(_, bytes)| bytes),
    })
}

fn channel(name: &Channel, entry: &ChannelEntry) -> Value {
    let published = |ms| rfc3339(UNIX_EPOCH + Duration::from_millis(ms));
    json!({
        "channel": name.as_str(),
        "subscribers": entry.subscribers,
        "last_id": entry.last.map(|id| id.to_string()),
        "last_at": entry.last.map(|id| published(id.ms)),
    })
}

/// A time as RFC 3339 writes it, in milliseconds.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// Reads the place of a stream that [`connections`] wrote behind the name of the order.
fn stream_key(text: &str) -> Option<StreamKey> {
    let mut parts = text.split('.');
    let mut rank = || parts.next()?.parse().ok();
    let rank = [rank()?, rank()?, rank()?];
    let (worker, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(StreamKey { rank, worker, number })
}

/// Reads the place of a channel that [`channels`] wrote behind the name of the order.
fn channel_key(text: &str) -> Option<(usize, Channel)> {
    let (rank, name) = text.split_once('.')?;
    Some((rank.parse().ok()?, name.replace(',', "+").parse().ok()?))
}

/// The parameters of a request for a page.
struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the query, which may have each of `known` once and nothing else.
    fn of(request: &HttpRequest, known: &[&str]) -> Result<Self, Problem> {
        let pairs = request::query_pairs(request.query_string())?;
        request::once_each(&pairs, |_| true)?;
        let names: HashSet<&str> = known.iter().copied().collect();
        if let Some((name, _)) = pairs.iter().find(|(name, _)| !names.contains(name.as_str())) {
            let detail = format!("there is no parameter {name:?}; there are {}", known.join(", "));
            return Err(invalid(name.clone(), detail));
        }
        Ok(Query(pairs))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn parsed<T: FromStr>(&self, name: &'static str, what: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = || invalid(name.to_owned(), format!("{name} is {what}, not {text:?}"));
        text.parse().map(Some).map_err(|_| wrong())
    }

    fn limit(&self) -> Result<usize, Problem> {
        let what = format!("1 to {MAX_LIMIT}");
        let limit = self.parsed("limit", &what)?.unwrap_or(DEFAULT_LIMIT);
        if (1..=MAX_LIMIT).contains(&limit) {
            return Ok(limit);
        }
        Err(invalid("limit".to_owned(), format!("limit is {what}, not {limit}")))
    }

    /// The order that `sort` names, and that name. The first of `all` is the default.
    fn sort<T: Copy>(&self, all: &[(&'static str, T)]) -> Result<(&'static str, T), Problem> {
        let wanted = self.get("sort").unwrap_or(all[0].0);
        all.iter().find(|(name, _)| *name == wanted).copied().ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            let detail = format!("sort is one of {}, not {wanted:?}", names.join(", "));
            invalid("sort".to_owned(), detail)
        })
    }

    /// The place behind which the page begins; `read` reads it without the name of its order.
    fn next<K>(&self, sort: &str, read: impl Fn(&str) -> Option<K>) -> Result<Option<K>, Problem> {
        let Some(text) = self.get("next") else { return Ok(None) };
        let of_sort = text.split_once('.').filter(|(name, _)| *name == sort);
        of_sort.and_then(|(_, place)| read(place)).map(Some).ok_or_else(|| {
            let detail = format!("next is what the page before answered with sort={sort}");
            invalid("next".to_owned(), detail)
        })
    }
}

fn invalid(field: String, detail: String) -> Problem {
    Problem::new(Kind::InvalidParameter, detail).field(field)
}
