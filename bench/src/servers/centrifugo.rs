//! Centrifugo 6, if it is installed: its unidirectional event stream, with everything in memory and
//! without tokens.

use std::path::PathBuf;

use serde_json::json;

use super::{Server, Settings, StartError, programs};
use crate::publish::{Route, Text, Wrap};

impl Server {
    /// Starts Centrifugo.
    pub(super) fn centrifugo(&mut self, settings: &Settings) -> Result<(), StartError> {
        let program = program()?;
        let config = json!({
            "http_server": { "address": self.addr.ip().to_string(), "port": self.addr.port() },
            "client": { "insecure": true },
            // Errors are then statuses, not texts in an answer with status 200.
            "http_api": { "insecure": true, "error_mode": "transport" },
            "uni_sse": { "enabled": true },
            // As long as the gateway's history.
            "channel": { "without_namespace": {
                "history_size": settings.history, "history_ttl": "1h",
            } },
            "usage_stats": { "disabled": true },
        });
        let path = self.dir().join("centrifugo.json");
        std::fs::write(&path, config.to_string())
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let args = ["--config".to_owned(), path.display().to_string()];
        self.run(&program, &args, &[], self.addr)?;
        self.route = Route::Wrapped(Wrap {
            addr: self.addr,
            path: "/api/publish".to_owned(),
            headers: "Content-Type: application/json\r\n".to_owned(),
            body: r#"{"channel":"{c}","data":"{d}"}"#,
            text: Text::Json,
        });
        Ok(())
    }
}

/// The path of a stream: `{"subs":{"CHANNEL":{}}}` with its braces escaped. A `{n}` in the
/// channel's name is not escaped, so that the load can replace it.
pub fn target(channel: &str) -> String {
    format!("/connection/uni_sse?cf_connect=%7B%22subs%22:%7B%22{channel}%22:%7B%7D%7D%7D")
}

/// The version of Centrifugo.
pub fn version() -> Result<String, StartError> {
    programs::says(&program()?, &["version"])
}

fn program() -> Result<PathBuf, StartError> {
    programs::find("centrifugo", Some("CENTRIFUGO_BIN"))
}
