use std::collections::BTreeSet;
use std::process::Command;

use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use x509_parser::extensions::ParsedExtension;
use x509_parser::parse_x509_certificate;

use super::*;
use crate::clock::ManualClock;
use crate::testing::{domain, id, noon, shake_hands};
use crate::tls::{self, ClientAuth};
use crate::verify::Purpose;

const SECOND: Duration = Duration::from_secs(1);

/// Lives of minutes, so that a day holds many rotations.
fn brief() -> AuthoritySettings {
    AuthoritySettings {
        root_ttl: 640 * SECOND,
        issuer_ttl: 160 * SECOND,
        svid_ttl: 40 * SECOND,
        backdate: 60 * SECOND,
        ..AuthoritySettings::new(domain())
    }
}

struct Mesh {
    directory: TempDir,
    clock: ManualClock,
    authority: Option<Authority>,
}

impl Mesh {
    fn new() -> Self {
        let mut mesh = Self {
            directory: tempfile::tempdir().unwrap(),
            clock: ManualClock::new(noon()),
            authority: None,
        };
        mesh.restart(brief()).unwrap();
        mesh
    }

    fn restart(&mut self, settings: AuthoritySettings) -> Result<(), AuthorityError> {
        self.authority = None;
        let clock = Arc::new(self.clock.clone());
        self.authority = Some(Authority::open(self.directory.path(), settings, clock)?);
        Ok(())
    }

    fn authority(&self) -> &Authority {
        self.authority.as_ref().unwrap()
    }

    fn issue(&self, account: &str) -> Workload {
        let request = KeyRequest::generate(&id(account)).unwrap();
        let chain = self.authority().sign(request.csr_der(), &id(account)).unwrap();
        let bundle = self.authority().bundle();
        let svid = request.into_svid(chain.to_der(), &bundle, self.clock.now()).unwrap();
        Workload { svid, bundle }
    }

    fn root_phases(&self) -> Vec<RootPhase> {
        self.authority().status().roots.iter().filter_map(|root| root.phase).collect()
    }
}

/// A proxy that got its bundle together with its certificate and has heard nothing since.
#[derive(Clone)]
struct Workload {
    svid: Svid,
    bundle: TrustBundle,
}

impl Workload {
    fn trusts(&self, other: &Self, now: SystemTime) -> Result<SpiffeId, crate::verify::VerifyError> {
        self.bundle.verify(other.svid.chain(), now, Purpose::Server)
    }
}

#[test]
fn a_new_authority_signs_what_its_bundle_proves() {
    let mesh = Mesh::new();
    let workload = mesh.issue("payments");
    assert_eq!(*workload.svid.id(), id("payments"));
    assert_eq!(workload.svid.chain().len(), 2, "leaf and issuer");
    assert_eq!(workload.trusts(&workload, noon()), Ok(id("payments")));
    assert_eq!(workload.svid.not_after(), noon() + 40 * SECOND);
    assert_eq!(workload.svid.not_before(), noon() - 10 * SECOND, "a quarter of the life at most");
}

#[test]
fn a_leaf_says_exactly_what_an_identity_needs() {
    let mesh = Mesh::new();
    let workload = mesh.issue("payments");
    let (_, leaf) = parse_x509_certificate(&workload.svid.chain()[0]).unwrap();
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature alone");
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any && purposes.other.is_empty());
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "as it must be where the subject is empty");
    assert_eq!(names.value.general_names.len(), 1);
    assert!((16..=20).contains(&leaf.raw_serial().len()) && leaf.raw_serial()[0] < 0x80);
    let known: BTreeSet<_> = leaf.extensions().iter().map(|extension| extension.oid.to_id_string()).collect();
    assert_eq!(known.len(), 6, "names, usage, purposes, constraints and two key ids: {known:?}");
    let (_, issuer) = parse_x509_certificate(&workload.svid.chain()[1]).unwrap();
    let constraints = issuer.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    assert_eq!(issuer.key_usage().unwrap().unwrap().value.flags, 0b110_0000, "keyCertSign and cRLSign");
    let key_id = |wanted: fn(&ParsedExtension<'_>) -> Option<Vec<u8>>, certificate| {
        let certificate: &x509_parser::certificate::X509Certificate<'_> = certificate;
        certificate.extensions().iter().find_map(|extension| wanted(extension.parsed_extension()))
    };
    let authority = key_id(
        |extension| match extension {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        },
        &leaf,
    );
    let subject = key_id(
        |extension| match extension {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        },
        &issuer,
    );
    assert!(authority.is_some() && authority == subject, "{authority:?} names {subject:?}");
}

