//! Describes in words what a token allows, until when, and whether its signature is right. Never
//! prints the token.

use std::io::{self, Read, Write};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use sse_token::{Claims, Expected, Head, MAX_BYTES, Right, Token, TokenError};

use crate::access_args::CheckArguments;
use crate::exit::{self, Failure};
use crate::tail_output::escape;
use crate::token::seconds_now;

/// The seconds by which a gateway allows clocks to differ, by default (`auth.jwt.leeway`).
const LEEWAY: u64 = 10;
/// The last second of the year 9999. RFC 3339 has no later dates.
const LAST_DATE: u64 = 253_402_300_799;

/// What the signature proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Right,
    Wrong,
    NoKey,
}

/// Checks a token. Returns the exit code.
pub fn run(arguments: &CheckArguments) -> Result<u8, Failure> {
    let token = match &arguments.token {
        Some(token) => token.clone(),
        None => from_stdin()?,
    };
    let token = bare(&token);
    if token.is_empty() {
        return Err("no token: give it behind check, or on standard input".to_owned().into());
    }
    let (text, code) = report(arguments, token)?;
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|why| Failure::new(exit::FAILED, format!("stdout: {why}")))?;
    Ok(code)
}

fn from_stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let most = 2 * MAX_BYTES as u64;
    let broken = |why: io::Error| Failure::new(exit::FAILED, format!("stdin: {why}"));
    io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(broken)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Removes white space and a `Bearer` scheme around a copied token.
fn bare(token: &str) -> &str {
    let token = token.trim();
    match token.split_once(' ') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
        _ => token,
    }
}

fn report(arguments: &CheckArguments, token: &str) -> Result<(String, u8), Failure> {
    let read = Token::read(token).and_then(|token| Ok((token.unproven()?, token)));
    let (claims, token) = match read {
        Ok(read) => read,
        Err(why) => return Ok((format!("A gateway refuses it: {why}.\n"), exit::FAILED)),
    };
    let head = token.head();
    let key = arguments.key.verifying(head.algorithm)?;
    let expected = Expected {
        issuer: arguments.iss.clone(),
        audience: arguments.aud.clone(),
        unending: false,
        leeway: LEEWAY,
    };
    let checked = key.as_ref().map(|(key, _)| token.check(key, &expected));
    let proof = match &checked {
        None => Proof::NoKey,
        Some(Err(TokenError::Signature | TokenError::NoKey | TokenError::Malformed)) => {
            Proof::Wrong
        }
        // The signature is checked first, so after any other error it is right.
        Some(_) => Proof::Right,
    };
    let place = key.map(|(_, place)| place).unwrap_or_default();
    let mut lines = vec![signature(proof, head, &place)];
    let rights = rights(&claims);
    lines.extend(who(head, &claims));
    lines.extend(rights.clone().unwrap_or_default());
    lines.extend(when(&claims, seconds_now()));
    lines.extend(others(&claims));
    let verdict = match (checked, rights) {
        (None, _) => Err(
            "Nothing is proven: give --secret-file, --secret-env or --pem to check the signature."
                .to_owned(),
        ),
        (Some(Err(why)), _) => {
            Err(format!("A gateway refuses it: {why}{}.", advice(&why, &claims)))
        }
        (Some(Ok(_)), Err(why)) => Err(format!("A gateway refuses it: {why}.")),
        (Some(Ok(_)), Ok(_)) => Ok("A gateway with this key takes it.".to_owned()),
    };
    let code = if verdict.is_ok() { exit::OK } else { exit::FAILED };
    lines.push(verdict.unwrap_or_else(|why| why));
    let text = lines.iter().map(|line| escape(line) + "\n").collect();
    Ok((text, code))
}

fn signature(proof: Proof, head: &Head, place: &str) -> String {
    let algorithm = head.algorithm;
    match proof {
        Proof::Right => format!("Its signature is right: {algorithm:?}, with the key of {place}."),
        Proof::Wrong => format!(
            "Its signature is wrong: it says {algorithm:?}, and was not made with the key of {place}. \
             What follows is not to be believed."
        ),
        Proof::NoKey => format!(
            "Its signature was not checked: it says {algorithm:?}. Anybody may have written what follows."
        ),
    }
}

