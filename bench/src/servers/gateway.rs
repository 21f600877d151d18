//! The gateway, alone or with Redis, and its metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Server, Settings, StartError, free_addr};

impl Server {
    /// Starts a gateway.
    pub(super) fn gateway(
        &mut self,
        settings: &Settings,
        redis: Option<SocketAddr>,
    ) -> Result<(), StartError> {
        let admin = free_addr()?;
        self.admin = Some(admin);
        let (addr, admin) = (self.addr.to_string(), admin.to_string());
        let mut args = ["--listen", &addr, "--admin-listen", &admin].map(str::to_owned).to_vec();
        if let Some(redis) = redis {
            args.extend(["--redis".to_owned(), format!("redis://{redis}")]);
        }
        let history = ("SSE_HISTORY__MAX_LEN".to_owned(), settings.history.to_string());
        let variables: Vec<_> = [history].into_iter().chain(settings.variables.clone()).collect();
        self.run(&settings.gateway, &args, &variables, self.addr)
    }
}

/// The counts of `sse_streams_closed_total` by reason, without zeros.
pub fn closed(metrics: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let rest = line.strip_prefix("sse_streams_closed_total{reason=\"")?;
        let (reason, value) = rest.split_once("\"} ")?;
        Some((reason.to_owned(), value.trim().parse::<f64>().ok()? as u64))
    };
    metrics.lines().filter_map(line).filter(|(_, count)| *count > 0).collect()
}

/// The value of `sse_lags_total`.
pub fn lags(metrics: &str) -> Option<u64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix("sse_lags_total "))?;
    value.trim().parse::<f64>().ok().map(|count| count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_are_read() {
        let text = "# TYPE sse_streams_closed_total counter\n\
                    sse_streams_closed_total{reason=\"gone\"} 0\n\
                    sse_streams_closed_total{reason=\"stalled\"} 200\nsse_lags_total 7\n";
        assert_eq!(closed(text), BTreeMap::from([("stalled".to_owned(), 200)]));
        assert_eq!(lags(text), Some(7));
    }
}
