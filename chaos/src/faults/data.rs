//! Faults of the data in Redis: deleted, evicted, trimmed, refused, unreadable.

use sse_contract::{Function, eval_script};

use super::Fault;
use crate::payload::CHANNELS;
use crate::redis_side::{Node, RedisSide};
use crate::storm::Hand;

/// Removes data in one step.
pub async fn lose(fault: Fault, hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    let master = &side.master;
    match fault {
        Fault::FlushAll => master.must(&["FLUSHALL"]).await.map(|_| ()),
        Fault::ClockBack => {
            let id = master.must(&["HGET", "sse:state", "id"]).await?;
            let (ms, seq) = id.split_once('-').unwrap_or(("0", "65536"));
            let back = hand.rng.u64(1..30_000);
            let ms = ms.parse().unwrap_or(0_u64).saturating_sub(back);
            let set = format!("{ms}-{seq}");
            master.must(&["HSET", "sse:state", "id", &set]).await.map(|_| ())
        }
        Fault::Trim => {
            for channel in CHANNELS {
                if hand.rng.bool() {
                    let keep = if hand.rng.bool() { 0 } else { hand.rng.u32(0..300) };
                    let key = format!("sse:history:{channel}");
                    // The key may not be a stream at the moment.
                    master.call(&["XTRIM", &key, "MAXLEN", &keep.to_string()]).await?;
                }
            }
            Ok(())
        }
        // Sent as a script, because another fault may have flushed the library.
        Fault::Fence => master.must_all(&[fence()]).await,
        Fault::DelFence => {
            let key = format!("sse:history:{}", hand.rng.choice(CHANNELS).unwrap_or("orders"));
            master.must_all(&[vec!["DEL".to_owned(), key], fence()]).await
        }
        _ => {
            let key = format!("sse:history:{}", hand.rng.choice(CHANNELS).unwrap_or("orders"));
            master.must(&["DEL", &key]).await.map(|_| ())
        }
    }
}

fn fence() -> Vec<String> {
    ["EVAL", &eval_script(Function::Fence), "1", "sse:state"].map(str::to_owned).into()
}

/// Makes Redis short of memory, so that it evicts keys or refuses writes.
pub async fn memory(fault: Fault, hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    let master = &side.master;
    let used: u64 = master.info("used_memory").await?.parse().unwrap_or(0);
    let (policy, share) = match fault {
        Fault::Evict => ("allkeys-lru", hand.rng.u64(60..98)),
        _ => ("noeviction", hand.rng.u64(10..90)),
    };
    let low = (used * share / 100).to_string();
    master.must(&["CONFIG", "SET", "maxmemory-policy", policy]).await?;
    master.must(&["CONFIG", "SET", "maxmemory", &low]).await?;
    match fault {
        Fault::Evict => hand.wait(100..800).await,
        _ => hand.wait(300..2_500).await,
    }
    master.must(&["CONFIG", "SET", "maxmemory", "0"]).await?;
    master.must(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await.map(|_| ())
}

/// One step, so that no events published in between are lost. The saved key may have expired.
const PUT_BACK: &str = "
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[1]) end
return 1";

/// Makes a history unreadable for a while: it has the wrong type, or contains an id that is too
/// high.
pub async fn poison(fault: Fault, hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    let master = &side.master;
    let name = hand.rng.choice(CHANNELS).unwrap_or("orders");
    let key = format!("sse:history:{name}");
    if exists(master, &key).await? == "0" {
        return Ok(());
    }
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    if fault == Fault::PoisonType {
        let saved = format!("saved:{key}");
        let list = words(&["RPUSH", &key, "not", "a", "stream"]);
        master.must_all(&[words(&["RENAME", &key, &saved]), list]).await?;
        hand.wait(500..2_500).await;
        return master.must(&["EVAL", PUT_BACK, "2", &key, &saved]).await.map(|_| ());
    }
    master.must(&["XADD", &key, "9999999999999999-1", "data", "poison"]).await?;
    hand.wait(500..2_500).await;
    // After such an id only a deleted stream accepts events again.
    master.must_all(&[words(&["DEL", &key]), fence()]).await
}

async fn exists(master: &Node, key: &str) -> Result<String, String> {
    master.must(&["EXISTS", key]).await
}
