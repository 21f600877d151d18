//! Which servers there are, what each is called, and which version of it is installed here.

use std::path::Path;

use super::{
    Settings, StartError, centrifugo, fastapi, mercure, nchan, plain_actix, programs, pushpin,
};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The floor with one thread.
    Floor1,
    /// The floor with two threads.
    Floor2,
    /// sse-gateway alone.
    GatewayMemory,
    /// sse-gateway with a Redis of its own; both are counted.
    GatewayRedis,
    /// sse-gateway alone, with TLS.
    GatewayTls,
    /// sse-gateway alone, where each stream shows a token of its own, signed with a shared secret.
    GatewayHs256,
    /// The same, signed with RSA.
    GatewayRs256,
    /// sse-gateway alone behind nginx, two workers, with TLS; both are counted.
    NginxTls,
    /// nginx with Nchan, two workers.
    Nchan,
    /// Pushpin; its origin is a thread of this program and not counted.
    Pushpin,
    /// Mercure, with the transport that keeps nothing.
    Mercure,
    /// Centrifugo, everything in memory.
    Centrifugo,
    /// What one writes first with actix-web.
    PlainActix,
    /// What one writes first in Python, two workers, with a Redis of its own; both are counted.
    FastApi,
}

impl Kind {
    /// All there are, but for those with TLS and with tokens, which have scenarios of their own.
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

    /// Its name in tables and on the command line.
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

    /// What is installed here of it, by its own words; an error where it is not.
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

    /// Whether it is what the others are compared with.
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
