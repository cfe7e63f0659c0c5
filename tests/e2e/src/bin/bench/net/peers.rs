//! Debian's nginx and unbound, each with a configuration and a folder of its own, in a node's network and nowhere else.

use std::path::Path;
use std::process::Stdio;

use super::place::{Place, Running, SERVER_CORE};

/// nginx as a reverse proxy of one worker, with what an Ingress does: connections to the backend are kept, and who asked is
/// told in the same headers.
pub fn nginx(place: &Place, folder: &Path, listen: &str, backends: &[String]) -> Running {
    let servers: String = backends.iter().map(|address| format!("server {address}; ")).collect();
    let at = folder.display();
    let config = format!(
        "daemon off; worker_processes 1; pid {at}/nginx.pid; error_log {at}/nginx.log; user root;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         access_log off; keepalive_requests 1000000000; tcp_nodelay on;\n\
         client_body_temp_path {at}/a; proxy_temp_path {at}/b; fastcgi_temp_path {at}/c; uwsgi_temp_path {at}/d; scgi_temp_path {at}/e;\n\
         upstream backend {{ {servers} keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen {listen} backlog=1024; location / {{\n\
         proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
         proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port;\n\
         proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Scheme $scheme;\n\
         }} }} }}\n"
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, config).expect("a writable folder");
    let mut command = place.command(SERVER_CORE, "nginx", &["-p", &at.to_string()]);
    command
        .arg("-e")
        .arg(folder.join("nginx.log"))
        .arg("-c")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Running(command.spawn().expect("nginx is installed"))
}

/// unbound with one thread, which answers for these names by itself; each name with its address.
pub fn unbound(place: &Place, folder: &Path, listen: &str, names: &[(String, String)]) -> Running {
    let at = folder.display();
    let (host, port) = listen.split_once(':').expect("an address with its port");
    let mut config = format!(
        "server:\n interface: {host}\n port: {port}\n num-threads: 1\n do-daemonize: no\n use-syslog: no\n logfile: \"{at}/unbound.log\"\n\
         username: \"\"\n chroot: \"\"\n directory: \"{at}\"\n pidfile: \"{at}/unbound.pid\"\n access-control: 0.0.0.0/0 allow\n\
         module-config: \"iterator\"\n local-zone: \"cluster.local.\" static\n"
    );
    for (name, address) in names {
        config.push_str(&format!(" local-data: \"{name}. 30 IN A {address}\"\n"));
    }
    config.push_str("remote-control:\n control-enable: no\n");
    let file = folder.join("unbound.conf");
    std::fs::write(&file, config).expect("a writable folder");
    let mut command = place.command(SERVER_CORE, "unbound", &["-d", "-c"]);
    command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().expect("unbound is installed"))
}
