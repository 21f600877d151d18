//! The targets of the gateway, and whether the records of a run meet them.

use serde_json::Value;
use sse_bench::table::Table;

/// The limit for a value.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}
use Bound::{AtLeast, AtMost};

/// A target, and the value that was measured.
#[derive(Debug, Clone)]
pub struct Judgement {
    what: &'static str,
    server: &'static str,
    bound: Bound,
    measured: Option<f64>,
}

impl Judgement {
    /// Whether the target was met, and otherwise by how much it was missed.
    fn verdict(&self) -> String {
        let Some(measured) = self.measured else { return "not measured".to_owned() };
        let excess = match self.bound {
            AtMost(bound) if measured <= bound => return "met".to_owned(),
            AtLeast(bound) if measured >= bound => return "met".to_owned(),
            AtMost(0.0) => return format!("**missed** by {measured:.0}"),
            AtMost(bound) => measured / bound - 1.0,
            AtLeast(bound) => 1.0 - measured / bound,
        };
        format!("**missed** by {:.1} %", 100.0 * excess)
    }
}

/// The targets as a table without a title.
pub fn table(all: &[Judgement]) -> Table {
    let mut table = Table::new("", &["target", "server", "bound", "measured", "verdict"]);
    for one in all {
        let bound = match one.bound {
            AtMost(bound) => format!("≤ {}", number(bound)),
            AtLeast(bound) => format!("≥ {}", number(bound)),
        };
        let measured = one.measured.map_or_else(|| "-".to_owned(), number);
        let (what, server) = (one.what.to_owned(), one.server.to_owned());
        table.row(vec![what, server, bound, measured, one.verdict()]);
    }
    table
}

const COST: &str = "/result/cpu_us_per_delivery/total";
const RATE: &str = "/result/deliveries_per_second";
const P50: &str = "/result/readers/latency_ms/p50";
const P99: &str = "/result/readers/latency_ms/p99";
const MEMORY: &str = "gateway-memory";
const REDIS: &str = "gateway-redis";
const TLS: &str = "gateway-tls";
const HS256: &str = "gateway-hs256";
const RS256: &str = "gateway-rs256";
const FLOOR: &str = "floor-2";
const ONE_THREAD: &str = "floor-1";
const NCHAN: &str = "nchan";

/// All targets, in the order of the scenarios.
pub fn judge(records: &[Value]) -> Vec<Judgement> {
    let (run, mut judged) = (Run(records), Judged::default());
    fan_out(run, &mut judged);
    bad_days(run, &mut judged);
    connections(run, &mut judged);
    judged.0
}

/// The targets that were judged so far.
#[derive(Default)]
struct Judged(Vec<Judgement>);

impl Judged {
    fn add(
        &mut self,
        what: &'static str,
        server: &'static str,
        bound: Bound,
        measured: Option<f64>,
    ) {
        let measured = measured.filter(|value| value.is_finite());
        self.0.push(Judgement { what, server, bound, measured });
    }
}

/// Targets for one channel with many readers.
fn fan_out(run: Run<'_>, judged: &mut Judged) {
    for server in [MEMORY, REDIS] {
        let to = |scenario, value, other| run.ratio(scenario, value, server, other);
        let best = run.others("steady", P99).min_by(f64::total_cmp);
        let p99 = run.median("steady", server, P99);
        let with_best = p99.zip(best).map(|(own, best)| own / best);
        judged.add(
            "steady: CPU a delivery, × floor",
            server,
            AtMost(1.05),
            to("steady", COST, FLOOR),
        );
        judged.add(
            "steady: CPU a delivery, × Nchan",
            server,
            AtMost(0.7),
            to("steady", COST, NCHAN),
        );
        let calm = to("steady-half", COST, NCHAN);
        judged.add("steady at half the rate: CPU a delivery, × Nchan", server, AtMost(0.7), calm);
        judged.add("steady: p99, × Nchan", server, AtMost(0.8), to("steady", P99, NCHAN));
        judged.add("steady: p99, × the best of the other servers", server, AtMost(1.0), with_best);
    }
    let instructions = run.median("instructions", MEMORY, "/delivery");
    judged.add("steady: user instructions a delivery", MEMORY, AtMost(400.0), instructions);
    for server in [MEMORY, REDIS] {
        let to = |value, other| run.ratio("saturation", value, server, other);
        let best = run.others("saturation", RATE).max_by(f64::total_cmp);
        let rate = run.median("saturation", server, RATE);
        let with_best = rate.zip(best).map(|(own, best)| own / best);
        judged.add("saturation: CPU a delivery, × Nchan", server, AtMost(0.5), to(COST, NCHAN));
        judged.add("saturation: CPU a delivery, × floor", server, AtMost(0.4), to(COST, FLOOR));
        judged.add("saturation: deliveries/s, × Nchan", server, AtLeast(1.5), to(RATE, NCHAN));
        judged.add(
            "saturation: deliveries/s, × the best of the other servers",
            server,
            AtLeast(1.0),
            with_best,
        );
    }
}

