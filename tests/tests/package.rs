//! What the packages are made of, without building one: the tables in both `Cargo.toml`, the manual pages and
//! completions, the scripts of the package managers, the samples. `make test-packages` installs them.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, which fail where they can go no further"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use tests::agents::program;
use tests::process::run;
use tests::sandbox::Sandbox;

/// The sides, as their folders are called.
const SIDES: [&str; 2] = ["high", "low"];
/// What `package.sh` makes before it packs.
const STAGE: &str = "../target/package/stage/";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One row of a package's table.
struct Asset {
    source: String,
    dest: String,
    mode: String,
}

fn metadata(side: &str) -> toml::Table {
    let manifest = project().join(format!("{side}-side/Cargo.toml"));
    let manifest: toml::Table = fs::read_to_string(manifest).unwrap().parse().unwrap();
    manifest["package"]["metadata"].as_table().unwrap().clone()
}

fn assets(side: &str) -> Vec<Asset> {
    let metadata = metadata(side);
    let rows = metadata["deb"]["assets"].as_array().unwrap();
    let text = |row: &toml::Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.iter()
        .map(|row| Asset {
            source: text(row, "source"),
            dest: text(row, "dest"),
            mode: text(row, "mode"),
        })
        .collect()
}

/// The files that a source names; what is staged is none yet.
fn sources(side: &str, source: &str) -> Vec<PathBuf> {
    let folder = project().join(format!("{side}-side"));
    let files = |dir: &Path| -> Vec<PathBuf> {
        let read = fs::read_dir(dir).unwrap_or_else(|err| panic!("{}: {err}", dir.display()));
        read.map(|entry| entry.unwrap().path()).collect()
    };
    if let Some(dir) = source.strip_suffix("/**/*") {
        let (mut found, mut dirs) = (Vec::new(), vec![folder.join(dir)]);
        while let Some(dir) = dirs.pop() {
            for path in files(&dir) {
                if path.is_dir() { dirs.push(path) } else { found.push(path) }
            }
        }
        return found;
    }
    let path = folder.join(source);
    let Some((_, ending)) = source.rsplit_once('*') else { return vec![path] };
    let all = files(path.parent().unwrap()).into_iter();
    all.filter(|path| path.to_str().unwrap().ends_with(ending)).collect()
}

#[test]
fn what_the_packages_name_is_there_and_no_file_is_in_both() {
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for side in SIDES {
        for Asset { source, dest, mode } in assets(side) {
            assert!(dest.starts_with("/usr/"), "{dest}");
            assert_eq!(mode == "755", dest == "/usr/bin/", "{dest} has mode {mode}");
            let names: Vec<String> = if let Some(staged) = source.strip_prefix(STAGE) {
                vec![Path::new(staged).file_name().unwrap().to_str().unwrap().to_owned()]
            } else {
                let found = sources(side, &source);
                assert!(!found.is_empty(), "{side}: {source} names nothing");
                for path in &found {
                    assert!(path.is_file(), "{side}: {} is not there", path.display());
                }
                let base = source.split('*').next().unwrap();
                let base = project().join(format!("{side}-side")).join(base);
                let name = |path: &PathBuf| match path.strip_prefix(&base) {
                    Ok(below) if source.contains("**") => below.to_str().unwrap().to_owned(),
                    _ => path.file_name().unwrap().to_str().unwrap().to_owned(),
                };
                found.iter().map(name).collect()
            };
            for name in names {
                let path = if dest.ends_with('/') { dest.clone() + &name } else { dest.clone() };
                let owner = owners.insert(path.clone(), side);
                assert_eq!(owner, None, "{path} is in a package already");
            }
        }
    }
    // The whole handbook is in both, and every unit and example in one.
    for side in SIDES {
        let doc = format!("/usr/share/doc/penstock-{side}/");
        for page in sources(side, "../packaging/doc/*.md") {
            let name = page.file_name().unwrap().to_str().unwrap();
            assert!(owners.contains_key(&format!("{doc}{name}")), "{name}");
        }
    }
    let shipped: BTreeSet<PathBuf> = SIDES
        .iter()
        .flat_map(|side| assets(side).into_iter().map(move |asset| (side, asset.source)))
        .filter(|(_, source)| !source.starts_with(STAGE))
        .flat_map(|(side, source)| sources(side, &source))
        .map(|path| path.canonicalize().unwrap())
        .collect();
    let units = sources("high", "../systemd/**/*");
    for unit in units {
        assert!(
            shipped.contains(&unit.canonicalize().unwrap()),
            "{} is in no package",
            unit.display()
        );
    }
}

