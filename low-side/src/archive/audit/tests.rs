use std::collections::BTreeMap;

use shared::record::Lane;

use super::*;
use crate::archive::listing::{Marker, Page};
use crate::archive::{Held, Made, Take};
use crate::import::Sidecar;
use crate::ledger::Keeping;
use crate::testing::{Chain, START, Site};

/// How an archive of ours answers for one object.
#[derive(Clone, Copy, Debug)]
enum Answers {
    /// As it must.
    Well,
    /// So often with this status, then as it must; with 0: not at all.
    With(u16, u32),
    /// Its bytes are not given, with this status.
    NotRead(u16),
    /// It is not there.
    Gone,
    /// Its bytes are others.
    Changed,
}

struct Pretend {
    objects: BTreeMap<String, (KeptObject, Answers)>,
    asked: u32,
}

impl Pretend {
    fn refuse(status: u16) -> ArchiveError {
        if status == 0 {
            let source = io::ErrorKind::ConnectionRefused.into();
            return HttpError::Connect { url: "http://here".to_owned(), source }.into();
        }
        ArchiveError::Answer {
            place: "here".to_owned(),
            status,
            code: "SlowDown".to_owned(),
            why: String::new(),
            retry_after: None,
        }
    }

    /// The object, or the refusal that is due.
    fn find(&mut self, key: &str) -> Result<(KeptObject, Answers), ArchiveError> {
        self.asked += 1;
        let (object, answers) = self.objects.get_mut(key).expect("one of ours");
        if let Answers::With(status, times) = answers
            && *times > 0
        {
            *times -= 1;
            return Err(Self::refuse(*status));
        }
        Ok((object.clone(), *answers))
    }
}

impl Archive for Pretend {
    fn place(&self, key: &str) -> String {
        key.to_owned()
    }

    fn check(&mut self) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn make(&mut self, _: &Object) -> Result<Made, ArchiveError> {
        Ok(Made::There)
    }

    fn look(&mut self, key: &str, _: Option<&str>) -> Result<Option<Held>, ArchiveError> {
        let (object, answers) = self.find(key)?;
        Ok((!matches!(answers, Answers::Gone)).then(|| Held {
            version: object.version,
            bytes: object.bytes,
            sha256: None,
            lock: object.retain_until.map_or(Lock::Weak("none".to_owned()), Lock::Until),
        }))
    }

    fn extend(&mut self, _: &str, _: &str, _: Nanos) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn read(
        &mut self,
        key: &str,
        _: &str,
        _: u64,
        take: &mut Take<'_>,
    ) -> Result<(), ArchiveError> {
        let (object, answers) = self.find(key)?;
        let text = match answers {
            Answers::NotRead(status) => return Err(Self::refuse(status)),
            Answers::Changed => "other bytes",
            _ => object.key.as_str(),
        };
        take(text.as_bytes()).map_err(ArchiveError::file(Path::new("here")))
    }

    fn list(&mut self, _: Option<&Marker>) -> Result<Page, ArchiveError> {
        Ok(Page::default())
    }

    fn prove(&mut self, _: &Object, _: &mut Proof) -> Result<(), ArchiveError> {
        Ok(())
    }
}

/// A ledger that knows of so many archived bundles, and an archive that holds them.
struct Kept {
    site: Site,
    ledger: Ledger,
    id: ArchiveId,
    archive: Pretend,
}

/// Locked for so long.
const LOCKED: Duration = Duration::from_hours(30 * 24);

impl Kept {
    fn new(bundles: usize) -> Self {
        let site = Site::new();
        let mut importer = site.importer();
        let mut chain = Chain::new(1, Lane::Routine);
        for _ in 0..bundles {
            let path = site.seal(&mut chain, &["text"]);
            importer.import(&path, Sidecar::Absent, |_| {}).unwrap();
        }
        let mut ledger = site.ledger();
        let id = ledger.set_archives(&[Keeping { name: "worm", before: false }], START).unwrap()[0];
        let mut objects = BTreeMap::new();
        while let Some(due) = ledger.next_due(id, &|_, _| false).unwrap() {
            let key = due.bundle.file().to_owned();
            let object = KeptObject {
                key: key.clone(),
                version: "1".to_owned(),
                sha256: BundleDigest::of(key.as_bytes()),
                bytes: key.len() as u64,
                retain_until: Some(START.plus(LOCKED)),
            };
            ledger.note_archived(id, &due, &object, "here", START).unwrap();
            objects.insert(key, (object, Answers::Well));
        }
        assert_eq!(objects.len(), bundles);
        Self { site, ledger, id, archive: Pretend { objects, asked: 0 } }
    }

    fn answers(&mut self, all: &[Answers]) {
        for ((_, answers), new) in self.archive.objects.values_mut().zip(all) {
            *answers = *new;
        }
    }

