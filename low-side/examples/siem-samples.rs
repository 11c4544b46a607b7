//! Renders raw records, one JSON text `{"raw": "..."}` a line on standard input, as each SIEM gets them, by
//! the mappings that the sinks use. With `--template` it prints the index template instead, and without a
//! final pipeline. For `packaging/siem/tests`, which run the detection rules over the result.

use std::io::{self, BufRead as _, Write as _};

use anyhow::{Context as _, Result};
use low_side::event::{View, render_view, with_view};
use low_side::ledger::ChainName;
use low_side::mapping::{cim, ecs, sentinel};
use serde::Deserialize;
use shared::clock::Nanos;
use shared::event::recognise;
use shared::record::{Epoch, Lane, Sequence, SourceTag, encode, parse};

#[derive(Deserialize)]
struct Sample {
    raw: String,
}

fn main() -> Result<()> {
    let mut out = io::stdout().lock();
    if std::env::args().nth(1).as_deref() == Some("--template") {
        let patterns = ["portainer-audit-*", "kube-audit-*", "falco-alert-*", "penstock-other-*"];
        writeln!(out, "{}", ecs::index_template(&patterns, &[]))?;
        return Ok(());
    }
    let chain = ChainName { origin: "siem-tests".parse()?, epoch: Epoch(1), lane: Lane::Routine };
    let received: Nanos = RECEIVED.parse()?;
    for (number, line) in (1_u64..).zip(io::stdin().lock().lines()) {
        let sample: Sample =
            serde_json::from_str(&line?).with_context(|| format!("line {number}"))?;
        let raw = sample.raw.as_bytes();
        let source = SourceTag::new("raw", "raw.jsonl", None);
        let mut bytes = Vec::new();
        encode(&mut bytes, Sequence(number), received, recognise(raw), &source, None, raw);
        let (record, _) = parse(&bytes, bytes.len() as u64)?;
        let text = with_view(&chain, &record, rendered)?;
        writeln!(out, "{text}")?;
    }
    Ok(())
}

/// One object: a member for each schema, and the name of Sentinel's table.
fn rendered(view: &View<'_>) -> Result<String> {
    let of = |render: &dyn Fn(&mut Vec<u8>, &View<'_>)| {
        let mut bytes = Vec::new();
        render(&mut bytes, view);
        String::from_utf8(bytes)
    };
    Ok(format!(
        "{{\"native\":{},\"ecs\":{},\"hec\":{},\"table\":\"{}\",\"sentinel\":{}}}",
        of(&render_view)?,
        of(&ecs::render)?,
        of(&|out, view| cim::hec_envelope(out, view, "portainer_audit"))?,
        sentinel::Table::of(view).name,
        of(&sentinel::row)?,
    ))
}

const RECEIVED: &str = "2026-11-25T12:00:00Z";
