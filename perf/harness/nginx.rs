//! nginx with `sendfile on`: what a hit is compared with.

use super::support::certificates::Issued;
use super::support::wait;
use rustix::process::{Pid, Signal};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where distributions put it when it is not on the path of an ordinary user.
const PLACES: [&str; 3] = ["nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"];

/// A running nginx: a master and one worker per processor. Dropping it ends it.
pub struct Nginx {
    child: Child,
    address: SocketAddr,
}

/// The binary and what it says of its version; `None` when there is none.
pub fn find() -> Option<(&'static str, String)> {
    PLACES.into_iter().find_map(|place| {
        let said = Command::new(place).arg("-v").output().ok()?;
        let version = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        said.status.success().then_some((place, version))
    })
}

impl Nginx {
    /// Serves the files in `directory/www`.
    pub fn start(binary: &str, directory: &Path) -> Nginx {
        let address = free_address();
        Nginx::listen(
            binary,
            directory,
            address,
            &format!("listen {address} reuseport;"),
        )
    }

    /// The same over TLS 1.3, in records of 16 KiB, with tickets.
    pub fn start_with_tls(binary: &str, directory: &Path, pair: &Issued) -> Nginx {
        let address = free_address();
        let listen = format!(
            "listen {address} reuseport ssl; ssl_certificate {}; ssl_certificate_key {}; \
             ssl_protocols TLSv1.3; ssl_buffer_size 16k; ssl_session_tickets on;",
            pair.cert.display(),
            pair.key.display()
        );
        Nginx::listen(binary, directory, address, &listen)
    }

    fn listen(binary: &str, directory: &Path, address: SocketAddr, listen: &str) -> Nginx {
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, configuration_text(directory, listen))
            .unwrap_or_else(|e| panic!("{}: {e}", configuration.display()));
        let log = directory.join("error.log");
        let child = Command::new(binary)
            .arg("-p")
            .arg(directory)
            .arg("-c")
            .arg(&configuration)
            .arg("-e")
            .arg(&log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{binary}: {e}"));
        let mut nginx = Nginx { child, address };
        wait::until("nginx accepts", || {
            if let Ok(Some(status)) = nginx.child.try_wait() {
                let said = fs::read_to_string(&log).unwrap_or_default();
                panic!("nginx ended: {status}\n{said}");
            }
            TcpStream::connect(address).ok()
        });
        nginx
    }

    /// Process id of the master.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The master ends its workers. It has not been waited for, so the id is its.
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
            drop(self.child.wait());
        }
    }
}

/// nginx cannot choose a port itself; one that was free a moment ago has to do.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("bind: {e}"));
    let address = listener.local_addr();
    address.unwrap_or_else(|e| panic!("address: {e}"))
}

fn configuration_text(directory: &Path, listen: &str) -> String {
    let place = |name: &str| -> PathBuf { directory.join(name) };
    // Only root can start workers as somebody else, and must not do so here.
    let user = match rustix::process::geteuid().is_root() {
        true => "user root;\n",
        false => "",
    };
    format!(
        "{user}daemon off;\n\
         pid {pid};\n\
         worker_processes auto;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         access_log off;\n\
         sendfile on;\n\
         tcp_nopush on;\n\
         default_type application/zstd;\n\
         client_body_temp_path {temp};\n\
         proxy_temp_path {temp};\n\
         fastcgi_temp_path {temp};\n\
         uwsgi_temp_path {temp};\n\
         scgi_temp_path {temp};\n\
         server {{ {listen} root {www}; }}\n\
         }}\n",
        pid = place("nginx.pid").display(),
        temp = place("temp").display(),
        www = place("www").display(),
    )
}