#[test]
fn signs_only_for_who_was_proved() {
    let mesh = Mesh::new();
    let request = KeyRequest::generate(&id("payments")).unwrap();
    let sign = |csr: &[u8], id: &SpiffeId| mesh.authority().sign(csr, id).unwrap_err();
    assert!(matches!(sign(request.csr_der(), &id("web")), SignError::Identity { .. }));
    assert!(matches!(sign(b"nonsense", &id("web")), SignError::Csr(_)));
    let foreign = "spiffe://elsewhere/ns/shop/sa/payments".parse().unwrap();
    let request = KeyRequest::generate(&foreign).unwrap();
    assert!(matches!(sign(request.csr_der(), &foreign), SignError::TrustDomain(_)));
}

#[test]
fn an_issuer_that_has_expired_signs_nothing() {
    let mesh = Mesh::new();
    mesh.clock.advance(161 * SECOND);
    let request = KeyRequest::generate(&id("payments")).unwrap();
    let error = mesh.authority().sign(request.csr_der(), &id("payments")).unwrap_err();
    assert!(matches!(error, SignError::IssuerExpired));
    assert!(mesh.authority().tick().unwrap().issuer);
    assert!(mesh.authority().sign(request.csr_der(), &id("payments")).is_ok());
}

#[test]
fn a_restart_changes_nothing() {
    let mut mesh = Mesh::new();
    let before = mesh.issue("payments");
    let status = serde_json::to_value(mesh.authority().status()).unwrap();
    mesh.restart(brief()).unwrap();
    assert_eq!(serde_json::to_value(mesh.authority().status()).unwrap(), status);
    assert_eq!(mesh.authority().bundle(), before.bundle);
    assert_eq!(mesh.issue("web").trusts(&before, noon()), Ok(id("payments")));
    assert_eq!(status["roots"][0]["phase"], "active");
    assert_eq!(status["issuer"]["notAfter"], "2030-03-17T17:49:20Z");
    assert!(!status.to_string().contains("KEY"));
}

#[test]
fn files_are_private_and_the_bundle_is_not() {
    use std::os::unix::fs::PermissionsExt;

    let mesh = Mesh::new();
    let mode = |name: &str| {
        std::fs::metadata(mesh.directory.path().join(name)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode(STATE_FILE), mode("bundle.pem")), (0o600, 0o644));
    assert_eq!(TrustBundle::load(mesh.directory.path()).unwrap(), mesh.authority().bundle());
}

#[test]
fn one_directory_has_one_authority() {
    let mesh = Mesh::new();
    let second = Authority::open(mesh.directory.path(), brief(), Arc::new(mesh.clock.clone()));
    assert!(matches!(second, Err(AuthorityError::InUse(_))));
}

