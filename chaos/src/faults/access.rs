//! Faults between Redis and its clients: connections, rights, functions, and messages of others.

use sse_contract::EventId;

use super::Fault;
use crate::payload::CHANNELS;
use crate::redis_side::{GATEWAY_USER, PUBLISHER_USER, RedisSide};
use crate::storm::Hand;

/// Interrupts clients, at once or for a while.
pub async fn interrupt(fault: Fault, hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    let master = &side.master;
    let command: &[&str] = match fault {
        Fault::KillPubsub => &["CLIENT", "KILL", "TYPE", "pubsub"],
        Fault::KillNormal => &["CLIENT", "KILL", "TYPE", "normal"],
        Fault::FunctionFlush => &["FUNCTION", "FLUSH"],
        Fault::ScriptFlush => &["SCRIPT", "FLUSH"],
        _ => {
            let ms = hand.rng.u64(200..3_000);
            let what = if hand.rng.bool() { "ALL" } else { "WRITE" };
            master.must(&["CLIENT", "PAUSE", &ms.to_string(), what]).await?;
            tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
            return Ok(());
        }
    };
    master.must(command).await.map(|_| ())
}

/// Takes a right from gateways and publishers for a while.
pub async fn refuse(fault: Fault, hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    let users = [GATEWAY_USER, PUBLISHER_USER];
    let (take, give): (Vec<String>, Vec<String>) = if fault == Fault::AclUser {
        let all = ["set", "pexpireat", "xadd", "publish", "hset", "xinfo", "get", "time"];
        let command = hand.rng.choice(all).unwrap_or("set");
        (vec![format!("-{command}")], vec![format!("+{command}")])
    } else {
        let refused = hand.rng.choice(CHANNELS).unwrap_or("orders");
        let rest = CHANNELS.iter().filter(|name| **name != refused);
        let rest = rest.map(|name| format!("&sse:{name}"));
        let others =
            ["&sse:crowd:*", "&sse:once:*", "&sse::probe:*", "&sse::revoked"].map(str::to_owned);
        let take = ["resetchannels".to_owned()].into_iter().chain(rest).chain(others).collect();
        (take, vec!["resetchannels".to_owned(), "&sse:*".to_owned()])
    };
    for (n, rights) in [take, give].iter().enumerate() {
        for user in users {
            let mut command = vec!["ACL", "SETUSER", user];
            command.extend(rights.iter().map(String::as_str));
            side.master.must(&command).await?;
        }
        if n == 0 {
            hand.wait(500..3_000).await;
        }
    }
    Ok(())
}

/// Publishes on live channels without `sse_publish`.
pub async fn frames(fault: Fault, hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    let clock = side.master.must(&["HGET", "sse:state", "id"]).await?;
    let clock: EventId = clock.parse().unwrap_or_default();
    let mut connection = crate::resp::Redis::connect(side.master.addr).await?;
    for _ in 0..hand.rng.usize(1..6) {
        let channel = hand.rng.usize(..CHANNELS.len());
        let message = match fault {
            Fault::RawFrames => hand.stage.ledger.borrow_mut().raw(channel as u16).into_bytes(),
            _ => forged(&mut hand.rng, clock),
        };
        let name = format!("sse:{}", CHANNELS[channel]);
        connection.call(&[b"PUBLISH", name.as_bytes(), &message]).await?;
        hand.wait(0..100).await;
    }
    Ok(())
}

/// A frame that no publisher can have written. Frames that a publisher can have written are not
/// tested: the right to PUBLISH is trusted, so its owners can forge them.
fn forged(rng: &mut fastrand::Rng, clock: EventId) -> Vec<u8> {
    let frame = |version: u8, id: String, rest: &str| {
        let mut frame = vec![0xFF, version];
        frame.extend_from_slice(id.as_bytes());
        frame.extend_from_slice(rest.as_bytes());
        frame
    };
    let rest = "\n\nforged";
    let ahead = EventId { ms: clock.ms + rng.u64(3_600_000..90_000_000_000), ..clock };
    let behind = EventId { ms: clock.ms.saturating_sub(rng.u64(5_000..60_000)), ..clock };
    match rng.u8(0..7) {
        0 | 1 => frame(1, ahead.to_string(), rest),
        2 => frame(1, behind.to_string(), rest),
        3 => frame(2, clock.to_string(), rest),
        4 => frame(1, "12".to_owned(), ""),
        5 => frame(1, "99999999999999999999-1".to_owned(), rest),
        _ => vec![0xFF],
    }
}