/// Targets for a channel per user, for stalled readers, and for many reconnects at once.
fn bad_days(run: Run<'_>, judged: &mut Judged) {
    let user = |value, server| run.ratio("per-user", value, server, NCHAN);
    judged.add(
        "per-user through HTTP: CPU an event, × Nchan",
        MEMORY,
        AtMost(0.7),
        user(COST, MEMORY),
    );
    judged.add("per-user through HTTP: p50, × Nchan", MEMORY, AtMost(1.0), user(P50, MEMORY));
    judged.add(
        "per-user through HTTP: CPU an event, Redis' too, × Nchan",
        REDIS,
        AtMost(1.4),
        user(COST, REDIS),
    );
    let straight = user(COST, "gateway, FCALL");
    judged.add(
        "per-user straight to Redis: gateway's CPU an event, × Nchan",
        REDIS,
        AtMost(0.4),
        straight,
    );
    for server in [MEMORY, REDIS] {
        let (p99, growth) = (run.stall_p99(server), run.stall_growth(server));
        judged.add("10 % stalled: others' p99, × without", server, AtMost(1.2), p99);
        judged.add("10 % stalled: growth of memory, %", server, AtMost(10.0), growth);
    }
    for server in [MEMORY, REDIS] {
        let storm = |value| run.median("storm", server, value);
        let lost = storm("/lost").zip(storm("/incomplete")).map(|(lost, behind)| lost + behind);
        judged.add(
            "storm: seconds until the last has caught up",
            server,
            AtMost(5.0),
            storm("/seconds"),
        );
        judged.add("storm: events lost, readers incomplete", server, AtMost(0.0), lost);
    }
    // Only Redis has this target: a gateway in memory reads its own memory for each reader, which
    // costs no round trip.
    let reads = run.median("storm", REDIS, "/reads");
    judged.add("storm: reads of history", REDIS, AtMost(100.0), reads);
}

