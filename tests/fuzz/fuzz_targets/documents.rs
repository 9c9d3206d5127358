//! Resources in YAML, as a person or a program sends them to the REST API.
#![no_main]

use outrigger_control_plane::resources::{Format, parse};

libfuzzer_sys::fuzz_target!(|text: &str| drop(parse(text, Format::Yaml)));
