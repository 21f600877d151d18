//! The command lines of `token` and `key`. No option takes a secret, because other users of the
//! machine can read the command line and the shell keeps it in its history.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Subcommand};
use serde_json::Value;
use sse_contract::pattern::{Pattern, Template};
use sse_token::Algorithm;

use crate::help;
use crate::plain::what_is_wrong;
use crate::when::{When, when};

/// Where to find a key: in at most one of three places.
#[derive(Debug, Args)]
pub struct KeyArguments {
    /// File with a shared secret of at least 32 bytes, like the gateway's secret_file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["secret_env", "pem"])]
    pub secret_file: Option<PathBuf>,
    /// Environment variable that holds a shared secret
    #[arg(long, value_name = "NAME", conflicts_with = "pem")]
    pub secret_env: Option<String>,
    /// PEM file with the private key of a key pair; for check, with the public key or a certificate
    #[arg(long, value_name = "FILE")]
    pub pem: Option<PathBuf>,
    /// Algorithm: HS256, HS384 or HS512 with a secret; RS256, RS384, RS512, PS256, PS384, PS512,
    /// ES256, ES384 or EdDSA with --pem. Default with a secret: HS256; default of check: the
    /// algorithm that the token names, if the key fits it
    #[arg(long, value_name = "ALG", value_parser = algorithm)]
    pub alg: Option<Algorithm>,
}

/// The arguments of `token`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct TokenArguments {
    /// A task other than making a token.
    #[command(subcommand)]
    pub command: Option<TokenCommand>,
    /// The arguments of making a token.
    #[command(flatten)]
    pub make: MakeArguments,
}

/// The tasks of `token` other than making a token.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Say what a token allows, until when, and whether its signature is right
    #[command(after_help = help::TOKEN_CHECK)]
    Check(CheckArguments),
    /// Make a random secret for HS256: 64 hex digits
    #[command(after_help = help::TOKEN_SECRET)]
    Secret(SecretArguments),
}

/// The arguments of making a token.
#[derive(Debug, Args)]
pub struct MakeArguments {
    /// The key that signs the token.
    #[command(flatten)]
    pub key: KeyArguments,
    /// The token's subject, which names its bearer; {sub} in a pattern stands for it
    #[arg(long, value_name = "SUBJECT")]
    pub sub: Option<String>,
    /// Channels that the bearer may listen to, separated by commas; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = template)]
    pub subscribe: Vec<String>,
    /// Channels that the bearer may publish to, separated by commas; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = template)]
    pub publish: Vec<String>,
    /// How long the token is valid, as 8h, or until when, as 2026-12-31T23:59:59Z; with never it does
    /// not expire, and a gateway refuses it unless auth.jwt.require_expiry is false
    #[arg(long, value_name = "TIME|never", default_value = "1h", value_parser = lifetime)]
    pub expires: Lifetime,
    /// The token's issuer, equal to iss in the gateway's line
    #[arg(long, value_name = "ISSUER")]
    pub iss: Option<String>,
    /// The token's audience, equal to aud in the gateway's line
    #[arg(long, value_name = "AUDIENCE")]
    pub aud: Option<String>,
    /// The token's id, by which it can be revoked [default: a random one]
    #[arg(long, value_name = "ID")]
    pub jti: Option<String>,
    /// The key's name, equal to kid in the gateway's line
    #[arg(long, value_name = "ID")]
    pub kid: Option<String>,
    /// A further claim, with its value in JSON ('room="a"'); may be repeated
    #[arg(long = "claim", value_name = "NAME=JSON", value_parser = claim)]
    pub claims: Vec<(String, Value)>,
}

/// How long a token is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// This long from now, or until this moment.
    Until(When),
    /// Without end.
    Ever,
}

/// The arguments of `token check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The token; without it, the token is read from standard input
    #[arg(value_name = "TOKEN")]
    pub token: Option<String>,
    /// The key that checks the signature. Without a key the claims are shown but nothing is proven.
    #[command(flatten)]
    pub key: KeyArguments,
    /// The issuer to require, equal to iss in the gateway's line
    #[arg(long, value_name = "ISSUER")]
    pub iss: Option<String>,
    /// The audience to require, equal to aud in the gateway's line
    #[arg(long, value_name = "AUDIENCE")]
    pub aud: Option<String>,
}

/// The arguments of `token secret`.
#[derive(Debug, Args)]
pub struct SecretArguments {
    /// Write the secret to this new file, which only its owner can read, instead of printing it. An
    /// existing file is not overwritten
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// The arguments of `key`.
#[derive(Debug, Args)]
pub struct ApiKeyArguments {
    /// The key's name in logs and revocations [default: key- and the first digits of its hash]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// Channels that the key's bearer may listen to, separated by commas; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = pattern)]
    pub subscribe: Vec<String>,
    /// Channels that the key's bearer may publish to, separated by commas; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = pattern)]
    pub publish: Vec<String>,
    /// Let the key's bearer make changes by the admin port
    #[arg(long)]
    pub admin: bool,
    /// Print one line of JSON, {"key","line"}
    #[arg(short, long)]
    pub json: bool,
}

/// Replaces an error that would quote a token. clap quotes arguments that it does not expect, and
/// its messages may end up in a log.
pub fn without_tokens(error: clap::Error) -> clap::Error {
    let named =
        [ContextKind::InvalidSubcommand, ContextKind::InvalidArg, ContextKind::InvalidValue];
    let is_token = |value: &ContextValue| {
        // A token begins with its encoded header, a JSON object: {"…
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
    when(text).map(Lifetime::Until)
}

fn claim(text: &str) -> Result<(String, Value), String> {
    const OWN: [&str; 8] = ["aud", "exp", "iat", "iss", "jti", "publish", "sub", "subscribe"];
    let (name, value) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("a claim is NAME=JSON")?;
    if OWN.contains(&name) {
        return Err(format!("{name} has an option of its own, or is set by --expires"));
    }
    let value = serde_json::from_str(value).map_err(|error| {
        let why = what_is_wrong(value, &error);
        format!("the value is not JSON ({why}); text needs quotes: '{name}=\"…\"'")
    })?;
    Ok((name.to_owned(), value))
}

/// Accepts a key's name. The name becomes a word in a line of the gateway's configuration, and that
/// line may be quoted, so the name must contain neither spaces nor quotes.
fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.:@/+~-".contains(c);
    if text.is_empty() || text.len() > 100 || !text.chars().all(fits) {
        return Err("a key's name is 1 to 100 of A-Z a-z 0-9 and _ . : @ / + ~ -".to_owned());
    }
    Ok(text.to_owned())
}
