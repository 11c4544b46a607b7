//! Writing HTML: every text and every attribute's value is escaped, and what is opened is closed.

/// A page, or a part of one, as it grows.
#[derive(Debug, Default)]
pub struct Html {
    out: String,
}

/// Attributes: names are ours, values may come from outside.
pub type Attributes<'a> = &'a [(&'static str, &'a str)];

impl Html {
    /// Begins a document.
    pub fn document() -> Self {
        Self { out: "<!DOCTYPE html>\n".to_owned() }
    }

    /// An element with what `inside` writes into it.
    pub fn element(
        &mut self,
        name: &'static str,
        attributes: Attributes<'_>,
        inside: impl FnOnce(&mut Self),
    ) {
        self.begin(name, attributes);
        inside(self);
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
        if BLOCKS.contains(&name) {
            self.out.push('\n');
        }
    }

    /// An element with a text.
    pub fn leaf(&mut self, name: &'static str, attributes: Attributes<'_>, text: &str) {
        self.element(name, attributes, |html| html.text(text));
    }

    /// An element that has no content and no end.
    pub fn void(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.begin(name, attributes);
    }

    /// A text.
    pub fn text(&mut self, text: &str) {
        escape(text, &mut self.out);
    }

    /// Our own style sheet, which holds nothing that would end it.
    pub fn style(&mut self, sheet: &'static str) {
        self.out.push_str("<style>\n");
        self.out.push_str(sheet);
        self.out.push_str("</style>\n");
    }

    /// The page.
    pub fn into_string(self) -> String {
        self.out
    }

    fn begin(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.out.push('<');
        self.out.push_str(name);
        for (attribute, value) in attributes {
            self.out.push(' ');
            self.out.push_str(attribute);
            self.out.push_str("=\"");
            escape(value, &mut self.out);
            self.out.push('"');
        }
        self.out.push('>');
    }
}

/// What is followed by a line feed, so that the page can be compared line by line.
const BLOCKS: [&str; 20] = [
    "body", "dd", "details", "div", "dl", "dt", "figure", "h1", "h2", "h3", "head", "html", "li",
    "main", "p", "section", "svg", "table", "tr", "ul",
];

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if is_hidden(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
}

/// Characters that can't be seen, or that turn around what is written: a name could look like another.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_from_outside_is_text() {
        let mut html = Html::default();
        let hostile = "\"><script>alert('1')</script>&\u{1b}\u{202e}\n";
        html.leaf("td", &[("title", hostile)], hostile);
        let page = html.into_string();
        assert!(!page.contains("<script") && !page.contains('\''), "{page}");
        assert!(page.contains("\\u{1b}\\u{202e}\\u{a}"), "{page}");
        assert_eq!(page.matches('<').count(), 2, "{page}");
        assert_eq!(page.matches('"').count(), 2, "{page}");
    }
}
