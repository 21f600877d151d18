//! A model-based test of the join and the whole live side around it. In whatever order faults,
//! reads and live events come, a client must receive every event once and in order, or be told of a
//! gap.
//!
//! The world holds two Redis servers, one or both of them masters; two gateways with one to three
//! workers each; and clients that reconnect to any worker of either gateway. The gateways run their
//! real code, from the bytes of their Redis connections to the bytes of a client's stream:
//! `Dispatch`, `Interest`, `Inbox`, `Hub`, `Join`, `Reads`. The model replaces Redis (`redis`), the
//! network, and the scheduler that decides who acts next. A seed determines all steps.
//! `MODEL_SEEDS` sets how many seeds run.
//!
//! What a client is owed: at any time a client lives in one epoch e, on the server on which its
//! gateway lives in e. Each id that the client is sent moves its position, from p to q. Take every
//! event of its channels that has an id of e between p and q and that this server ever
//! acknowledged, whoever published it:
//!
//! - If the event is in the server's data, and no fault had befallen the data unnoticed when the
//!   event was published, then the client must have received it, or have been told of a gap before
//!   q was sent. Otherwise the event is lost silently, which is a violation.
//! - Any other event is a debt: a fault took it back, or it was published after a fault that no
//!   tick had noticed yet. The client must be sent a `reset` sooner or later. So e must end; the
//!   counts of ticks, the run ids and the replication ids exist to make it end. A debt that is left
//!   when the world has settled is a violation.
//!
//! An event that another master acknowledged, and that did not reach the data on which the gateway
//! lives, is not owed there. A client moves to another epoch only by a `reset`. The `reset`
//! accounts for everything up to S, the clock of the gateway's read; of earlier epochs, only events
//! at or below S may follow it. A client that starts at "now" is owed what is published after the
//! head of its response arrived. A client that starts at the oldest event is owed what was kept at
//! its first read.
//!
//! A gap without a cause is a violation, too. `trimmed` and `expired` say that events up to the
//! oldest one kept, or up to S, may be missing; they may be told only where something was removed,
//! or is old enough. `reset` may be told once for each epoch that the gateway heard of and that is
//! not the client's. `unknown_id` may never be told for a cursor that was given out.
//!
//! S is not on the wire. The model uses the highest clock that the gateway has read by then. If the
//! client is slow, that may be above S.
mod claim;
mod client;
mod faults;
mod gateway;
mod link;
mod redis;
mod steps;
mod world;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::runtime::Runtime;

use client::Client;
use steps::Mood;
use world::World;

/// Runs one seed. Returns how many events were received, how many resets were told, and how often
/// events were left out for the newest one.
fn play(seed: u64, runtime: &Runtime) -> [usize; 3] {
    let mut world = World::new(seed, runtime);
    for n in 0..world.clients.len() {
        world.reconnect(n);
    }
    for stretch in 0..12 {
        let mood = Mood::new(&mut world.random);
        // In the stretches without faults, all clients can become live.
        (0..100).for_each(|_| world.step(mood, stretch % 2 == 1));
    }
    world.settle();
    match seed % 2 {
        0 => world.connect_behind_a_mark(),
        _ => world.connect_among_lags(),
    }
    world.settle();
    let counts = |client: &Client| [client.received, client.resets, client.conflated];
    let sum = |sum: [usize; 3], more: [usize; 3]| std::array::from_fn(|n| sum[n] + more[n]);
    world.clients.iter().map(counts).fold([0; 3], sum)
}

#[test]
fn whatever_happens_nothing_is_lost_without_a_gap() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let (first, seeds) = (number("MODEL_FIRST"), number("MODEL_SEEDS").unwrap_or(300));
    let (first, seeds) = (first.unwrap_or(0), first.unwrap_or(0) + seeds);
    let next = AtomicU64::new(first);
    let totals = [(); 3].map(|()| AtomicUsize::new(0));
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let play = std::panic::AssertUnwindSafe(|| play(seed, &runtime));
            let Ok(counts) = std::panic::catch_unwind(play) else {
                next.store(seeds, Ordering::Relaxed);
                panic!("seed {seed}");
            };
            for (total, count) in totals.iter().zip(counts) {
                total.fetch_add(count, Ordering::Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let [received, resets, conflated] =
        totals.each_ref().map(|count| count.load(Ordering::Relaxed) as u64);
    assert!(received > (seeds - first) * 50, "the model does something: {received}");
    assert!(resets > seeds - first, "epochs end: {resets}");
    assert!(conflated > (seeds - first) / 10, "slow readers are sent the newest: {conflated}");
}
