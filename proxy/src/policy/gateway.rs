//! Where a gateway's proxy takes connections in, and on which terms.

use std::sync::Arc;

use outrigger_api::v1;

use super::problem::{Path, Problems};
use super::{inbound_ports, port_number};
use crate::gateway::{Gateway, GatewayListener, HostPattern};

pub(super) fn gateway(raw: &v1::Gateway, path: &Path<'_>, problems: &mut Problems) -> Gateway {
    let list = path.field("listeners");
    let listeners = raw.listeners.iter().enumerate();
    let listeners =
        listeners.filter_map(|(index, raw)| listener(raw, &list.index(index), problems)).collect();
    Gateway { listeners, ports: inbound_ports(&raw.ports, path, problems) }
}

fn listener(raw: &v1::GatewayListener, path: &Path<'_>, problems: &mut Problems) -> Option<GatewayListener> {
    Some(GatewayListener {
        port: port_number(raw.port, &path.field("port"), problems)?,
        host: (!raw.hostname.is_empty()).then(|| HostPattern::new(&raw.hostname)),
        certificate: (!raw.certificate.is_empty()).then(|| Arc::from(&*raw.certificate)),
    })
}
