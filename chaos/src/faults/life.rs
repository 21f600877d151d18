//! Faults of Redis processes: crashes, pauses, and changes of the master.

use std::time::Duration;

use sse_lab::Signal;
use tokio::time::sleep;

use super::Fault;
use crate::redis_side::RedisSide;
use crate::storm::Hand;

/// Kills or stops the master, and starts it again with the data that it should have kept.
pub async fn crash(fault: Fault, hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    let master = &mut side.master;
    match fault {
        Fault::RedisPause => {
            master.signal(Signal::STOP);
            hand.wait(1_000..8_000).await;
            master.signal(Signal::CONT);
            return Ok(());
        }
        Fault::RedisRollback => {
            master.save().await?;
            hand.wait(300..2_500).await;
            master.kill();
        }
        Fault::RedisAof => {
            master.must(&["CONFIG", "SET", "appendonly", "yes"]).await?;
            while master.info("aof_rewrite_in_progress").await? != "0"
                || master.info("aof_rewrite_scheduled").await? != "0"
            {
                sleep(Duration::from_millis(50)).await;
            }
            hand.wait(200..1_500).await;
            master.kill();
        }
        _ => master.wipe(),
    }
    hand.stage.census.borrow_mut().breaks();
    hand.wait(0..1_500).await;
    let aof = fault == Fault::RedisAof;
    master.revive(aof).await?;
    if aof {
        master.must(&["CONFIG", "SET", "appendonly", "no"]).await?;
    }
    Ok(())
}

/// Promotes a lagging replica to master for all clients. The old master is killed and follows the
/// new one, empty.
pub async fn promote(hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    side.replica.caught_up().await?;
    side.replication.stall(true);
    hand.wait(200..2_500).await;
    if hand.rng.bool() {
        side.master.signal(Signal::STOP);
        hand.wait(200..2_500).await;
    }
    side.replication.close();
    side.replica.lead().await?;
    hand.stage.master.set(Some(side.replica.addr));
    for link in &side.links {
        link.switch(side.replica.addr);
    }
    side.swap();
    side.replica.wipe();
    side.replica.revive(false).await?;
    side.replica.follow(side.replication.addr).await
}

/// Stops the master, promotes the replica, lets the old master run on beside it and then demotes
/// it. Open connections stay with the old master; new ones go to the new master, on some wires
/// sooner than on others.
pub async fn two_masters(hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    side.replica.caught_up().await?;
    if hand.rng.bool() {
        side.replication.stall(true);
        hand.wait(100..1_000).await;
    }
    side.master.signal(Signal::STOP);
    hand.wait(50..1_500).await;
    side.replication.close();
    side.replica.lead().await?;
    hand.stage.master.set(Some(side.replica.addr));
    for link in &side.links {
        if hand.rng.bool() {
            link.move_to(side.replica.addr);
            // Half of the wires that move at once also close their open connections.
            if hand.rng.bool() {
                link.close();
            }
        }
    }
    hand.wait(0..1_000).await;
    side.master.signal(Signal::CONT);
    hand.wait(300..2_500).await;
    for link in &side.links {
        link.move_to(side.replica.addr);
    }
    hand.wait(0..500).await;
    side.swap();
    // As Sentinel does.
    side.replica.follow(side.replication.addr).await?;
    for kind in ["normal", "pubsub"] {
        side.replica.must(&["CLIENT", "KILL", "TYPE", kind]).await?;
    }
    side.replica.caught_up().await
}

/// Promotes a lagging replica to master, and a moment later the old master again, with the
/// replica's data. Sometimes no client sees the replica as master.
pub async fn failover_back(hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    side.replica.caught_up().await?;
    side.replication.stall(true);
    hand.wait(200..1_500).await;
    let unseen = hand.rng.bool();
    for link in &side.links {
        match unseen {
            true => link.stall(true),
            false => link.switch(side.replica.addr),
        }
    }
    side.replication.close();
    side.replica.lead().await?;
    hand.stage.master.set(Some(side.replica.addr));
    side.master.follow(side.replica.addr).await?;
    side.master.caught_up().await?;
    if !unseen {
        hand.wait(0..1_500).await;
    }
    side.master.lead().await?;
    hand.stage.master.set(Some(side.master.addr));
    for link in &side.links {
        link.switch(side.master.addr);
        link.stall(false);
    }
    side.replication.switch(side.master.addr);
    side.replication.stall(false);
    side.replica.follow(side.replication.addr).await
}