fn who(head: &Head, claims: &Claims) -> Vec<String> {
    let mut lines = vec![match claims.get("sub") {
        Some(sub) => format!("Its bearer (sub) is {}.", shown(sub)),
        None => "It names no bearer (sub).".to_owned(),
    }];
    let named =
        [("Its issuer (iss)", "iss"), ("It is for (aud)", "aud"), ("Its own name (jti)", "jti")];
    for (words, name) in named {
        if let Some(value) = claims.get(name) {
            lines.push(format!("{words}: {}.", shown(value)));
        }
    }
    if let Some(kid) = &head.kid {
        lines.push(format!("Its key's name (kid): {kid}."));
    }
    lines
}

/// What the token allows. The error says why a gateway would refuse the whole token.
fn rights(claims: &Claims) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for (right, words) in
        [(Right::Subscribe, "It allows to listen to"), (Right::Publish, "It allows to publish to")]
    {
        let patterns = right.of(claims)?;
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        let all = if patterns.is_empty() { "nothing".to_owned() } else { patterns.join(", ") };
        lines.push(format!("{words}: {all}."));
        let of_no_use = right
            .templates(claims)?
            .iter()
            .filter(|template| template.fill(claims).is_none())
            .count();
        if of_no_use > 0 {
            lines.push(format!(
                "Of its claim {:?}, {of_no_use} of the patterns allow nothing: a claim in braces is missing, or is no \
                 single part of a channel's name.",
                right.name()
            ));
        }
    }
    Ok(lines)
}

fn when(claims: &Claims, now: u64) -> Vec<String> {
    let mut lines = Vec::new();
    let times = [
        ("exp", "It is good until", "It was good until"),
        ("nbf", "It is good from", "It is good since"),
        ("iat", "It will be issued on", "It was issued on"),
    ];
    for (name, ahead, past) in times {
        match claims.get(name) {
            None if name == "exp" => lines.push("It has no end (exp).".to_owned()),
            None => {}
            Some(value) => lines.push(match value.as_f64().filter(|n| n.is_finite()) {
                Some(time) => {
                    let time = time.max(0.0) as u64;
                    let words = if time > now { ahead } else { past };
                    format!("{words} {} ({}).", date(time), distance(time, now))
                }
                None => format!("Its claim {name:?} is no time: {}.", shown(value)),
            }),
        }
    }
    lines
}

fn date(seconds: u64) -> String {
    if seconds > LAST_DATE {
        return format!("{seconds} seconds after 1970");
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// The difference between two times, in its two largest units.
fn distance(time: u64, now: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(time.abs_diff(now))).to_string();
    let text = text.split(' ').take(2).collect::<Vec<_>>().join(" ");
    if time > now { format!("{text} from now") } else { format!("{text} ago") }
}

fn others(claims: &Claims) -> Vec<String> {
    const TOLD: [&str; 9] =
        ["sub", "iss", "aud", "jti", "subscribe", "publish", "exp", "nbf", "iat"];
    let others = claims.iter().filter(|(name, _)| !TOLD.contains(&name.as_str()));
    let others: Vec<String> = others.map(|(name, value)| format!("{name}={value}")).collect();
    if others.is_empty() {
        Vec::new()
    } else {
        vec![format!("It also says {}.", others.join(", "))]
    }
}

/// Advice about a token that was refused, to append to the error.
fn advice(why: &TokenError, claims: &Claims) -> String {
    match why {
        TokenError::Claim(name) if name == "exp" && !claims.contains_key("exp") => {
            ", unless its auth.jwt.require_expiry is false".to_owned()
        }
        TokenError::Audience => {
            let aud = claims.get("aud").map_or_else(|| "nobody".to_owned(), shown);
            format!(
                " ({aud}); say --aud here, and aud=… in the gateway's line, if that is meant to be this one"
            )
        }
        TokenError::Issuer => {
            let issuer = claims.get("iss").map_or_else(|| "nobody".to_owned(), shown);
            format!(" ({issuer}) than --iss says")
        }
        _ => String::new(),
    }
}

/// A value for people: strings without quotes.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
