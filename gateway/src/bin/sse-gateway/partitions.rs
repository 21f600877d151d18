//! The command `partitions`: shows the number of partitions that Redis holds, and changes it.

use std::sync::Arc;

use sse_gateway::Config;
use sse_gateway::broker::redis::partition::named;
use sse_gateway::broker::redis::repartition::{Repartition, Revocations, started};
use sse_gateway::broker::redis::settings::RedisSettings;
use sse_gateway::broker::redis::survey::{Plan, Survey};
use sse_gateway::config::sources::{Place, Settings};

use crate::operator::{ask, needs_redis, say};

/// Why a change failed.
pub enum Failed {
    /// The number is not possible here.
    Usage(String),
    /// Redis, a gateway that runs, or the operator's no.
    Other(String),
}

impl From<String> for Failed {
    fn from(error: String) -> Self {
        Failed::Other(error)
    }
}

/// Prints the number in Redis and the configured one. With `to`, changes the one in Redis; unless
/// `yes`, asks before.
pub async fn run(
    config: &Config,
    places: &Settings,
    to: Option<u16>,
    yes: bool,
) -> Result<(), Failed> {
    needs_redis(config)?;
    let settings = RedisSettings::of(config);
    let mut redis = Repartition::new(settings.clone()).map_err(|error| error.to_string())?;
    let Some(to) = to else {
        let survey = redis.telling().await?;
        show(&survey);
        let held = survey.telling().first().and_then(|state| state.number);
        if let Some(shares) = redis.shares(held.unwrap_or(settings.partitions)).await? {
            show_shares(&shares);
        }
        let place = match &places.get("redis.partitions").place {
            Place::Default => "the default".to_owned(),
            place => place.to_string(),
        };
        let configured = settings.partitions;
        say(format_args!("configured: {configured} (redis.partitions, {place})"));
        if survey.telling().iter().any(|state| state.number != Some(configured)) {
            say(format_args!(
                "they differ, so no gateway starts with this configuration; `sse-gateway \
                 partitions --to {configured}` changes the number in Redis"
            ));
        }
        return Ok(());
    };
    if to == 1 && redis.is_cluster() {
        let what = "--to 1: in a Redis Cluster there are 2 to 256 partitions";
        return Err(Failed::Usage(what.to_owned()));
    }
    let survey = redis.survey(to).await?;
    show(&survey);
    let plan = survey.plan(to, settings.limits);
    if plan.is_done() {
        say(format_args!("that is the number already; nothing is changed"));
    } else if plan.holds() {
        let completed = redis.complete(&plan).await?;
        say(format_args!(
            "that is the number already; {}: created, because an earlier call was interrupted",
            named(&completed)
        ));
    } else {
        change(&mut redis, &survey, &plan, yes).await?;
    }
    Ok(())
}

/// Prints the number that Redis holds.
fn show(survey: &Survey) {
    let telling = survey.telling();
    for state in &telling {
        say(format_args!("in Redis: {} ({})", state.number.unwrap_or_default(), state.key));
    }
    if telling.is_empty() {
        say(format_args!("in Redis: none, because no state tells one"));
    }
}

/// Prints which partitions each master of a Redis Cluster has.
fn show_shares(shares: &[(Arc<str>, Vec<u16>)]) {
    for (addr, partitions) in shares {
        match &partitions[..] {
            [] => say(format_args!("{addr} has none")),
            some => say(format_args!("{addr} has {}: {}", some.len(), named(some))),
        }
    }
    let counts = shares.iter().map(|(_, partitions)| partitions.len());
    let (least, most) = (counts.clone().min().unwrap_or(0), counts.max().unwrap_or(0));
    if least * 2 < most {
        say(format_args!(
            "that is uneven: the master of {most} is busy first. More partitions (--to) are more \
             even, and a slot can be moved to another master"
        ));
    }
}

async fn change(
    redis: &mut Repartition,
    before: &Survey,
    plan: &Plan,
    yes: bool,
) -> Result<(), String> {
    let to = plan.to;
    let mut last = before.clone();
    if !before.is_empty() {
        let patience = redis.patience();
        say(format_args!(
            "looking for gateways that run, for {}; publishers straight to Redis are not looked for",
            humantime::format_duration(patience)
        ));
        tokio::time::sleep(patience).await;
        last = redis.survey(to).await?;
        if let Some(state) = last.ticked_since(before) {
            return Err(started(state));
        }
        say(format_args!("no gateway runs"));
    }
    say(format_args!(
        "The new number is {to}. Every client that comes back is told once of a gap (reset, or \
         unknown_id for a position in several partitions). Unused tickets are lost. Revocations and \
         the limits in Redis are kept: {}.",
        plan.limits
    ));
    if !yes {
        ask("Change it?")?;
    }
    redis.begin(&last, plan).await?;
    match redis.copy_revocations(plan).await? {
        Revocations::Stay(key) => say(format_args!("revocations: they stay in {key}")),
        Revocations::Copied(count, from, into) => {
            say(format_args!("revocations: {count} copied from {from} to {into}"));
        }
    }
    let deleted = redis.delete_others(plan).await?;
    if !deleted.is_empty() {
        say(format_args!("{}: the old states are deleted", named(&deleted)));
    }
    redis.change(plan).await?;
    say(format_args!("partition 0: Redis holds {to} now"));
    let created = redis.create_others(plan).await?;
    if !created.is_empty() {
        say(format_args!("{}: the new states are created", named(&created)));
    }
    say(format_args!(
        "Now start the gateways with redis.partitions = {to}, and then what publishes straight to \
         Redis, for {to} partitions"
    ));
    Ok(())
}
