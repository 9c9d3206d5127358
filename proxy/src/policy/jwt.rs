//! Whose tokens a port takes.

use std::time::Duration;

use outrigger_api::v1;
use v1::jwt_key;

use super::backend::optional;
use super::problem::{Path, Problems};
use super::routes::header_name;
use crate::jwt::key::{Algorithm, Key, Material};
use crate::jwt::{ClaimHeader, Issuer, Jwt, Place};

pub(super) fn jwt(raw: &v1::Jwt, path: &Path<'_>, problems: &mut Problems) -> Jwt {
    let issuers = path.field("issuers");
    let issuers = raw
        .issuers
        .iter()
        .enumerate()
        .filter_map(|(index, raw)| issuer(raw, &issuers.index(index), problems));
    Jwt { issuers: issuers.collect(), required: raw.required }
}

fn issuer(raw: &v1::JwtIssuer, path: &Path<'_>, problems: &mut Problems) -> Option<Issuer> {
    let mut keys = Vec::with_capacity(raw.keys.len());
    for (index, raw) in raw.keys.iter().enumerate() {
        keys.extend(key(raw, &path.field("keys").index(index), problems));
    }
    let mut claims_to_headers = Vec::with_capacity(raw.claims_to_headers.len());
    for (index, raw) in raw.claims_to_headers.iter().enumerate() {
        let path = path.field("claimsToHeaders");
        let header = header_name(&raw.header, &path.index(index).field("header"), problems);
        let names = raw.path.iter().map(|name| name.as_str().into()).collect();
        claims_to_headers.extend(header.map(|header| ClaimHeader { path: names, header }));
    }
    let skew = raw.clock_skew.as_ref().filter(|skew| (skew.seconds, skew.nanos) != (0, 0));
    let skew = optional(skew, &path.field("clockSkew"), problems).unwrap_or(Duration::ZERO);
    let header = header_name(&raw.header, &path.field("header"), problems)?;
    Some(Issuer {
        name: raw.issuer.as_str().into(),
        audiences: raw.audiences.iter().map(|audience| audience.as_str().into()).collect(),
        keys,
        place: Place { header, prefix: raw.prefix.as_str().into() },
        forward: raw.forward,
        claims_to_headers,
        skew,
    })
}

/// A key for what is not known here is passed over: it lets nobody in.
fn key(raw: &v1::JwtKey, path: &Path<'_>, problems: &mut Problems) -> Option<Key> {
    let algorithms: Vec<_> = raw.algorithms.iter().filter_map(|name| Algorithm::from_name(name)).collect();
    let material = match problems.present(raw.material.as_ref(), &path.field("material"))? {
        jwt_key::Material::Rsa(key) => Material::Rsa { n: key.n.clone(), e: key.e.clone() },
        jwt_key::Material::Point(point) => Material::Point(point.clone()),
    };
    let id = (!raw.id.is_empty()).then(|| raw.id.as_str().into());
    (!algorithms.is_empty()).then_some(Key { id, algorithms, material })
}
