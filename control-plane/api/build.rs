//! Compiles the protobuf contract with `protox`, so that no `protoc` need be installed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["outrigger/v1/mesh.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .boxed("outrigger.v1.ControlMessage.update.service")
        .compile_fds(descriptors)?;
    Ok(())
}
