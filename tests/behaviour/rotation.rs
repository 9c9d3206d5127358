//! Certificates, the issuer and the root are replaced while traffic flows, and nobody notices.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Duration;

use outrigger_tests::app::http::saying;
use outrigger_tests::credentials::serial_of;
use outrigger_tests::raw::tls;
use outrigger_tests::{Load, Mesh, eventually, within};
use rustls_pki_types::CertificateDer;

async fn mesh(ttl: Duration) -> Mesh {
    Mesh::builder().svid_ttl(ttl).service("api", saying("well")).instances(2).client("web").start().await
}

/// What the proxy of `api` presents now.
async fn presented(mesh: &Mesh, number: usize) -> Vec<CertificateDer<'static>> {
    let inbound = mesh.instance("api", number).sidecar().inbound;
    let stream =
        tls(inbound, "p80.api.shop.outrigger", None, &[b"http/1.1"]).await.expect("it presents itself first");
    stream.get_ref().1.peer_certificates().expect("a server has a certificate").to_vec()
}

#[tokio::test]
async fn certificates_of_seconds_rotate_under_load_with_no_failed_request() {
    let mesh = mesh(Duration::from_secs(4)).await;
    let load = Load::start(&mesh.client("web"), "http://api/", 100);
    let serials = RefCell::new(HashSet::new());
    within(Duration::from_secs(60), "five certificates come and go", || async {
        let leaf = presented(&mesh, 0).await.remove(0);
        serials.borrow_mut().insert(serial_of(&leaf));
        let seen = serials.borrow().len();
        if seen >= 5 { Ok(()) } else { Err(format!("{seen} seen")) }
    })
    .await;
    load.stop().await.assert_nothing_lost(300);
}

#[tokio::test]
async fn each_certificate_has_a_new_key() {
    let mesh = mesh(Duration::from_secs(3)).await;
    let first = presented(&mesh, 0).await.remove(0);
    let second = eventually("a new certificate", || async {
        let now = presented(&mesh, 0).await.remove(0);
        if serial_of(&now) == serial_of(&first) { Err("the same") } else { Ok(now) }
    })
    .await;
    assert_ne!(public_key(&first), public_key(&second));
}

fn public_key(certificate: &CertificateDer<'_>) -> Vec<u8> {
    use x509_parser::prelude::FromDer as _;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).unwrap();
    certificate.public_key().raw.to_vec()
}

async fn rotate(mesh: &Mesh, what: &str) {
    let answer = mesh.api("POST", &format!("/v1/certificates/rotate?what={what}"), "").await;
    assert!(answer.status.is_success(), "{}", answer.text());
}

#[tokio::test]
async fn the_issuer_is_replaced_under_load() {
    let mesh = mesh(Duration::from_secs(4)).await;
    let load = Load::start(&mesh.client("web"), "http://api/", 100);
    let before = presented(&mesh, 0).await.remove(1);
    rotate(&mesh, "issuer").await;
    eventually("both instances present a chain of the new issuer", || async {
        for number in [0, 1] {
            if presented(&mesh, number).await.remove(1) == before {
                return Err(format!("api-{number} does not"));
            }
        }
        Ok(())
    })
    .await;
    load.stop().await.assert_nothing_lost(50);
}

#[tokio::test]
async fn the_root_is_replaced_under_load_without_a_restart() {
    let mesh = mesh(Duration::from_secs(4)).await;
    let web = mesh.client("web");
    let load = Load::start(&web, "http://api/", 100);
    let roots = |status: &serde_json::Value| -> Vec<String> {
        let all = status["roots"].as_array().expect("roots are listed").iter();
        all.map(|r| r["fingerprint"].as_str().unwrap().to_owned()).collect()
    };
    let old = roots(&mesh.show("/v1/certificates").await).remove(0);
    rotate(&mesh, "root").await;
    within(Duration::from_secs(60), "the new root alone is left", || async {
        let status = mesh.show("/v1/certificates").await;
        let now = roots(&status);
        if now.len() == 1 && now[0] != old { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    // New connections as well as old ones are trusted, from a proxy that came before and one that comes after.
    let mut mesh = mesh;
    let late = mesh.join_client("late", &[]).await;
    assert_eq!(late.get("http://api/").await.status, 200);
    assert_eq!(web.fresh().get("http://api/").await.status, 200);
    load.stop().await.assert_nothing_lost(100);
}

#[tokio::test]
async fn the_expiry_is_a_metric() {
    let mesh = mesh(Duration::from_secs(3600)).await;
    let expiry = mesh.metrics("web").await.sum("outrigger_certificate_expiry_timestamp_seconds", &[]);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((expiry - now) > 1800.0 && (expiry - now) <= 3602.0, "{} s left", expiry - now);
}
