//! The peers' certificates: one authority, and one leaf for each side of the pair.
//!
//! What Outrigger's control plane issues, without the control plane: ECDSA P-256, the SPIFFE identity as a URI, which
//! Envoy checks; and a common name and a DNS name, which is what HAProxy can check. The root signs the leaves
//! itself, which spares the peers the issuer that stands between the two in Outrigger's chains.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

/// Who one side of the pair is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name {
    /// Common name and DNS name.
    pub(crate) dns: &'static str,
    /// SPIFFE id.
    pub(crate) uri: &'static str,
}

/// The side that calls.
pub(crate) const CALLER: Name =
    Name { dns: "caller.bench", uri: "spiffe://outrigger.local/ns/bench/sa/caller" };
/// The side that is called.
pub(crate) const SERVICE: Name = Name { dns: "app.bench", uri: "spiffe://outrigger.local/ns/bench/sa/app" };

/// The files, as the peers' configurations name them.
#[derive(Debug)]
pub(crate) struct Pki {
    /// The root's certificate, PEM.
    pub(crate) ca: PathBuf,
    /// Certificate and key of the caller's side, PEM, in one file.
    pub(crate) caller: PathBuf,
    /// Certificate and key of the service's side, PEM, in one file.
    pub(crate) service: PathBuf,
}

impl Pki {
    /// Makes a new authority and its two leaves in this directory, for a day.
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        let root = CertifiedIssuer::self_signed(root(), key()?).context("the root's certificate")?;
        let write = |name: &str, pem: String| {
            let path = directory.join(name);
            fs::write(&path, pem).with_context(|| format!("{} cannot be written", path.display()))?;
            anyhow::Ok(path)
        };
        let leaf = |name: Name| {
            let key = key()?;
            let certificate = leaf(name)?.signed_by(&key, &root)?;
            write(&format!("{}.pem", name.dns), certificate.pem() + &key.serialize_pem())
        };
        Ok(Self { ca: write("ca.pem", root.pem())?, caller: leaf(CALLER)?, service: leaf(SERVICE)? })
    }
}

fn key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("a key")
}

/// Valid from 1975 to 4096 as rcgen has it: the files are gone with the run.
fn root() -> CertificateParams {
    let mut params = named("root.bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(name: Name) -> Result<CertificateParams> {
    let mut params = named(name.dns);
    let (uri, dns) = (Ia5String::try_from(name.uri)?, Ia5String::try_from(name.dns)?);
    params.subject_alt_names = vec![SanType::URI(uri), SanType::DnsName(dns)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_holds_what_the_peers_look_for_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path()).unwrap();
        let blocks = |path: &Path| {
            let pem = fs::read_to_string(path).unwrap();
            (pem.matches("BEGIN CERTIFICATE").count(), pem.matches("BEGIN PRIVATE KEY").count())
        };
        assert_eq!(blocks(&pki.ca), (1, 0), "a peer that is given the root's key could be anybody");
        assert_eq!(blocks(&pki.caller), (1, 1));
        assert_eq!(blocks(&pki.service), (1, 1));
    }
}