#[test]
fn wrong_settings_and_damaged_files_are_refused_with_the_cure() {
    let mut mesh = Mesh::new();
    let wrong = AuthoritySettings { svid_ttl: 161 * SECOND, ..brief() };
    assert!(matches!(mesh.restart(wrong), Err(AuthorityError::Lifetimes)));
    let never = AuthoritySettings { svid_ttl: Duration::ZERO, ..brief() };
    assert!(matches!(mesh.restart(never), Err(AuthorityError::Lifetimes)));
    let long = AuthoritySettings { root_ttl: Duration::MAX, ..brief() };
    assert!(matches!(mesh.restart(long), Err(AuthorityError::Lifetimes)));
    let other = AuthoritySettings { trust_domain: "elsewhere".parse().unwrap(), ..brief() };
    assert!(matches!(mesh.restart(other), Err(AuthorityError::TrustDomain { .. })));

    let path = mesh.directory.path().join(STATE_FILE);
    let whole = std::fs::read_to_string(&path).unwrap();
    let newer = whole.replace("\"version\": 1", "\"version\": 2");
    let without_key = whole.replacen("\"key\"", "\"kye\"", 1);
    let without_root = whole.replace("\"active\"", "\"old\"");
    let torn = &whole[..whole.len() / 2];
    for bad in ["", "{}", torn, &newer, &without_key, &without_root] {
        files::write_atomic(&path, bad.as_bytes(), files::PRIVATE).unwrap();
        let error = mesh.restart(brief()).unwrap_err();
        assert!(matches!(error, AuthorityError::Damaged { .. }), "{error:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), bad, "a damaged file is never written over");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(mesh.restart(brief()), Err(AuthorityError::Lost(_))));
    assert!(!path.exists(), "no new root takes the place of one that was lost");
    files::write_atomic(&path, whole.as_bytes(), 0o644).unwrap();
    assert!(matches!(mesh.restart(brief()), Err(AuthorityError::File(FileError::Exposed { .. }))));
    files::write_atomic(&path, whole.as_bytes(), files::PRIVATE).unwrap();
    mesh.restart(brief()).unwrap();
}

#[test]
fn a_new_issuer_leaves_old_certificates_valid() {
    let mesh = Mesh::new();
    let before = mesh.issue("payments");
    let changes = mesh.authority().rotate_issuer().unwrap();
    assert_eq!(changes, Changes { bundle: false, issuer: true });
    let after = mesh.issue("web");
    assert_ne!(before.svid.chain()[1], after.svid.chain()[1]);
    assert_eq!(before.trusts(&after, noon()), Ok(id("web")));
    assert_eq!(after.trusts(&before, noon()), Ok(id("payments")));
}

/// Two workloads renew at half life, one of them always just before the other, and hear of bundles only then.
/// Through days of rotation each must trust the other at every second.
#[test]
fn no_rotation_ever_parts_two_workloads() {
    let mut mesh = Mesh::new();
    let mut workloads = [mesh.issue("web"), mesh.issue("payments")];
    let mut renewals = [noon() + 3 * SECOND, noon() + 19 * SECOND];
    let mut roots = BTreeSet::new();
    let mut issuers = BTreeSet::new();
    for second in 0..2000 {
        let now = mesh.clock.now();
        mesh.authority().tick().unwrap();
        for (workload, renewal) in workloads.iter_mut().zip(&mut renewals) {
            if *renewal <= now {
                let account = workload.svid.id().service_account().to_owned();
                *workload = mesh.issue(&account);
                *renewal = now + 19 * SECOND;
            }
        }
        let [web, payments] = &workloads;
        assert!(web.trusts(payments, now).is_ok() && payments.trusts(web, now).is_ok(), "second {second}");
        let remaining = web.svid.not_after().duration_since(web.svid.not_before()).unwrap();
        assert!(remaining >= 40 * SECOND, "second {second}: a certificate was cut short to {remaining:?}");
        roots.extend(mesh.authority().bundle().fingerprints());
        issuers.insert(mesh.authority().status().issuer.fingerprint);
        if second % 97 == 0 {
            mesh.restart(brief()).unwrap();
        }
        mesh.clock.advance(SECOND);
    }
    assert!(roots.len() >= 5, "{} roots in {} lives of one", roots.len(), 2000 / 640);
    assert!(issuers.len() > roots.len(), "{} issuers", issuers.len());
}

#[test]
fn a_root_rotates_in_its_time() {
    use RootPhase::{Active, Next, Old};

    let mesh = Mesh::new();
    let mut steps = vec![];
    while steps.len() < 3 {
        let phases = mesh.root_phases();
        let due = mesh.authority().next_due();
        mesh.clock.set(due - Duration::from_millis(1));
        assert_eq!(mesh.authority().tick().unwrap(), Changes::default(), "nothing is due yet");
        mesh.clock.set(due);
        let changes = mesh.authority().tick().unwrap();
        assert!(changes.any(), "what is due is done");
        if mesh.root_phases() != phases {
            steps.push((mesh.root_phases(), changes, due.duration_since(noon()).unwrap().as_secs()));
        }
    }
    let issuer = Changes { bundle: false, issuer: true };
    let roots = Changes { bundle: true, issuer: false };
    // The root holds from 60 s before noon to 640 s after: half of that is at 290 s.
    assert_eq!(steps[0], (vec![Active, Next], roots, 290));
    assert_eq!(steps[1], (vec![Active, Old], issuer, 330), "one svid-ttl later");
    assert_eq!(steps[2], (vec![Active], roots, 372), "when no certificate of the old root is left");
}

#[test]
fn hurry_has_a_bound() {
    let mesh = Mesh::new();
    let error = loop {
        if let Err(error) = mesh.authority().publish_next_root() {
            break error;
        }
        mesh.authority().activate_next_root().unwrap();
    };
    assert!(matches!(error, RotationError::TooManyRoots(5)), "{error:?}");
    mesh.authority().server_svid().unwrap();
    mesh.authority().retire_old_roots().unwrap();
    mesh.authority().publish_next_root().unwrap();
}

#[test]
fn a_hurried_rotation_parts_nobody_either() {
    let mesh = Mesh::new();
    let stale = mesh.issue("web");
    mesh.authority().publish_next_root().unwrap();
    assert!(matches!(mesh.authority().publish_next_root(), Err(RotationError::AlreadyPublished)));
    assert_eq!(mesh.issue("orders").svid.chain().len(), 2, "the old root still signs");
    mesh.authority().activate_next_root().unwrap();
    assert!(matches!(mesh.authority().activate_next_root(), Err(RotationError::NoNextRoot)));
    let fresh = mesh.issue("payments");
    assert_eq!(fresh.svid.chain().len(), 3, "leaf, issuer and the link to the old root");
    assert_eq!(stale.trusts(&fresh, noon()), Ok(id("payments")), "though it has never heard of the new root");
    assert_eq!(fresh.trusts(&stale, noon()), Ok(id("web")));
    mesh.authority().retire_old_roots().unwrap();
    assert!(matches!(mesh.authority().retire_old_roots(), Err(RotationError::NoOldRoot)));
    let fresh = mesh.issue("payments");
    assert_eq!(fresh.svid.chain().len(), 2);
    assert!(stale.trusts(&fresh, noon()).is_err());
    assert!(fresh.trusts(&stale, noon()).is_err());
}

#[test]
fn join_tokens_outlive_a_rotation_of_the_root() {
    let mesh = Mesh::new();
    let before = mesh.authority().root_fingerprint();
    mesh.authority().publish_next_root().unwrap();
    assert_eq!(mesh.authority().root_fingerprint(), before, "tokens name the root that signs");
    mesh.authority().activate_next_root().unwrap();
    let after = mesh.authority().root_fingerprint();
    assert_ne!(before, after);
    let svid = mesh.authority().server_svid().unwrap();
    assert_eq!(*svid.id(), SpiffeId::control_plane(&domain()));
    let clock = || -> Arc<dyn Clock> { Arc::new(mesh.clock.clone()) };
    let server = tls::server_config(&svid, &mesh.authority().bundle(), &[], ClientAuth::Optional, clock());
    for root in [before, after] {
        let client = tls::pinned_client_config(root, &[], clock());
        let mut client =
            rustls::ClientConnection::new(client, "control-plane.outrigger".try_into().unwrap()).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
        shake_hands(&mut client, &mut server).unwrap();
    }
}

#[test]
fn a_control_plane_that_was_away_tells_of_the_next_root_before_it_signs_by_it() {
    let mut mesh = Mesh::new();
    mesh.authority().publish_next_root().unwrap();
    mesh.clock.advance(100 * SECOND);
    mesh.restart(brief()).unwrap();
    assert_eq!(mesh.root_phases(), [RootPhase::Active, RootPhase::Next], "its wait begins anew");
    mesh.clock.advance(40 * SECOND);
    mesh.authority().tick().unwrap();
    assert_eq!(mesh.root_phases(), [RootPhase::Active, RootPhase::Old]);
}

#[test]
fn longer_lives_of_yesterday_keep_an_old_root_trusted() {
    let mut mesh = Mesh::new();
    mesh.restart(AuthoritySettings { svid_ttl: 80 * SECOND, ..brief() }).unwrap();
    let long = mesh.issue("web");
    mesh.restart(AuthoritySettings { svid_ttl: 10 * SECOND, ..brief() }).unwrap();
    mesh.authority().publish_next_root().unwrap();
    mesh.authority().activate_next_root().unwrap();
    mesh.clock.advance(79 * SECOND);
    mesh.authority().tick().unwrap();
    assert_eq!(mesh.issue("payments").trusts(&long, mesh.clock.now()), Ok(id("web")));
}

#[test]
fn an_authority_that_slept_past_its_root_starts_over() {
    for years in [1, 30] {
        let mut mesh = Mesh::new();
        mesh.clock.advance(years * 365 * 24 * 3600 * SECOND);
        mesh.restart(brief()).unwrap();
        let workload = mesh.issue("payments");
        assert_eq!(workload.trusts(&workload, mesh.clock.now()), Ok(id("payments")));
        assert!(mesh.authority().next_due() > mesh.clock.now());
        mesh.authority().server_svid().unwrap();
    }
}

#[test]
fn lives_of_seconds_work() {
    let settings =
        AuthoritySettings { root_ttl: 8 * SECOND, issuer_ttl: 4 * SECOND, svid_ttl: 2 * SECOND, ..brief() };
    let mesh =
        Mesh { directory: tempfile::tempdir().unwrap(), clock: ManualClock::new(noon()), authority: None };
    let mut mesh = mesh;
    mesh.restart(settings).unwrap();
    let mut previous = mesh.issue("web");
    for _ in 0..300 {
        mesh.clock.advance(Duration::from_millis(250));
        mesh.authority().tick().unwrap();
        let now = mesh.clock.now();
        let workload = mesh.issue("payments");
        assert!(workload.svid.not_after() > now + SECOND, "{:?} at {now:?}", workload.svid);
        assert!(previous.trusts(&workload, now).is_ok() && workload.trusts(&previous, now).is_ok());
        previous = workload;
    }
}

/// Every state that was ever on disk is one from which an authority starts, and what was issued before holds.
#[test]
fn every_state_on_disk_can_be_started_from() {
    let mut mesh = Mesh::new();
    let path = mesh.directory.path().join(STATE_FILE);
    let mut last = Vec::new();
    let mut states = 0;
    while states < 12 {
        let workload = mesh.issue("web");
        mesh.clock.set(mesh.authority().next_due());
        mesh.authority().tick().unwrap();
        let state = std::fs::read(&path).unwrap();
        assert_ne!(state, last, "a due step changes the state");
        last = state;
        states += 1;
        // As a crash leaves it: a torn copy beside the file, a bundle that is one step behind.
        std::fs::write(mesh.directory.path().join(".authority.json.0123456789abcdef.tmp"), &last[..100])
            .unwrap();
        workload.bundle.save(mesh.directory.path()).unwrap();
        mesh.restart(brief()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), last, "a restart redoes nothing");
        assert_eq!(TrustBundle::load(mesh.directory.path()).unwrap(), mesh.authority().bundle());
        assert_eq!(std::fs::read_dir(mesh.directory.path()).unwrap().count(), 3);
        let now = mesh.clock.now();
        if workload.svid.is_valid(now) {
            assert_eq!(mesh.issue("payments").trusts(&workload, now), Ok(id("web")));
        }
    }
}

#[test]
fn a_state_that_cannot_be_written_changes_nothing() {
    let mesh = Mesh::new();
    let before = serde_json::to_value(mesh.authority().status()).unwrap();
    let path = mesh.directory.path().join(STATE_FILE);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(mesh.authority().publish_next_root(), Err(RotationError::File(_))));
    assert_eq!(serde_json::to_value(mesh.authority().status()).unwrap(), before);
    std::fs::remove_dir(&path).unwrap();
    mesh.authority().publish_next_root().unwrap();
}

