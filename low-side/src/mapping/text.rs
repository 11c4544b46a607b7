//! Texts: cut at the border of a character, and made to fit on one line.

use std::borrow::Cow;

/// The beginning of a text, of at most so many bytes, whole characters only.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// The beginning of a text, of at most so many bytes; what was cut says at its end that it was, where
/// there is room for saying so.
pub fn shortened(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let mark = format!(" [cut from {} bytes]", text.len());
    if bytes_max < 2 * mark.len() {
        return Cow::Borrowed(cut(text, bytes_max));
    }
    Cow::Owned(format!("{}{mark}", cut(text, bytes_max - mark.len())))
}

/// A text in which every character that is not welcome is a blank. Borrows where all are.
pub fn without(text: &str, unwelcome: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&unwelcome) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|char| if unwelcome(char) { ' ' } else { char }).collect())
}

/// Whether a character may end a line somewhere, or is not meant to be seen: control characters,
/// and the separators of lines and paragraphs.
pub fn breaks_line(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("aäb", 2), "a");
        assert_eq!(cut("aäb", 3), "aä");
        assert_eq!(cut("a", 9), "a");
    }

    #[test]
    fn what_was_cut_says_so() {
        let long = "ä".repeat(100);
        assert_eq!(shortened(&long, 200), long);
        let cut = shortened(&long, 199);
        assert!(cut.ends_with("ä [cut from 200 bytes]") && cut.len() <= 199, "{cut}");
        assert_eq!(shortened(&long, 5), "ää");
    }

    #[test]
    fn what_breaks_a_line_becomes_a_blank() {
        assert_eq!(without("a\r\nb\u{85}\u{2028}\0", breaks_line), "a  b   ");
        assert!(matches!(without("ab", breaks_line), Cow::Borrowed("ab")));
    }
}
