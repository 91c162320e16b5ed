//! The binary: calls [`relink::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    relink::cli::main()
}
