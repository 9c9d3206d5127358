//! Settings that hold for every proxy, and what one is told of its own workload.

use outrigger_api::{ServiceName, v1};

use super::World;
use super::access::{Door, access};
use super::jwt::{api_keys, jwt};
use super::policy::Effective;
use super::port::Facts;
use super::rate_limit;
use crate::resources::{Documents, EgressMode, MtlsMode, PathNormalization, TraceFormat, network};

/// Share of the traces started in the mesh that is sampled where nothing is said.
const SAMPLING_RATIO: f64 = 0.01;

/// Compiles `MeshConfig`, defaults filled in.
pub(crate) fn mesh_settings(documents: &Documents) -> v1::MeshSettings {
    let spec = documents.mesh_config.as_ref().map(|mesh| mesh.spec.clone()).unwrap_or_default();
    let tracing = spec.tracing.unwrap_or_default();
    let mode = spec.mtls.and_then(|mtls| mtls.mode);
    let mut formats: Vec<i32> = tracing.formats.iter().map(|format| trace_format(*format) as i32).collect();
    if formats.is_empty() {
        formats.push(v1::TraceFormat::W3c as i32);
    }
    v1::MeshSettings {
        version: documents.revision,
        permissive_mtls: mode == Some(MtlsMode::Permissive),
        sampling_ratio: tracing.sampling_ratio.unwrap_or(SAMPLING_RATIO).clamp(0.0, 1.0),
        access_log: spec.access_log.and_then(|log| log.enabled).unwrap_or(false),
        otlp_endpoint: tracing.endpoint.unwrap_or_default(),
        trace_formats: formats,
        path_normalization: match spec.path_normalization {
            None | Some(PathNormalization::Full) => v1::PathNormalization::Full,
            Some(PathNormalization::None) => v1::PathNormalization::None,
        } as i32,
        egress: spec.egress.map(|egress| v1::Egress {
            listed_only: egress.mode == Some(EgressMode::ListedOnly),
            cidrs: egress.cidrs.iter().filter_map(|text| network(text)).map(|it| it.to_string()).collect(),
        }),
    }
}

fn trace_format(format: TraceFormat) -> v1::TraceFormat {
    match format {
        TraceFormat::W3C => v1::TraceFormat::W3c,
        TraceFormat::B3 => v1::TraceFormat::B3,
        TraceFormat::B3Multi => v1::TraceFormat::B3Multi,
    }
}

/// What the proxy of a workload of `service` is told of its own ports.
pub(crate) fn inbound(world: World<'_>, service: &ServiceName) -> v1::Inbound {
    let ports = Facts::of(world, service).map(|facts| facts.ports).unwrap_or_default();
    let rate_limits = rate_limit::of_service(world.model, service);
    let door = Door::Service(service);
    let concurrency = Effective::of(world.model, service).adaptive_concurrency();
    let port = |port: super::port::Port| v1::InboundPort {
        port: port.number.into(),
        protocol: port.protocol as i32,
        access: access(world.model, door, port.number),
        jwt: jwt(world.model, door),
        api_keys: api_keys(world.model, door),
        rate_limits: rate_limits.clone(),
        concurrency,
    };
    v1::Inbound { version: world.model.documents().revision, ports: ports.into_iter().map(port).collect() }
}
