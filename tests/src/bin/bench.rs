//! `penstock-bench`: measures and prints one table. Build it with `--release`; see `make bench`.

use clap::Parser;
use tests::bench::{Options, Section, campaign, run};

fn main() {
    if cfg!(debug_assertions) {
        eprintln!("bench: this build is not optimised; its figures say nothing");
    }
    let options = Options::parse();
    let campaign = campaign(&options);
    if options.sections != [Section::DiodeCampaign] {
        println!("{}", run(&options));
    }
    if let Some(campaign) = campaign {
        println!("{} runs, first seed {}\n\n{campaign}", campaign.runs(), options.diode_seed);
        assert!(campaign.wrong().is_empty(), "wrong deliveries with seeds {:?}", campaign.wrong());
    }
}
