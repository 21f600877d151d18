//! The kinds of servers: their names, and the versions that are installed.

use std::path::Path;

use super::{
    Settings, StartError, centrifugo, fastapi, mercure, nchan, plain_actix, programs, pushpin,
};

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The floor with one thread.
    Floor1,
    /// The floor with two threads.
    Floor2,
    /// The gateway alone.
    GatewayMemory,
    /// The gateway with a Redis of its own. Both are measured.
    GatewayRedis,
    /// The gateway alone, with TLS.
    GatewayTls,
    /// The gateway alone. Each stream presents its own token, signed with a shared secret.
    GatewayHs256,
    /// The gateway alone. Each stream presents its own token, signed with RSA.
    GatewayRs256,
    /// The gateway alone, behind nginx with TLS and two workers. Both are measured.
    NginxTls,
    /// nginx with Nchan and two workers.
    Nchan,
    /// Pushpin. Its origin is a thread of this program and not measured.
    Pushpin,
    /// Mercure with the transport that keeps no history.
    Mercure,
    /// Centrifugo with everything in memory.
    Centrifugo,
    /// The obvious server in actix-web.
    PlainActix,
    /// The obvious server in Python, with two workers and a Redis of its own. All are measured.
    FastApi,
}

impl Kind {
    /// All kinds except those with TLS or tokens, which have scenarios of their own.
    pub const ALL: [Kind; 10] = [
        Kind::Floor1,
        Kind::Floor2,
        Kind::GatewayMemory,
        Kind::GatewayRedis,
        Kind::Nchan,
        Kind::Pushpin,
        Kind::Mercure,
        Kind::Centrifugo,
        Kind::PlainActix,
        Kind::FastApi,
    ];

    /// The name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Floor1 => "floor-1",
            Kind::Floor2 => "floor-2",
            Kind::GatewayMemory => "gateway-memory",
            Kind::GatewayRedis => "gateway-redis",
            Kind::GatewayTls => "gateway-tls",
            Kind::GatewayHs256 => "gateway-hs256",
            Kind::GatewayRs256 => "gateway-rs256",
            Kind::NginxTls => "nginx-tls",
            Kind::Nchan => "nchan",
            Kind::Pushpin => "pushpin",
            Kind::Mercure => "mercure",
            Kind::Centrifugo => "centrifugo",
            Kind::PlainActix => "plain-actix",
            Kind::FastApi => "fastapi",
        }
    }

    /// The installed version, as the program reports it. Fails if the server is not installed.
    pub fn version(self, settings: &Settings) -> Result<String, StartError> {
        match self {
            Kind::Floor1 | Kind::Floor2 => {
                Ok(concat!("sse-bench ", env!("CARGO_PKG_VERSION")).into())
            }
            Kind::GatewayMemory | Kind::GatewayTls | Kind::GatewayHs256 | Kind::GatewayRs256 => {
                gateway(&settings.gateway)
            }
            Kind::NginxTls => nginx(),
            Kind::GatewayRedis => Ok(format!("{}, {}", gateway(&settings.gateway)?, redis()?)),
            Kind::Nchan => nchan::version(),
            Kind::Pushpin => pushpin::version(),
            Kind::Mercure => mercure::version(),
            Kind::Centrifugo => centrifugo::version(),
            Kind::PlainActix => plain_actix::version(),
            Kind::FastApi => Ok(format!("{}, {}", fastapi::version()?, redis()?)),
        }
    }

    /// Whether it is a floor, with which the others are compared.
    pub fn is_floor(self) -> bool {
        matches!(self, Kind::Floor1 | Kind::Floor2)
    }

    /// Whether it is the gateway.
    pub fn is_gateway(self) -> bool {
        matches!(
            self,
            Kind::GatewayMemory
                | Kind::GatewayRedis
                | Kind::GatewayTls
                | Kind::GatewayHs256
                | Kind::GatewayRs256
        )
    }
}

fn gateway(program: &Path) -> Result<String, StartError> {
    programs::says(program, &["--version"])
}

fn nginx() -> Result<String, StartError> {
    let text = programs::says(&programs::find("nginx", None)?, &["-v"])?;
    Ok(text.trim_start_matches("nginx version: ").to_owned())
}

fn redis() -> Result<String, StartError> {
    let text = programs::says(&programs::find("redis-server", None)?, &["--version"])?;
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("v="));
    Ok(version.map_or(text.clone(), |version| format!("Redis {version}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_one_name() {
        let names: std::collections::BTreeSet<_> =
            Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }
}
