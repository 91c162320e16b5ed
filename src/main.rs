//! The binary: nothing but the hand-over to [`relink::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    relink::cli::main()
}
