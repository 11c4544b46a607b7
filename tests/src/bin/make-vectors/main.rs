//! Writes the golden bundles of `shared/vectors/`.
//!
//! A file that is there stays as it is, so that a reader of tomorrow meets the bundles of today;
//! `--force` replaces them all. The keys in `vectors/keys/` are never made here.

#![allow(
    clippy::cast_possible_wrap,
    clippy::format_push_string,
    clippy::items_after_statements,
    clippy::type_complexity,
    reason = "tables of small cases, written for reading"
)]

// Tables with one long line for each case: split over eight lines nobody could read them.
#[rustfmt::skip]
mod container;
#[rustfmt::skip]
mod header;
#[rustfmt::skip]
mod manifest;
#[rustfmt::skip]
mod payload;
#[rustfmt::skip]
mod records;
#[rustfmt::skip]
mod release;
#[rustfmt::skip]
mod signature;
#[rustfmt::skip]
mod valid;

use std::path::Path;
use std::process::ExitCode;

use sha2::{Digest, Sha256};
use tests::forge::{Keys, Recipe, hex};

/// One golden bundle.
pub(crate) struct Case {
    /// Its file name, after its defect.
    name: &'static str,
    /// `ok`, or the refusal's code.
    expect: &'static str,
    /// The section of FORMAT.md that it keeps or breaks.
    section: &'static str,
    /// What is special about it.
    comment: &'static str,
    recipe: Recipe,
}

/// Collects the cases of one kind.
pub(crate) struct Cases {
    keys: Keys,
    list: Vec<Case>,
}

impl Cases {
    /// The valid bundle that a case changes.
    pub(crate) fn base(&self) -> Recipe {
        Recipe::new(&self.keys)
    }

    pub(crate) fn add(
        &mut self,
        name: &'static str,
        expect: &'static str,
        section: &'static str,
        comment: &'static str,
        recipe: Recipe,
    ) {
        self.list.push(Case { name, expect, section, comment, recipe });
    }
}

fn main() -> ExitCode {
    let force = std::env::args().any(|arg| arg == "--force");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    let mut cases = Cases { keys: Keys::at(&dir.join("keys")), list: Vec::new() };
    valid::add(&mut cases);
    container::add(&mut cases);
    header::add(&mut cases);
    signature::add(&mut cases);
    release::add(&mut cases);
    payload::add(&mut cases);
    manifest::add(&mut cases);
    records::add(&mut cases);

    let (mut written, mut kept) = (0, 0);
    for case in &cases.list {
        let path = dir.join(format!("{}.vector", case.name));
        if path.exists() && !force {
            kept += 1;
            continue;
        }
        if let Err(err) = std::fs::write(&path, vector(case)) {
            eprintln!("{}: {err}", path.display());
            return ExitCode::FAILURE;
        }
        written += 1;
    }
    println!("{written} written, {kept} kept");
    ExitCode::SUCCESS
}

fn vector(case: &Case) -> Vec<u8> {
    let Case { expect, section, comment, recipe, .. } = case;
    let mut text = format!("expect: {expect}\nsection: {section}\ncomment: {comment}\n");
    if *expect == "ok" {
        let records = recipe.records_section();
        text.push_str(&format!("records: {}\n", recipe.records.len()));
        text.push_str(&format!("records-sha256: {}\n", hex(&Sha256::digest(records))));
    }
    if recipe.demand > 0 {
        text.push_str(&format!("demand: {}\n", recipe.demand));
    }
    text.push_str("---\n");
    [text.into_bytes(), recipe.forge()].concat()
}
