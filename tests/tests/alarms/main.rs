//! Alarms as operators meet them: each code has its line in the handbook and a test that raises it, and what the
//! handbook advises is done until the alarm is over, or known and not told again.

mod around;
mod damage;
mod disorder;
mod table;

use std::process::Command;

use serde_json::Value;
use tests::agents::Site;
use tests::peers::peer;
use tests::wait::{PATIENCE, wait_until};

/// The alarm of a code, if nobody has acknowledged it.
fn alarm(site: &Site, code: &str) -> Option<Value> {
    let status = site.status();
    let of_code = |alarm: &&Value| alarm["code"] == code || alarm["kind"] == code;
    status["alarms"].as_array()?.iter().find(of_code).cloned()
}

fn wait_raised(site: &Site, code: &str) -> Value {
    let mut found = Value::Null;
    wait_until(PATIENCE, code, || {
        found = alarm(site, code).filter(|alarm| alarm["closed"].is_null()).unwrap_or_default();
        !found.is_null()
    });
    found
}

fn wait_over(site: &Site, code: &str) {
    wait_until(PATIENCE, &format!("{code} to be over"), || {
        alarm(site, code).is_some_and(|alarm| !alarm["closed"].is_null())
    });
}

/// What happened is known now, and not told again.
fn acknowledge(site: &Site, code: &str) {
    let told = alarm(site, code).unwrap_or_else(|| panic!("no {code}"));
    site.run(["acknowledge", &told["id"].to_string()]).success();
    assert_eq!(alarm(site, code), None);
}

/// The agent as one whom permissions bind: root lays down what lets it write everywhere.
fn bound_by_permissions(site: &Site) -> Command {
    let agent = site.command(["run"]);
    if !nix::unistd::geteuid().is_root() {
        return agent;
    }
    let mut bound = peer("setpriv");
    bound.arg("--bounding-set=-dac_override,-dac_read_search,-fowner");
    bound.arg(agent.get_program()).args(agent.get_args());
    bound
}
