//! Two HAProxies, configured as a careful operator would who builds a mesh of them.
//!
//! Every frontend gets a socket that this program has bound already, so that no port is guessed. What HAProxy has
//! no notion of is left out, which is to its advantage: it checks names instead of SPIFFE identities and makes no
//! spans.
//!
//! Calls in HTTP/2 are HTTP/2 between the two, which costs a third less than HTTP/1.1 there with 64 under way, and no
//! more with one. For calls in HTTP/1.1 both are measured: HTTP/1.1 is what HAProxy does unless told otherwise, and
//! cheaper with one under way; HTTP/2 is cheaper with many.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use super::pki::{CALLER, Pki, SERVICE};
use super::{Between, Entries, Held, Running, Setup, Upstreams, entry, ready};
use crate::process::Process;

pub(super) fn start(
    program: &Path,
    between: Between,
    setup: &Setup,
    upstreams: &Upstreams,
) -> Result<Running> {
    let directory = tempfile::tempdir().context("a temporary directory")?;
    let pki = Pki::create(directory.path())?;
    let inbound = Sockets::bind()?;
    let addresses = inbound.addresses()?;
    let since = Instant::now();
    let service = Side {
        workers: setup.workers,
        sockets: inbound.descriptors(),
        next: [upstreams.http1, upstreams.http2, upstreams.tcp],
    };
    let mut service = launch(program, directory.path(), "service", &service_side(&service, &pki, between))?;
    // It has its own copies by now, and the other one is to have none of them.
    drop(inbound);
    // A caller that is refused once waits for a second.
    ready::listening(&mut service, &addresses)?;
    let outbound = Sockets::bind()?;
    let [http1, http2, tcp] = outbound.addresses()?;
    let caller = Side { workers: setup.workers, sockets: outbound.descriptors(), next: addresses };
    let caller = launch(program, directory.path(), "caller", &caller_side(&caller, &pki, between))?;
    drop(outbound);
    let entries = Entries { http1: entry(http1), http2: entry(http2), tcp, since };
    let held = Held { processes: Vec::new(), collector: None, directory: Some(directory) };
    Running::pair(entries, caller, service, held)
}

fn launch(program: &Path, directory: &Path, name: &str, configuration: &str) -> Result<Process> {
    let file = directory.join(format!("{name}.cfg"));
    fs::write(&file, configuration).context("the configuration")?;
    let mut command = Command::new(program);
    // -db: in the foreground, and one process.
    command.arg("-db").arg("-f").arg(&file).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    Process::spawn(name, command, directory)
}

/// The sockets of one HAProxy: bound, so that their ports are known, but not listening, which it does itself.
struct Sockets {
    http1: Socket,
    http2: Socket,
    tcp: Socket,
    metrics: Socket,
}

impl Sockets {
    fn bind() -> Result<Self> {
        let socket = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("a socket")?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).context("a free port")?;
            // For the children, which know it by its number.
            fcntl_setfd(&socket, FdFlags::empty()).context("a socket to inherit")?;
            anyhow::Ok(socket)
        };
        Ok(Self { http1: socket()?, http2: socket()?, tcp: socket()?, metrics: socket()? })
    }

    fn addresses(&self) -> Result<[SocketAddr; 3]> {
        let address = |socket: &Socket| socket.local_addr()?.as_socket().context("an address of IPv4");
        Ok([address(&self.http1)?, address(&self.http2)?, address(&self.tcp)?])
    }

    fn descriptors(&self) -> [i32; 4] {
        [&self.http1, &self.http2, &self.tcp, &self.metrics].map(|socket| socket.as_raw_fd())
    }
}

/// One HAProxy. Everywhere in this order: HTTP/1.1, HTTP/2, opaque bytes, metrics.
struct Side {
    workers: usize,
    /// Descriptors of the sockets that it listens on.
    sockets: [i32; 4],
    /// Where it sends what arrives.
    next: [SocketAddr; 3],
}

/// Takes the workload's calls in plaintext, and sends them to the service's side over mTLS.
fn caller_side(side: &Side, pki: &Pki, between: Between) -> String {
    let Side { sockets: [http1, http2, tcp, metrics], next, .. } = side;
    let tls = format!(
        "ssl crt {} ca-file {} verify required verifyhost {}",
        pki.caller.display(),
        pki.ca.display(),
        SERVICE.dns
    );
    // POST and its like are not sent again; what has not been sent at all is in any case.
    let retries = "  retries 2\n  \
                   retry-on conn-failure empty-response 503\n  \
                   http-request disable-l7-retry unless METH_GET\n";
    let host = format!("  http-request deny deny_status 404 unless {{ hdr(host) -m str {} }}\n", SERVICE.dns);
    let mut text = preamble(side.workers, *metrics);
    for (name, socket, bind, between, next) in
        [("http1", http1, "", between, next[0]), ("http2", http2, " proto h2", Between::Http2, next[1])]
    {
        let alpn = between.alpn();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "frontend {name}\n  bind fd@{socket}{bind}\n{host}  default_backend {name}\n\
             backend {name}\n  http-reuse always\n{retries}  server peer {next} {tls} alpn {alpn}\n"
        );
    }
    let _ = write!(
        text,
        "frontend tcp\n  mode tcp\n  bind fd@{tcp}\n  default_backend tcp\n\
         backend tcp\n  mode tcp\n  server peer {} {tls}\n",
        next[2]
    );
    text
}

