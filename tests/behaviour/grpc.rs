//! gRPC by tonic, which knows nothing of the mesh: every kind of call, statuses, metadata, deadlines.

use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use outrigger_tests::app::grpc::{TalkClient, Words, talk, words};
use outrigger_tests::app::http::full;
use outrigger_tests::{Mesh, eventually, soon};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::documents::{limits, policy, route};

pub(crate) async fn call(mesh: &Mesh, authority: &str) -> TalkClient<Channel> {
    let proxy: SocketAddr = mesh.client("web").proxy();
    let connector = tower::service_fn(move |_| async move {
        Ok::<_, std::io::Error>(TokioIo::new(TcpStream::connect(proxy).await?))
    });
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).unwrap();
    TalkClient::new(endpoint.connect_with_connector(connector).await.expect("the proxy accepts HTTP/2"))
}

async fn talking() -> Mesh {
    Mesh::builder().service("talk", talk()).client("web").start().await
}

#[tokio::test]
async fn a_unary_call_is_answered() {
    let mesh = talking().await;
    let mut talk = call(&mesh, "talk.shop").await;
    let mut request = Request::new(words("hello"));
    request.metadata_mut().insert("x-colour", "green".parse().unwrap());
    request.metadata_mut().insert_bin("x-key-bin", tonic::metadata::MetadataValue::from_bytes(&[0, 1, 255]));
    let answer = soon("the answer", talk.say(request)).await.expect("the call succeeds");
    assert_eq!(answer.metadata().get("seen-x-colour").unwrap(), "green");
    assert!(answer.metadata().get("seen-x-key-raw").is_some(), "{:?}", answer.metadata());
    assert_eq!(answer.into_inner().text, "hello");
}

#[tokio::test]
async fn a_client_stream_is_gathered() {
    let mesh = talking().await;
    let mut talk = call(&mesh, "talk.shop").await;
    let messages = (0..1000).map(|i| words(&i.to_string())).collect::<Vec<_>>();
    let answer = soon("the answer", talk.gather(tokio_stream::iter(messages))).await.unwrap().into_inner();
    assert_eq!(answer.count, 1000);
    assert!(answer.text.starts_with("0 1 2 3 ") && answer.text.ends_with(" 999"), "{}", answer.text);
}

