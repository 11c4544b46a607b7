//! Seeded runs of both ends over every kind of bad link.

use tests::campaign::{Campaign, Run};
use tests::seed::env_number;

/// How many runs a test makes; each pattern of links is met several times.
const RUNS: u64 = 60;

#[test]
fn whatever_a_link_does_a_bundle_arrives_as_it_was_or_not_at_all() {
    // A number in the environment repeats one run, or begins elsewhere.
    let seed = env_number("PENSTOCK_SEED").unwrap_or(1);
    let runs = env_number("PENSTOCK_RUNS").unwrap_or(RUNS);
    let campaign = Campaign::run(seed, runs, |_| {});
    println!("{campaign}");
    assert_eq!(campaign.runs(), runs);
    let told = |seeds: &[u64]| {
        seeds.iter().map(|seed| format!("{:?}", Run::of(*seed))).collect::<Vec<_>>()
    };
    assert!(campaign.wrong().is_empty(), "wrong deliveries: {:#?}", told(&campaign.wrong()));
    assert!(campaign.missed().is_empty(), "not arrived: {:#?}", told(&campaign.missed()));
}
