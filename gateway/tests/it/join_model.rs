//! The join, and the whole live side around it, against a model of the world: whatever the order of faults, reads and
//! live events, a client has every event once and in order, or was told of a gap.
//!
//! The world is two servers of Redis, of which one or both are masters, two gateways with one to three workers each,
//! and clients that reconnect to any worker of either. The gateways' own code runs here, from the bytes of Redis'
//! connection to those of a client's stream: `Dispatch`, `Interest`, `Inbox`, `Hub`, `Join`, `Reads`. What is modelled
//! is Redis (`redis`), the network, and who reads when. Steps come from a seed; `SSE_MODEL_SEEDS` runs more.
//!
//! What a client is owed. A client lives in one epoch e at a time, on the server on which its gateway lives in e. Each
//! id that it is sent moves its position, from p to q. Take every event of its channels with an id of e between p and q
//! that was ever acknowledged on that server, whoever published it there:
//!
//! - if it is in that server's data, and was published while nothing had befallen the data, then it was received, or a
//!   gap was told before q was sent;
//! - otherwise (a fault took it back, or it was published behind a fault that no tick had noticed yet) it is a debt: a
//!   `reset` must be told sooner or later. So e must end, which is what beats, runs and lines of masters are for.
//!
//! What was acknowledged by another master, and did not reach the data on which the gateway lives, is owed to nobody
//! there. A client moves to another epoch by a `reset` alone, which speaks for everything up to its read's clock S; of
//! epochs before it, only what is at or below S may follow. A client that starts "now" is owed what was published since
//! its response's head arrived. A start from the oldest is owed what was kept when it was first read.
//!
//! Told, for the rest: `trimmed` and `expired` say that events up to the oldest kept, or up to S, may be missing. They
//! are told only where something was removed, or is old enough; `reset` once for an epoch that the gateway heard of and
//! that is another than the client's; `unknown_id` never to a cursor that was given out.
//!
//! S is not on the wire. The model takes the youngest clock that the gateway has read by then, which may be younger,
//! if the client is slow.
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

/// Answers how many events were received, how many resets were told, and how often others were left out for the newest.
fn play(seed: u64, runtime: &Runtime) -> [usize; 3] {
    let mut world = World::new(seed, runtime);
    for n in 0..world.clients.len() {
        world.reconnect(n);
    }
    for stretch in 0..12 {
        let mood = Mood::new(&mut world.random);
        // Quiet stretches let everybody become live between the faults.
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
    let (first, seeds) = (number("SSE_MODEL_FIRST"), number("SSE_MODEL_SEEDS").unwrap_or(300));
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
