//! A signing request, as a workload sends it to the control plane.
#![no_main]

libfuzzer_sys::fuzz_target!(|csr: &[u8]| drop(outrigger_certs::SigningRequest::read(csr)));
