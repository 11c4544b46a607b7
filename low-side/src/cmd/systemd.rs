//! `setup systemd`: the drop-in of our unit, made from the configuration.

use std::path::Path;

use clap::Args;
use shared::exit;
use shared::reach::{Asked, drop_in, name_servers, resolve};

use super::{Failure, put};
use crate::config::Config;
use crate::reach::reach;

/// What the configuration does not say.
#[derive(Clone, Debug, Default, Args)]
pub struct UnitArgs {
    /// An address or network that speaks to the receivers, or any; may be given several times (systemd).
    #[arg(long, value_name = "NETWORK")]
    pub sources: Vec<String>,
    /// Allow the addresses that names in the configuration have now, instead of every address (systemd).
    #[arg(long)]
    pub pin_names: bool,
    /// Hand keys and other secrets over as credentials, so that root may own their files alone (systemd).
    #[arg(long)]
    pub credentials: bool,
}

pub(super) fn setup(config: &Config, config_file: &Path, args: &UnitArgs) -> Result<(), Failure> {
    let asked = Asked {
        program: "penstock-low",
        config: config_file,
        sources: &args.sources,
        pin_names: args.pin_names,
        credentials: args.credentials,
        resolve: &resolve,
        name_servers: &name_servers(),
    };
    let text = drop_in(&reach(config, config_file), &asked);
    put(&text.map_err(|err| Failure::new(exit::FAILED, err))?)
}
