use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertifiedIssuer, Issuer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};

use super::*;
use crate::clock::ManualClock;
use crate::leaf::LeafError;
use crate::testing::{
    Forge, HOUR, HandshakeError, as_io_error, ca_params, domain, id, leaf_params, new_key, noon, shake_hands,
    uri,
};

const ALPN: &[&[u8]] = &[b"h2"];

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(noon()))
}

fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> (ClientConnection, ServerConnection) {
    let name = ServerName::try_from("p80.payments.shop.outrigger").unwrap();
    let client = ClientConnection::new(Arc::clone(client), name).unwrap();
    (client, ServerConnection::new(Arc::clone(server)).unwrap())
}

fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<(), HandshakeError> {
    let (mut client, mut server) = connect(client, server);
    shake_hands(&mut client, &mut server)
}

/// What the client, or the server, found wrong with the other's certificate.
fn refused_by_client(result: Result<(), HandshakeError>) -> VerifyError {
    let Err(HandshakeError::Client(error)) = result else { panic!("the client did not refuse: {result:?}") };
    let error = as_io_error(error);
    assert!(is_identity_error(&error));
    verify_error(&error).unwrap().clone()
}

fn refused_by_server(result: Result<(), HandshakeError>) -> VerifyError {
    let Err(HandshakeError::Server(error)) = result else { panic!("the server did not refuse: {result:?}") };
    assert!(is_identity_error(&error));
    verify_error(&error).unwrap().clone()
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let forge = Forge::new();
    let bundle = forge.bundle();
    let client = client_config(&forge.svid("web"), &bundle, ALPN, clock());
    let server = server_config(&forge.svid("payments"), &bundle, ALPN, ClientAuth::Required, clock());
    let (mut client, mut server) = connect(&client, &server);
    shake_hands(&mut client, &mut server).unwrap();
    assert_eq!(peer_identity(client.peer_certificates()), Some(id("payments")));
    assert_eq!(peer_identity(server.peer_certificates()), Some(id("web")));
    assert_eq!(peer_leaf(client.peer_certificates()).unwrap().not_after(), noon() + HOUR);
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full), "the first key share was the right one");
    assert_eq!(server.alpn_protocol(), Some(ALPN[0]));
}

#[test]
fn a_server_of_another_mesh_is_refused() {
    let (ours, theirs) = (Forge::new(), Forge::new());
    let client = client_config(&ours.svid("web"), &ours.bundle(), ALPN, clock());
    let server =
        server_config(&theirs.svid("payments"), &theirs.bundle(), ALPN, ClientAuth::Required, clock());
    assert_eq!(refused_by_client(shake(&client, &server)), VerifyError::Signature);
}

#[test]
fn a_client_of_another_mesh_is_refused() {
    let (ours, theirs) = (Forge::new(), Forge::new());
    // It trusts our server, which is more than an honest stranger would.
    let client = client_config(&theirs.svid("web"), &ours.bundle(), ALPN, clock());
    for clients in [ClientAuth::Required, ClientAuth::Optional] {
        let server = server_config(&ours.svid("payments"), &ours.bundle(), ALPN, clients, clock());
        assert_eq!(refused_by_server(shake(&client, &server)), VerifyError::Signature, "{clients:?}");
    }
}

#[test]
fn the_refused_client_can_tell_why() {
    let (ours, theirs) = (Forge::new(), Forge::new());
    let client = client_config(&theirs.svid("web"), &ours.bundle(), ALPN, clock());
    let server = server_config(&ours.svid("payments"), &ours.bundle(), ALPN, ClientAuth::Required, clock());
    let (mut client, mut server) = connect(&client, &server);
    assert!(shake_hands(&mut client, &mut server).is_err());
    let mut wire = Vec::new();
    server.write_tls(&mut wire).unwrap();
    client.read_tls(&mut wire.as_slice()).unwrap();
    let error = client.process_new_packets().unwrap_err();
    assert!(matches!(error, rustls::Error::AlertReceived(_)), "{error:?}");
    assert!(is_identity_error(&error));
    assert_eq!(verify_error(&error), None, "the reason is the server's to tell");
}

#[test]
fn a_client_without_certificate_is_refused_unless_it_may_join() {
    let forge = Forge::new();
    let anonymous = Arc::new(
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(
                forge.bundle(),
                Expected::Anybody,
            )))
            .with_no_client_auth(),
    );
    let mut anonymous = Arc::unwrap_or_clone(anonymous);
    anonymous.time_provider = time_provider(clock());
    let anonymous = Arc::new(anonymous);
    let server = |clients| server_config(&forge.svid("payments"), &forge.bundle(), &[], clients, clock());
    let error = shake(&anonymous, &server(ClientAuth::Required)).unwrap_err();
    let HandshakeError::Server(error) = error else { panic!("{error:?}") };
    assert_eq!(error, rustls::Error::NoCertificatesPresented);
    assert!(is_identity_error(&error));
    let (mut client, mut server) = connect(&anonymous, &server(ClientAuth::Optional));
    shake_hands(&mut client, &mut server).unwrap();
    assert_eq!(peer_identity(server.peer_certificates()), None);
}

