//! `verify` and `inspect`: one bundle, without importing it.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};
use shared::bundle::{
    Header, Limits, Manifest, ReleasedBy, VerifiedBundle, inspect as read_header, open,
};
use shared::clock::{Clock, SystemClock};
use shared::exit;

use super::{Failure, put, put_json};
use crate::config::Config;
use crate::folders::open_untrusted;
use crate::import::Keys;

/// Verifies a bundle by the one path.
pub(super) fn verify(config: &Config, path: &Path, as_json: bool) -> Result<(), Failure> {
    let file = open_file(path)?;
    let keys = Keys::load(&config.keys_dir, &config.releases)?;
    let opened = open(&file, &keys.trust, &keys.identities, &config.limits, SystemClock.now());
    let bundle = match opened {
        Ok(bundle) => bundle,
        Err(refusal) => {
            if as_json {
                put_json(
                    &json!({"verified": false, "code": refusal.code(), "message": refusal.to_string()}),
                )?;
            }
            return Err(Failure {
                message: format!("{}: {}", path.display(), Failure::from(refusal).message),
                code: exit::REFUSED,
            });
        }
    };
    let mut value = json!({
        "verified": true,
        "digest": bundle.digest().to_string(),
        "file-bytes": bundle.file_bytes(),
    });
    value["releases"] = releases_json(&bundle);
    value["header"] = header_json(bundle.header());
    value["manifest"] = manifest_json(bundle.manifest());
    show(&value, as_json)
}

/// Shows the header and, where a key of ours opens the bundle and it is authentic, the manifest.
pub(super) fn inspect(config: &Path, path: &Path, as_json: bool) -> Result<(), Failure> {
    // The header needs neither configuration nor keys; a transfer officer has neither.
    let config = if config.exists() { Some(Config::load(config)?) } else { None };
    let limits = config.as_ref().map_or_else(Limits::default, |config| config.limits);
    let file = open_file(path)?;
    let header = read_header(&file, &limits)?;
    let mut value = json!({"digest": header.digest().to_string(), "header": header_json(&header)});
    match config.map(|config| Keys::load(&config.keys_dir, &config.releases)) {
        Some(Ok(keys)) => {
            match open(&file, &keys.trust, &keys.identities, &limits, SystemClock.now()) {
                Ok(bundle) => {
                    value["verified"] = json!(true);
                    value["releases"] = releases_json(&bundle);
                    value["manifest"] = manifest_json(bundle.manifest());
                }
                Err(refusal) => {
                    value["verified"] = json!(false);
                    value["code"] = json!(refusal.code());
                    value["message"] = json!(refusal.to_string());
                }
            }
        }
        Some(Err(error)) => tell!("note: only the header is shown, unverified: {error}"),
        None => {
            tell!("note: only the header is shown, unverified: there is no configuration here");
        }
    }
    show(&value, as_json)
}

fn open_file(path: &Path) -> Result<File, Failure> {
    match open_untrusted(path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => {
            Err(Failure::new(exit::REFUSED, format!("{}: not a regular file", path.display())))
        }
        Err(err) => Err(Failure::new(exit::IO, format!("{}: {err}", path.display()))),
    }
}

fn show(value: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return put_json(value);
    }
    let mut text = String::new();
    lines(&mut text, 0, value);
    put(&text)
}

/// One line for each field, nested ones further in.
fn lines(text: &mut String, depth: usize, value: &Value) {
    let Value::Object(fields) = value else { return };
    for (name, field) in fields {
        let indent = "  ".repeat(depth);
        // Writing into a string can't fail.
        let _ = match field {
            Value::Object(_) => {
                let written = writeln!(text, "{indent}{name}");
                lines(text, depth + 1, field);
                written
            }
            Value::Array(items) => {
                for item in items {
                    let plain = item.as_str().map_or_else(|| item.to_string(), ToOwned::to_owned);
                    let _ = writeln!(text, "{indent}{name:<16} {plain}");
                }
                Ok(())
            }
            Value::String(plain) => writeln!(text, "{indent}{name:<16} {plain}"),
            other => writeln!(text, "{indent}{name:<16} {other}"),
        };
    }
}

/// Who released it: the officers who count here, and the keys of whoever else signed.
fn releases_json(bundle: &VerifiedBundle) -> Value {
    let by = |by: &ReleasedBy| match &by.officer {
        Some(officer) => json!({"officer": officer, "key": by.key}),
        None => json!({"officer": null, "key": by.key}),
    };
    bundle.releases().iter().map(by).collect()
}

fn header_json(header: &Header) -> Value {
    json!({
        "origin": header.origin,
        "epoch": header.epoch,
        "lane": header.lane,
        "number": header.number,
        "previous": header.previous.to_string(),
        "payload-bytes": header.payload_bytes,
        "payload-sha256": header.payload_sha256.to_string(),
        "signer": header.signer,
        "recipients": header.recipients,
    })
}

fn manifest_json(manifest: &Manifest) -> Value {
    let streams = manifest.streams.iter().map(
        |count| json!({"stream": count.stream, "records": count.records, "bytes": count.bytes}),
    );
    let suppressed = manifest.suppressed.iter().map(|count| {
        json!({
            "rule": count.rule,
            "stream": count.stream,
            "records": count.records,
            "bytes": count.bytes,
        })
    });
    let losses = manifest.losses.iter().map(|loss| {
        json!({
            "reason": loss.reason.as_str(),
            "listener": loss.listener,
            "count": loss.count,
            "from": loss.from.to_string(),
            "to": loss.to.to_string(),
            "range": loss.range.map(|(first, last)| [first.0, last.0]),
        })
    });
    json!({
        "agent": manifest.agent,
        "sealed-at": manifest.sealed_at.to_string(),
        "reason": manifest.reason.as_str(),
        "records": manifest.records,
        "first-sequence": manifest.first_sequence,
        "last-sequence": manifest.last_sequence,
        "records-bytes": manifest.records_bytes,
        "oldest": manifest.oldest.map(|time| time.to_string()),
        "newest": manifest.newest.map(|time| time.to_string()),
        "chain-before": manifest.chain_before.to_string(),
        "chain-head": manifest.chain_head.to_string(),
        "streams": streams.collect::<Vec<_>>(),
        "suppressed": suppressed.collect::<Vec<_>>(),
        "losses": losses.collect::<Vec<_>>(),
    })
}
