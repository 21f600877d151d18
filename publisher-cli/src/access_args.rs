//! The command lines of `token` and `key`. No option takes a secret: other users of the machine could read it there, and
//! the shell would keep it.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Subcommand};
use serde_json::Value;
use sse_contract::pattern::{Pattern, Template};
use sse_token::Algorithm;

use crate::args::positive_duration;

/// What `token --help` ends with.
pub const TOKEN_HELP: &str = "\
Examples:
  sse-publish token secret --out jwt.secret      make a secret, once; the gateway reads the same file
  sse-publish token --secret-file jwt.secret --sub 42 --subscribe 'user:{sub}:*'
  sse-publish token --pem key.pem --alg ES256 --publish orders --expires 5m
  sse-publish tail demo --token \"$(sse-publish token --secret-file jwt.secret --subscribe demo)\"
  sse-publish token check --secret-file jwt.secret < token.txt

The gateway takes these tokens with one of these lines in auth.jwt.keys:
  alg=HS256 secret_file=jwt.secret
  alg=ES256 pem=public.pem                       openssl pkey -in key.pem -pubout -out public.pem

A pattern is a channel's name, with * for any text and {claim} for what the token says of its bearer.
This is for development, tests and scripts; in production the service that knows your users makes their
tokens, with any library for JSON Web Tokens.

Exit codes: 0 when the token was made, or is one that a gateway with this key takes; 1 when it is not, or
when nothing was proven because no key was given; 64 when the command line is wrong.";

/// What `key --help` ends with.
pub const KEY_HELP: &str = "\
Example:
  sse-publish key --name billing --publish orders --publish 'user:*'

Give the key to the service, which sends it as X-API-Key, or to sse-publish (--key, SSE_KEY). Put the line
into the gateway's auth.keys: it holds a hash, from which nobody can find the key. Nothing keeps the key,
so it is shown this once. A line may say more: rate=EVENTS_A_SECOND, streams=NUMBER.";

/// Where a key is. One of them, at most.
#[derive(Debug, Args)]
pub struct KeyArguments {
    /// A shared secret, as the gateway's secret_file: of 32 bytes or more
    #[arg(long, value_name = "FILE", conflicts_with_all = ["secret_env", "pem"])]
    pub secret_file: Option<PathBuf>,
    /// The environment's variable that holds a shared secret
    #[arg(long, value_name = "NAME", conflicts_with = "pem")]
    pub secret_env: Option<String>,
    /// A key pair's private key, in PEM; for check the public key, or a certificate
    #[arg(long, value_name = "FILE")]
    pub pem: Option<PathBuf>,
    /// HS256, HS384, HS512; RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA with --pem.
    /// HS256 if there is a secret; check takes the one that the token names and the key is for
    #[arg(long, value_name = "ALG", value_parser = algorithm)]
    pub alg: Option<Algorithm>,
}

/// The arguments of `token`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct TokenArguments {
    /// What else there is.
    #[command(subcommand)]
    pub command: Option<TokenCommand>,
    /// Those of making a token.
    #[command(flatten)]
    pub make: MakeArguments,
}

/// What can be done beside making a token.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Say what a token allows, until when, and whether its signature is right
    Check(CheckArguments),
    /// Make a random secret for HS256: 64 hex digits
    Secret(SecretArguments),
}

/// The arguments of making a token.
#[derive(Debug, Args)]
pub struct MakeArguments {
    /// The key that signs.
    #[command(flatten)]
    pub key: KeyArguments,
    /// Who the bearer is; {sub} in a pattern stands for it
    #[arg(long, value_name = "SUBJECT")]
    pub sub: Option<String>,
    /// Channels that the bearer may listen to; may be repeated
    #[arg(long, value_name = "PATTERN", value_parser = template)]
    pub subscribe: Vec<String>,
    /// Channels that the bearer may publish to; may be repeated
    #[arg(long, value_name = "PATTERN", value_parser = template)]
    pub publish: Vec<String>,
    /// How long the token is good; never: for ever, which a gateway refuses unless it is told otherwise
    /// (auth.jwt.require_expiry)
    #[arg(long, value_name = "TIME|never", default_value = "1h", value_parser = lifetime)]
    pub expires: Lifetime,
    /// Who issued it, as the gateway's iss
    #[arg(long, value_name = "ISSUER")]
    pub iss: Option<String>,
    /// Whom it is for, as the gateway's aud
    #[arg(long, value_name = "AUDIENCE")]
    pub aud: Option<String>,
    /// The token's own name, by which it can be revoked [default: a random one]
    #[arg(long, value_name = "ID")]
    pub jti: Option<String>,
    /// The key's name, as the gateway's kid
    #[arg(long, value_name = "ID")]
    pub kid: Option<String>,
    /// A further claim, its value in JSON ('room="a"'); may be repeated
    #[arg(long = "claim", value_name = "NAME=JSON", value_parser = claim)]
    pub claims: Vec<(String, Value)>,
}

