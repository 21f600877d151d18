//! The faults of gateways and connections, beside those of servers.

use std::rc::Rc;
use std::time::Duration;

use sse_lab::sentinels::NAME;
use tokio::time::sleep;

use crate::gateways::Gateway;
use crate::resp::{Redis, Reply};
use crate::tally::Wrong;
use crate::topology::stage::Stage;

/// The faults, with what each does.
pub const FAULTS: [(&str, &str); 4] = [
    ("gateway-kill", "a gateway is killed, and starts again"),
    ("gateway-drain", "a gateway is ended with SIGTERM, and starts again"),
    ("cut-redis", "connections of gateways to one server are cut"),
    ("cut-streams", "all subscribers are cut off"),
];

/// Causes faults until the others are over.
pub async fn work(
    stage: &Rc<Stage>,
    gateways: &mut [Gateway],
    faults: &[&'static str],
    over: impl Fn() -> bool,
) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(stage.seed ^ 0x6a7e);
    let all: Vec<u16> = (0..stage.keys.partitions()).collect();
    while !over() {
        sleep(Duration::from_millis(rng.u64(1_000..5_000))).await;
        let Some(fault) = rng.choice(faults.iter().copied()) else { continue };
        if !stage.shared.occupy() {
            continue;
        }
        stage.shared.say(fault);
        let place = stage.shared.begin(fault, all.clone());
        match fault {
            "gateway-kill" | "gateway-drain" => {
                let gateway = &mut gateways[rng.usize(..stage.gateways.len())];
                match fault {
                    "gateway-kill" => gateway.kill(),
                    _ => {
                        if let Err(text) = gateway.drain().await {
                            stage.wrong(Wrong::Crashed, text);
                        }
                    }
                }
                sleep(Duration::from_millis(rng.u64(0..1_500))).await;
                gateway.start()?;
                // It needs Redis to be ready, and whether that is there is not known.
                sleep(Duration::from_millis(1_000)).await;
            }
            "cut-redis" => {
                // A server that does not answer has no connections to cut.
                let _ = cut(stage, &mut rng).await;
            }
            _ => stage.cue.send_modify(|cue| cue.cuts += 1),
        }
        stage.shared.end(place);
        stage.shared.leave();
    }
    Ok(())
}

/// Cuts connections of gateways and publishers to one server: those that hear events, or those
/// that publish and read. Not those of the faults themselves.
async fn cut(stage: &Stage, rng: &mut fastrand::Rng) -> Result<(), String> {
    let any = rng.choice(stage.shared.servers()).ok_or("there is no server")?;
    let addr = match stage.sentinels {
        false => any,
        true => {
            let mut sentinel = Redis::connect(any).await?;
            match sentinel.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await? {
                Reply::Text(told) => {
                    let addr = told.replacen('\n', ":", 1).parse();
                    addr.map_err(|_| format!("not an address: {told}"))?
                }
                Reply::Error(error) => return Err(error),
            }
        }
    };
    let mut redis = Redis::connect(addr).await?;
    let Reply::Text(list) = redis.call(&["CLIENT", "LIST"]).await? else {
        return Err("no list".to_owned());
    };
    let hear = rng.bool();
    for line in list.lines() {
        let has = |word: &str| line.split(' ').any(|known| known == word);
        let hears = !(has("sub=0") && has("ssub=0"));
        let calls = has("cmd=fcall") || has("cmd=evalsha");
        let id = line.split(' ').find_map(|word| word.strip_prefix("id="));
        if let Some(id) = id.filter(|_| if hear { hears } else { calls && !hears }) {
            redis.call(&["CLIENT", "KILL", "ID", id]).await?;
        }
    }
    Ok(())
}
