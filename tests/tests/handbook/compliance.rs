//! The page of controls and the report's lists say the same.

use std::collections::BTreeMap;

use clap::ValueEnum;
use low_side::report::{Framework, section};

use crate::pages::pages;

#[test]
fn the_page_has_the_controls_of_the_report_and_no_others() {
    let page = pages().into_iter().find(|page| page.name == "compliance").expect("the page");
    // Heading of a framework, then rows: | control | about | sections |
    let mut found: BTreeMap<String, Vec<(String, Vec<String>)>> = BTreeMap::new();
    let mut framework = None;
    for (line, text) in page.prose() {
        if let Some(heading) = text.strip_prefix("## ") {
            let known = Framework::value_variants().iter().map(|one| one.text());
            framework = known.into_iter().find(|known| known.title == heading).map(|f| f.name);
        } else if let (Some(name), true) = (framework, text.starts_with("| ")) {
            let cells: Vec<&str> = text.trim_matches('|').split('|').map(str::trim).collect();
            let [id, about, sections, _shows] = cells[..] else {
                panic!("{}: a row has four cells: {text}", page.at(line));
            };
            if id == "control" {
                continue;
            }
            assert!(!about.is_empty(), "{}", page.at(line));
            let sections = sections.split(", ").map(str::to_owned).collect();
            found.entry(name.to_owned()).or_default().push((id.to_owned(), sections));
        }
    }
    for framework in Framework::value_variants() {
        let text = framework.text();
        let expected: Vec<(String, Vec<String>)> = text
            .controls
            .iter()
            .map(|control| {
                let sections = control.sections.iter().map(|id| match *id {
                    // In the page a comma separates.
                    section::EXCEPTIONS => "Missing/lost/refused".to_owned(),
                    id => section::title(id).to_owned(),
                });
                (control.id.to_owned(), sections.collect())
            })
            .collect();
        assert_eq!(found.remove(text.name), Some(expected), "the controls of {}", text.title);
    }
    assert!(found.is_empty(), "{found:?}");
}