/// Targets for opening streams and keeping them idle, with TLS and tokens too, and for publishing.
fn connections(run: Run<'_>, judged: &mut Judged) {
    let idle = |server, channels| run.bytes_each("idle", server, channels);
    judged.add(
        "idle on one channel: memory a stream, B",
        MEMORY,
        AtMost(400.0),
        idle(MEMORY, "one"),
    );
    judged.add("idle on one channel: memory a stream, B", REDIS, AtMost(400.0), idle(REDIS, "one"));
    let each = idle(REDIS, "one each");
    judged.add(
        "idle on one channel each: memory a stream, Redis' too, B",
        REDIS,
        AtMost(1200.0),
        each,
    );
    let idle = run.bytes_each("tls-idle", TLS, "one");
    judged.add("TLS: memory an idle stream, B", TLS, AtMost(8192.0), idle);
    let delivery = run.ratio("tls", COST, TLS, MEMORY);
    judged.add("TLS: CPU a delivery, × without", TLS, AtMost(1.3), delivery);
    // RS256 has a lower limit: verifying an RSA signature takes half as long as everything else
    // that opening a stream takes.
    for (server, bound) in [(HS256, 0.7), (RS256, 0.5)] {
        let opened = |value| run.ratio("tokens", value, server, MEMORY);
        let opening = opened("/streams_per_second");
        judged.add("tokens: streams/s, × without", server, AtLeast(bound), opening);
        let again = opened("/again_per_second");
        judged.add("tokens seen before: streams/s, × without", server, AtLeast(0.7), again);
        let delivery = run.ratio("tokens-steady", COST, server, MEMORY);
        judged.add("tokens: CPU a delivery, × without", server, AtMost(1.1), delivery);
    }
    for server in [MEMORY, REDIS] {
        let ramp = run.ratio("ramp", "/streams_per_second", server, NCHAN);
        judged.add("ramp: streams/s, × Nchan", server, AtLeast(1.0), ramp);
    }
    let own = run.median("publish", REDIS, "/events_per_second");
    let redis = run.median("publish", REDIS, "/redis_benchmark_per_second");
    let publish = own.zip(redis).map(|(own, redis)| own / redis);
    judged.add("publish: NDJSON, × redis-benchmark", REDIS, AtLeast(0.5), publish);
}

#[derive(Clone, Copy)]
struct Run<'a>(&'a [Value]);

