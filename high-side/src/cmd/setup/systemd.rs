//! `setup systemd`: the drop-in of our unit, made from the configuration.

use clap::Args;
use shared::reach::{Asked, drop_in, name_servers, resolve};

use super::super::Failure;
use crate::config::Config;
use crate::reach::reach;

/// What the configuration does not say.
#[derive(Clone, Debug, Default, Args)]
pub struct UnitArgs {
    /// An address or network that speaks to the listeners, or any; may be given several times (systemd).
    #[arg(long, value_name = "NETWORK")]
    pub sources: Vec<String>,
    /// Allow the addresses that names in the configuration have now, instead of every address (systemd).
    #[arg(long)]
    pub pin_names: bool,
    /// Hand keys and other secrets over as credentials, so that root may own their files alone (systemd).
    #[arg(long)]
    pub credentials: bool,
}

pub(super) fn text(config: &Config, args: &UnitArgs) -> Result<String, Failure> {
    let asked = Asked {
        program: "penstock-high",
        config: &config.path,
        sources: &args.sources,
        pin_names: args.pin_names,
        credentials: args.credentials,
        resolve: &resolve,
        name_servers: &name_servers(),
    };
    drop_in(&reach(config), &asked).map_err(Failure::new)
}
