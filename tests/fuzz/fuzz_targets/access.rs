//! A request as a client sends it, against a policy that denies a path, a host and a field: whatever the rules let pass must
//! be none of them to the most forgiving reader.
#![no_main]

use std::sync::LazyLock;

use outrigger_proxy::access::operation::{FieldCondition, Host, Operation};
use outrigger_proxy::access::text::Text;
use outrigger_proxy::access::{Access, Effect, Mode, Policy, Rule};
use outrigger_proxy::route::{PathMatch, Prefix};

static RULES: LazyLock<Access> = LazyLock::new(|| {
    let about = |operation| Rule { to: vec![operation], ..Rule::default() };
    let role =
        FieldCondition { name: "x-role".parse().expect("a name"), values: vec![Text::Exact("admin".into())] };
    let rules = vec![
        about(Operation { paths: vec![PathMatch::Prefix(Prefix::new("/admin"))], ..Operation::default() }),
        about(Operation { hosts: vec![Host::new("secret.shop")], ..Operation::default() }),
        about(Operation { headers: vec![role], ..Operation::default() }),
    ];
    Access::new([(Effect::Deny, false, Policy { name: "fuzz/deny".into(), rules })], Mode::Open, "fuzz")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(head) = outrigger_fuzz::reading::head(bytes) else { return };
    if outrigger_fuzz::reading::is_forbidden(bytes) {
        assert!(!outrigger_proxy::would_pass(&RULES, head), "{}", bytes.escape_ascii());
    }
});
