//! A service outside the mesh.

use std::sync::Arc;

use outrigger_api::v1;
use rustls_pki_types::DnsName;

use super::port_number;
use super::problem::{Path, Problems};
use crate::origination::OriginatedTls;
use crate::snapshot::{External, ExternalPort};

pub(super) fn external(raw: &v1::External, path: &Path<'_>, problems: &mut Problems) -> Option<External> {
    let mut ports = Vec::with_capacity(raw.ports.len());
    for (index, port) in raw.ports.iter().enumerate() {
        let path = path.field("ports");
        let path = path.index(index);
        let number = port_number(port.port, &path.field("port"), problems);
        let target = port_number(port.target_port, &path.field("targetPort"), problems);
        let tls = port.tls.as_ref().map(|raw| tls(raw, &path.field("tls"), problems));
        let Some((number, target)) = number.zip(target) else { continue };
        let tls = match tls {
            None => None,
            Some(Some(tls)) => Some(tls),
            Some(None) => continue, // to leave it out would send in the clear what was to be encrypted
        };
        ports.extend(problems.ok(ExternalPort::new(&raw.host, number, target, tls), &path));
    }
    if raw.host.is_empty() {
        problems.add(&path.field("host"), "is empty");
    }
    Some(External { host: Arc::from(&*raw.host), ports, listed: true })
}

fn tls(raw: &v1::OriginatedTls, path: &Path<'_>, problems: &mut Problems) -> Option<Arc<OriginatedTls>> {
    let name = problems.ok(dns_name(&raw.hostname), &path.field("hostname"));
    let mut alt_names = Vec::with_capacity(raw.subject_alt_names.len());
    for (index, text) in raw.subject_alt_names.iter().enumerate() {
        alt_names.push(problems.ok(dns_name(text), &path.field("subjectAltNames").index(index))?);
    }
    Some(Arc::new(OriginatedTls { name: name?, alt_names }))
}

fn dns_name(text: &str) -> Result<DnsName<'static>, String> {
    DnsName::try_from(text.to_owned()).map_err(|_| format!("{text:?} is not a DNS name"))
}