/// How long a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// So long.
    For(Duration),
    /// For ever.
    Ever,
}

/// The arguments of `token check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The token; standard input if it is left out
    #[arg(value_name = "TOKEN")]
    pub token: Option<String>,
    /// The key that checks. Without one the claims are shown, and nothing is proven
    #[command(flatten)]
    pub key: KeyArguments,
    /// The iss of the gateway's line
    #[arg(long, value_name = "ISSUER")]
    pub iss: Option<String>,
    /// The aud of the gateway's line
    #[arg(long, value_name = "AUDIENCE")]
    pub aud: Option<String>,
}

/// The arguments of `token secret`.
#[derive(Debug, Args)]
pub struct SecretArguments {
    /// Write it to this file, which nobody else may read, instead of printing it. A file that is there stays
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// The arguments of `key`.
#[derive(Debug, Args)]
pub struct ApiKeyArguments {
    /// What the key is called in logs and in revocations [default: key- and some digits of its hash]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// Channels that its bearer may listen to; may be repeated
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub subscribe: Vec<String>,
    /// Channels that its bearer may publish to; may be repeated
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub publish: Vec<String>,
    /// Its bearer may use the admin port's calls that change something
    #[arg(long)]
    pub admin: bool,
    /// One line of JSON, {"key","line"}
    #[arg(long)]
    pub json: bool,
}

/// An error that repeats no token: one that stands where a subcommand is expected is on its way into a log, perhaps.
pub fn without_tokens(error: clap::Error) -> clap::Error {
    let named =
        [ContextKind::InvalidSubcommand, ContextKind::InvalidArg, ContextKind::InvalidValue];
    let is_token = |value: &ContextValue| {
        // The head of each token is a JSON object, {"…
        matches!(value, ContextValue::String(text) if text.starts_with("eyJ"))
    };
    if !named.iter().any(|kind| error.get(*kind).is_some_and(is_token)) {
        return error;
    }
    let text = "a token stands where none is expected; to check one: sse-publish token check [OPTIONS] TOKEN\n";
    clap::Error::raw(ErrorKind::UnknownArgument, text)
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    name.parse().map_err(|_| {
        "must be one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA"
            .to_owned()
    })
}

fn template(text: &str) -> Result<String, String> {
    text.parse::<Template>().map(|_| text.to_owned()).map_err(|why| why.to_string())
}

fn pattern(text: &str) -> Result<String, String> {
    text.parse::<Pattern>().map(|_| text.to_owned()).map_err(|why| why.to_string())
}

fn lifetime(text: &str) -> Result<Lifetime, String> {
    if text == "never" {
        return Ok(Lifetime::Ever);
    }
    positive_duration(text).map(Lifetime::For)
}

fn claim(text: &str) -> Result<(String, Value), String> {
    const OWN: [&str; 8] = ["aud", "exp", "iat", "iss", "jti", "publish", "sub", "subscribe"];
    let (name, value) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("a claim is NAME=JSON")?;
    if OWN.contains(&name) {
        return Err(format!("{name} has an option of its own, or is set by --expires"));
    }
    let value = serde_json::from_str(value).map_err(|why| {
        format!("the value is not JSON ({why}); text needs quotes: '{name}=\"…\"'")
    })?;
    Ok((name.to_owned(), value))
}

/// It stands as a word in a line of the gateway's configuration, which may itself stand in quotes.
fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.:@/+~-".contains(c);
    if text.is_empty() || text.len() > 100 || !text.chars().all(fits) {
        return Err("a key's name is 1 to 100 of A-Z a-z 0-9 and _ . : @ / + ~ -".to_owned());
    }
    Ok(text.to_owned())
}
