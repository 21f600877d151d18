//! Makes API keys. A service gets the key, and the gateway gets the line that holds the key's hash.

use std::io::{self, Write};

use serde_json::json;
use sse_token::api_key;

use crate::access_args::ApiKeyArguments;
use crate::exit::{self, Failure};

/// Makes a key and prints it. Returns the exit code.
pub fn run(arguments: &ApiKeyArguments) -> Result<u8, Failure> {
    let key = api_key::new().map_err(|why| Failure::new(exit::FAILED, why))?;
    let line = line(arguments, &key);
    let text = if arguments.json {
        format!("{}\n", json!({ "key": key, "line": line }))
    } else {
        format!("key:  {key}\nline: {line}\n")
    };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|why| Failure::new(exit::FAILED, format!("stdout: {why}")))?;
    if !arguments.json && arguments.subscribe.is_empty() && arguments.publish.is_empty() {
        writeln!(
            io::stderr(),
            "sse-publish: this key allows nothing yet; add subscribe=PATTERN or publish=PATTERN to its line"
        )
        .ok();
    }
    Ok(exit::OK)
}

/// The line for `auth.keys`.
fn line(arguments: &ApiKeyArguments, key: &str) -> String {
    let hash = api_key::hash_in_hex(key);
    let name = arguments.name.clone().unwrap_or_else(|| format!("key-{}", &hash[..8]));
    let mut line = format!("name={name} hash={hash}");
    for pattern in &arguments.subscribe {
        line += &format!(" subscribe={pattern}");
    }
    for pattern in &arguments.publish {
        line += &format!(" publish={pattern}");
    }
    if arguments.admin {
        line += " admin=true";
    }
    line
}
