//! An authority that is killed in the middle of its work, again and again, loses nothing that it has promised.
#![expect(clippy::unwrap_used, reason = "all of this is a test, helpers included")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use outrigger_certs::{
    Authority, AuthoritySettings, Clock, KeyRequest, Purpose, SpiffeId, SystemClock, TrustBundle, TrustDomain,
};
use rustls_pki_types::CertificateDer;

/// How often the authority is killed.
const KILLS: u32 = 25;
/// By this, and the directory after it, the child is told what it is.
const DIRECTORY: &str = "OUTRIGGER_TEST_DIRECTORY";

fn settings() -> AuthoritySettings {
    AuthoritySettings::new(TrustDomain::new("outrigger.local").unwrap())
}

fn open(directory: &Path) -> Authority {
    Authority::open(directory, settings(), Arc::new(SystemClock)).unwrap()
}

/// The child: rotates everything as fast as the disk allows and, after each step, prints a chain it has signed.
#[test]
#[ignore = "this is the process that the other test kills"]
#[expect(clippy::disallowed_methods, reason = "a test's child has no other way to be told its directory")]
fn rotates_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let authority = open(Path::new(&directory));
    let id = SpiffeId::new(authority.trust_domain(), "shop", "payments").unwrap();
    let mut output = std::io::stdout().lock();
    loop {
        for step in [
            Authority::rotate_issuer,
            Authority::publish_next_root,
            Authority::activate_next_root,
            Authority::retire_old_roots,
        ] {
            // A step that the last life has already done is refused, and the next one is due.
            let _ = step(&authority);
            let request = KeyRequest::generate(&id).unwrap();
            let issued = authority.sign(request.csr_der(), &id).unwrap();
            let line: Vec<String> = issued.to_der().iter().map(|der| hex(der)).collect();
            // One write, which a pipe takes whole or not at all: a line that is read was finished.
            output.write_all(format!("CHAIN {}\n", line.join(" ")).as_bytes()).unwrap();
        }
    }
}

#[test]
fn survives_being_killed_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let mut steps = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "rotates_until_it_is_killed", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed after another number of steps each time, and at whatever moment the step is then in.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = None;
        for _ in 0..1 + kill % 7 {
            last = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("CHAIN"));
            steps += 1;
        }
        std::thread::sleep(Duration::from_micros(u64::from(kill) * 137));
        child.kill().unwrap();
        child.wait().unwrap();
        // What was printed after the last line that was read was promised too.
        last = lines.map_while(Result::ok).filter(|line| line.starts_with("CHAIN")).last().or(last);
        let last = last.expect("the child printed a chain");
        let chain = read_chain(&last);

        let authority = open(directory.path());
        let bundle = authority.bundle();
        assert_eq!(TrustBundle::load(directory.path()).unwrap(), bundle);
        // A root is retired only after a chain of the next one was printed, so the last chain always holds.
        let verified = bundle.verify(&chain, SystemClock.now(), Purpose::Client);
        assert!(verified.is_ok(), "kill {kill}: {verified:?}");
        authority.server_svid().unwrap();
        let names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "kill {kill}: {names:?}");
    }
    assert!(steps > KILLS);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_chain(line: &str) -> Vec<CertificateDer<'static>> {
    let byte = |at: usize, text: &str| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    line.split(' ')
        .skip(1)
        .map(|text| (0..text.len()).step_by(2).map(|at| byte(at, text)).collect::<Vec<u8>>().into())
        .collect()
}
