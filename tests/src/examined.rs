//! What a doctor said, in the words that an operator gets.

use serde_json::Value;

use crate::agents::Site;

/// What a doctor said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: Option<i32>,
    /// The report of `--json`.
    pub report: Value,
}

/// Asks the doctor of a side.
///
/// # Panics
/// When it gives no report.
pub fn doctor(site: &Site, more: &[&str]) -> Said {
    let done = site.run(["doctor", "--json"].iter().copied().chain(more.iter().copied()));
    let report = serde_json::from_str(&done.stdout)
        .unwrap_or_else(|err| panic!("no report: {err}: {}{}", done.stdout, done.stderr));
    Said { code: done.code, report }
}

impl Said {
    /// The findings of a section about one thing.
    ///
    /// # Panics
    /// When the report has no sections.
    pub fn about(&self, section: &str, id: &str) -> Vec<&Value> {
        let sections = self.report["sections"].as_array().expect("sections").iter();
        sections
            .filter(|one| one["link"] == section)
            .flat_map(|one| one["findings"].as_array().expect("findings"))
            .filter(|finding| finding["id"] == id)
            .collect()
    }

    /// One of them has this verdict, and somewhere in its words and advice stands this.
    ///
    /// # Panics
    /// When none is like that.
    pub fn expect(&self, section: &str, id: &str, verdict: &str, words: &str) {
        let findings = self.about(section, id);
        let fits = |finding: &&&Value| {
            finding["verdict"] == verdict && finding.to_string().contains(words)
        };
        assert!(
            findings.iter().any(|finding| fits(&finding)),
            "{section}.{id} should be {verdict} and say {words:?}; it is {findings:#?} in {:#}",
            self.report
        );
        if verdict == "fail" {
            assert_eq!(self.code, Some(1));
        }
    }
}
