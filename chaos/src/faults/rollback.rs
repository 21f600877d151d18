//! Faults that restore older data in a running Redis, as a RESTORE or a reverted virtual machine
//! does. The process and all connections stay.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::payload::CHANNELS;
use crate::redis_side::RedisSide;
use crate::storm::Hand;

/// Copies the state, the histories and `sse:known:*`, or restores the copies. COPY keeps everything
/// that DUMP and RESTORE would: times to live, and the number of entries ever added to a stream.
const SAVE: &str = "
for _, key in ipairs(redis.call('KEYS', 'sse:known:*')) do KEYS[#KEYS + 1] = key end
for _, key in ipairs(KEYS) do redis.call('COPY', key, 'saved:' .. key, 'REPLACE') end
return #KEYS";
const RESTORE: &str = "
for _, key in ipairs(redis.call('KEYS', 'sse:known:*')) do KEYS[#KEYS + 1] = key end
for _, key in ipairs(KEYS) do redis.call('DEL', key) end
for _, saved in ipairs(redis.call('KEYS', 'saved:*')) do
  redis.call('RENAME', saved, string.sub(saved, 7))
end
return #KEYS";

/// Restores the state and the histories of some ticks ago.
pub async fn revert(hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    let stage = hand.stage.clone();
    let _memory = stage.memory.lock().await;
    script(side, SAVE).await?;
    let before = ticks(hand, side).await?;
    stage.census.borrow_mut().breaks();
    script(side, RESTORE).await?;
    noticed(side, before).await
}

/// Restores all data of some ticks ago.
pub async fn debug_reload(hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    let stage = hand.stage.clone();
    let _memory = stage.memory.lock().await;
    side.master.save().await?;
    let before = ticks(hand, side).await?;
    stage.census.borrow_mut().breaks();
    side.master.must(&["DEBUG", "RELOAD", "NOSAVE"]).await?;
    noticed(side, before).await
}

async fn script(side: &RedisSide, text: &str) -> Result<(), String> {
    let keys = CHANNELS.map(|name| format!("sse:history:{name}"));
    let count = (keys.len() + 1).to_string();
    let mut call = vec!["EVAL", text, &count, "sse:state"];
    call.extend(keys.iter().map(String::as_str));
    side.master.must(&call).await.map(|_| ())
}

async fn beat(side: &RedisSide) -> Result<u64, String> {
    let text = side.master.must(&["HGET", "sse:state", "beat"]).await?;
    Ok(text.parse().unwrap_or(0))
}

/// Waits until every gateway has seen the state advance: only a gateway that saw a later state can
/// notice its loss. Returns the count of ticks before, which the state will return to.
async fn ticks(hand: &mut Hand, side: &RedisSide) -> Result<u64, String> {
    let before = beat(side).await?;
    sleep(hand.stage.settings.tick * 3).await;
    hand.wait(200..1_500).await;
    let end = Instant::now() + Duration::from_secs(3);
    // State of version 1 has no count of ticks to wait for.
    while before > 0 && beat(side).await? < before + 3 && Instant::now() < end {
        sleep(Duration::from_millis(20)).await;
    }
    Ok(before)
}

/// Waits until a new epoch has begun, for five seconds at most. A new epoch sets the count of ticks
/// far above.
async fn noticed(side: &RedisSide, before: u64) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(5);
    while beat(side).await? < before + 1_000 && Instant::now() < end {
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
