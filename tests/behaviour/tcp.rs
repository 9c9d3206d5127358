//! What is not HTTP passes as it is: opaque bytes, both ways, each way ended by itself.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use outrigger_tests::app::http::echo as http_echo;
use outrigger_tests::app::{App, tcp};
use outrigger_tests::raw::read_head;
use outrigger_tests::{Mesh, eventually, skip, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;

/// A service `db` on this port, and a caller with a local port that leads to it.
async fn joined(port: u16, app: App) -> (Mesh, TcpStream) {
    let listen = format!("127.0.0.1:0=db.shop:{port}");
    let mesh = Mesh::builder()
        .service("db", app)
        .on_port(port)
        .client("web")
        .args(&["--listen", &listen])
        .start()
        .await;
    let stream = connect(&mesh).await;
    (mesh, stream)
}

async fn connect(mesh: &Mesh) -> TcpStream {
    TcpStream::connect(mesh.instance("web", 0).sidecar().listens[0]).await.expect("the local port listens")
}

#[tokio::test]
async fn each_side_can_end_its_half() {
    let (mesh, mut stream) = joined(5432, tcp::echo()).await;
    stream.write_all(b"one").await.unwrap();
    let mut three = [0; 3];
    soon("the echo", stream.read_exact(&mut three)).await.unwrap();
    stream.write_all(b" two").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("the other half's end", stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!((&three[..], &rest[..]), (&b"one"[..], &b" two"[..]), "{}", mesh.explain().await);
}

#[tokio::test]
async fn an_answer_may_come_after_the_callers_end() {
    // The application reads to the end before it says a word: without half-close it would never answer.
    let (_mesh, mut stream) = joined(5432, tcp::counting()).await;
    let sent = vec![b'x'; 3_000_000];
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    soon("the count", stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "3000000");
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let (_mesh, mut stream) = joined(3306, tcp::greeting("welcome\n")).await;
    let mut banner = [0; 8];
    soon("the banner", stream.read_exact(&mut banner)).await.unwrap();
    assert_eq!(&banner, b"welcome\n");
}

#[tokio::test]
async fn a_protocol_that_is_not_http_passes_on_an_ordinary_port() {
    let (_mesh, mut stream) = joined(7000, tcp::echo()).await;
    stream.write_all(b"\x01\x02not http at all\n").await.unwrap();
    let mut back = [0; 18];
    soon("the echo", stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"\x01\x02not http at all\n");
}

#[tokio::test]
async fn http_that_comes_byte_by_byte_is_still_http() {
    let (mesh, mut stream) = joined(7000, http_echo()).await;
    stream.set_nodelay(true).unwrap();
    for byte in b"GET /slowly HTTP/1.1\r\nHost: db\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await; // each its own packet
    }
    let head = soon("the answer", read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("x-path: /slowly"), "{head}");
    let seen = Arc::clone(&mesh.instance("db", 0).record().seen()[0]);
    assert_ne!(seen.header("x-request-id"), "", "it was served as HTTP, not as opaque bytes");
}

#[tokio::test]
async fn a_silent_caller_is_given_up_on_and_counted_and_still_served() {
    let listen = "127.0.0.1:0=db.shop:7000";
    let mesh = Mesh::builder()
        .service("db", tcp::echo())
        .on_port(7000)
        .args(&["--detect-timeout", "300ms"])
        .client("web")
        .args(&["--listen", listen, "--detect-timeout", "300ms"])
        .start()
        .await;
    let mut stream = connect(&mesh).await;
    eventually("detection gives up", || async {
        match mesh.metrics("web").await.sum("outrigger_detect_timeouts_total", &[]) {
            0.0 => Err("not counted"),
            _ => Ok(()),
        }
    })
    .await;
    stream.write_all(b"now then\n").await.unwrap();
    let mut back = [0; 9];
    soon("the echo", stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"now then\n");
}

#[tokio::test]
async fn large_streams_pass_both_ways_at_once() {
    let (_mesh, stream) = joined(5432, tcp::echo()).await;
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        for i in 0..256u32 {
            write.write_all(&[i as u8; 64 * 1024]).await.unwrap();
        }
        write.shutdown().await.unwrap();
    });
    let mut back = vec![0; 64 * 1024];
    for i in 0..256u32 {
        soon("the echo", read.read_exact(&mut back)).await.unwrap();
        assert!(back.iter().all(|&b| b == i as u8), "piece {i} came back changed");
    }
    assert_eq!(soon("the end", read.read(&mut back)).await.unwrap(), 0);
    sending.await.unwrap();
}

#[tokio::test]
async fn opaque_connections_are_counted_with_their_bytes_and_peer() {
    let (mesh, mut stream) = joined(5432, tcp::echo()).await;
    stream.write_all(b"12345").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    soon("the end", stream.read_to_end(&mut back)).await.unwrap();
    for (service, direction) in [("web", "outbound"), ("db", "inbound")] {
        eventually("the connection is counted", || async {
            let metrics = mesh.metrics(service).await;
            let labels =
                [("direction", direction), ("service", "db"), ("namespace", "shop"), ("tls", "true")];
            let closed = metrics.sum("outrigger_tcp_connections_closed_total", &labels);
            let read = metrics.sum("outrigger_tcp_read_bytes_total", &labels);
            let written = metrics.sum("outrigger_tcp_written_bytes_total", &labels);
            if (closed, read, written) == (1.0, 5.0, 5.0) {
                Ok(())
            } else {
                Err(metrics.lines("outrigger_tcp"))
            }
        })
        .await;
    }
}

