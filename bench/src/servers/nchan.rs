//! nginx with Nchan and two workers, configured as its documentation says for `EventSource`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, geteuid, getrlimit};

use super::{Server, Settings, StartError, programs};
use crate::publish::Route;

/// Where Debian's `libnginx-mod-nchan` installs the module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

impl Server {
    /// Starts nginx.
    pub(super) fn nchan(&mut self, settings: &Settings) -> Result<(), StartError> {
        let program = program()?;
        let config = configure(self.dir(), self.addr, settings.history)?;
        self.run(&program, &["-c".to_owned(), config.display().to_string()], &[], self.addr)?;
        self.route = Route::Post { path: "/pub?id={c}".to_owned() };
        Ok(())
    }
}

/// The versions of nginx and of the module's package.
pub fn version() -> Result<String, StartError> {
    let nginx = programs::says(&program()?, &["-v"])?;
    let nginx = nginx.trim_start_matches("nginx version: ");
    Ok(format!("{nginx}, {}", programs::package("libnginx-mod-nchan")?))
}

fn program() -> Result<PathBuf, StartError> {
    if !Path::new(MODULE).is_file() {
        let why = "no libnginx-mod-nchan; scripts/rivals installs it";
        return Err(StartError::Unavailable(why.to_owned()));
    }
    programs::find("nginx", None)
}

/// Writes the configuration and returns its path.
fn configure(dir: &Path, addr: SocketAddr, history: u32) -> Result<PathBuf, String> {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    // Started by root, nginx would otherwise run its workers as a user who may not enter root's
    // directories.
    let user = if geteuid().is_root() { "user root;" } else { "" };
    let dir_text = dir.display();
    let config = format!(
        r#"{user}
daemon off;
worker_processes 2;
worker_rlimit_nofile {files};
load_module {MODULE};
pid {dir_text}/nginx.pid;
error_log {dir_text}/nginx-error.log warn;
events {{ worker_connections {files}; }}
http {{
    access_log off;
    client_body_temp_path {dir_text}/body;
    proxy_temp_path {dir_text}/proxy;
    fastcgi_temp_path {dir_text}/fastcgi;
    uwsgi_temp_path {dir_text}/uwsgi;
    scgi_temp_path {dir_text}/scgi;
    # A publisher keeps its connection; by default nginx would close it after 1,000 requests.
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    nchan_shared_memory_size 512m;
    server {{
        listen {addr} backlog=4096;
        location = /pub {{
            nchan_publisher;
            nchan_channel_id $arg_id;
            # As long as the gateway's history.
            nchan_message_buffer_length {history};
            nchan_message_timeout 1h;
        }}
        location = /sub {{
            nchan_subscriber eventsource;
            nchan_channel_id $arg_id;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"#
    );
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}
