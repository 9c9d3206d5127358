//! A law: what the rules let pass is not forbidden to the most forgiving reader either.

#[allow(unreachable_pub, reason = "the fuzz targets share it")]
#[path = "../../tests/fuzz/src/reading.rs"]
mod reading;

use outrigger_proxy::access::operation::{FieldCondition, Host, Operation};
use outrigger_proxy::access::text::Text;
use outrigger_proxy::access::{Access, Effect, Mode, Policy, Rule};
use outrigger_proxy::route::{PathMatch, Prefix};
use proptest::prelude::*;
use proptest::sample::select;

/// Denies `/admin`, `secret.shop` and whoever says to be an admin.
fn rules() -> Access {
    let about = |operation| Rule { to: vec![operation], ..Rule::default() };
    let role = FieldCondition {
        name: http::HeaderName::from_static("x-role"),
        values: vec![Text::Exact("admin".into())],
    };
    let rules = vec![
        about(Operation { paths: vec![PathMatch::Prefix(Prefix::new("/admin"))], ..Operation::default() }),
        about(Operation { hosts: vec![Host::new("secret.shop")], ..Operation::default() }),
        about(Operation { headers: vec![role], ..Operation::default() }),
    ];
    Access::new([(Effect::Deny, false, Policy { name: "law/deny".into(), rules })], Mode::Open, "law")
}

/// What paths that lead astray are made of.
const PIECES: &[&str] = &[
    "/", "//", "\\", "admin", "%61dmin", "adm%69n", "a", ".", "..", "%2e", "%2E%2e", "%2f", "%5C", ";x=1",
    ";", "%3b", "%00", "%", "%4", "%zz", "%25", "%2561", "?", "#", "@", "\u{e9}",
];
const HOSTS: &[&str] =
    &["api.shop", "secret.shop", "SECRET.shop:80", "secret.shop.", "Secret.Shop.:8080", "secret.shop.x"];
const FIELDS: &[&str] = &[
    "",
    "X-Role: admin\r\n",
    "x_role: a, admin\r\n",
    "X-Role: guest\r\nx-ROLE:admin\r\n",
    "X-Role: guest\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn what_passes_is_forbidden_to_nobody(
        scheme in select(&["", "http://api.shop", "http://Secret.shop"][..]),
        pieces in prop::collection::vec(select(PIECES), 0..8),
        host in select(HOSTS),
        field in select(FIELDS),
    ) {
        let path = pieces.concat();
        let message = format!("GET {scheme}/{path} HTTP/1.1\r\nHost: {host}\r\n{field}\r\n");
        if let Some(head) = reading::head(message.as_bytes()) {
            let passes = outrigger_proxy::would_pass(&rules(), head);
            prop_assert!(!(passes && reading::is_forbidden(message.as_bytes())), "{message}");
        }
    }
}
