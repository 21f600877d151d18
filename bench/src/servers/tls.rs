//! Servers with TLS: the gateway itself, and nginx with two workers in front of a gateway,
//! configured as in `nginx/` for HTTP/1.1.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Resource, geteuid, getrlimit};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sse_lab::certificate::certify;

use super::{Server, Settings, StartError, free_addr, programs};
use crate::load::tls;
use crate::publish::Route;

impl Server {
    /// Starts a gateway with TLS.
    pub(super) fn gateway_tls(&mut self, settings: &Settings) -> Result<(), StartError> {
        self.certify()?;
        let file = |name| self.dir().join(name).display().to_string();
        let mut settings = settings.clone();
        settings.variables.extend([
            ("SSE_TLS__CERTIFICATE".to_owned(), file("certificate.pem")),
            ("SSE_TLS__KEY".to_owned(), file("key.pem")),
        ]);
        self.gateway(&settings, None)
    }

    /// Starts a gateway without TLS, and nginx in front of it.
    pub(super) fn nginx_tls(&mut self, settings: &Settings) -> Result<(), StartError> {
        let nginx = programs::find("nginx", None)?;
        let (own, gateway) = (self.addr, free_addr()?);
        self.addr = gateway;
        self.gateway(settings, None)?;
        self.addr = own;
        self.certify()?;
        let path = self.dir().join("nginx.conf");
        std::fs::write(&path, configuration(self.dir(), own, gateway))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        self.run(&nginx, &["-c".to_owned(), path.display().to_string()], &[], own)
    }

    /// Creates a certificate, and lets the load and publishers trust only that.
    fn certify(&mut self) -> Result<(), StartError> {
        programs::find("openssl", None)?;
        let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| self.dir().join(name));
        certify(&certificate, &key)?;
        let trusted = trusting(&certificate)?;
        self.route = Route::Secure { path: "/channels/{c}".to_owned(), tls: trusted.clone() };
        self.tls = Some(trusted);
        Ok(())
    }
}

/// Settings of a client that trusts only this certificate, for 127.0.0.1.
fn trusting(certificate: &Path) -> Result<tls::Settings, String> {
    let text = |error: &dyn std::fmt::Display| format!("{}: {error}", certificate.display());
    let certificate = CertificateDer::from_pem_file(certificate).map_err(|error| text(&error))?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(|error| text(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    Ok((Arc::new(config), name))
}

fn configuration(dir: &Path, addr: SocketAddr, gateway: SocketAddr) -> String {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    // Started by root, nginx would otherwise run its workers as a user who may not enter root's
    // directories.
    let user = if geteuid().is_root() { "user root;" } else { "" };
    let dir = dir.display();
    format!(
        r#"{user}
daemon off;
worker_processes 2;
worker_rlimit_nofile {files};
pid {dir}/nginx.pid;
error_log {dir}/nginx-error.log warn;
events {{ worker_connections {files}; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    # A publisher keeps its connection; by default nginx would close it after 1,000 requests.
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    server {{
        listen {addr} ssl backlog=4096;
        ssl_certificate {dir}/certificate.pem;
        ssl_certificate_key {dir}/key.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_buffer_size 4k;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_buffering off;
        proxy_request_buffering off;
        location / {{ proxy_pass http://{gateway}; }}
    }}
}}
"#
    )
}
