//! What this program reads from the environment. No other module reads it.

use std::path::PathBuf;

/// The environment of this process. Empty variables count as not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `SSE_URL`
    pub url: Option<String>,
    /// `SSE_REDIS`
    pub redis: Option<String>,
    /// `SSE_TOKEN`
    pub token: Option<String>,
    /// `SSE_KEY`
    pub key: Option<String>,
    /// `TRACEPARENT`: the trace that this program works for, as command-line tools are told it.
    pub traceparent: Option<String>,
    /// `SSE_PUBLISH_PROFILE`
    pub profile: Option<String>,
    /// `SSE_PUBLISH_CONFIG`
    pub config: Option<PathBuf>,
    /// Where the configuration file is unless `SSE_PUBLISH_CONFIG` names it: below
    /// `XDG_CONFIG_HOME`, or else below `~/.config`.
    pub usual_config: Option<PathBuf>,
    /// `HOME`
    pub home: Option<PathBuf>,
    /// `NO_COLOR` (no-color.org), or a terminal that has no colours.
    pub no_colour: bool,
    /// `CLICOLOR` (bixense.com/clicolors); `Some(false)` if it is 0.
    pub clicolor: Option<bool>,
    /// `CLICOLOR_FORCE`, other than 0.
    pub force_colour: bool,
}

impl Environment {
    /// Reads this process's environment.
    pub fn read() -> Self {
        let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        // The XDG specification says that a relative path is to be ignored.
        let folder = path("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        let folder = folder.or_else(|| home.as_ref().map(|home| home.join(".config")));
        Environment {
            url: read("SSE_URL"),
            redis: read("SSE_REDIS"),
            token: read("SSE_TOKEN"),
            key: read("SSE_KEY"),
            traceparent: read("TRACEPARENT"),
            profile: read("SSE_PUBLISH_PROFILE"),
            config: path("SSE_PUBLISH_CONFIG"),
            usual_config: folder.map(|folder| folder.join("sse-publish/config.toml")),
            home,
            no_colour: read("NO_COLOR").is_some()
                || read("TERM").is_some_and(|term| term == "dumb"),
            clicolor: read("CLICOLOR").map(|value| value != "0"),
            force_colour: read("CLICOLOR_FORCE").is_some_and(|value| value != "0"),
        }
    }
}

/// Reads an environment variable that must be set. For values that the command line may only name,
/// because they are secret.
pub fn variable(name: &str) -> Result<String, String> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        Ok(_) | Err(std::env::VarError::NotPresent) => Err(format!("{name} is not set")),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("{name} is not UTF-8")),
    }
}
