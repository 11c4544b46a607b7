//! What each alarm means and what to do: the handbook's own table, so that page and book never differ.
//! A row may be for several codes.

use serde_json::{Map, Value, json};

/// `{"code": {"means": ..., "do": ...}}`, read from the rows ``| `code`, `code` (side) | meaning | what to do |``
/// of a handbook in Markdown.
pub(crate) fn advice(handbook: &str) -> Value {
    let mut found = Map::new();
    for row in handbook.lines().filter_map(|line| line.strip_prefix("| `")) {
        let mut cells = row.split(" | ");
        let (Some(codes), Some(means), Some(todo)) = (cells.next(), cells.next(), cells.next())
        else {
            continue;
        };
        if cells.next().is_some() {
            continue;
        }
        let todo = plain(todo.trim_end().trim_end_matches('|').trim_end());
        let is_code = |code: &&str| {
            !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        };
        // Between each two of the marks stands a code, or what joins it to the next.
        for code in codes.split('`').step_by(2).filter(is_code) {
            found.insert(code.to_owned(), json!({"means": plain(means), "do": todo}));
        }
    }
    Value::Object(found)
}

/// Markdown without its marks. A link becomes its words and the page of the handbook where it leads: words
/// alone would be a link that can't be followed.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('[') {
        let Some((words, behind)) = rest[start + 1..].split_once("](") else { break };
        let Some((target, after)) = behind.split_once(')') else { break };
        out.push_str(&rest[..start]);
        let page = match target.split('#').next().unwrap_or_default() {
            "" => HANDBOOK,
            page => page,
        };
        // "see archive: archive.md" would say it twice.
        let name = page.rsplit('/').next().unwrap_or(page);
        if name.strip_suffix(".md") != Some(words) {
            out.push_str(words);
            out.push_str(": ");
        }
        out.push_str(page);
        rest = after;
    }
    out.push_str(rest);
    out.replace('`', "")
}

/// The page that links without a page's name lead to.
const HANDBOOK: &str = "handbook.md";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_table_are_read_and_nothing_else() {
        let page = "| alarm | means | do |\n|---|---|---|\n| `gap` (low) | a bundle is *missing* | see [gaps](gaps.md), `penstock-low gaps` |\n| `x.y` | no | code |\n| `two` | cells |\n| `fork`, `roll-back` (low) | two | stop |\n";
        let found = advice(page);
        assert_eq!(found["gap"]["means"], "a bundle is *missing*");
        assert_eq!(found["gap"]["do"], "see gaps.md, penstock-low gaps");
        assert_eq!(
            (&found["fork"]["do"], &found["roll-back"]["means"]),
            (&"stop".into(), &"two".into())
        );
        assert_eq!(found.as_object().unwrap().len(), 3);
    }

    #[test]
    fn a_link_says_where_it_leads() {
        for (text, told) in [
            ("see [archive](archive.md)", "see archive.md"),
            ("see [files](sources/files.md#x)", "see sources/files.md"),
            ("([sinks](sinks/README.md))", "(sinks: sinks/README.md)"),
            ("read [what it means](#the-inbox), `now`", "read what it means: handbook.md, now"),
            ("no [link] (here)", "no [link] (here)"),
        ] {
            assert_eq!(plain(text), told);
        }
    }

    #[test]
    fn the_handbook_has_advice_for_alarms() {
        let found = advice(include_str!("../../packaging/doc/handbook.md"));
        assert!(found.as_object().unwrap().len() > 10, "{found}");
        assert!(found["sink-rejects"]["do"].as_str().unwrap().contains("--retry"));
    }
}