#[test]
fn expired_and_early_certificates_are_refused_by_the_clock_of_the_configuration() {
    let forge = Forge::valid_between(noon() - 9 * HOUR, noon() + 9 * HOUR);
    for (then, expected) in [
        (noon() + 2 * HOUR, VerifyError::Expired { not_after: noon() + HOUR }),
        (noon() - 2 * HOUR, VerifyError::NotYetValid { not_before: noon() - HOUR }),
    ] {
        let late: Arc<dyn Clock> = Arc::new(ManualClock::new(then));
        let (web, payments, bundle) = (forge.svid("web"), forge.svid("payments"), forge.bundle());
        let client = client_config(&web, &bundle, ALPN, Arc::clone(&late));
        let server = server_config(&payments, &bundle, ALPN, ClientAuth::Required, clock());
        assert_eq!(refused_by_client(shake(&client, &server)), expected);
        let client = client_config(&web, &bundle, ALPN, clock());
        let server = server_config(&payments, &bundle, ALPN, ClientAuth::Required, late);
        assert_eq!(refused_by_server(shake(&client, &server)), expected);
    }
}

#[test]
fn the_expected_server_is_the_only_one() {
    let forge = Forge::new();
    let (web, bundle) = (forge.svid("web"), forge.bundle());
    let server = server_config(&forge.svid("payments"), &bundle, ALPN, ClientAuth::Required, clock());
    let right = client_config_expecting(&web, &bundle, &id("payments"), ALPN, clock());
    shake(&right, &server).unwrap();
    let wrong = client_config_expecting(&web, &bundle, &id("orders"), ALPN, clock());
    assert_eq!(
        refused_by_client(shake(&wrong, &server)),
        VerifyError::Identity { expected: id("orders"), presented: id("payments") }
    );
}

/// A control plane whose chain is leaf, issuer, root, and another root that has no part in it.
fn control_plane(forge: &Forge, name: &SpiffeId) -> Svid {
    let mut params = ca_params("issuer", noon() - HOUR, noon() + HOUR);
    params.is_ca = rcgen::IsCa::Ca(BasicConstraints::Constrained(0));
    let issuer = CertifiedIssuer::signed_by(params, new_key(), &forge.root).unwrap();
    let key = new_key();
    let mut params = leaf_params("x");
    params.subject_alt_names = vec![uri(name.as_str())];
    let signer: &Issuer<'_, _> = &issuer;
    let leaf = params.signed_by(&key, signer).unwrap();
    let stranger = Forge::new();
    let chain = [leaf.der(), issuer.der(), forge.root.der(), stranger.root.der()];
    Svid::new(chain.into_iter().cloned().collect(), key.serialize_der().into()).unwrap()
}

#[test]
fn a_fingerprint_alone_finds_the_right_control_plane() {
    let forge = Forge::new();
    let name = SpiffeId::control_plane(&domain());
    let svid = control_plane(&forge, &name);
    let serve = |svid: &Svid| server_config(svid, &forge.bundle(), ALPN, ClientAuth::Optional, clock());
    let pinned = |root: &[u8]| pinned_client_config(Fingerprint::of(root), ALPN, clock());
    shake(&pinned(forge.root.der()), &serve(&svid)).unwrap();

    let other = Forge::new();
    let fingerprint = Fingerprint::of(other.root.der());
    assert_eq!(
        refused_by_client(shake(&pinned(other.root.der()), &serve(&svid))),
        VerifyError::PinnedRoot(fingerprint)
    );
    // The right root goes along, but did not sign: anybody can send a public certificate.
    let impostor = control_plane(&other, &name);
    let mut certified = CertifiedKey::clone(&impostor.certified_key());
    certified.cert.push(forge.root.der().clone());
    let impostor = impostor.forged(certified);
    refused_by_client(shake(&pinned(forge.root.der()), &serve(&impostor)));
    // A workload of the mesh is not its control plane.
    let workload = control_plane(&forge, &id("payments"));
    assert_eq!(
        refused_by_client(shake(&pinned(forge.root.der()), &serve(&workload))),
        VerifyError::Identity { expected: name.clone(), presented: id("payments") }
    );
    // The leaf's own fingerprint is not that of a root.
    assert!(matches!(
        refused_by_client(shake(&pinned(&svid.chain()[0]), &serve(&svid))),
        VerifyError::PinnedRoot(_)
    ));
    let expired: Arc<dyn Clock> = Arc::new(ManualClock::new(noon() + 2 * HOUR));
    let late = pinned_client_config(Fingerprint::of(forge.root.der()), ALPN, expired);
    assert!(matches!(refused_by_client(shake(&late, &serve(&svid))), VerifyError::Expired { .. }));
}

