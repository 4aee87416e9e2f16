//! x
use crate::exit::Exit;
use tokio_util::sync::CancellationToken;
/// x
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Example:
  amazon-billing-source demo")]
pub struct DemoArgs {}
/// x
pub async fn run(_args: DemoArgs, _shutdown: CancellationToken) -> Exit {
    Exit::Done
}