#[tokio::test]
async fn a_server_stream_comes_message_by_message() {
    let mesh = talking().await;
    let mut talk = call(&mesh, "talk.shop").await;
    let request = Words { text: "verse".to_owned(), count: 1000, ..Words::default() };
    let mut stream = talk.recite(request).await.unwrap().into_inner();
    for expected in 0..1000 {
        let message = soon("a message", stream.message()).await.unwrap().expect("no message is missing");
        assert_eq!(message.count, expected);
    }
    assert!(soon("the end", stream.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn both_sides_stream_in_turn() {
    let mesh = talking().await;
    let mut talk = call(&mesh, "talk.shop").await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(words("0")).await.unwrap();
    let mut answers = talk.converse(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    for turn in 0..100 {
        let answer = soon("the answer", answers.message()).await.unwrap().expect("the stream is open");
        assert_eq!(answer.text, turn.to_string(), "an answer comes before the next question is asked");
        sender.send(words(&(turn + 1).to_string())).await.unwrap();
    }
    drop(sender);
    assert_eq!(soon("the last", answers.message()).await.unwrap().unwrap().text, "100");
    assert!(soon("the end", answers.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_status_with_its_message_passes_unchanged() {
    let mesh = talking().await;
    let mut talk = call(&mesh, "talk.shop").await;
    let request = Words { fail: Code::FailedPrecondition as u32, ..Words::default() };
    let status = talk.say(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "as you wish: grün"));
    let request = Words { count: 10, fail: Code::DataLoss as u32, ..Words::default() };
    let mut stream = talk.recite(request).await.unwrap().into_inner();
    for _ in 0..5 {
        stream.message().await.unwrap().unwrap();
    }
    let status = stream.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "half way"));
}

#[tokio::test]
async fn large_messages_pass() {
    let mesh = talking().await;
    let mut talk = call(&mesh, "talk.shop").await;
    let payload = vec![7; 3 << 20];
    let request = Words { payload: payload.clone(), ..Words::default() };
    assert_eq!(soon("the answer", talk.say(request)).await.unwrap().into_inner().payload, payload);
}

#[tokio::test]
async fn a_proxys_own_failure_is_a_grpc_status() {
    let mesh = talking().await;
    let status = call(&mesh, "nobody.shop").await.say(words("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert_eq!(status.metadata().get("outrigger-error").unwrap(), "no-route; by=outbound", "{status:?}");
}

#[tokio::test]
async fn over_a_rate_limit_a_call_is_told_that_its_resource_is_exhausted() {
    let limit = limits("talk", "- {name: slow, requests: 1, per: 1h}");
    let mesh = Mesh::builder().service("talk", talk()).client("web").policy(&limit).start().await;
    let mut talk = call(&mesh, "talk.shop").await;
    assert!(talk.say(words("in time")).await.is_ok());
    let status = talk.say(words("too often")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().starts_with("rate-limited: "), "{status:?}");
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let again = outrigger_tests::request("POST", "http://talk.shop/talk.v1.Talk/Say", &headers, full(""));
    let answer = mesh.client("web").http2().answer(again).await;
    // Trailers only: the status is in the head, which HTTP calls a success, and there is no body.
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, "8"), "{answer:?}");
    assert_eq!((answer.failure(), answer.text().as_str()), ("rate-limited; by=inbound", ""), "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/grpc");
    assert_eq!(answer.header("ratelimit-policy"), "\"slow\";q=1;w=3600");
    let wait: u64 = answer.header("retry-after").parse().expect("it says when to come again");
    assert!((1..=3600).contains(&wait), "{wait}");
    assert_eq!(mesh.attempts("talk"), 1);
    let labels = [("direction", "inbound"), ("grpc_status", "8"), ("error", "rate-limited")];
    assert_eq!(mesh.metrics("talk").await.sum("outrigger_requests_total", &labels), 2.0);
}

#[tokio::test]
async fn a_deadline_is_kept_and_passed_on_shorter() {
    let mesh = talking().await;
    let mut talk = call(&mesh, "talk.shop").await;
    let mut request = Request::new(words("quick"));
    request.set_timeout(Duration::from_secs(5));
    let answer = talk.say(request).await.unwrap();
    let seen = answer.metadata().get("seen-grpc-timeout").expect("the deadline travels").to_str().unwrap();
    assert!(timeout_of(seen) <= Duration::from_secs(5), "{seen} is more than was given");
    assert!(timeout_of(seen) > Duration::from_secs(2), "{seen} is much less than was given");

    // By hand and not by tonic, whose own clock would end the call first.
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "200m")];
    let slow = Words { delay_ms: 20_000, ..Words::default() };
    let message = slow.encode_to_vec();
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let call = outrigger_tests::request("POST", "http://talk.shop/talk.v1.Talk/Say", &headers, full(body));
    let answer = mesh.client("web").http2().answer(call).await;
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, "4"), "{answer:?}");
    assert_eq!(answer.failure(), "deadline; by=outbound");
}

