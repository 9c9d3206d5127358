//! Starting, stopping and dying: no request is lost by a stop, nothing acknowledged by a death.

use std::time::Duration;

use outrigger_tests::app::http::{Reply, always, deciding, full};
use outrigger_tests::process::{Process, binary};
use outrigger_tests::raw::read_head;
use outrigger_tests::{Load, Mesh, eventually, request, soon};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::documents::{route, service};

#[tokio::test]
async fn sigterm_of_a_callee_under_load_loses_no_request() {
    let app = deciding(|_| Reply::text("x").after(Duration::from_millis(5)));
    let mut mesh = Mesh::builder().service("api", app).instances(3).as_process().client("web").start().await;
    let web = mesh.client("web");
    let load = Load::start(&web, "http://api/", 300);
    for number in [0, 1] {
        flowing(&load).await;
        mesh.instance_mut("api", number).drain().await;
    }
    flowing(&load).await;
    load.stop().await.assert_nothing_lost(150);
}

async fn flowing(load: &Load) {
    let seen = load.sent();
    eventually("traffic flows", || async { if load.sent() > seen + 50 { Ok(()) } else { Err("not yet") } })
        .await;
}

#[tokio::test]
async fn sigterm_lets_what_is_under_way_end() {
    let app = deciding(|_| Reply::text("at last").after(Duration::from_millis(1500)));
    let mut mesh = Mesh::builder().processes().service("api", app).client("web").start().await;
    let web = mesh.client("web");
    let asking = tokio::spawn(async move { web.get("http://api/").await });
    eventually("it is under way", || async {
        if mesh.attempts("api") == 1 { Ok(()) } else { Err("not yet") }
    })
    .await;
    for service in ["web", "api"] {
        mesh.instance_mut(service, 0).process().signal(Signal::TERM);
    }
    assert_eq!(soon("the answer", asking).await.unwrap().text(), "at last");
    for service in ["web", "api"] {
        let ended = mesh.instance_mut(service, 0).process().ended().await;
        assert_eq!(ended.code(), 0, "{ended:?}");
    }
}

#[tokio::test]
async fn a_drain_is_bounded() {
    let app = deciding(|_| Reply::hang());
    let mut mesh = Mesh::builder()
        .service("api", app)
        .client("web")
        .args(&["--drain-timeout", "1s"])
        .as_process()
        .start()
        .await;
    let web = mesh.client("web");
    let asking = tokio::spawn(async move { web.send(request("GET", "http://api/", &[], full(""))).await });
    eventually("it is under way", || async {
        if mesh.attempts("api") == 1 { Ok(()) } else { Err("not yet") }
    })
    .await;
    mesh.instance_mut("web", 0).process().signal(Signal::TERM);
    mesh.instance_mut("web", 0).process().ended().await;
    let lost = soon("the end", asking).await.unwrap();
    assert!(
        lost.is_err() || lost.is_ok_and(|a| a.failure().starts_with("draining")),
        "it is not left hanging"
    );
}

#[tokio::test]
async fn a_draining_proxy_is_not_ready_and_says_goodbye_to_idle_connections() {
    let mesh = Mesh::builder().service("api", always(200)).client("web").start().await;
    let admin = mesh.instance("web", 0).sidecar().admin;
    let mut idle = TcpStream::connect(mesh.client("web").proxy()).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n").await.unwrap();
    assert!(read_head(&mut idle).await.unwrap().starts_with("HTTP/1.1 200"));
    let answer = outrigger_tests::Client::via(admin).post(&format!("http://{admin}/drain"), full("")).await;
    assert!(answer.status.is_success(), "{answer:?}");
    let mut rest = Vec::new();
    soon("the idle connection ends", idle.read_to_end(&mut rest)).await.unwrap();
}

