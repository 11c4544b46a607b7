//! The page of controls and the report's lists say the same.

use std::collections::BTreeMap;

use clap::ValueEnum;
use low_side::report::Framework;
use low_side::report::frameworks::section;

use crate::pages::pages;

#[test]
fn the_page_has_the_controls_of_the_report_and_no_others() {
    let page = pages().into_iter().find(|page| page.name == "compliance").expect("the page");
    // Heading of a framework, then rows: | control | about | sections |
    let mut found: BTreeMap<String, Vec<(String, String, String)>> = BTreeMap::new();
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
            let row = (id.to_owned(), about.to_owned(), sections.to_owned());
            found.entry(name.to_owned()).or_default().push(row);
        }
    }
    for framework in Framework::value_variants() {
        let text = framework.text();
        let expected: Vec<(String, String, String)> = text
            .controls
            .iter()
            .map(|control| {
                let sections: Vec<_> =
                    control.sections.iter().map(|id| section::title(id)).collect();
                (control.id.to_owned(), control.about.to_owned(), sections.join("; "))
            })
            .collect();
        assert_eq!(found.remove(text.name), Some(expected), "the controls of {}", text.title);
    }
    assert!(found.is_empty(), "{found:?}");
}
