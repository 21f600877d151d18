//! Inventories of what the broker keeps, several a second. Gaps are judged by them.
//!
//! An event was *kept* over a time if every inventory of that time contains it. A failed inventory
//! says nothing.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use sse_contract::EventId;
use tokio::time::{sleep, timeout};

use crate::ledger::now_ms;
use crate::payload::{CHANNELS, channel_in_url};
use crate::publisher::exchange;
use crate::resp::{Redis, Reply};
use crate::stage::Stage;

/// The time between two inventories.
const PAUSE: Duration = Duration::from_millis(200);

const SCRIPT: &str = "
local out = { redis.call('HGET', KEYS[1], 'id') or '' }
for i = 2, #KEYS do
  local entries = redis.pcall('XRANGE', KEYS[i], '-', '+')
  out[#out + 1] = '#' .. (i - 2)
  if not entries.err then
    for _, entry in ipairs(entries) do out[#out + 1] = entry[1] end
  end
end
return out";

/// A time over which every inventory contained an event.
#[derive(Debug, Clone, Copy)]
struct Span {
    from_ms: u64,
    to_ms: u64,
}

/// All inventories, by event.
#[derive(Debug, Default)]
pub struct Census {
    spans: HashMap<(u16, EventId), Vec<Span>>,
    /// When the last inventory was requested.
    last_ms: u64,
    broken: bool,
    /// The number of inventories.
    pub inventories: u64,
}

impl Census {
    /// Adds an inventory of these events, requested and answered at these times.
    pub fn inventory(
        &mut self,
        asked_ms: u64,
        answered_ms: u64,
        events: impl Iterator<Item = (u16, EventId)>,
    ) {
        let unbroken = !std::mem::take(&mut self.broken);
        for event in events {
            let spans = self.spans.entry(event).or_default();
            match spans.last_mut() {
                Some(span) if unbroken && span.to_ms == self.last_ms => span.to_ms = asked_ms,
                _ => spans.push(Span { from_ms: answered_ms, to_ms: asked_ms }),
            }
        }
        self.last_ms = asked_ms;
        self.inventories += 1;
    }

    /// From here until the next inventory, removed events may be restored. Spans do not continue
    /// across.
    pub fn breaks(&mut self) {
        self.broken = true;
    }

    /// Whether an event was kept all the time. With `born`, the first span counts from the event's
    /// birth: no data were replaced between the event and the first inventory that contains it.
    pub fn kept(&self, channel: u16, id: EventId, born: bool, from_ms: u64, to_ms: u64) -> bool {
        let spans = self.spans.get(&(channel, id)).into_iter().flatten();
        spans
            .into_iter()
            .enumerate()
            .any(|(n, span)| (span.from_ms <= from_ms || (n == 0 && born)) && span.to_ms >= to_ms)
    }

    /// When an inventory first contained the event.
    pub fn first_ms(&self, channel: u16, id: EventId) -> Option<u64> {
        self.spans.get(&(channel, id)).map(|spans| spans[0].from_ms)
    }
}

/// Takes inventories until the run ends.
pub async fn watch(stage: Rc<Stage>) {
    let mut connection = None;
    loop {
        sleep(PAUSE).await;
        if stage.settings.memory() {
            ask_gateway(&stage).await;
            continue;
        }
        let Some(master) = stage.master.get() else { return };
        let (addr, redis) = match connection.take() {
            Some((addr, redis)) if addr == master => (addr, redis),
            _ => match Redis::connect(master).await {
                Ok(redis) => (master, redis),
                Err(_) => continue,
            },
        };
        connection = ask_redis(&stage, redis, addr).await.map(|redis| (addr, redis));
    }
}

async fn ask_redis(stage: &Stage, mut redis: Redis, addr: std::net::SocketAddr) -> Option<Redis> {
    let mut call = vec!["EVAL".to_owned(), SCRIPT.to_owned(), (CHANNELS.len() + 1).to_string()];
    call.push("sse:state".to_owned());
    call.extend(CHANNELS.map(|name| format!("sse:history:{name}")));
    let asked_ms = now_ms();
    let answer = redis.call(&call).await.ok()?;
    // Another server became the master meanwhile; it may keep other events.
    if stage.master.get() != Some(addr) {
        return None;
    }
    let Reply::Text(text) = answer else { return Some(redis) };
    let mut lines = text.lines();
    if let Some(Ok(clock)) = lines.next().map(str::parse::<EventId>) {
        stage.ledger.borrow_mut().epoch_seen(clock.epoch());
    }
    let mut channel = 0;
    let events = lines.filter_map(|line| match line.strip_prefix('#') {
        Some(n) => {
            channel = n.parse().unwrap_or(channel);
            None
        }
        None => Some((channel, line.parse().ok()?)),
    });
    stage.census.borrow_mut().inventory(asked_ms, now_ms(), events);
    Some(redis)
}

async fn ask_gateway(stage: &Stage) {
    let mut found = Vec::new();
    let asked_ms = now_ms();
    for channel in 0..CHANNELS.len() as u16 {
        let name = channel_in_url(channel);
        let request =
            format!("GET /channels/{name} HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\n\r\n");
        let answer = exchange(stage.places.gateways[0], request.as_bytes());
        let Ok(Ok((_, body))) = timeout(Duration::from_secs(2), answer).await else { return };
        let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let id = |field: &str| value[field].as_str()?.parse::<EventId>().ok();
        let (Some(oldest), Some(last)) = (id("oldest_id"), id("last_id")) else { continue };
        let ledger = stage.ledger.borrow();
        let known = ledger.known_between(channel, oldest.before(), None);
        found.extend(known.filter(|(id, _)| *id <= last).map(|(id, _)| (channel, id)));
    }
    stage.census.borrow_mut().inventory(asked_ms, now_ms(), found.into_iter());
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: EventId = EventId { ms: 5, seq: 65_536 };

    #[test]
    fn what_an_inventory_lacks_was_not_kept() {
        let mut census = Census::default();
        let there = || std::iter::once((1, ID));
        census.inventory(100, 101, there());
        census.inventory(200, 201, there());
        assert!(census.kept(1, ID, false, 101, 200));
        assert!(!census.kept(1, ID, false, 50, 200));
        assert!(census.kept(1, ID, true, 50, 200));
        assert!(!census.kept(1, ID, true, 50, 201));
        census.inventory(300, 301, std::iter::empty());
        census.inventory(400, 401, there());
        assert!(!census.kept(1, ID, true, 150, 400));
        assert!(census.kept(1, ID, true, 401, 400));
    }

    #[test]
    fn what_may_have_been_put_back_was_not_kept() {
        let mut census = Census::default();
        let there = || std::iter::once((1, ID));
        census.inventory(100, 101, there());
        census.breaks();
        census.inventory(200, 201, there());
        assert!(!census.kept(1, ID, true, 101, 200));
    }
}