#[tokio::test]
async fn an_opaque_port_with_nothing_behind_it_is_closed() {
    let (mut mesh, mut stream) = joined(5432, tcp::echo()).await;
    mesh.instance_mut("db", 0).drain().await;
    drop(stream.shutdown().await);
    let mut late = connect(&mesh).await;
    let mut nothing = Vec::new();
    let _ = late.write_all(b"hello").await;
    let _ = soon("the end", late.read_to_end(&mut nothing)).await;
    assert_eq!(nothing, b"", "no bytes are made up");
}

/// A real Redis on a socket file, and an application port that leads to it.
struct Redis {
    _server: tokio::process::Child,
    _directory: tempfile::TempDir,
    app: App,
}

impl Redis {
    async fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("redis.sock");
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(server) = server else {
            skip("a Redis session", "redis-server is not installed (apt-get install redis-server)");
            return None;
        };
        eventually("redis listens", || async { UnixStream::connect(&socket).await.map(drop) }).await;
        let app = bridge(&socket);
        Some(Self { _server: server, _directory: directory, app })
    }
}

fn bridge(socket: &Path) -> App {
    let socket = socket.to_owned();
    App::new(move |mut accepted| {
        let socket = socket.clone();
        async move {
            let Ok(mut redis) = UnixStream::connect(socket).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut accepted.stream, &mut redis).await;
        }
    })
}

#[tokio::test]
async fn a_redis_session_passes() {
    let Some(redis) = Redis::start().await else { return };
    let (_mesh, mut stream) = joined(6379, redis.app.clone()).await;
    let large = "v".repeat(100_000);
    let set = format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n${}\r\n{large}\r\n", large.len());
    // Pipelined: both commands before the first answer, and then the end of the caller's half.
    stream.write_all(format!("{set}*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    soon("both answers", stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, format!("+OK\r\n${}\r\n{large}\r\n", large.len()));
}

#[tokio::test]
async fn a_redis_client_of_its_own_talks_through_the_mesh() {
    let Some(redis) = Redis::start().await else { return };
    let (mesh, _) = joined(6379, redis.app.clone()).await;
    let port = mesh.instance("web", 0).sidecar().listens[0].port().to_string();
    let client = Command::new("redis-benchmark")
        .args(["-p", &port, "-n", "2000", "-c", "8", "-t", "set,get,lpush", "-q"])
        .output();
    match soon("redis-benchmark ends", client).await {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && said.contains("GET"), "{said} {output:?}");
        }
        Err(error) => {
            skip("a Redis client", &format!("redis-benchmark: {error} (apt-get install redis-tools)"))
        }
    }
}

/// A real PostgreSQL on a socket file, which refuses to run as root and so runs as nobody there.
struct Postgres {
    _server: tokio::process::Child,
    directory: tempfile::TempDir,
}

impl Postgres {
    /// `Err` says what is missing.
    async fn start() -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data").display().to_string();
        if rustix::process::geteuid().is_root() {
            let owned = Command::new("chown").args(["nobody", "--"]).arg(directory.path()).status().await;
            assert!(owned.is_ok_and(|status| status.success()), "root may give a directory away");
        }
        let initdb = ["-D", &data, "-U", "tester", "-A", "trust", "-N", "--locale=C", "-E", "UTF8"];
        let made = postgres_command("initdb", directory.path())?.args(initdb).output().await;
        let made = made.map_err(|error| format!("initdb: {error}"))?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let sockets = directory.path().display().to_string();
        let server = postgres_command("postgres", directory.path())?
            .args(["-D", &data, "-k", &sockets, "-c", "listen_addresses=", "-c", "fsync=off"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("postgres: {error}"))?;
        let socket = directory.path().join(".s.PGSQL.5432");
        eventually("postgres listens", || async { UnixStream::connect(&socket).await.map(drop) }).await;
        Ok(Self { _server: server, directory })
    }

    fn app(&self) -> App {
        bridge(&self.directory.path().join(".s.PGSQL.5432"))
    }
}

/// Debian keeps the server's programs out of the path, by version.
fn postgres_command(program: &str, directory: &Path) -> Result<Command, String> {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").map_err(|e| format!("/usr/lib/postgresql: {e}"))?;
    let programs = versions.flatten().map(|version| version.path().join("bin").join(program));
    let path = programs.filter(|path| path.exists()).max().ok_or(format!("{program} is not installed"))?;
    let mut command = match rustix::process::geteuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--clear-groups", "--regid=nogroup", "--"]).arg(path);
            command
        }
        false => Command::new(path),
    };
    command.current_dir(directory);
    Ok(command)
}

#[tokio::test]
async fn a_postgresql_client_of_its_own_talks_through_the_mesh() {
    let postgres = match Postgres::start().await {
        Ok(postgres) => postgres,
        Err(why) => return skip("a PostgreSQL session", &format!("{why} (apt-get install postgresql)")),
    };
    let (mesh, _) = joined(5432, postgres.app()).await;
    let port = mesh.instance("web", 0).sidecar().listens[0].port().to_string();
    let query = "CREATE TABLE t (n int, s text); INSERT INTO t SELECT n, repeat('x', 1000) \
                 FROM generate_series(1, 2000) n; SELECT count(*), sum(length(s)) FROM t; SELECT s FROM t";
    let arguments = ["-h", "127.0.0.1", "-p", &port, "-U", "tester", "-d", "postgres", "-At", "-c", query];
    let output = match soon("psql ends", Command::new("psql").args(arguments).output()).await {
        Ok(output) => output,
        Err(error) => {
            return skip(
                "a PostgreSQL client",
                &format!("psql: {error} (apt-get install postgresql-client)"),
            );
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("2000|2000000"), "{}", &said[..said.len().min(500)]);
    assert_eq!(said.lines().filter(|line| line.len() == 1000).count(), 2000, "every row comes whole");
}
