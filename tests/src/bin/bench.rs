//! `penstock-bench`: measures and prints one table. Build it with `--release`; see `make bench`.

use clap::Parser;
use tests::bench::{Options, run};

fn main() {
    if cfg!(debug_assertions) {
        eprintln!("bench: this build is not optimised; its figures say nothing");
    }
    println!("{}", run(&Options::parse()));
}
