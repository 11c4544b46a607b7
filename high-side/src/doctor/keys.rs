//! Our own key, whom we encrypt to, whose receipts we believe; and whether the other side is paired with
//! us as we are with it.

use serde_json::{Value, json};
use shared::doctor::files::{Need, closed, reach};
use shared::doctor::report::Peer;
use shared::doctor::secrets::secrets;
use shared::doctor::{Finding, Level};
use shared::keys::{
    KeyError, PublicHalf, PublicKey, Recipients, SIGNING_KEY_FILE, Side, SigningKey,
    StatementSigners,
};

use super::{Subject, peer_facts};

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let keys_dir = &subject.config.keys_dir;
    let path = keys_dir.join(SIGNING_KEY_FILE);
    let mut findings = Vec::new();
    findings.extend(closed(keys_dir, 0o055, "folder-mode"));
    findings.extend(closed(&path, 0, "signing-key-mode"));
    findings.push(reach(keys_dir, &subject.account, Need::List, "folder"));
    if path.exists() {
        findings.push(reach(&path, &subject.account, Need::Secret, "signing-key-readable"));
    }
    let named = crate::reach::reach(&subject.config);
    findings.extend(secrets(&named, keys_dir, &subject.account, "penstock-high.service"));
    findings.push(match own_half(subject) {
        Ok(half) => {
            let what = format!("our public half has the fingerprint {}", half.fingerprint());
            Finding::new(Level::Fine, "signing-key", what)
        }
        Err(err) => {
            let finding = Finding::of_problem(Level::Fault, "signing-key", &err.to_string());
            if path.exists() { finding } else { finding.remedy("penstock-high init makes the key") }
        }
    });
    match Recipients::load(keys_dir) {
        Ok(recipients) => {
            for half in recipients.halves() {
                // The fingerprint that is read aloud is of the whole half, which is not kept.
                let key: String = half.key.to_string().chars().take(KEY_CHARS).collect();
                let what = format!(
                    "bundles are encrypted to {} ({}), {key}...",
                    half.name,
                    kind(&half.key)
                );
                findings.push(Finding::new(Level::Fine, "recipient", what));
            }
            findings.extend(receipts(subject));
        }
        Err(err) => findings.push(unpaired(&err)),
    }
    match &subject.peer {
        Some(peer) => findings.extend(paired(subject, peer)),
        None => findings.push(
            Finding::new(
                Level::Skipped,
                "paired-both-ways",
                "whether the low side trusts this one can't be seen from here",
            )
            .remedy(
                "there: penstock-low doctor --json > FILE; here: penstock-high doctor --peer FILE",
            ),
        ),
    }
    findings
}

/// Enough of a key to tell it from others.
const KEY_CHARS: usize = 24;

fn unpaired(err: &KeyError) -> Finding {
    let finding = Finding::of_problem(Level::Fault, "recipient", &err.to_string());
    if matches!(err, KeyError::NoRecipient { .. }) {
        finding.remedy("on the low side: penstock-low public > low.pub, and carry it here")
    } else {
        finding.remedy("remove what does not belong there, and pair again")
    }
}

fn receipts(subject: &Subject) -> Option<Finding> {
    let signers = StatementSigners::load(&subject.config.keys_dir);
    match signers {
        Ok(signers) if signers.is_empty() => Some(
            Finding::new(Level::Note, "receipts", "no low side's receipts are believed")
                .remedy("pair again with what a newer penstock-low public prints"),
        ),
        Ok(_) => None,
        Err(err) => Some(Finding::of_problem(Level::Fault, "receipts", &err.to_string())),
    }
}

fn own_half(subject: &Subject) -> Result<PublicHalf, KeyError> {
    let key = SigningKey::load(&subject.config.keys_dir.join(SIGNING_KEY_FILE))?;
    Ok(key.public_half(subject.config.origin.as_str()))
}

fn kind(key: &PublicKey) -> &'static str {
    match key {
        PublicKey::Ed25519(_) => "Ed25519",
        PublicKey::Hybrid(_) => "post-quantum",
        PublicKey::X25519(_) => "X25519",
    }
}