/// Takes calls over mTLS from the one caller that may, and sends them to the applications in plaintext.
fn service_side(side: &Side, pki: &Pki, between: Between) -> String {
    let Side { sockets: [http1, http2, tcp, metrics], next, .. } = side;
    let tls = format!("ssl crt {} ca-file {} verify required", pki.service.display(), pki.ca.display());
    let allowed = format!("{{ ssl_c_s_dn(cn) -m str {} }}", CALLER.dns);
    let mut text = preamble(side.workers, *metrics);
    for (name, socket, between, server, next) in
        [("http1", http1, between, "", next[0]), ("http2", http2, Between::Http2, " proto h2", next[1])]
    {
        let alpn = between.alpn();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "frontend {name}\n  bind fd@{socket} {tls} alpn {alpn}\n  \
               http-request deny unless {allowed}\n  default_backend {name}\n\
             backend {name}\n  http-reuse always\n  server application {next}{server}\n"
        );
    }
    let _ = write!(
        text,
        "frontend tcp\n  mode tcp\n  bind fd@{tcp} {tls}\n  \
           tcp-request content reject unless {allowed}\n  default_backend tcp\n\
         backend tcp\n  mode tcp\n  server application {}\n",
        next[2]
    );
    text
}

/// As many connections as Outrigger takes by default, if HAProxy may open a file for each end of each: otherwise it
/// does not start.
fn connections() -> u64 {
    const OF_ITS_OWN: u64 = 100;
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    (files.saturating_sub(OF_ITS_OWN) / 2).min(10_000)
}

/// TLS 1.3 and nothing else, metrics, and no access log.
fn preamble(workers: usize, metrics: i32) -> String {
    let connections = connections();
    format!(
        "global\n  \
           nbthread {workers}\n  \
           maxconn {connections}\n  \
           ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
           ssl-default-server-options ssl-min-ver TLSv1.3\n\
         defaults\n  \
           mode http\n  \
           timeout connect 1s\n  \
           timeout client 1h\n  \
           timeout server 15s\n  \
           timeout http-request 10s\n  \
           timeout http-keep-alive 1h\n  \
           timeout tunnel 1h\n\
         frontend metrics\n  \
           bind fd@{metrics}\n  \
           http-request use-service prometheus-exporter if {{ path /metrics }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hop_between_the_two_is_authenticated_both_ways() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path()).unwrap();
        let next = ["127.0.0.1:7", "127.0.0.1:8", "127.0.0.1:9"].map(|next| next.parse().unwrap());
        let side = Side { workers: 1, sockets: [3, 4, 5, 6], next };
        let service = service_side(&side, &pki, Between::Http1);
        for bind in service.lines().filter(|line| line.contains("bind fd@") && !line.contains("fd@6")) {
            assert!(bind.contains(" ssl ") && bind.contains("verify required"), "{bind}");
        }
        assert_eq!(service.matches("{ ssl_c_s_dn(cn) -m str caller.bench }").count(), 3, "{service}");
        let caller = caller_side(&side, &pki, Between::Http1);
        let servers: Vec<_> = caller.lines().filter(|line| line.contains("server peer")).collect();
        assert_eq!(servers.len(), 3);
        for (server, next) in servers.iter().zip(side.next) {
            assert!(server.contains("verify required verifyhost app.bench"), "{server}");
            assert!(server.contains(&next.to_string()), "{server}");
        }
    }

    #[test]
    fn both_sides_agree_on_what_is_between_them() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path()).unwrap();
        let next = ["127.0.0.1:7", "127.0.0.1:8", "127.0.0.1:9"].map(|next| next.parse().unwrap());
        let side = Side { workers: 1, sockets: [3, 4, 5, 6], next };
        let names = |text: &str| -> Vec<String> {
            text.lines().filter_map(|line| Some(line.split_once(" alpn ")?.1.to_owned())).collect()
        };
        for (between, expected) in [(Between::Http1, ["http/1.1", "h2"]), (Between::Http2, ["h2", "h2"])] {
            assert_eq!(names(&caller_side(&side, &pki, between)), expected);
            assert_eq!(names(&service_side(&side, &pki, between)), expected);
        }
    }

    #[test]
    fn a_bound_socket_has_a_port_and_is_there_for_a_child() {
        let sockets = Sockets::bind().unwrap();
        assert!(sockets.addresses().unwrap().iter().all(|address| address.port() > 0));
        let descriptor = format!("/proc/self/fd/{}", sockets.descriptors()[0]);
        let ours = std::fs::read_link(&descriptor).unwrap();
        // What the child has under this number is the very same socket, named by its inode.
        let child = Command::new("readlink").arg(&descriptor).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&child.stdout).trim(), ours.to_string_lossy());
    }
}