#[test]
fn both_kinds_of_package_start_nothing_and_link_no_openssl() {
    for side in SIDES {
        let metadata = metadata(side);
        let (deb, rpm) = (&metadata["deb"], &metadata["generate-rpm"]);
        assert_eq!(deb["name"], rpm["name"]);
        let depends = deb["depends"].as_str().unwrap();
        assert!(depends.contains("$auto") && !depends.contains("ssl"), "{depends}");
        // The table for Debian is laid over the one for RPM: what both have must mean the same.
        for key in deb.as_table().unwrap().keys() {
            let both = rpm.get(key).is_some_and(|_| key != "name");
            assert!(!both, "{key} would be overwritten");
        }
        for script in ["post_install_script", "pre_uninstall_script", "post_uninstall_script"] {
            assert!(rpm[script].as_str().unwrap().contains(&format!("/rpm/penstock-{side}.")));
        }
    }
    for file in ["deb/postinst", "rpm/post"] {
        let text = fs::read_to_string(project().join("packaging").join(file)).unwrap();
        for word in ["enable", " start", " restart"] {
            let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            assert!(!code.clone().any(|line| line.contains(word)), "{file} says{word}");
        }
    }
}

#[test]
fn the_scripts_of_the_package_managers_are_sound() {
    let sandbox = Sandbox::new("scripts");
    let shellcheck = run(Command::new("sh").args(["-c", "command -v shellcheck"])).code == Some(0);
    let mut scripts = Vec::new();
    for name in ["postinst", "prerm", "postrm"] {
        let path = project().join("packaging/deb").join(name);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("#!/bin/sh\n") && text.contains("\nset -e\n"), "{name}");
        scripts.push(path);
    }
    for name in ["post", "preun", "postun"] {
        let text = fs::read_to_string(project().join("packaging/rpm").join(name)).unwrap();
        let path = sandbox.join(name);
        fs::write(&path, text.replace("@PACKAGE@", "penstock-high")).unwrap();
        scripts.push(path);
    }
    for script in scripts {
        run(Command::new("sh").arg("-n").arg(&script)).success();
        if shellcheck {
            run(Command::new("shellcheck").args(["--shell=sh"]).arg(&script)).success();
        }
    }
}

/// The names of a command and all its verbs, as their pages are called.
fn names(command: &clap::Command, name: &str, all: &mut BTreeSet<String>) {
    all.insert(format!("{name}.8"));
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        names(verb, &format!("{name}-{}", verb.get_name()), all);
    }
}

#[test]
fn every_verb_has_a_manual_page_and_a_completion_in_three_shells() {
    let sandbox = Sandbox::new("manual");
    let commands = [high_side::cli::Cli::command(), low_side::cli::Cli::command()];
    for (side, command) in SIDES.into_iter().zip(&commands) {
        let name = format!("penstock-{side}");
        let pages = sandbox.join(side);
        fs::create_dir(&pages).unwrap();
        run(Command::new(program(&name)).arg("manual").arg(&pages)).success();
        let written: BTreeSet<String> = fs::read_dir(&pages)
            .unwrap()
            .map(|page| page.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut expected = BTreeSet::from([format!("{name}.toml.5")]);
        names(command, &name, &mut expected);
        assert_eq!(written, expected);
        for page in &written {
            let text = fs::read_to_string(pages.join(page)).unwrap();
            let title = page.rsplit_once('.').unwrap().0;
            let titled = text
                .lines()
                .any(|line| line.starts_with(".TH ") && line.replace('\\', "").contains(title));
            assert!(titled, "{page} has no title: {text}");
        }
        for shell in ["bash", "zsh", "fish"] {
            let script = run(Command::new(program(&name)).args(["completions", shell])).success();
            for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
                assert!(script.contains(verb.get_name()), "{shell}: {}", verb.get_name());
            }
            if shell == "bash" {
                let file = sandbox.join("completion");
                fs::write(&file, &script).unwrap();
                run(Command::new("bash").arg("-n").arg(&file)).success();
            }
        }
    }
}