/// RFC-less, see gRPC over HTTP/2: at most 8 digits and a unit.
fn timeout_of(text: &str) -> Duration {
    let (digits, unit) = text.split_at(text.len() - 1);
    let number: u64 = digits.parse().unwrap_or_else(|_| panic!("{text:?} is no grpc-timeout"));
    assert!(digits.len() <= 8, "{text:?} has more than 8 digits");
    match unit {
        "H" => Duration::from_secs(3600 * number),
        "M" => Duration::from_secs(60 * number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => panic!("{text:?} has no unit"),
    }
}

#[tokio::test]
async fn a_status_in_the_trailers_is_retried_where_policy_says_so() {
    let policies = policy("talk", "defaults: {retry: {attempts: 3, grpcCodes: [14], nonIdempotent: true}}");
    let mesh = Mesh::builder().service("talk", talk()).client("web").policy(&policies).start().await;
    let mut talk = call(&mesh, "talk.shop").await;
    // Fails with UNAVAILABLE until two came before.
    let answer = talk.say(Words { count: 2, ..Words::default() }).await;
    assert!(answer.is_ok(), "{answer:?} {}", mesh.explain().await);
    assert_eq!(mesh.attempts("talk"), 3);
}

#[tokio::test]
async fn an_http_route_serves_grpc() {
    let rules = "- matches: [{path: {value: /talk.v1.Talk/Say}}]\n  backendRefs: [{name: talk, port: 80}]";
    let mesh = Mesh::builder()
        .service("talk", talk())
        .client("web")
        .policy(&route("say", "talk", rules))
        .start()
        .await;
    let mut talk = call(&mesh, "talk.shop").await;
    assert_eq!(talk.say(words("hi")).await.unwrap().into_inner().text, "hi");
    let status = talk.recite(words("hi")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "what no rule matches is refused: {status:?}");
}

#[tokio::test]
async fn a_cancelled_call_ends_at_the_application() {
    let mesh = talking().await;
    let mut talk = call(&mesh, "talk.shop").await;
    let request = Words { count: 1_000_000, delay_ms: 5, ..Words::default() };
    let mut stream = talk.recite(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    // The connection lives on for other calls.
    assert_eq!(talk.say(words("still here")).await.unwrap().into_inner().text, "still here");
}

/// A GRPCRoute of `talk` with one rule, of these fields beside its backend.
fn talk_route(fields: &str) -> String {
    route("talk", "talk", &format!("- backendRefs: [{{name: talk, port: 80}}]\n  {fields}"))
        .replace("kind: HTTPRoute", "kind: GRPCRoute")
}

#[tokio::test]
async fn a_mirror_of_a_grpc_route_gets_each_call_once_and_its_answer_goes_nowhere() {
    let filter = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]";
    let mesh = Mesh::builder()
        .service("talk", talk())
        .service("shadow", talk())
        .client("web")
        .policy(&talk_route(filter))
        .start()
        .await;
    let mut talk = call(&mesh, "talk.shop").await;
    for turn in 0..5 {
        let answer = soon("the answer", talk.say(words(&turn.to_string()))).await.unwrap().into_inner();
        assert_eq!(answer.text, turn.to_string());
    }
    eventually("the copies arrive", || async {
        let got = mesh.attempts("shadow");
        if got == 5 { Ok(()) } else { Err(format!("{got} of 5")) }
    })
    .await;
    assert_eq!(mesh.attempts("talk"), 5);
    let answered = || async {
        let metrics = mesh.metrics("web").await;
        let answered = metrics.sum("outrigger_mirrors_total", &[("result", "answered")]);
        if answered == 5.0 { Ok(()) } else { Err(format!("{answered} of 5 are answered")) }
    };
    eventually("the copies are answered", answered).await;
}

#[tokio::test]
async fn a_session_of_a_grpc_route_keeps_a_client_where_it_was() {
    let session = "sessionPersistence: {type: Header, sessionName: x-session}";
    let mesh = Mesh::builder()
        .service("talk", talk())
        .instances(3)
        .client("web")
        .policy(&talk_route(session))
        .start()
        .await;
    let mut talk = call(&mesh, "talk.shop").await;
    let first = talk.say(words("hello")).await.unwrap();
    let token = first.metadata().get("x-session").expect("the answer carries a token").clone();
    let counts = || mesh.instances_of("talk").map(|one| one.record().attempts()).collect::<Vec<_>>();
    let before = counts();
    let home = before.iter().position(|count| *count == 1).expect("one instance has answered");
    for _ in 0..9 {
        let mut request = Request::new(words("again"));
        request.metadata_mut().insert("x-session", token.clone());
        talk.say(request).await.unwrap();
    }
    let mut expected = before;
    expected[home] += 9;
    assert_eq!(counts(), expected, "every call of the session goes to the same instance");
}
