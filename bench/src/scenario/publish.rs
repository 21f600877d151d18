//! How fast events that have no readers are accepted: NDJSON through a gateway, compared with the
//! same function called by `redis-benchmark`.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::shared::Shared;
use super::{AROUND, Options, SIZE, median};
use crate::clock;
use crate::publish::{Channels, Pace, Plan, Publishers, Route, StampAt};
use crate::servers::Kind;
use crate::table::{Output, Table};

const CHANNELS: u32 = 100;
const CONNECTIONS: u32 = 4;
/// Events per request.
const BATCH: usize = 1000;
/// How many commands redis-benchmark sends per connection before it waits for answers.
const PIPELINED: u32 = 64;

/// Runs the scenario if the gateway on Redis is among the servers.
pub fn run(options: &Options, output: &mut Output) {
    if !options.servers.contains(&Kind::GatewayRedis) {
        return;
    }
    let found = match rounds(options) {
        Ok(found) => found,
        Err(error) => return output.failed("publish", Kind::GatewayRedis.name(), &error),
    };
    let ndjson = median(found.iter().map(|(ndjson, _)| *ndjson));
    let redis = median(found.iter().map(|(_, redis)| *redis));
    let title = format!(
        "publish: events of {SIZE} B to {CHANNELS} channels without readers, {CONNECTIONS} connections"
    );
    let mut table = Table::new(title, &["by", "events/s", "× redis-benchmark"]);
    for (name, rate) in [
        (format!("gateway-redis, NDJSON, {BATCH} a request"), ndjson),
        (format!("redis-benchmark, FCALL, -P {PIPELINED}"), redis),
    ] {
        table.row(vec![name, format!("{rate:.0}"), format!("{:.2}", rate / redis)]);
    }
    output.record(json!({
        "scenario": "publish", "server": "gateway-redis", "events_per_second": ndjson,
        "redis_benchmark_per_second": redis, "rounds": found,
    }));
    output.table(table);
}

/// About how many seconds it takes.
pub fn estimate(options: &Options) -> f64 {
    // redis-benchmark runs about as long as the gateway is measured.
    f64::from(repeats(options)) * 2.0 * time(options).as_secs_f64() + AROUND
}

/// The events per second of each round, through the gateway and by redis-benchmark.
fn rounds(options: &Options) -> Result<Vec<(f64, f64)>, String> {
    let shared = Shared::start()?;
    let gateway = shared.gateway(&options.settings)?;
    let plan = Plan {
        addr: gateway.addr,
        route: Route::Ndjson { path: "/publish".to_owned(), batch: BATCH },
        publishers: CONNECTIONS,
        pace: Pace::Saturate,
        channels: Channels::Each { name: "pub-{n}".to_owned(), count: CHANNELS },
        size: SIZE,
        stamp: StampAt::Sent,
        batches: None,
    };
    let events = if options.quick { 50_000 } else { 100_000 };
    (0..repeats(options))
        .map(|_| {
            let publishers = Publishers::start(&plan);
            clock::sleep(time(options));
            let published = publishers.stop();
            match published.error {
                Some(error) => Err(error),
                None => {
                    let rate = published.events as f64 / published.seconds;
                    Ok((rate, redis_benchmark(shared.addr, events)?))
                }
            }
        })
        .collect()
}

fn repeats(options: &Options) -> u32 {
    if options.quick { 1 } else { 3 }
}

fn time(options: &Options) -> Duration {
    options.seconds(3, 2)
}

fn redis_benchmark(addr: SocketAddr, events: u32) -> Result<f64, String> {
    let (host, port) = (addr.ip().to_string(), addr.port().to_string());
    let numbers = [CONNECTIONS, PIPELINED, events, CHANNELS].map(|number| number.to_string());
    let [connections, pipelined, events, channels] = &numbers;
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &host, "-p", &port, "-c", connections, "-P", pipelined, "-n", events]);
    // redis-benchmark replaces `__rand_int__` in the key by a number below that of `-r`.
    command.args(["-r", channels, "--csv", "FCALL", "sse_publish", "2", "sse:state"]);
    command.args(["sse:history:pub-__rand_int__", &"x".repeat(SIZE)]);
    let done = command.output().map_err(|error| format!("redis-benchmark: {error}"))?;
    let text = String::from_utf8_lossy(&done.stdout);
    rate_in(&text).ok_or_else(|| {
        let error = String::from_utf8_lossy(&done.stderr);
        format!("redis-benchmark: {}: {text}{error}", done.status)
    })
}

/// The second value of the last line.
fn rate_in(csv: &str) -> Option<f64> {
    csv.lines().last()?.split("\",\"").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"FCALL a 2 b, c\",\"123456.78\",\"1.2\"\n";
        assert_eq!(rate_in(csv), Some(123_456.78));
        assert_eq!(rate_in("ERR unknown\n"), None);
    }
}
