//! `outrigger-micro`: single steps of a request, timed or waiting to be counted.
//!
//! ```text
//! cargo run --release -p outrigger-micro                     time every step
//! cargo run --release -p outrigger-micro -- 'tls/' --sample-count 1000
//! cargo run --release -p outrigger-micro -- --help           what else divan can do
//! cargo run --release -p outrigger-micro -- --promises       what policy may cost, and whether it does
//! cargo run --release -p outrigger-benches -- instructions   count instructions, beside the baseline
//! ```
//!
//! The steps are functions of the proxy's own crate with inputs of a usual size; [`mod@step`] lists them. A step is what
//! one request does once, so its time adds up with those of others to a part of what the whole request costs in the
//! proxy; what is left is system calls, the HTTP library and the runtime. The times are those of a quiet
//! machine with everything in its caches: good for comparing two versions of one step, and nothing else.
//!
//! This is a program and no bench target, because Cargo builds bench targets without `panic = "abort"`: everything
//! would be compiled a second time, and measured as nobody ships it. And it is a crate of its own so that the harness
//! beside it, which measures finished binaries, does not contain what it measures.

mod balancing;
mod counting;
mod fields;
mod matching;
mod promises;
mod recording;
mod step;
mod tls;

use std::process::ExitCode;

use divan::Bencher;
use step::Step;

/// The proxy's own, since half of the steps allocate.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Times one step, unless the command line asks for another.
#[divan::bench(args = step::all())]
fn step(bencher: Bencher<'_, '_>, step: &Step) {
    bencher.bench_local(step.prepare().expect("what a step needs can be made anywhere"));
}

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some(counting::ARGUMENT) => counting::serve().map(|()| true),
        Some(promises::ARGUMENT) => promises::measure(),
        _ => {
            divan::Divan::from_args().run_benches();
            return ExitCode::SUCCESS;
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