#[tokio::test]
async fn a_proxy_is_ready_only_when_it_can_serve() {
    let mut mesh = Mesh::builder().service("api", always(200)).start().await;
    let token = mesh.token_file("shop", "web").await.display().to_string();
    let control = mesh.control_address().to_string();
    mesh.kill_control_plane().await;
    let args =
        ["--namespace", "shop", "--service-account", "web", "--control-plane", &control, "--join-token-file"];
    let any = ["--outbound", "127.0.0.1:0", "--inbound", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let args: Vec<_> = args.into_iter().chain([token.as_str()]).chain(any).map(str::to_owned).collect();
    let mut proxy = Process::start("outrigger-proxy", &args, &[]);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(
        proxy.stdout().iter().all(|l| !l.contains("\"ready\"")),
        "it has no identity yet: {}",
        proxy.said()
    );
    mesh.start_control_plane().await;
    proxy.ready().await;
    let web = outrigger_tests::Client::via(proxy.address("outbound"));
    eventually("it serves", || async {
        let answer = web.get("http://api.shop/").await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_a_control_plane_killed_in_a_loop() {
    let mut mesh = Mesh::builder().start().await;
    mesh.stop_control_plane().await;
    mesh.start_control_plane_process().await;
    let mut acknowledged = Vec::new();
    let mut next = 0;
    for round in 0..8 {
        // One writer at a time, killed at whatever moment its writing is at; later with every round.
        let api = mesh.api_address();
        let token = std::fs::read_to_string(mesh.data_dir().join("admin.token")).unwrap();
        let authorization = format!("Bearer {}", token.trim());
        let writing = tokio::spawn(async move {
            let mut written = Vec::new();
            loop {
                let name = format!("service-{next}");
                let headers =
                    [("authorization", authorization.as_str()), ("content-type", "application/yaml")];
                let url = format!("http://{api}/v1/apply");
                let put = request("POST", &url, &headers, full(service(&name)));
                next += 1;
                match outrigger_tests::Client::via(api).send(put).await {
                    Ok(answer) if answer.status == 200 => written.push(name),
                    Ok(answer) => panic!("{}", answer.text()),
                    Err(_) => return (written, next),
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(40 + 25 * round)).await;
        mesh.kill_control_plane().await;
        let (written, reached) = soon("the writer notices", writing).await.unwrap();
        acknowledged.extend(written);
        next = reached;
        mesh.start_control_plane_process().await;
        let kept = mesh.list("/v1/namespaces/shop/services").await;
        let kept: Vec<_> = kept.iter().map(|s| s["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        for name in &acknowledged {
            assert!(kept.contains(name), "{name} was acknowledged and is gone; {} are kept", kept.len());
        }
    }
    assert!(acknowledged.len() > 20, "only {} writes were acknowledged", acknowledged.len());
}

#[tokio::test]
async fn the_mesh_works_as_processes_from_end_to_end() {
    let mut mesh = Mesh::builder().start().await;
    mesh.stop_control_plane().await;
    mesh.start_control_plane_process().await;
    mesh.join("api", always(200), &[], true).await;
    let client = mesh.join_client("web", &[]).await;
    assert_eq!(client.get("http://api/").await.status, 200);
    mesh.apply(&route(
        "r",
        "api",
        "- matches: [{path: {value: /in}}]\n  backendRefs: [{name: api, port: 80}]",
    ))
    .await;
    eventually("the policy arrives", || async {
        let answer = client.get("http://api/out").await;
        if answer.status == 404 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    mesh.stop_control_plane().await;
}

#[tokio::test]
async fn a_port_in_use_is_said_and_not_waited_for() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data").display().to_string();
    let args =
        ["control-plane", "--data-dir", &data, "--api-listen", &address, "--proxy-listen", "127.0.0.1:0"];
    let ended = outrigger_tests::process::run("outrigger", &args, &[]).await;
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains(&address), "it says which address: {ended:?}");
}

#[tokio::test]
async fn run_starts_a_command_beside_a_proxy_and_exits_with_its_status() {
    let mesh = Mesh::builder().service("api", always(200)).start().await;
    let token = mesh.token_file("shop", "web").await.display().to_string();
    let control = mesh.control_address().to_string();
    let script = r#"test -n "$HTTP_PROXY" && exec 3<>/dev/tcp/${HTTP_PROXY#http://127.0.0.1:} ; exit 7"#;
    let script = script.replace("${HTTP_PROXY#http://127.0.0.1:}", "127.0.0.1/${HTTP_PROXY##*:}");
    let args = [
        "run",
        "--namespace",
        "shop",
        "--service-account",
        "web",
        "--control-plane",
        &control,
        "--join-token-file",
        &token,
        "--outbound",
        "127.0.0.1:0",
        "--inbound",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--",
        "bash",
        "-c",
        &script,
    ];
    let ended = outrigger_tests::process::run("outrigger", &args, &[]).await;
    assert_eq!(ended.code(), 7, "{ended:?}");
}

#[tokio::test]
async fn the_proxy_is_one_binary_that_needs_nothing_else() {
    for name in ["outrigger", "outrigger-proxy"] {
        let ended = outrigger_tests::process::run(name, &["--version"], &[]).await;
        assert_eq!(ended.code(), 0, "{ended:?}");
        assert!(ended.stdout.contains(env!("CARGO_PKG_VERSION")), "{ended:?}");
        assert!(binary(name).is_file());
    }
}