#[test]
fn a_workload_that_signs_is_refused() {
    let forge = Forge::new();
    let thief = forge.svid("web");
    let (leaf, key) = forge.leaf(|_| {});
    let stolen_key = new_key();
    let stolen = leaf_params("payments")
        .signed_by(&stolen_key, &Issuer::from_ca_cert_der(&leaf, key).unwrap())
        .unwrap();
    let stolen = Svid::new(vec![stolen.der().clone(), leaf], stolen_key.serialize_der().into()).unwrap();
    let client = client_config(&thief, &forge.bundle(), ALPN, clock());
    let server = server_config(&stolen, &forge.bundle(), ALPN, ClientAuth::Required, clock());
    assert!(matches!(refused_by_client(shake(&client, &server)), VerifyError::Chain(_)));
}

#[test]
fn a_root_as_leaf_is_refused() {
    let forge = Forge::new();
    let root_key = PrivatePkcs8KeyDer::from(forge.root.key().serialize_der()).into();
    let root_key = aws_lc_rs::sign::any_ecdsa_type(&root_key).unwrap();
    let certified = CertifiedKey::new(vec![forge.root.der().clone()], root_key);
    let web = forge.svid("web");
    let server = forge.svid("payments").forged(certified);
    let client = client_config(&web, &forge.bundle(), ALPN, clock());
    let server = server_config(&server, &forge.bundle(), ALPN, ClientAuth::Required, clock());
    assert_eq!(refused_by_client(shake(&client, &server)), VerifyError::Leaf(LeafError::Ca));
}

#[test]
fn a_session_is_resumed_with_its_identity_and_not_for_long() {
    let forge = Forge::new();
    let bundle = forge.bundle();
    let time = ManualClock::new(noon());
    let shared = || -> Arc<dyn Clock> { Arc::new(time.clone()) };
    let client = client_config(&forge.svid("web"), &bundle, ALPN, shared());
    let server = server_config(&forge.svid("payments"), &bundle, ALPN, ClientAuth::Required, shared());
    let kind = || {
        let (mut client, mut server) = connect(&client, &server);
        shake_hands(&mut client, &mut server).unwrap();
        assert_eq!(peer_identity(server.peer_certificates()), Some(id("web")));
        assert_eq!(peer_identity(client.peer_certificates()), Some(id("payments")));
        server.handshake_kind().unwrap()
    };
    assert_eq!(kind(), HandshakeKind::Full);
    time.advance(Duration::from_secs(599));
    assert_eq!(kind(), HandshakeKind::Resumed);
    time.advance(Duration::from_secs(600));
    assert_eq!(kind(), HandshakeKind::Full, "ten minutes are over");
    // Another bundle or certificate is another configuration, which knows no sessions.
    let renewed = server_config(&forge.svid("payments"), &bundle, ALPN, ClientAuth::Required, shared());
    let (mut again, mut renewed) = connect(&client, &renewed);
    shake_hands(&mut again, &mut renewed).unwrap();
    assert_eq!(renewed.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn sessions_are_bounded_and_end_with_the_certificate() {
    use rustls::server::StoresServerSessions;

    let time = ManualClock::new(noon());
    let sessions = Sessions::new(2, &Forge::new().svid("web"), Arc::new(time.clone()));
    for key in [1, 2, 3] {
        assert!(sessions.put(vec![key], vec![key]));
    }
    assert_eq!(sessions.get(&[1]), None, "the oldest makes room");
    assert_eq!(sessions.take(&[2]), Some(vec![2]));
    assert_eq!(sessions.take(&[2]), None, "a session is resumed once");
    assert_eq!(sessions.get(&[3]), Some(vec![3]));
    time.set(noon() + HOUR - Duration::from_secs(1));
    assert!(sessions.put(vec![4], vec![4]) && sessions.can_cache());
    time.set(noon() + HOUR);
    assert_eq!(sessions.get(&[4]), None);
    assert!(!sessions.can_cache());
    assert!(!format!("{sessions:?}").contains("value"));
}

#[test]
fn other_errors_are_not_about_identity() {
    for error in
        [rustls::Error::AlertReceived(AlertDescription::HandshakeFailure), rustls::Error::General("x".into())]
    {
        assert!(!is_identity_error(&error), "{error}");
        assert!(!is_identity_error(&as_io_error(error)));
    }
    assert!(!is_identity_error(&io::Error::from(io::ErrorKind::ConnectionReset)));
    let at: SystemTime = noon();
    let nested = io::Error::other(as_io_error(refusal(VerifyError::Expired { not_after: at })));
    assert_eq!(verify_error(&nested), Some(&VerifyError::Expired { not_after: at }));
}
