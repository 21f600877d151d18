//! Log lines, as text or JSON, on standard error.

use crate::config::{LogConfig, LogFormat};

/// Sends this process's log lines where the configuration says. An invalid filter is an error naming it.
pub fn init(config: &LogConfig) -> Result<(), String> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(config.level.filter())
        .with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => {
            lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init()
        }
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
