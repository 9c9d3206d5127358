//! TCPRoute: whole connections, shared out by weight.

use std::collections::HashMap;

use outrigger_tests::app::tcp::greeting;
use outrigger_tests::{Mesh, soon};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{check, get, route_of};

/// `db-a` and `db-b` behind `echo`, which is opaque on 5432 and declares nothing of 7000.
async fn databases(port: u16, backends: &str) -> Mesh {
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: echo, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n"
    );
    let route = route_of(
        "TCPRoute",
        ("shop", "r"),
        &format!(", port: {port}"),
        &[&format!("{{backendRefs: [{backends}]}}")],
    );
    Mesh::builder()
        .service("db-a", greeting("a"))
        .on_port(port)
        .service("db-b", greeting("b"))
        .on_port(port)
        .client("web")
        .args(&["--listen", &format!("127.0.0.1:0=echo.shop:{port}"), "--detect-timeout", "100ms"])
        .policy(&(service + &route))
        .start()
        .await
}

/// The first byte of so many connections; `-` where it was closed without one.
async fn greetings(mesh: &Mesh, connections: usize) -> HashMap<char, usize> {
    let address = mesh.instance("web", 0).sidecar().listens[0];
    let mut counts = HashMap::new();
    for _ in 0..connections {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut first = [0];
        let read = soon("a greeting or the end", stream.read(&mut first)).await;
        let key = if matches!(read, Ok(1)) { char::from(first[0]) } else { '-' };
        *counts.entry(key).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn connections_are_shared_out_by_weight() {
    let mesh = databases(
        5432,
        "{name: db-a, port: 5432, weight: 3}, {name: db-b, port: 5432, weight: 1}, {name: db-a, port: 5432, weight: 0}",
    )
    .await;
    let counts = greetings(&mesh, 200).await;
    // Five standard deviations are 31.
    assert!((119..=181).contains(&counts[&'a']) && counts[&'a'] + counts[&'b'] == 200, "{counts:?}");
    assert_eq!(
        super::conditions(&mesh, "tcproutes", "r").await,
        ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]
    );
}

#[tokio::test]
async fn the_share_of_what_is_not_there_is_closed() {
    let mesh = databases(5432, "{name: db-a, port: 5432}, {name: nobody, port: 5432}").await;
    let counts = greetings(&mesh, 200).await;
    // Six standard deviations are 42.
    assert!((58..=142).contains(&counts[&'-']) && counts[&'a'] + counts[&'-'] == 200, "{counts:?}");
    assert_eq!(super::conditions(&mesh, "tcproutes", "r").await[1], "ResolvedRefs=False/BackendNotFound");
}

#[tokio::test]
async fn where_the_bytes_turn_out_opaque_it_holds_as_well() {
    // Nothing is declared: the silence of both sides is found out first.
    let mesh = databases(7000, "{name: db-b, port: 7000}").await;
    let counts = greetings(&mesh, 5).await;
    assert_eq!(counts.get(&'b'), Some(&5), "{counts:?}");
}

#[tokio::test]
async fn where_requests_are_read_it_holds_for_each_of_them() {
    let route = route_of("TCPRoute", ("shop", "r"), "", &["{backendRefs: [{name: echo-v2, port: 80}]}"]);
    let mesh = super::conformance(&route).await;
    check(&mesh, vec![get("http://echo/a").to("echo-v2"), get("http://echo:8080/").http2().to("echo-v2")])
        .await;
}
