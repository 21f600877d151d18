//! Makes tokens, and secrets that sign tokens. Prints them on standard output, alone on their line.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sse_token::random::random_hex;
use sse_token::{Claims, MAX_BYTES, Right};

use crate::access_args::{Lifetime, MakeArguments, SecretArguments, TokenArguments, TokenCommand};
use crate::exit::{self, Failure};
use crate::token_check;
use crate::when::When;

/// Runs `token` and its subcommands. Returns the exit code.
pub fn run(arguments: &TokenArguments) -> Result<u8, Failure> {
    match &arguments.command {
        None => print(&make(&arguments.make)?),
        Some(TokenCommand::Check(arguments)) => token_check::run(arguments),
        Some(TokenCommand::Secret(arguments)) => secret(arguments),
    }
}

/// Makes and signs a token.
fn make(arguments: &MakeArguments) -> Result<String, Failure> {
    let (key, algorithm) = arguments.key.signing()?;
    let claims = claims(arguments)?;
    let token = sse_token::sign(&claims, &key, algorithm, arguments.kid.as_deref())
        .map_err(|why| why.to_string())?;
    if token.len() > MAX_BYTES {
        let why =
            format!("the token has {} bytes, and a gateway takes {MAX_BYTES} at most", token.len());
        return Err(why.into());
    }
    Ok(token)
}

fn claims(arguments: &MakeArguments) -> Result<Claims, Failure> {
    let mut claims: Claims = arguments.claims.iter().cloned().collect();
    let now = seconds_now();
    claims.insert("iat".to_owned(), now.into());
    if let Lifetime::Until(end) = arguments.expires {
        claims.insert("exp".to_owned(), expiry(end, now)?.into());
    }
    let jti = match &arguments.jti {
        Some(jti) => jti.clone(),
        None => random_hex::<16>().map_err(|why| Failure::new(exit::FAILED, why))?,
    };
    let texts = [
        ("sub", &arguments.sub),
        ("iss", &arguments.iss),
        ("aud", &arguments.aud),
        ("jti", &Some(jti)),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            claims.insert(name.to_owned(), Value::from(text.as_str()));
        }
    }
    for (right, patterns) in
        [(Right::Subscribe, &arguments.subscribe), (Right::Publish, &arguments.publish)]
    {
        if !patterns.is_empty() {
            claims.insert(right.name().to_owned(), Value::from(patterns.clone()));
        }
        let templates = right.templates(&claims)?;
        // A gateway would accept the token, but the pattern would allow nothing.
        if let Some(n) = templates.iter().position(|template| template.fill(&claims).is_none()) {
            return Err(Failure::from(format!(
                "--{} {:?} would allow nothing: each claim in it must be in the token (--sub, --claim), and be one \
                 part of a channel's name, without : / or *",
                right.name(),
                patterns[n]
            )));
        }
    }
    Ok(claims)
}

/// The second in which a token expires. Rounded up, so that a token for half a second does not expire
/// at once.
fn expiry(end: When, now: u64) -> Result<u64, Failure> {
    let rounded = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
    match end {
        When::Away(time) => Ok(now.saturating_add(rounded(time))),
        When::At(moment) => {
            let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
            let end = rounded(since);
            if end > now {
                Ok(end)
            } else {
                Err(Failure::from("--expires is in the past".to_owned()))
            }
        }
    }
}

/// Makes a secret, and prints it or writes it to a new file.
fn secret(arguments: &SecretArguments) -> Result<u8, Failure> {
    let secret = random_hex::<32>().map_err(|why| Failure::new(exit::FAILED, why))?;
    let Some(path) = &arguments.out else { return print(&secret) };
    write_new(path, &secret)
        .map_err(|why| Failure::new(exit::FAILED, format!("{}: {why}", path.display())))?;
    let line = format!("alg=HS256 secret_file={}", path.display());
    writeln!(io::stderr(), "sse-publish: made {}; in auth.jwt.keys: {line}", path.display()).ok();
    Ok(exit::OK)
}

/// Creates a file that only its owner can ever read. Fails if the file exists, because it may hold
/// a key that is in use.
fn write_new(path: &Path, secret: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{secret}")?;
    file.sync_all()
}

fn print(line: &str) -> Result<u8, Failure> {
    writeln!(io::stdout(), "{line}")
        .map_err(|why| Failure::new(exit::FAILED, format!("stdout: {why}")))?;
    Ok(exit::OK)
}

/// The time in seconds since 1970, as tokens count it.
pub fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