impl<'a> Run<'a> {
    fn of(self, scenario: &str, server: &str) -> impl Iterator<Item = &'a Value> {
        self.0
            .iter()
            .filter(move |record| record["scenario"] == scenario && record["server"] == server)
    }

    /// The median of a value over the rounds.
    fn median(self, scenario: &str, server: &str, value: &str) -> Option<f64> {
        let values = self.of(scenario, server).filter_map(|record| record.pointer(value)?.as_f64());
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    fn ratio(self, scenario: &str, value: &str, server: &str, to: &str) -> Option<f64> {
        Some(self.median(scenario, server, value)? / self.median(scenario, to, value)?)
    }

    /// The medians of all servers except the gateway and the floor with one thread, since the
    /// gateway has more threads.
    fn others(self, scenario: &str, value: &str) -> impl Iterator<Item = f64> {
        let servers = self.0.iter().filter_map(|record| record["server"].as_str());
        let others = servers.filter(|name| !name.starts_with("gateway") && *name != ONE_THREAD);
        others.filter_map(move |name| self.median(scenario, name, value))
    }

    fn stalled(self, server: &str, stall: bool) -> Option<&'a Value> {
        self.of("stalled", server).find(|record| record["stall"] == stall)
    }

    fn stall_p99(self, server: &str) -> Option<f64> {
        let p99 = |stall| self.stalled(server, stall)?.pointer(P99)?.as_f64();
        Some(p99(true)? / p99(false)?)
    }

    /// By how many percent memory grew at most, with stalled readers, once their queues were full.
    /// That is at the second sample: the first is taken before.
    fn stall_growth(self, server: &str) -> Option<f64> {
        let samples = self.stalled(server, true)?["anonymous_bytes"].as_array()?;
        let bytes: Vec<f64> = samples.iter().filter_map(|sample| sample[1].as_f64()).collect();
        let full = bytes.get(1)?;
        let growths = bytes[1..].iter().map(|now| 100.0 * (now / full - 1.0));
        growths.max_by(f64::total_cmp)
    }

    fn bytes_each(self, scenario: &str, server: &str, channels: &str) -> Option<f64> {
        let record = self.of(scenario, server).find(|record| record["channels"] == channels)?;
        Some(record["anonymous_kb_each"].as_f64()? * 1024.0)
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 10.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn steady(server: &str, cost: f64, p99: f64) -> Value {
        json!({ "scenario": "steady", "server": server, "result": {
            "cpu_us_per_delivery": { "total": cost }, "readers": { "latency_ms": { "p99": p99 } },
        } })
    }

    fn verdict(records: &[Value], what: &str, server: &str) -> (Option<f64>, String) {
        let all = judge(records);
        let found: Vec<&Judgement> =
            all.iter().filter(|one| one.what == what && one.server == server).collect();
        assert_eq!(found.len(), 1, "{what} of {server}");
        (found[0].measured, found[0].verdict())
    }

    #[test]
    fn the_median_of_the_rounds_is_judged() {
        let mut records: Vec<Value> =
            [3.0, 90.0, 2.0].into_iter().map(|cost| steady(MEMORY, cost, 4.0)).collect();
        records.extend([steady(NCHAN, 6.0, 4.0), steady(FLOOR, 2.0, 5.0)]);
        // This floor has fewer threads than the gateway, so it is not compared.
        records.push(steady(ONE_THREAD, 2.0, 1.0));
        let of = |what| verdict(&records, what, MEMORY);
        assert_eq!(of("steady: CPU a delivery, × Nchan"), (Some(0.5), "met".to_owned()));
        let floor = of("steady: CPU a delivery, × floor");
        assert_eq!(floor, (Some(1.5), "**missed** by 42.9 %".to_owned()));
        assert_eq!(of("steady: p99, × Nchan").1, "**missed** by 25.0 %");
        assert_eq!(of("steady: p99, × the best of the other servers").1, "met");
        let redis = verdict(&records, "steady: p99, × Nchan", REDIS);
        assert_eq!(redis, (None, "not measured".to_owned()));
    }

    #[test]
    fn what_should_be_more_is_missed_from_below() {
        let ramp = |server, rate: f64| json!({ "scenario": "ramp", "server": server, "streams_per_second": rate });
        let records = [ramp(MEMORY, 900.0), ramp(REDIS, 1000.0), ramp(NCHAN, 1000.0)];
        let of = |server| verdict(&records, "ramp: streams/s, × Nchan", server).1;
        assert_eq!((of(MEMORY).as_str(), of(REDIS).as_str()), ("**missed** by 10.0 %", "met"));
    }

    #[test]
    fn the_gateway_is_beside_the_best_and_not_beside_itself() {
        let of = |server, rate: f64| {
            json!({ "scenario": "saturation", "server": server, "result": {
            "deliveries_per_second": rate,
        } })
        };
        let records = [of(MEMORY, 900.0), of(REDIS, 2000.0), of(NCHAN, 500.0), of(FLOOR, 1000.0)];
        let what = "saturation: deliveries/s, × the best of the other servers";
        assert_eq!(verdict(&records, what, MEMORY), (Some(0.9), "**missed** by 10.0 %".to_owned()));
        assert_eq!(verdict(&records, what, REDIS), (Some(2.0), "met".to_owned()));
    }

    #[test]
    fn nothing_may_be_lost_and_readers_that_lack_something_count() {
        let storm = |server, lost: u64, incomplete: u64| json!({ "scenario": "storm", "server": server, "lost": lost, "incomplete": incomplete });
        let records = [storm(MEMORY, 0, 0), storm(REDIS, 3, 1)];
        let of = |server| verdict(&records, "storm: events lost, readers incomplete", server).1;
        assert_eq!((of(MEMORY).as_str(), of(REDIS).as_str()), ("met", "**missed** by 4"));
    }

    #[test]
    fn memory_may_not_grow_once_queues_are_full() {
        let stalled = |stall: bool, bytes: [u64; 4], p99: f64| {
            json!({
                "scenario": "stalled", "server": MEMORY, "stall": stall,
                "result": { "readers": { "latency_ms": { "p99": p99 } } },
                "anonymous_bytes": [[0, bytes[0]], [2, bytes[1]], [4, bytes[2]], [6, bytes[3]]],
            })
        };
        let records =
            [stalled(false, [1, 100, 500, 500], 2.0), stalled(true, [60, 100, 120, 80], 2.2)];
        let (growth, verdict_of_growth) =
            verdict(&records, "10 % stalled: growth of memory, %", MEMORY);
        assert!((growth.unwrap() - 20.0).abs() < 1e-9);
        assert_eq!(verdict_of_growth, "**missed** by 100.0 %");
        assert_eq!(verdict(&records, "10 % stalled: others' p99, × without", MEMORY).1, "met");
    }
}