/// What a sample shows in a section that is commented out, and what of it has no default.
struct Shown {
    /// The section, as `listener`.
    section: &'static str,
    /// What must stand in it; the values are the sample's.
    needs: &'static [&'static str],
    /// What stands there as an example, by its key or the whole line: without it there is none, or another.
    examples: &'static [&'static str],
}

const HIGH: &[Shown] = &[
    Shown {
        section: "listener",
        needs: &["name", "protocol", "bind", "certificate", "key"],
        examples: &["client-auth", "client-ca", "path", "unwrap", "shared-key-file", "users-file"],
    },
    Shown { section: "suppress", needs: &["name"], examples: &["*"] },
    Shown { section: "redact", needs: &["name"], examples: &["*"] },
    Shown {
        section: "portainer-api",
        needs: &["name", "url", "api-key-file", "ca"],
        examples: &[],
    },
    Shown { section: "file", needs: &["name", "paths"], examples: &["rotated"] },
    Shown {
        section: "carrier",
        needs: &["name", "type", "path", "to", "link-key-file", "connect", "key-file"],
        examples: &["bind"],
    },
    Shown { section: "guard", needs: &[], examples: &["hmac-key-file"] },
    Shown { section: "page", needs: &[], examples: &["*"] },
];

const LOW: &[Shown] = &[
    Shown {
        section: "receiver",
        needs: &["name", "type", "path", "bind", "link-key-file", "key-file"],
        examples: &[],
    },
    Shown {
        section: "release.rule",
        needs: &["origin", "lane", "required"],
        examples: &["officers"],
    },
    Shown { section: "receipt", needs: &[], examples: &["folder"] },
    Shown { section: "store", needs: &[], examples: &["*"] },
    Shown { section: "page", needs: &[], examples: &["*"] },
    Shown {
        section: "archive",
        needs: &[
            "name",
            "type",
            "retention",
            "bucket",
            "account",
            "container",
            "path",
            "region",
            "credentials-file",
            "sas-file",
            "service-account-file",
        ],
        examples: &["prefix", "endpoint", "addressing", "profile", "ca-file", "order = \"beside\""],
    },
    Shown {
        section: "sink",
        needs: &["name", "type", "path", "address", "transport", "ca-file"],
        examples: &["schema", "line-bytes", "cert-file", "key-file", "server-name"],
    },
];

#[derive(Debug)]
struct Line {
    key: String,
    text: String,
}

/// The sections of a sample with what is commented out in each: header and lines.
fn commented(sample: &str, sign: &str) -> Vec<(String, Vec<Line>)> {
    let mut sections = vec![(String::new(), Vec::new())];
    for line in sample.lines() {
        let (text, out) = match line.strip_prefix(sign) {
            Some(text) => (text, true),
            None => (line, false),
        };
        if text.starts_with('[') {
            sections.push((text.to_owned(), Vec::new()));
        } else if let Some((key, _)) = text.split_once(" = ").filter(|_| out) {
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if !key.is_empty() && key.bytes().all(plain) {
                let line = Line { key: key.to_owned(), text: text.to_owned() };
                sections.last_mut().unwrap().1.push(line);
            }
        }
    }
    sections.retain(|(_, lines)| !lines.is_empty());
    sections
}

/// Every key that is commented out in the sample has the value that it has when it is left out.
fn proves_its_comments(
    sample: &str,
    sign: &str,
    shown: &[Shown],
    read: &dyn Fn(&str) -> Result<String, String>,
) {
    let mut compared = 0;
    for (header, lines) in commented(sample, sign) {
        let section = header.trim_matches(['[', ']']);
        let known = shown.iter().find(|shown| shown.section == section);
        let known = known.unwrap_or_else(|| {
            panic!("the sample shows {header:?}, of which this test knows nothing")
        });
        let needed = |line: &&Line| known.needs.contains(&line.key.as_str());
        let join = |lines: &[&str]| format!("{header}\n{}\n", lines.join("\n"));
        let least: Vec<&str> = lines.iter().filter(needed).map(|line| line.text.as_str()).collect();
        let without = read(&join(&least));
        for line in lines.iter().filter(|line| !needed(line)) {
            let example = |shown: &&str| {
                *shown == "*" || *shown == line.key || *shown == line.text.trim_end()
            };
            if known.examples.iter().any(example) {
                continue;
            }
            let with = read(&join(&[least.as_slice(), &[line.text.as_str()]].concat()));
            assert_eq!(with, without, "{header} {}", line.text);
            assert!(without.is_ok(), "{header}: {without:?}");
            compared += 1;
        }
    }
    assert!(compared > 20, "only {compared} keys were compared");
}