/// A clock at whose second reading the state can no longer be written.
#[derive(Debug)]
struct Saboteur {
    time: ManualClock,
    state: PathBuf,
    readings: std::sync::atomic::AtomicUsize,
}

impl Clock for Saboteur {
    fn now(&self) -> SystemTime {
        if self.readings.fetch_add(1, Ordering::Relaxed) == 1 {
            std::fs::remove_file(&self.state).unwrap();
            std::fs::create_dir(&self.state).unwrap();
        }
        self.time.now()
    }
}

#[test]
fn what_was_done_before_a_failure_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Saboteur {
        time: ManualClock::new(noon()),
        state: directory.path().join(STATE_FILE),
        readings: 2.into(),
    });
    let authority = Authority::open(directory.path(), brief(), clock.clone()).unwrap();
    // So late that a new issuer and a next root are both due, of which the second cannot be written.
    clock.time.advance(600 * SECOND);
    clock.readings.store(0, Ordering::Relaxed);
    assert_eq!(authority.tick().unwrap(), Changes { bundle: false, issuer: true });
    assert!(matches!(authority.tick(), Err(RotationError::File(_))), "and now nothing was done");
    std::fs::remove_dir(&clock.state).unwrap();
    assert!(authority.tick().unwrap().bundle);
}

#[test]
fn a_bundle_that_cannot_be_copied_stops_no_rotation() {
    let mesh = Mesh::new();
    let path = mesh.directory.path().join("bundle.pem");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(mesh.authority().publish_next_root().unwrap().bundle);
    assert_eq!(mesh.root_phases(), [RootPhase::Active, RootPhase::Next]);
    assert!(matches!(mesh.authority().tick(), Err(RotationError::File(_))), "but it is said");
    std::fs::remove_dir(&path).unwrap();
    assert_eq!(mesh.authority().tick().unwrap(), Changes::default());
    assert_eq!(TrustBundle::load(mesh.directory.path()).unwrap(), mesh.authority().bundle());
}

