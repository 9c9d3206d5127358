//! What a caller gets when nobody is left who could answer it: something that was written down beforehand.
//!
//! A fallback is used only while no backend of the request's rule has an endpoint that could be picked; as long as one
//! has, requests go there. gRPC callers get no fallback, for there is no message that all methods have in common.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use rand::Rng;

use crate::body::Body;
use crate::failure::Failure;
use crate::headers;
use crate::route::choose_backend;
use crate::snapshot::{Backend, Target};

/// An answer in place of a backend's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// `namespace/name` of the policy, as a field's value.
    pub policy: HeaderValue,
    /// Of the answer.
    pub status: StatusCode,
    /// Of the answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Of the answer.
    pub body: Bytes,
    /// Used where no endpoint is ready.
    pub on_no_endpoints: bool,
    /// Used where the breakers of all endpoints are open.
    pub on_breaker_open: bool,
}

impl Fallback {
    /// Whether it is for requests that fail in this way.
    pub(crate) fn covers(&self, failure: Failure) -> bool {
        match failure {
            Failure::NoEndpoints => self.on_no_endpoints,
            Failure::BreakerOpen => self.on_breaker_open,
            _ => false,
        }
    }

    /// The answer.
    pub(crate) fn answer(&self) -> Response<Body> {
        let body = if self.body.is_empty() { Body::Empty } else { Body::Whole(Some(self.body.clone())) };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let fields = response.headers_mut();
        for (name, value) in &self.headers {
            fields.append(name, value.clone());
        }
        fields.insert(headers::FALLBACK, self.policy.clone());
        response
    }
}

/// Chooses as [`choose_backend`] does, but none that is not `ready` while another is. What leads nowhere keeps its
/// share of failures, and a backend of weight 0 gets nothing in this case either.
pub fn choose_ready<'a>(
    backends: &'a [Backend],
    rng: &mut impl Rng,
    mut ready: impl FnMut(&Backend) -> bool,
) -> Option<&'a Backend> {
    let chosen = choose_backend(backends, rng)?;
    if matches!(chosen.target, Target::Invalid(_)) || ready(chosen) {
        return Some(chosen);
    }
    let usable = |backend: &&Backend| backend.weight > 0 && matches!(backend.target, Target::Service { .. });
    let others: Vec<&Backend> = backends.iter().filter(usable).filter(|backend| ready(backend)).collect();
    let sum: u64 = others.iter().map(|backend| u64::from(backend.weight)).sum();
    if sum == 0 {
        return Some(chosen);
    }
    let mut ticket = rand::RngExt::random_range(rng, 0..sum);
    others.into_iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let hit = ticket < weight;
        ticket = ticket.saturating_sub(weight);
        hit
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn backend(index: usize, weight: u32, valid: bool) -> Backend {
        let target = match valid {
            true => Target::Service { name: format!("v{index}.shop").parse().unwrap(), port: 80 },
            false => Target::Invalid("gone".into()),
        };
        Backend { weight, target, filters: Vec::new() }
    }

    #[test]
    fn a_fallback_is_for_what_it_names() {
        let fallback = Fallback {
            policy: HeaderValue::from_static("shop/pay"),
            status: StatusCode::OK,
            headers: vec![(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))],
            body: Bytes::from_static(b"later"),
            on_no_endpoints: true,
            on_breaker_open: false,
        };
        let covered: Vec<Failure> = Failure::ALL.into_iter().filter(|f| fallback.covers(*f)).collect();
        assert_eq!(covered, [Failure::NoEndpoints]);
        let answer = fallback.answer();
        assert_eq!(
            (answer.status(), &answer.headers()["outrigger-fallback"]),
            (StatusCode::OK, &fallback.policy)
        );
    }

    #[test]
    fn requests_of_a_backend_that_is_out_are_shared_out_by_weight() {
        let backends =
            [backend(0, 60, true), backend(1, 30, true), backend(2, 10, true), backend(3, 0, true)];
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = [0u32; 4];
        for _ in 0..10_000 {
            let chosen = choose_ready(&backends, &mut rng, |backend| backend.weight != 60).unwrap();
            counts[backends.iter().position(|backend| std::ptr::eq(backend, chosen)).unwrap()] += 1;
        }
        assert!(counts[1].abs_diff(7_500) < 200 && counts[2].abs_diff(2_500) < 200, "{counts:?}");
        assert_eq!((counts[0], counts[3]), (0, 0));
    }

    proptest! {
        /// The law: while a backend that may have traffic is ready, no request meets one that is not.
        #[test]
        fn a_fallback_is_never_used_while_a_backend_is_ready(
            backends in prop::collection::vec((0u32..4, any::<bool>(), any::<bool>()), 0..6),
            seed: u64,
        ) {
            let all: Vec<Backend> =
                backends.iter().enumerate().map(|(i, (weight, valid, _))| backend(i, *weight, *valid)).collect();
            let place = |one: &Backend| all.iter().position(|other| std::ptr::eq(one, other)).unwrap();
            let is_ready = |one: &Backend| backends[place(one)].2;
            let chosen = choose_ready(&all, &mut StdRng::seed_from_u64(seed), is_ready);
            let can_serve = |one: &Backend| one.weight > 0 && matches!(one.target, Target::Service { .. });
            let any_ready = all.iter().any(|one| can_serve(one) && is_ready(one));
            match chosen {
                None => prop_assert!(all.iter().all(|one| one.weight == 0)),
                Some(one) if matches!(one.target, Target::Invalid(_)) => prop_assert!(one.weight > 0),
                Some(one) => prop_assert!(can_serve(one) && (is_ready(one) || !any_ready)),
            }
        }
    }
}
