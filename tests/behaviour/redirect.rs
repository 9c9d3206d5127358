//! Traffic that the kernel redirected goes to the service whose address it was meant for.
//!
//! Redirection needs a network namespace of its own and the right to change it: the test makes one and runs
//! itself again inside. Without that right it says so aloud and tests nothing.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use outrigger_tests::app::http::saying;
use outrigger_tests::app::tcp;
use outrigger_tests::raw::exchange;
use outrigger_tests::{Mesh, skip, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Addresses that exist in the namespace alone, as a cluster's virtual ones.
const API: &str = "10.96.0.10";
const DB: &str = "10.96.0.11";
const NAME: &str = "redirect::redirected_traffic_goes_to_the_service_it_was_meant_for";

/// A namespace that is gone with the value.
struct Namespace(String);

impl Namespace {
    fn make() -> Result<Self, String> {
        let name = format!("outrigger-{}", std::process::id());
        run("ip", &["netns", "add", &name])?;
        let namespace = Self(name);
        let inside = |args: &[&str]| {
            let all: Vec<_> = ["netns", "exec", &namespace.0].iter().chain(args).copied().collect();
            run("ip", &all)
        };
        inside(&["ip", "link", "set", "lo", "up"])?;
        for address in [API, DB] {
            inside(&["ip", "address", "add", &format!("{address}/32"), "dev", "lo"])?;
        }
        inside(&["iptables", "-w", "-t", "nat", "-L"])?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run("ip", &["netns", "delete", &self.0]);
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

#[tokio::test]
async fn redirected_traffic_goes_to_the_service_it_was_meant_for() {
    if TcpListener::bind((API, 0)).is_ok() {
        return inside().await;
    }
    let namespace = match Namespace::make() {
        Ok(namespace) => namespace,
        Err(why) => {
            let need = "run as root, with iproute2 and iptables";
            skip("redirected traffic", &format!("no network namespace to redirect it in: {why} ({need})"));
            return;
        }
    };
    let test = std::env::current_exe().unwrap();
    let child = tokio::process::Command::new("ip")
        .args(["netns", "exec", &namespace.0])
        .arg(test)
        .args(["--exact", NAME, "--nocapture"])
        .kill_on_drop(true)
        .output();
    let output = soon("the test inside the namespace", child).await.unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

async fn inside() {
    let addressed = |name: &str, address: &str, port: u16| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{clusterIP: {address}, ports: [{{name: main, port: {port}}}]}}\n---\n"
        )
    };
    let mesh = Mesh::builder()
        .policy(&(addressed("api", API, 80) + &addressed("db", DB, 5432)))
        .service("api", saying("redirected"))
        .service("db", tcp::echo())
        .on_port(5432)
        .client("web")
        .start()
        .await;
    let outbound = mesh.client("web").proxy().port().to_string();
    for address in [API, DB] {
        let rule =
            ["-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", address, "-j", "REDIRECT", "--to-ports"];
        let rule: Vec<_> = rule.into_iter().chain([outbound.as_str()]).collect();
        run("iptables", &rule).unwrap();
    }
    // The Host is for the application to understand; where traffic was redirected, the address decides.
    let api: SocketAddr = format!("{API}:80").parse().unwrap();
    let answer = soon(
        "the answer",
        exchange(api, b"GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n"),
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("redirected"),
        "{answer}\n{}",
        mesh.explain().await
    );
    let seen = &mesh.instance("api", 0).record().seen()[0];
    assert_eq!(seen.header("host"), "www.example.com");

    let mut db = TcpStream::connect((DB, 5432)).await.unwrap();
    db.write_all(b"opaque").await.unwrap();
    db.shutdown().await.unwrap();
    let mut back = Vec::new();
    soon("the echo", db.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back, b"opaque");
}