#[test]
fn openssl_agrees() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: there is no openssl here to compare with");
        return;
    }
    let mesh = Mesh::new();
    mesh.authority().publish_next_root().unwrap();
    let before = mesh.authority().bundle().roots().next().unwrap().clone();
    mesh.authority().activate_next_root().unwrap();
    let chain = mesh.issue("payments").svid.chain().to_vec();
    let active = mesh.authority().bundle().roots().next().unwrap().clone();
    let write = |name: &str, certificates: &[CertificateDer<'static>]| {
        let path = mesh.directory.path().join(name);
        let blocks: Vec<_> =
            certificates.iter().map(|der| pem::Pem::new("CERTIFICATE", der.as_ref())).collect();
        std::fs::write(&path, pem::encode_many(&blocks)).unwrap();
        path
    };
    let leaf = write("leaf.pem", &chain[..1]);
    let untrusted = write("untrusted.pem", &chain[1..]);
    for root in [active, before] {
        let root = write("root.pem", &[root]);
        for purpose in ["sslclient", "sslserver"] {
            let output = Command::new("openssl")
                .args([
                    "verify",
                    "-x509_strict",
                    "-policy_check",
                    "-purpose",
                    purpose,
                    "-attime",
                    "1900000000",
                ])
                .arg("-CAfile")
                .arg(&root)
                .arg("-untrusted")
                .arg(&untrusted)
                .arg(&leaf)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{purpose}: {text}");
        }
    }
}