/// Compares with what the low side says of itself.
fn paired(subject: &Subject, peer: &Peer) -> Vec<Finding> {
    let mut findings = vec![peer.versions(env!("CARGO_PKG_VERSION"))];
    if let Some(half) = peer.halves.iter().find(|half| half.side == Side::High) {
        let what = format!("the peer's file is the public half of a high side, {}", half.name);
        findings.push(
            Finding::new(Level::Fault, "peer-side", what)
                .remedy("the file that penstock-low public or penstock-low doctor --json printed"),
        );
        return findings;
    }
    let known = Recipients::load(&subject.config.keys_dir);
    let known = known.as_ref().map(Recipients::halves).unwrap_or_default();
    let hybrid = |half: &PublicHalf| matches!(half.key, PublicKey::Hybrid(_));
    let same =
        |half: &PublicHalf, other: &PublicHalf| half.key.to_string() == other.key.to_string();
    let ours: Vec<&PublicHalf> =
        peer.halves.iter().filter(|half| known.iter().any(|other| same(half, other))).collect();
    if let Some(half) = ours.first() {
        let what = format!("the low side can open our bundles: {}", half.fingerprint());
        findings.push(Finding::new(Level::Fine, "paired-here", what));
    } else if let Some(half) = peer.halves.first() {
        let what = format!("bundles are not encrypted to this low side, {}", half.fingerprint());
        let finding = Finding::new(Level::Fault, "paired-here", what)
            .remedy("penstock-low public > low.pub there; here: penstock-high pair low.pub");
        findings.push(if known.iter().any(|known| hybrid(known) != hybrid(half)) {
            finding
                .remedy("its key is of another kind (post-quantum or not) than the recipients here: all have to be of one kind; remove the old ones from the folder recipients/ first")
        } else {
            finding
        });
    }
    let signers = StatementSigners::load(&subject.config.keys_dir).unwrap_or_default();
    let theirs = peer.halves.iter().find_map(|half| half.signer.as_deref());
    if theirs.is_some_and(|signer| !signers.holds(signer)) {
        let name = &peer.halves[0].name;
        let what = format!(
            "receipts of low side {name} would not be believed: its signing key is not known here"
        );
        findings.push(
            Finding::new(Level::Warning, "peer-receipts", what)
                .remedy("penstock-high pair low.pub, with what penstock-low public prints now"),
        );
    }
    findings.push(trusted_there(subject, peer));
    findings.extend(fits(subject, peer));
    findings
}

fn trusted_there(subject: &Subject, peer: &Peer) -> Finding {
    let Some(trusted) = peer.list("trusted") else {
        return Finding::new(
            Level::Skipped,
            "paired-there",
            "a public half does not say whom the low side trusts",
        )
        .remedy("--peer with the report of the low side: penstock-low doctor --json > FILE");
    };
    let own = SigningKey::load(&subject.config.keys_dir.join(SIGNING_KEY_FILE));
    let Ok(own) = own.map(|key| key.fingerprint()) else {
        return Finding::new(Level::Skipped, "paired-there", "our own key can't be read");
    };
    let entry = format!("{} {own}", subject.config.origin);
    if trusted.contains(&entry.as_str()) {
        return Finding::new(Level::Fine, "paired-there", "the low side trusts our key");
    }
    let other_name = trusted.iter().any(|line| line.ends_with(own.as_str()));
    let what = if other_name {
        format!("the low side trusts our key under another name than {}", subject.config.origin)
    } else {
        format!("the low side does not trust our key {own}: it refuses every bundle")
    };
    Finding::new(Level::Fault, "paired-there", what)
        .remedy("penstock-high public > high.pub here; there: penstock-low pair high.pub")
}

/// Whether what we seal is not too large for the low side.
fn fits(subject: &Subject, peer: &Peer) -> Option<Finding> {
    let theirs = peer.report.as_ref()?["bundle-bytes-max"].as_u64()?;
    let ours = subject.config.seal.bundle_bytes_max.0;
    (ours > theirs).then(|| {
        let what = format!(
            "bundles hold up to {ours} bytes of records, and the low side takes {theirs}: it refuses larger ones"
        );
        Finding::new(Level::Fault, "bundle-size", what)
            .remedy("limits.plain-bytes-max and limits.bundle-bytes-max there, or a smaller seal.bundle-bytes-max here")
    })
}

/// What the low side's doctor compares.
pub(super) fn for_peer(subject: &Subject) -> Value {
    let own = own_half(subject);
    let public: Vec<String> = own.iter().map(ToString::to_string).collect();
    let keys_dir = &subject.config.keys_dir;
    let key = SigningKey::load(&keys_dir.join(SIGNING_KEY_FILE)).map(|key| key.fingerprint());
    let recipients = Recipients::load(keys_dir);
    let recipients: Vec<String> =
        recipients.iter().flat_map(Recipients::halves).map(|half| half.key.to_string()).collect();
    let more = json!({ "signing-key": key.ok(), "recipients": recipients });
    peer_facts(subject, &public, more)
}
