//! Where a subscription begins. A time and a number of events become an event's id, with which the
//! stream begins: ids hold the time of publication, and a gateway tells its clock and its histories.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use hyper::header::{ACCEPT, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use sse_contract::{Channel, EventId};

use crate::http_client::{HttpClient, read_document};
use crate::tail::{End, judge, percent_encode};
use crate::when::{When, when};

/// Events in one page of a history; the most that a gateway gives.
const PAGE: usize = 1000;

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// After the event with this id.
    After(EventId),
    /// With the oldest event kept.
    Oldest,
    /// This long ago, or at this moment.
    When(When),
    /// With the last events of all channels together, so many.
    Last(usize),
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "oldest" | "0") {
            return Ok(Start::Oldest);
        }
        if let Ok(id) = text.parse() {
            return Ok(Start::After(id));
        }
        if let Some(digits) = text.strip_prefix('-') {
            let count = digits.parse().ok().filter(|count| *count > 0);
            return count
                .map(Start::Last)
                .ok_or_else(|| format!("{text:?} is no number of events; write -20"));
        }
        when(text)
            .map(Start::When)
            .map_err(|why| format!("{why}, an event's id, oldest, or -20 for the last 20 events"))
    }
}

/// A page of a channel's history.
#[derive(Deserialize)]
struct Page {
    events: Vec<Kept>,
    next: Option<String>,
    more: bool,
}

#[derive(Deserialize)]
struct Kept {
    id: Option<String>,
}

impl Start {
    /// The value of `last_event_id` with which a stream begins here. Asks the gateway if it has to.
    /// `wait` is the longest silence in an answer.
    pub async fn position(
        &self,
        client: &mut HttpClient,
        channels: &[Channel],
        wait: Duration,
    ) -> Result<String, End> {
        Ok(match self {
            Start::After(id) => id.to_string(),
            Start::Oldest => "0".to_owned(),
            Start::When(when) => {
                let clock = clock(client, &channels[0], wait).await?;
                before(*when, clock).map_err(End::useless)?.to_string()
            }
            Start::Last(count) => match last(client, channels, *count, wait).await? {
                Some(first) => first.before().to_string(),
                None => "0".to_owned(),
            },
        })
    }
}

/// The position below every event that was published since then. `clock` is the gateway's clock: its
/// time, and the epoch that a position must be of.
fn before(when: When, clock: EventId) -> Result<EventId, String> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let begin = match when {
        When::Away(time) => clock.ms.saturating_sub(ms(time)),
        When::At(moment) => ms(moment.duration_since(UNIX_EPOCH).unwrap_or_default()),
    };
    if begin > clock.ms {
        let now = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(clock.ms));
        return Err(format!("--from is in the future: it is {now} there"));
    }
    Ok(EventId { ms: begin, seq: clock.epoch() << 16 }.before())
}

/// The gateway's clock. A page of history after every event ends with it.
async fn clock(client: &mut HttpClient, channel: &Channel, wait: Duration) -> Result<EventId, End> {
    let page = page(client, channel, &EventId::MAX.to_string(), 1, wait).await?;
    let clock = page.next.and_then(|next| next.parse().ok());
    clock.ok_or_else(|| End::useless("the server does not tell its clock".to_owned()))
}

/// The first of the last `count` events; `None` if no more than that are kept.
async fn last(
    client: &mut HttpClient,
    channels: &[Channel],
    count: usize,
    wait: Duration,
) -> Result<Option<EventId>, End> {
    // The oldest of the newest is on top.
    let mut newest: BinaryHeap<Reverse<EventId>> = BinaryHeap::new();
    let mut kept = 0;
    for channel in channels {
        let mut after = "0".to_owned();
        loop {
            let page = page(client, channel, &after, PAGE, wait).await?;
            for id in page.events.iter().filter_map(|event| event.id.as_ref()?.parse().ok()) {
                newest.push(Reverse(id));
                kept += 1;
                if newest.len() > count {
                    newest.pop();
                }
            }
            match page.next.filter(|next| page.more && *next != after) {
                Some(next) => after = next,
                None => break,
            }
        }
    }
    Ok(newest.pop().map(|Reverse(id)| id).filter(|_| kept > count))
}

async fn page(
    client: &mut HttpClient,
    channel: &Channel,
    after: &str,
    limit: usize,
    wait: Duration,
) -> Result<Page, End> {
    let channel = percent_encode(channel.as_str());
    let path = format!("/channels/{channel}/history?after={after}&limit={limit}");
    let headers =
        [(ACCEPT, HeaderValue::from_static("application/json, application/problem+json"))];
    let mut response = client
        .send(Method::GET, &path, &headers, Vec::new())
        .await
        .map_err(|no_answer| End::Again(no_answer.text, None))?;
    if response.status() != StatusCode::OK {
        return Err(judge(&mut response, wait).await);
    }
    let document = read_document(response.body_mut(), wait).await;
    let document = document.map_err(|why| End::Again(why, None))?;
    serde_json::from_slice(&document)
        .map_err(|_| End::useless("what it answers is not a channel's history".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_place_a_time_or_a_number() {
        let minutes = When::Away(Duration::from_secs(300));
        for (text, want) in [
            ("oldest", Start::Oldest),
            ("0", Start::Oldest),
            ("5-65536", Start::After(EventId { ms: 5, seq: 65536 })),
            ("5m", Start::When(minutes)),
            ("-20", Start::Last(20)),
        ] {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
        for text in ["", "-", "-0", "--json", "-5m", "5", "soon", "1795412348"] {
            assert!(text.parse::<Start>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_a_position_of_the_clocks_epoch() {
        let clock = EventId::new(1_000_000, 3, 9);
        let position = before(When::Away(Duration::from_secs(300)), clock).unwrap();
        assert!(position < EventId::new(700_000, 3, 0) && position.epoch() == 3);
        assert!(position > EventId::new(699_999, 3, 0xFFFE));
        let at = UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(before(When::At(at), clock), Ok(EventId::new(1_000_000, 3, 0).before()));
        let error = before(When::At(at + Duration::from_millis(1)), clock).unwrap_err();
        assert!(error.contains("1970-01-01T00:16:40Z"), "{error}");
        let ever = before(When::Away(Duration::from_secs(1 << 40)), clock).unwrap();
        assert!(ever < EventId::new(1, 3, 0));
    }
}
