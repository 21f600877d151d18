//! Faults of gateways, of the wires between them and Redis, and of readers.

use std::time::Duration;

use sse_lab::Signal;
use tokio::time::sleep;

use super::Fault;
use crate::gateways::Gateway;
use crate::ledger::now_ms;
use crate::payload::{BULK, Stamp};
use crate::publisher::{Beat, Publisher, Way};
use crate::redis_side::Link;
use crate::storm::Hand;
use crate::tally::Wrong;

/// The publisher number of floods.
const FLOODER: u16 = 900;

/// Breaks one gateway, wire or reader, or all of them.
pub async fn strike(
    fault: Fault,
    hand: &mut Hand,
    gateways: &mut [Gateway],
    links: &[Link],
) -> Result<(), String> {
    let one = match fault.of_packets() {
        true => gateways.iter().position(|g| g.namespace().is_some()).unwrap_or(0),
        false => hand.rng.usize(..gateways.len()),
    };
    match fault {
        Fault::WireCut | Fault::WireSilent | Fault::WireStall => {
            let link = &links[hand.rng.usize(..links.len())];
            hand.stage.say(&format!("{} {}", fault.name(), link.addr));
            strike_wire(fault, hand, link).await;
            Ok(())
        }
        Fault::ReadersStall | Fault::ReadersAbort => {
            hand.stage.say(fault.name());
            strike_readers(fault, hand).await;
            Ok(())
        }
        Fault::GatewayKillAll => {
            let stage = hand.stage.clone();
            let _memory = stage.memory.lock().await;
            stage.say(fault.name());
            hand.gateway_is_gone();
            gateways.iter_mut().for_each(Gateway::kill);
            hand.wait(0..1_500).await;
            gateways.iter_mut().try_for_each(Gateway::start)
        }
        _ => {
            hand.stage.say(&format!("{} {}", fault.name(), gateways[one].addr));
            strike_one(fault, hand, &mut gateways[one]).await
        }
    }
}

async fn strike_wire(fault: Fault, hand: &mut Hand, link: &Link) {
    match fault {
        Fault::WireCut => link.close(),
        Fault::WireSilent => link.forget(),
        _ => {
            link.stall(true);
            hand.wait(500..5_000).await;
            link.stall(false);
        }
    }
}

async fn strike_readers(fault: Fault, hand: &mut Hand) {
    if fault == Fault::ReadersAbort {
        return hand.stage.cue.send_modify(|cue| cue.aborts += 1);
    }
    let hold = hand.rng.u64(1_000..6_500);
    hand.stage.cue.send_modify(|cue| cue.stalled_until_ms = now_ms() + hold);
    sleep(Duration::from_millis(hold)).await;
}

async fn strike_one(fault: Fault, hand: &mut Hand, gateway: &mut Gateway) -> Result<(), String> {
    match fault {
        Fault::GatewayKill => {
            gateway.kill();
            hand.gateway_is_gone();
            hand.wait(0..1_500).await;
            gateway.start()
        }
        Fault::GatewayTerm => {
            if let Err(text) = gateway.drain().await {
                hand.stage.wrong(Wrong::Crashed, text);
            }
            hand.gateway_is_gone();
            gateway.start()
        }
        Fault::GatewayPause => {
            gateway.signal(Signal::STOP);
            hand.wait(1_000..8_000).await;
            gateway.signal(Signal::CONT);
            Ok(())
        }
        Fault::Flood => {
            flood(hand, gateway).await;
            Ok(())
        }
        Fault::PacketLoss | Fault::PacketDrop => {
            let percent = if fault == Fault::PacketDrop { 100 } else { hand.rng.u32(10..50) };
            let Some(namespace) = gateway.namespace() else { return Ok(()) };
            namespace.drop_packets(percent)?;
            hand.wait(1_000..7_000).await;
            namespace.heal()
        }
        other => Err(format!("{other:?} is done to Redis alone")),
    }
}

/// Publishes while a gateway is stopped. Redis buffers the events, and the gateway gets them all at
/// once.
async fn flood(hand: &mut Hand, gateway: &Gateway) {
    let seq = hand.rng.u32(1..1 << 30);
    let stamp = |n: u32| Stamp {
        channel: if n.is_multiple_of(3) { 1 } else { BULK },
        publisher: FLOODER,
        seq: seq.wrapping_add(n),
    };
    let stamps: Vec<Stamp> = (0..hand.rng.u32(100..400)).map(stamp).collect();
    let publisher = Publisher::new(hand.stage.clone(), FLOODER, Way::Direct, Beat::Town);
    let bound = Duration::from_secs(60);
    let memory = hand.stage.settings.memory();
    if !memory {
        gateway.signal(Signal::STOP);
    }
    let flooded = tokio::task::spawn_local(publisher.deliver(stamps, bound));
    // After the timeout the rest is published in the background.
    let _ = tokio::time::timeout(Duration::from_millis(1_500), flooded).await;
    hand.wait(0..300).await;
    gateway.signal(Signal::CONT);
}
