//! Mercure 1.0, if it is installed: without TLS, without tokens for readers, and with the transport
//! that keeps no history, which is its fastest. The configuration follows its documentation.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Server, StartError, programs};
use crate::publish::{Route, Text, Wrap};

/// The issuer of the publisher's token, and the start of its audience.
const ISSUER: &str = "https://localhost";
/// The key that Mercure's examples use.
const KEY: &str = "!ChangeThisMercureHubJWTSecretKey!";
/// A token that allows publishing to every topic until 2100, signed with [`KEY`]:
///
/// `{"iss":"https://localhost","aud":"https://localhost/.well-known/mercure","exp":4102444800,
/// "authorization_details":[{"type":"https://mercure.rocks/authorization-detail",
/// "actions":["publish"], "topics":[{"match":"*"}]}]}`.
const TOKEN: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJpc3MiOiJodHRwczovL2xvY2FsaG9zdCIsImF1ZCI6Imh",
    "0dHBzOi8vbG9jYWxob3N0Ly53ZWxsLWtub3duL21lcmN1cmUiLCJleHAiOjQxMDI0NDQ4MDAsImF1dGhvcml6YXR",
    "pb25fZGV0YWlscyI6W3sidHlwZSI6Imh0dHBzOi8vbWVyY3VyZS5yb2Nrcy9hdXRob3JpemF0aW9uLWRldGFpbCI",
    "sImFjdGlvbnMiOlsicHVibGlzaCJdLCJ0b3BpY3MiOlt7Im1hdGNoIjoiKiJ9XX1dfQ.AXBjl-ash-bRBZmwV2V3",
    "i81AEyzDJqdl__Mg1fRwyMM",
);

impl Server {
    /// Starts Mercure.
    pub(super) fn mercure(&mut self) -> Result<(), StartError> {
        let program = program()?;
        let config = self.dir().join("Caddyfile");
        std::fs::write(&config, configuration(self.addr))
            .map_err(|error| format!("{}: {error}", config.display()))?;
        let args = ["run", "--adapter", "caddyfile", "--config", &config.display().to_string()];
        let dir = self.dir().display().to_string();
        let variables = ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"].map(str::to_owned);
        let variables = variables.map(|name| (name, dir.clone()));
        self.run(&program, &args.map(str::to_owned), &variables, self.addr)?;
        self.route = Route::Wrapped(Wrap {
            addr: self.addr,
            path: "/.well-known/mercure".to_owned(),
            headers: format!(
                "Content-Type: application/x-www-form-urlencoded\r\nAuthorization: Bearer {TOKEN}\r\n"
            ),
            body: "topic={c}&data={d}",
            text: Text::Form,
        });
        Ok(())
    }
}

/// The version of Mercure.
pub fn version() -> Result<String, StartError> {
    Ok(format!("mercure {}", programs::says(&program()?, &["version"])?))
}

fn program() -> Result<PathBuf, StartError> {
    programs::find("mercure", Some("MERCURE_BIN"))
}

fn configuration(addr: SocketAddr) -> String {
    let ip = addr.ip();
    format!(
        "{{
    admin off
    auto_https off
}}
http://{addr} {{
    bind {ip}
    mercure {{
        issuer {ISSUER} {{
            publisher {{
                jwt {KEY}
            }}
        }}
        resource_identifier {ISSUER}/.well-known/mercure
        anonymous
        transport local
    }}
}}
"
    )
}