#[test]
fn what_the_samples_show_is_what_is_so_without_it() {
    let sandbox = Sandbox::new("sample");
    // Files that a section can't do without are there.
    let keys = format!("{}/", sandbox.path().display());
    let at_hand = |text: &str| {
        for name in text.split("/etc/penstock/").skip(1).filter_map(|rest| rest.split('"').next()) {
            let file = sandbox.join(name);
            fs::write(&file, "00".repeat(32) + "\n").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        text.replace("/etc/penstock/", &keys)
    };
    let path = sandbox.join("high.toml");
    let origin = "origin = \"my-site\"\n";
    let read = |text: &str| {
        let config =
            high_side::config::Config::from_text(&at_hand(&format!("{origin}{text}")), &path);
        config.map(|config| format!("{config:?}")).map_err(|err| err.to_string())
    };
    // What stands in it as a setting: all of it is the default.
    let whole = high_side::config::Config::from_text(high_side::config::SAMPLE, &path).unwrap();
    assert_eq!(format!("{whole:?}"), read("").unwrap());
    proves_its_comments(high_side::config::SAMPLE, "#", HIGH, &read);
    let read = |text: &str| {
        let config = low_side::config::Config::from_text(&at_hand(text), &path);
        config.map(|config| format!("{config:?}")).map_err(|err| err.to_string())
    };
    let whole = low_side::config::Config::from_text(low_side::config::SAMPLE, &path).unwrap();
    assert_eq!(format!("{whole:?}"), read("").unwrap());
    proves_its_comments(low_side::config::SAMPLE, "#: ", LOW, &read);
}

#[test]
fn init_takes_listener_sink_and_pairing_at_once_and_changes_no_configuration_that_is_there() {
    let sandbox = Sandbox::new("init");
    let (high, low) = (sandbox.join("high"), sandbox.join("low"));
    let command = |name: &str, dir: &Path| {
        let mut command = Command::new(program(name));
        command.args(["init", "--dir"]).arg(dir);
        command
    };
    let sink = format!("file:{}", sandbox.join("events").display());
    let half = run(command("penstock-low", &low).args(["--sink", &sink])).success();
    fs::write(sandbox.join("low.pub"), half).unwrap();
    let made = run(command("penstock-high", &high)
        .args(["--origin", "plant-7", "--listen", "tcp://127.0.0.1:5514"])
        .args(["--listen", "udp://[::1]:5514", "--pair"])
        .arg(sandbox.join("low.pub")))
    .success();
    let config = high_side::config::Config::load(&high.join("high.toml")).unwrap();
    assert_eq!(config.listeners.len(), 2);
    let config = low_side::config::Config::load(&low.join("low.toml")).unwrap();
    assert_eq!(config.sinks.len(), 1);
    fs::write(sandbox.join("high.pub"), made).unwrap();
    // Paired already, and nothing is missing: the configuration is in order.
    let check = ["check-config", "--config"];
    run(Command::new(program("penstock-high")).args(check).arg(high.join("high.toml"))).success();
    // What is there stays, and is not half done; a protocol that needs more than an address makes nothing.
    let before = fs::read(high.join("high.toml")).unwrap();
    let again = run(command("penstock-high", &high).args(["--listen", "tcp://127.0.0.1:5515"]));
    assert_eq!(again.code, Some(78), "{}", again.stderr);
    assert_eq!(fs::read(high.join("high.toml")).unwrap(), before);
    let tls = run(command("penstock-high", &sandbox.join("tls")).args([
        "--origin",
        "plant-7",
        "--listen",
        "tls://127.0.0.1:6514",
    ]));
    assert_eq!(tls.code, Some(78), "{}", tls.stderr);
    assert!(!sandbox.join("tls/high.toml").exists());
    for wrong in ["tcp", "tcp://nowhere", "://127.0.0.1:1"] {
        let done = run(command("penstock-high", &sandbox.join("x")).args(["--listen", wrong]));
        assert_eq!(done.code, Some(64), "{wrong}: {}", done.stderr);
    }
    let done = run(command("penstock-low", &sandbox.join("x")).args(["--sink", "splunk://x"]));
    assert_eq!(done.code, Some(64), "{}", done.stderr);
}
