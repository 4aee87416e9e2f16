//! The binary `amazon-billing-source`: arguments, a runtime, an exit code.

use std::process::ExitCode;

use amazon_billing_source::cli;

fn main() -> ExitCode {
    cli::main().into()
}
