//! An nginx in front of the gateways, configured like that of the deployment, for some subscribers.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use sse_lab::process::Process;

/// A running nginx. Dropping it ends the process.
#[derive(Debug)]
pub struct Nginx {
    /// The address that it listens on.
    pub addr: SocketAddr,
    process: Process,
}

impl Nginx {
    /// Starts nginx. The error says why that fails.
    pub fn start(addr: SocketAddr, gateways: &[SocketAddr], dir: &Path) -> Result<Nginx, String> {
        let servers = gateways.iter().map(|addr| format!("server {addr} max_fails=0;"));
        let servers = servers.collect::<Vec<_>>().join("\n        ");
        let text = CONFIG.replace("ADDR", &addr.to_string()).replace("SERVERS", &servers);
        let (config, prefix) = (dir.join("nginx.conf"), dir.join("nginx"));
        let write = std::fs::create_dir_all(&prefix).and_then(|()| std::fs::write(&config, text));
        write.map_err(|error| format!("{}: {error}", config.display()))?;
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-p"]).arg(&prefix).arg("-c").arg(&config);
        let process = Process::logged(&mut command, &dir.join("nginx.log"))?;
        Ok(Nginx { addr, process })
    }

    /// How the process ended, or none while it runs.
    pub fn ended(&mut self) -> Option<String> {
        self.process.ended().map(|status| format!("nginx ended with {status}"))
    }
}

// One process without a master, so that killing it leaves no workers behind. The directives for
// streams are those of nginx/proxy.conf.
const CONFIG: &str = "
daemon off;
master_process off;
pid nginx.pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream gateways {
        SERVERS
    }
    server {
        listen ADDR;
        location = /events {
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_connect_timeout 1s;
            proxy_read_timeout 9s;
            proxy_next_upstream error timeout http_502 http_503;
            proxy_next_upstream_tries 3;
            error_page 502 503 504 = @comeback;
        }
        location @comeback {
            default_type text/event-stream;
            return 200 \"retry: 300\\n\";
        }
    }
}
";
