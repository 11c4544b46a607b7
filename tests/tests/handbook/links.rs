//! Every relative link and every anchor leads to something that is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::pages::{Page, ROOT, pages};

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut count = 0;
    for (name, path) in documents() {
        let text = fs::read_to_string(&path).unwrap_or_else(|err| panic!("{name}: {err}"));
        let page = Page { name, path, text };
        for (line, target) in links(&page) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let folder = page.path.parent().expect("a page lies in a folder");
            let to = if file.is_empty() { page.path.clone() } else { folder.join(file) };
            if !to.exists() {
                broken.push(format!("{}: {target}: no such file", page.at(line)));
            } else if !anchor.is_empty() && !anchors(&to).contains(anchor) {
                broken.push(format!("{}: {target}: no such heading", page.at(line)));
            }
        }
    }
    assert!(count > 100, "links are found by another form than the pages write");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_handbook_stays_within_its_folder() {
    // It is installed by itself.
    let doc = Path::new(ROOT).join("packaging/doc").canonicalize().expect("the folder of pages");
    for page in pages().into_iter().filter(|page| page.name != "README") {
        for (line, target) in links(&page).into_iter().filter(|(_, to)| !to.contains("://")) {
            let file = target.split('#').next().unwrap_or_default();
            let to = page.path.parent().expect("a folder").join(file);
            let within = to.canonicalize().is_ok_and(|to| to.starts_with(&doc));
            assert!(
                within || file.is_empty(),
                "{}: {target} is not installed with the handbook",
                page.at(line)
            );
        }
    }
}

#[test]
fn every_page_can_be_reached_from_the_handbook() {
    let handbook = Path::new(ROOT).join("packaging/doc/handbook.md");
    let mut reached = BTreeSet::new();
    let mut waiting = vec![handbook.canonicalize().expect("the handbook")];
    while let Some(path) = waiting.pop() {
        if !reached.insert(path.clone()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let page = Page { name: String::new(), path, text };
        for (_, target) in links(&page) {
            let file = target.split('#').next().unwrap_or_default();
            let to = page.path.parent().expect("a folder").join(file);
            let is_page = to.extension().is_some_and(|ext| ext == "md");
            if let (Ok(to), true) = (to.canonicalize(), is_page) {
                waiting.push(to);
            }
        }
    }
    for page in pages().into_iter().filter(|page| page.name != "README") {
        let path = page.path.canonicalize().expect("a page");
        assert!(reached.contains(&path), "no way leads from handbook.md to {}.md", page.name);
    }
}

/// The pages, and the project's other documents.
fn documents() -> Vec<(String, std::path::PathBuf)> {
    let others =
        ["ARCHITECTURE", "BENCHMARKS", "CHANGELOG", "CONTRIBUTING", "SECURITY", "shared/FORMAT"];
    let others =
        others.iter().map(|name| ((*name).to_owned(), Path::new(ROOT).join(format!("{name}.md"))));
    pages().into_iter().map(|page| (page.name, page.path)).chain(others).collect()
}

/// `[words](target)` and `![words](target)`.
fn links(page: &Page) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (line, text) in page.prose() {
        for part in text.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                links.push((line, target.to_owned()));
            }
        }
    }
    links
}

/// What GitHub makes of the headings of a page.
fn anchors(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let page = Page { name: String::new(), path: path.to_owned(), text };
    let mut anchors = BTreeSet::new();
    for (_, line) in page.prose() {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let slug: String = heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let (mut name, mut times) = (slug.clone(), 0);
        while !anchors.insert(name) {
            times += 1;
            name = format!("{slug}-{times}");
        }
    }
    anchors
}
