//! Our own keys, whom we trust, what bundles have shown of both; and whether the other side is paired
//! with us as we are with it.

use serde_json::{Value, json};
use shared::clock::Nanos;
use shared::doctor::files::{Need, closed, reach};
use shared::doctor::report::Peer;
use shared::doctor::secrets::secrets;
use shared::doctor::{Finding, Level};
use shared::keys::{
    ALLOWED_SIGNERS_FILE, IDENTITY_FILE, Identities, OfficerState, PublicHalf, Side, Trust,
};

use super::Subject;
use crate::ledger::Ledger;
use crate::{release, site};

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let keys_dir = &subject.config.keys_dir;
    let path = keys_dir.join(IDENTITY_FILE);
    let mut findings = Vec::new();
    findings.extend(closed(keys_dir, 0o055, "folder-mode"));
    findings.extend(closed(&path, 0, "identity-mode"));
    findings.push(reach(keys_dir, &subject.account, Need::List, "folder"));
    if path.exists() {
        findings.push(reach(&path, &subject.account, Need::Secret, "identity-readable"));
    }
    let named = crate::reach::reach(&subject.config, &subject.path);
    findings.extend(secrets(&named, keys_dir, &subject.account, "penstock-low.service"));
    match halves(subject) {
        Ok(halves) => findings.extend(halves.iter().map(|half| {
            let what = format!("our public half has the fingerprint {}", half.fingerprint());
            Finding::new(Level::Fine, "identity", what)
        })),
        Err(why) => {
            let finding = Finding::of_problem(Level::Fault, "identity", &why);
            findings.push(if path.exists() {
                finding
            } else {
                finding.remedy("penstock-low init makes the key")
            });
        }
    }
    findings.extend(trusted(subject));
    match &subject.peer {
        Some(peer) => findings.extend(paired(subject, peer)),
        None => findings.push(
            Finding::new(
                Level::Skipped,
                "paired-both-ways",
                "whether the high side encrypts to this one is seen only when a bundle came",
            )
            .remedy(
                "there: penstock-high doctor --json > FILE; here: penstock-low doctor --peer FILE",
            ),
        ),
    }
    findings
}

/// Our public halves. The key that signs receipts is read where it is there, and never made here.
fn halves(subject: &Subject) -> Result<Vec<PublicHalf>, String> {
    let keys_dir = &subject.config.keys_dir;
    let identities = Identities::load_dir(keys_dir).map_err(|err| err.to_string())?;
    let path = keys_dir.join(shared::keys::RECEIPT_KEY_FILE);
    let signer = path.exists().then(|| shared::keys::SigningKey::load(&path)).transpose();
    let signer = signer.map_err(|err| err.to_string())?;
    Ok(identities.public_halves(&site::name(keys_dir), signer.as_ref()))
}

fn trusted(subject: &Subject) -> Vec<Finding> {
    let path = subject.config.keys_dir.join(ALLOWED_SIGNERS_FILE);
    let trust = match Trust::load_dir(&subject.config.keys_dir) {
        Ok(trust) => trust,
        Err(err) => {
            let finding = Finding::of_problem(Level::Fault, "signer", &err.to_string());
            return vec![finding.remedy("remove the line, and pair again").at(path.display())];
        }
    };
    let signers = trust.signers(subject.now);
    if signers.is_empty() {
        return vec![
            Finding::new(
                Level::Fault,
                "signer",
                "no high side is trusted: every bundle is refused",
            )
            .remedy("on the high side: penstock-high public > high.pub, and carry it here")
            .remedy("penstock-low pair high.pub")
            .at(path.display()),
        ];
    }
    let mut findings = Vec::new();
    for signer in &signers {
        let what = format!("{} is trusted by the key {}", signer.name, signer.key);
        findings.push(match signer.state {
            OfficerState::Believed => Finding::new(Level::Fine, "signer", what),
            OfficerState::NotValidNow => {
                Finding::new(Level::Warning, "signer", format!("{what}, but not at this time"))
                    .remedy(format!("the times in {}", path.display()))
            }
            OfficerState::Revoked => {
                Finding::new(Level::Note, "signer", format!("{what}, which is revoked"))
            }
        });
    }
    let believed = |origin: &str, key: &str| {
        signers.iter().any(|signer| {
            signer.state == OfficerState::Believed && signer.name == origin && signer.key == key
        })
    };
    findings.extend(last_signers(subject, &believed));
    let officers = trust.officers(subject.now);
    let unmet = release::unmet(&subject.config.releases, &officers);
    findings.extend(unmet.iter().map(|text| Finding::of_problem(Level::Fault, "officers", text)));
    findings
}