    fn try_verify(&mut self, full: bool) -> Result<Report, AuditError> {
        self.archive.asked = 0;
        let audit = Audit {
            archive: &mut self.archive,
            name: "worm",
            id: self.id,
            ledger: &self.ledger,
            clock: &self.site.clock,
            work: &self.site.folders.staging,
        };
        let asked = Asked { full, probe: false };
        audit.run_with(asked, "low".to_owned(), None, &mut Patience::of(Duration::from_micros(1)))
    }

    fn verify(&mut self) -> Report {
        self.try_verify(true).unwrap()
    }
}

fn counts(report: &Report) -> (Verdict, u64, u64, u64, u64) {
    let ObjectsPart { read, unanswered, not_looked_at, .. } = report.objects;
    (report.verdict, report.findings_total, read, unanswered, not_looked_at)
}

#[test]
fn an_archive_that_is_busy_is_asked_again_and_is_not_bad() {
    let mut kept = Kept::new(5);
    assert_eq!(counts(&kept.verify()), (Verdict::Good, 0, 5, 0, 0));
    for status in [408, 429, 500, 503] {
        kept.answers(&[Answers::Well, Answers::With(status, 4), Answers::Well]);
        assert_eq!(counts(&kept.verify()), (Verdict::Good, 0, 5, 0, 0), "{status}");
    }
    // Once more than it is asked, and once more behind that.
    kept.answers(&[Answers::Well, Answers::With(503, 5)]);
    let report = kept.verify();
    assert_eq!(counts(&report), (Verdict::Unproven, 0, 4, 1, 0));
    assert!(report.unanswered[0].problem.contains("503 SlowDown"), "{:?}", report.unanswered);
    let text = report.text();
    assert!(text.contains("not shown ") && text.contains("unproven"), "{text}");
    assert!(report.unproven().contains("did not show 1 object"), "{}", report.unproven());
    assert_eq!(counts(&kept.verify()), (Verdict::Good, 0, 5, 0, 0));
    // Not to be read, with these credentials: that is not wrong, and not proven.
    kept.answers(&[Answers::NotRead(403)]);
    assert_eq!(counts(&kept.verify()), (Verdict::Unproven, 0, 4, 1, 0));
    assert_eq!(counts(&kept.try_verify(false).unwrap()), (Verdict::Good, 0, 0, 0, 0));
    kept.answers(&[Answers::With(403, 1)]);
    assert!(matches!(kept.try_verify(false), Err(AuditError::Archive(_))));
}

#[test]
fn an_archive_that_is_down_is_not_waited_for_object_by_object() {
    let mut kept = Kept::new(5);
    kept.answers(&[Answers::With(503, u32::MAX); 5]);
    for full in [true, false] {
        let report = kept.try_verify(full).unwrap();
        assert_eq!(counts(&report), (Verdict::Unproven, 0, 0, 3, 2));
        assert_eq!(kept.archive.asked, 3 * TRIES);
        let run = report.run("f".to_owned(), BundleDigest::ZERO, START);
        assert_eq!((run.every, run.unanswered), (false, 5));
    }
    // It went away in the middle; it was never there.
    let away = Answers::With(0, u32::MAX);
    kept.answers(&[Answers::Well, away, away, away, away]);
    assert_eq!(counts(&kept.verify()), (Verdict::Unproven, 0, 1, 3, 1));
    kept.answers(&[away; 5]);
    assert!(matches!(kept.try_verify(true), Err(AuditError::Archive(ArchiveError::Http(_)))));
    assert_eq!(kept.archive.asked, TRIES);
}

#[test]
fn what_is_gone_or_changed_is_bad_and_what_is_gone_after_its_lock_is_told() {
    let mut kept = Kept::new(3);
    kept.answers(&[Answers::Well, Answers::Gone]);
    let report = kept.verify();
    assert_eq!(counts(&report), (Verdict::Bad, 1, 2, 0, 0));
    assert_eq!(report.findings[0].problem, "it is gone");
    // It is gone between the look and the reading.
    kept.answers(&[Answers::Well, Answers::NotRead(404)]);
    assert_eq!(counts(&kept.verify()), (Verdict::Bad, 1, 2, 0, 0));
    kept.site.clock.advance(LOCKED);
    for answers in [Answers::Gone, Answers::NotRead(404)] {
        kept.answers(&[Answers::Well, answers]);
        let report = kept.verify();
        assert_eq!(counts(&report), (Verdict::Good, 0, 2, 0, 0));
        assert_eq!(report.objects.gone_after_lock, 1);
        assert_eq!(report.objects.gone_lock_ended, Some(START.plus(LOCKED).to_string()));
        let text = report.text();
        assert!(text.contains("1 are gone; their locks had ended"), "{text}");
        assert_eq!(report.run("f".to_owned(), BundleDigest::ZERO, START).gone, 1);
    }
    kept.answers(&[Answers::Well, Answers::Gone, Answers::Changed]);
    let report = kept.verify();
    assert_eq!(counts(&report), (Verdict::Bad, 1, 2, 0, 0));
    assert!(report.findings[0].problem.contains("its SHA-256 is"), "{:?}", report.findings);
}
