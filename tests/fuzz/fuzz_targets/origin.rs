//! The value of `Origin`, as a browser or somebody else sends it, against patterns of every form.
#![no_main]

use std::sync::LazyLock;

use outrigger_proxy::filter::Origins;

static ORIGINS: LazyLock<Origins> = LazyLock::new(|| {
    let patterns = ["https://*.shop.example", "http://[::1]:8080", "http://*", "app://local"];
    Origins::new(&patterns.map(str::to_owned)).expect("these are patterns")
});

libfuzzer_sys::fuzz_target!(|value: &[u8]| {
    let allowed = ORIGINS.allow(value);
    assert!(!allowed || !value.contains(&b'/') || !value.ends_with(b"/"), "an origin has no path");
});
