//! The filter of system calls that a unit of ours asks systemd for, put on a program without systemd.
//!
//! Understood are `SystemCallFilter=` (groups and names, as systemd's own tool lists them),
//! `SystemCallErrorNumber=EPERM`, `RestrictAddressFamilies=` and `MemoryDenyWriteExecute=`. The other filters
//! that systemd makes (namespaces, real-time scheduling, set-user-ID bits) are not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde_json::{Value, json};

use crate::peers::peer;
use crate::process::run;

/// A unit in the source.
pub fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(name)
}

/// A command that runs another one under the filter of a unit.
pub fn under(unit_name: &str, command: &Command) -> Command {
    let mut outer = Command::new(crate::agents::program("penstock-under"));
    outer.arg(unit(unit_name)).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

/// Keeps this process, and what it becomes, to the filter of a unit.
pub fn apply(unit: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(unit).map_err(|err| format!("{}: {err}", unit.display()))?;
    seccompiler::apply_filter(&filter(&text)?).map_err(|err| err.to_string())
}

/// The filter of a unit's text.
fn filter(unit: &str) -> Result<BpfProgram, String> {
    let groups = groups(&run(peer("systemd-analyze").arg("syscall-filter")).success());
    let values = |key: &'static str| {
        let lines = unit.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='));
        lines.collect::<Vec<_>>()
    };
    if values("SystemCallErrorNumber") != ["EPERM"] {
        return Err("the unit does not say SystemCallErrorNumber=EPERM".to_owned());
    }
    // systemd adds what starting a program takes.
    let mut allowed = BTreeSet::new();
    expand("@default", &groups, &mut allowed)?;
    for line in values("SystemCallFilter") {
        let mut named = BTreeSet::new();
        let calls = line.strip_prefix('~').unwrap_or(line);
        calls.split_whitespace().try_for_each(|name| expand(name, &groups, &mut named))?;
        if line.starts_with('~') {
            allowed.retain(|call| !named.contains(call));
        } else {
            allowed.extend(named);
        }
    }
    let families: Vec<&str> =
        values("RestrictAddressFamilies").into_iter().flat_map(str::split_whitespace).collect();
    let no_exec = values("MemoryDenyWriteExecute") == ["yes"];
    let mut rules = Vec::new();
    for call in &allowed {
        match call.as_str() {
            "socket" if !families.is_empty() => {
                for family in &families {
                    if let Some(number) = family_number(family)? {
                        rules.push(rule(call, 0, &json!("eq"), number));
                    }
                }
            }
            // Memory that can be written to and run, in one call or in two.
            "mmap" if no_exec => {
                let one_of = json!({"masked_eq": PROT_WRITE | PROT_EXEC});
                for allowed in [0, PROT_WRITE, PROT_EXEC] {
                    rules.push(rule(call, 2, &one_of, allowed));
                }
            }
            "mprotect" | "pkey_mprotect" if no_exec => {
                rules.push(rule(call, 2, &json!({"masked_eq": PROT_EXEC}), 0));
            }
            // Calls of other machines, or too new for the compiler, which a program can't have either.
            _ if compile(&[json!({"syscall": call})]).is_ok() => {
                rules.push(json!({"syscall": call}));
            }
            _ => {}
        }
    }
    compile(&rules)
}

const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;

fn rule(call: &str, argument: u8, operation: &Value, value: u64) -> Value {
    let condition = json!({"index": argument, "type": "dword", "op": operation, "val": value});
    json!({"syscall": call, "args": [condition]})
}

/// A family's number on Linux; `None` for the word that means none of them.
fn family_number(family: &str) -> Result<Option<u64>, String> {
    match family {
        "none" => Ok(None),
        "AF_UNIX" => Ok(Some(1)),
        "AF_INET" => Ok(Some(2)),
        "AF_INET6" => Ok(Some(10)),
        _ => Err(format!("{family} is not known here")),
    }
}

fn compile(rules: &[Value]) -> Result<BpfProgram, String> {
    let text = json!({"all": {
        "mismatch_action": {"errno": nix::errno::Errno::EPERM as i32},
        "match_action": "allow",
        "filter": rules,
    }});
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|err| err.to_string())?;
    let mut programs =
        compile_from_json(text.to_string().as_bytes(), arch).map_err(|err| err.to_string())?;
    programs.remove("all").ok_or_else(|| "no filter was made".to_owned())
}

/// What `systemd-analyze syscall-filter` lists: groups, and calls and groups in them.
fn groups(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if line.starts_with('@') {
            current = Some(line.trim().to_owned());
        } else if line.starts_with('#') {
            current = None;
        } else if let Some(group) = &current {
            let name = line.trim();
            if !name.is_empty() && !name.starts_with('#') {
                groups.entry(group.clone()).or_default().push(name.to_owned());
            }
        }
    }
    groups
}

fn expand(
    name: &str,
    groups: &BTreeMap<String, Vec<String>>,
    calls: &mut BTreeSet<String>,
) -> Result<(), String> {
    if !name.starts_with('@') {
        calls.insert(name.to_owned());
        return Ok(());
    }
    let members = groups.get(name).ok_or_else(|| format!("systemd knows no group {name}"))?;
    members.iter().try_for_each(|member| expand(member, groups, calls))
}