/// Whether what signed the last bundle of each high side is still believed.
fn last_signers(subject: &Subject, believed: &dyn Fn(&str, &str) -> bool) -> Vec<Finding> {
    let Ok(ledger) = Ledger::open_read_only(&subject.config.state_dir) else { return Vec::new() };
    let mut last: std::collections::BTreeMap<String, (String, String)> =
        std::collections::BTreeMap::new();
    let asked = ledger.signers(Nanos(i64::MIN), Nanos(i64::MAX), |sum| {
        // Times are in one form: the later text is the later time.
        if last.get(&sum.origin).is_none_or(|(time, _)| *time < sum.last) {
            last.insert(sum.origin, (sum.last, sum.key));
        }
    });
    if let Err(err) = asked {
        return vec![Finding::new(Level::Skipped, "signer-of-bundles", err.to_string())];
    }
    let judged = last.into_iter().map(|(origin, (time, key))| {
        let what = format!("the last bundle of {origin}, of {time}, was signed by {key}");
        if believed(&origin, &key) {
            Finding::new(Level::Fine, "signer-of-bundles", what)
        } else {
            let what = format!("{what}, which is not trusted now: the next one will be refused");
            Finding::new(Level::Warning, "signer-of-bundles", what).remedy(
                "on purpose after a change of keys; otherwise pair again with penstock-high public",
            )
        }
    });
    judged.collect()
}

/// Compares with what the high side says of itself.
fn paired(subject: &Subject, peer: &Peer) -> Vec<Finding> {
    let mut findings = vec![peer.versions(env!("CARGO_PKG_VERSION"))];
    let Some(half) = peer.halves.iter().find(|half| half.side == Side::High) else {
        let what = "the peer's file is not of a high side";
        findings.push(
            Finding::new(Level::Fault, "peer-side", what).remedy(
                "the file that penstock-high public or penstock-high doctor --json printed",
            ),
        );
        return findings;
    };
    let key = half.signing_fingerprint().unwrap_or_default();
    let signers =
        Trust::load_dir(&subject.config.keys_dir).unwrap_or_default().signers(subject.now);
    let known = signers.iter().find(|signer| signer.key == key);
    findings.push(match known {
        Some(signer) if signer.name == half.name && signer.state == OfficerState::Believed => {
            let what = format!("{} is trusted: {}", half.name, half.fingerprint());
            Finding::new(Level::Fine, "paired-here", what)
        }
        Some(signer) => {
            let what = format!(
                "the high side's key is listed as {} ({}), and it calls itself {}",
                signer.name,
                signer.state.as_str(),
                half.name
            );
            Finding::new(Level::Fault, "paired-here", what).remedy("penstock-low pair high.pub")
        }
        None => {
            let what = format!("{} is not trusted: its key is {key}", half.name);
            Finding::new(Level::Fault, "paired-here", what)
                .remedy("penstock-high public > high.pub there; here: penstock-low pair high.pub")
        }
    });
    findings.push(encrypts_to_us(subject, peer));
    findings
}

fn encrypts_to_us(subject: &Subject, peer: &Peer) -> Finding {
    let Some(recipients) = peer.list("recipients") else {
        return Finding::new(
            Level::Skipped,
            "paired-there",
            "a public half does not say whom the high side encrypts to",
        )
        .remedy("--peer with the report of the high side: penstock-high doctor --json > FILE");
    };
    let ours = halves(subject).unwrap_or_default();
    if ours.iter().any(|half| recipients.contains(&half.key.to_string().as_str())) {
        return Finding::new(Level::Fine, "paired-there", "the high side encrypts to our key");
    }
    let finding = Finding::new(
        Level::Fault,
        "paired-there",
        "the high side does not encrypt to any key of ours: no bundle can be opened",
    )
    .remedy("penstock-low public > low.pub here; there: penstock-high pair low.pub");
    let hybrid = |key: &str| key.starts_with("age1pq1");
    let mixed = ours.iter().any(|half| {
        let ours = hybrid(&half.key.to_string());
        recipients.iter().any(|key| hybrid(key) != ours)
    });
    if mixed {
        finding.remedy("its recipients are of another kind (post-quantum or not) than our key: all have to be of one kind")
    } else {
        finding
    }
}

/// What the high side's doctor compares; nothing here is secret.
pub(super) fn for_peer(subject: &Subject) -> Value {
    let halves = halves(subject).unwrap_or_default();
    let trust = Trust::load_dir(&subject.config.keys_dir).unwrap_or_default();
    let trusted: Vec<String> = trust
        .signers(subject.now)
        .into_iter()
        .filter(|signer| signer.state == OfficerState::Believed)
        .map(|signer| format!("{} {}", signer.name, signer.key))
        .collect();
    json!({
        "public": halves.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "name": site::name(&subject.config.keys_dir),
        "trusted": trusted,
        "bundle-bytes-max": subject.config.limits.plain_bytes_max.min(subject.config.limits.file_bytes_max),
    })
}
