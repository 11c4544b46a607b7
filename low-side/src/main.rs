//! `penstock-low`: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use low_side::{cli::Cli, cmd};

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cmd::run(&cli),
        Err(err) => {
            let wrong = err.use_stderr();
            // Nothing can be said about a closed standard error.
            let _ = err.print();
            ExitCode::from(if wrong { shared::exit::USAGE } else { shared::exit::DONE })
        }
    }
}
