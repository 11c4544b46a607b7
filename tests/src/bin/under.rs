//! `penstock-under UNIT PROGRAM [ARGUMENT...]`: runs a program under the filter of system calls of a unit.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(unit), Some(program)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: penstock-under UNIT PROGRAM [ARGUMENT...]");
        return ExitCode::from(64);
    };
    if let Err(problem) = tests::seccomp::apply(&PathBuf::from(unit)) {
        eprintln!("penstock-under: {problem}");
        return ExitCode::FAILURE;
    }
    // Returns only where it failed.
    let problem = Command::new(&program).args(arguments).exec();
    eprintln!("penstock-under: {}: {problem}", program.display());
    ExitCode::FAILURE
}
