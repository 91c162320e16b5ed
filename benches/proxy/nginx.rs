//! nginx as a plain reverse proxy, with one worker and kept connections: what a proxy costs that only passes calls on.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// A running nginx. It ends when this is dropped.
pub(crate) struct Nginx {
    /// Its address.
    pub(crate) address: String,
    child: Child,
}

impl Nginx {
    /// Starts `nginx` of `PATH` in front of `upstream`, with its files below `directory`.
    pub(crate) async fn start(directory: &Path, upstream: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = free.local_addr().expect("its address").to_string();
        drop(free);
        let below = directory.display();
        let config = format!(
            "daemon off; master_process off; pid {below}/nginx.pid; error_log stderr error;
            events {{ worker_connections 1024; }}
            http {{
              access_log off;
              client_body_temp_path {below}/body; proxy_temp_path {below}/proxy; fastcgi_temp_path {below}/fastcgi;
              uwsgi_temp_path {below}/uwsgi; scgi_temp_path {below}/scgi;
              keepalive_requests 100000000;
              upstream belvo {{ server {upstream}; keepalive 64; keepalive_requests 100000000; }}
              server {{
                listen {address};
                location / {{
                  proxy_pass http://belvo; proxy_http_version 1.1; proxy_set_header Connection \"\";
                  proxy_request_buffering off; proxy_buffering off;
                }}
              }}
            }}"
        );
        let path = directory.join("nginx.conf");
        std::fs::write(&path, config).expect("a file");
        let child = Command::new("nginx")
            .arg("-e")
            .arg("stderr")
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("--nginx needs `nginx` (Debian: nginx-light)");
        while TcpStream::connect(&address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { address, child }
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> String {
        self.child.id().expect("it runs").to_string()
    }
}
