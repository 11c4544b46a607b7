//! Tries to break the lock of a canary, as somebody would who wants evidence to go away.

use hyper::Method;
use shared::clock::Nanos;

use super::{Ask, BucketLock, COMPLIANCE, S3, code, header, retention};
use crate::archive::proof::{LONGER, Outcome, Proof, allowed, read_back, refused, shown, still};
use crate::archive::{Archive, ArchiveError, Made, Object};
use crate::http::Answer;

/// What was answered: its status and S3's code.
fn told(answer: &Answer) -> String {
    format!("{} {}", answer.status, code(answer)).trim_end().to_owned()
}

pub(super) fn prove(s3: &mut S3, canary: &Object, proof: &mut Proof) -> Result<(), ArchiveError> {
    bucket(s3, proof)?;
    let version = match s3.make(canary)? {
        Made::New(version) => version,
        Made::There => {
            let why = "a canary of this name is there already".to_owned();
            return Err(ArchiveError::Differs { key: canary.key.clone(), why });
        }
    };
    object(s3, proof, canary, &version)?;
    deletion(s3, proof, canary, &version)?;
    change(s3, proof, canary, &version)?;
    read_back(proof, s3, canary, &version);
    Ok(())
}

/// Steps 1 and 2: the bucket's lock, and that its versions can't be switched off.
fn bucket(s3: &mut S3, proof: &mut Proof) -> Result<(), ArchiveError> {
    let lock = s3.lock_of_bucket()?;
    let (observed, outcome) = match &lock {
        BucketLock::Off => ("not enabled".to_owned(), Outcome::Broken),
        BucketLock::EachObject => ("enabled; each object says its own".to_owned(), Outcome::Holds),
        BucketLock::Default(mode) => (format!("enabled; {mode} by default"), Outcome::Holds),
    };
    proof.note("Object Lock of the bucket", "enabled", observed, outcome);
    let state = s3.versioning()?;
    let on = |state: &str| if state == "Enabled" { Outcome::Holds } else { Outcome::Broken };
    proof.note("versioning of the bucket", "Enabled", state.as_str(), on(&state));
    if state != "Enabled" {
        return Ok(());
    }
    let set = |state: &str| {
        let body = format!(
            "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>{state}</Status></VersioningConfiguration>"
        );
        Ask::new(Method::PUT, None, &[("versioning", "")]).text(body)
    };
    let answer = s3.ask(set("Enabled"))?;
    let may = answer.is_success();
    let what = "control: these credentials may set versioning (to what it is)";
    proof.note(what, "accepted", told(&answer), allowed(may));
    let answer = s3.ask(set("Suspended"))?;
    let mut outcome = refused(answer.status, may);
    let state = s3.versioning()?;
    if state != "Enabled" {
        outcome = Outcome::Broken;
        // It was no more than a try.
        s3.good(set("Enabled"), "?versioning")?;
    }
    let observed = format!("{}; versioning is {state}", told(&answer));
    proof.note("suspend versioning", "refused", observed, outcome);
    Ok(())
}

/// Step 3: what the store says about the canary.
fn object(
    s3: &mut S3,
    proof: &mut Proof,
    canary: &Object,
    version: &str,
) -> Result<(), ArchiveError> {
    let held = s3.look(&canary.key, Some(version))?;
    let sha256 = held.as_ref().and_then(|held| held.sha256);
    let (same, sum) = match sha256 {
        Some(sha256) => (sha256 == canary.sha256, format!("SHA-256 {sha256}")),
        None => (true, "no checksum (it is read below)".to_owned()),
    };
    let outcome = if same { still(held.as_ref(), canary.until) } else { Outcome::Broken };
    proof.note(
        "look at the canary",
        &format!("{COMPLIANCE} until {} or later, SHA-256 {}", canary.until, canary.sha256),
        format!("{}, {sum}", shown(held.as_ref())),
        outcome,
    );
    Ok(())
}

/// Steps 4 and 5: deletion of the version.
fn deletion(
    s3: &mut S3,
    proof: &mut Proof,
    canary: &Object,
    version: &str,
) -> Result<(), ArchiveError> {
    // A marker is a version that no lock protects (userguide/object-lock-managing.html): whoever may
    // remove one may delete versions.
    let answer = s3.ask(Ask::new(Method::DELETE, Some(&canary.key), &[]))?;
    let marker = header(&answer, "x-amz-version-id")
        .filter(|marker| answer.is_success() && *marker != version)
        .map(ToOwned::to_owned);
    let mut observed = told(&answer);
    let mut may = false;
    if let Some(marker) = marker {
        let query = [("versionId", marker.as_str())];
        let answer = s3.ask(Ask::new(Method::DELETE, Some(&canary.key), &query))?;
        may = answer.is_success();
        observed = format!("marker {observed}; its removal {}", told(&answer));
    }
    proof.note(
        "control: these credentials may delete versions (a marker, set and removed)",
        "accepted",
        observed,
        allowed(may),
    );
    for (what, bypass) in
        [("delete the canary's version", false), ("delete it, bypassing governance", true)]
    {
        let query = [("versionId", version)];
        let mut ask = Ask::new(Method::DELETE, Some(&canary.key), &query);
        if bypass {
            ask = ask.header("x-amz-bypass-governance-retention", "true");
        }
        let answer = s3.ask(ask)?;
        let held = s3.look(&canary.key, Some(version))?;
        let outcome = refused(answer.status, may).max(still(held.as_ref(), canary.until));
        let observed = format!("{}; {}", told(&answer), shown(held.as_ref()));
        proof.note(what, "refused, and it is still there", observed, outcome);
    }
    Ok(())
}

/// Steps 6 to 8: changes of the lock.
fn change(
    s3: &mut S3,
    proof: &mut Proof,
    canary: &Object,
    version: &str,
) -> Result<(), ArchiveError> {
    let query = [("retention", ""), ("versionId", version)];
    let set = |s3: &mut S3, mode: &str, until: Nanos| {
        let answer =
            s3.ask(Ask::new(Method::PUT, Some(&canary.key), &query).text(retention(mode, until)))?;
        let held = s3.look(&canary.key, Some(version))?;
        Ok::<_, ArchiveError>((answer, held))
    };
    // Longer comes first: it is the control of the other two. The order does not matter to a lock.
    let longer = canary.until.plus(LONGER);
    let (answer, held) = set(s3, COMPLIANCE, longer)?;
    let may = answer.is_success();
    let observed = format!("{}; {}", told(&answer), shown(held.as_ref()));
    // It must not say that it did, and not do it.
    let outcome = if may { still(held.as_ref(), longer) } else { Outcome::Unknown };
    proof.note("control: lock it for longer", "accepted", observed, outcome);
    let least = if may { longer } else { canary.until };
    let shorter = Nanos(canary.until.0 - LONGER.as_nanos() as i64);
    for (what, mode, until) in [
        ("lock it for less time", COMPLIANCE, shorter),
        ("change its lock to GOVERNANCE", "GOVERNANCE", longer),
    ] {
        let (answer, held) = set(s3, mode, until)?;
        let outcome = refused(answer.status, may).max(still(held.as_ref(), least));
        let observed = format!("{}; {}", told(&answer), shown(held.as_ref()));
        proof.note(what, "refused, and its lock is as it was", observed, outcome);
    }
    Ok(())
}
