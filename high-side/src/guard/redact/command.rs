//! Arguments of programs that take a secret without a telling name.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::edit::Coding;
use super::pairs::Stop;
use super::{Detector, Pass, mark};

/// How a program takes a secret.
struct Program {
    names: &'static [&'static str],
    /// Only behind this word, such as `docker login`.
    word: Option<&'static str>,
    /// Options whose value is the secret, joined or as the next argument.
    options: &'static [&'static str],
    /// Whether a blank may stand between option and value.
    apart: bool,
    /// What in the value begins the secret: `:` in `user:password`.
    behind: Option<u8>,
}

impl Program {
    /// What follows a short option that stands behind others in one word: `-su`, `-oP`.
    fn bundled<'w>(&self, word: &'w [u8], option: &str) -> Option<&'w [u8]> {
        let &[b'-', letter] = option.as_bytes() else { return None };
        let bare: &[u8] = match *self.names.first()? {
            "curl" => b"#012346aBfGgIiJjkLlNnOpqRSsVvZ",
            "sqlcmd" => b"0123456789aCefjlmnopqrTuvXy",
            _ => return None,
        };
        let rest = word.strip_prefix(b"-")?;
        let at = rest.iter().position(|byte| *byte == letter)?;
        rest[..at].iter().all(|byte| bare.contains(byte)).then(|| &rest[at + 1..])
    }
}

impl Pass<'_> {
    /// Takes a text as command lines.
    pub(super) fn command_line(&mut self, text: &[u8]) {
        if self.detector(Detector::CommandLine).is_none()
            && self.detector(Detector::KeyValue).is_none()
        {
            return;
        }
        if !may_have_arguments(text) {
            return;
        }
        let tokens = tokens(text);
        self.command(text, &tokens, 0);
    }

    /// `?command=mysql&command=-psecret`: an exec request.
    pub(super) fn uri_command(&mut self, text: &[u8]) {
        if memchr::memmem::find(text, b"command=").is_none() {
            return;
        }
        let from = self.edits.len();
        let mut level = self.levels.pop().unwrap_or_default();
        let view = &mut level.view;
        view.clear(Coding::Percent);
        let mut tokens = Vec::new();
        let mut done = 0;
        for found in memchr::memmem::find_iter(text, b"command=") {
            let value = found + b"command=".len();
            if value < done {
                continue;
            }
            let end = text[value..]
                .iter()
                .position(|byte| b"& \"'\\#".contains(byte))
                .map_or(text.len(), |at| value + at);
            done = end;
            let start = view.bytes.len();
            let mut at = value;
            while at < end {
                let pair = text.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
                let byte = (text[at] == b'%')
                    .then(|| pair.and_then(|two| u8::from_str_radix(two, 16).ok()))
                    .flatten();
                view.push(byte.unwrap_or(if text[at] == b'+' { b' ' } else { text[at] }), at);
                at += if byte.is_some() { 3 } else { 1 };
            }
            tokens.push(start..view.bytes.len());
            view.push(0, end);
        }
        view.sources.push(text.len() as u32);
        self.command(&level.view.bytes, &tokens, 0);
        level.view.carry_over(&mut self.edits[from..], 0);
        self.levels.push(level);
    }

    /// Looks at arguments, which are ranges of a text.
    pub(super) fn command(&mut self, text: &[u8], tokens: &[Range<usize>], depth: u8) {
        self.command_of(None, text, tokens, depth);
    }

    /// The same, where a program's name stands elsewhere.
    pub(super) fn command_of(
        &mut self,
        name: Option<&[u8]>,
        text: &[u8],
        tokens: &[Range<usize>],
        depth: u8,
    ) {
        let rule = self.detector(Detector::CommandLine);
        let named = name.and_then(|name| {
            program_named(name.rsplit(|byte| *byte == b'/').next().unwrap_or(name).trim_ascii())
        });
        let mut program: Option<&Program> = named.filter(|program| {
            let mut words = tokens.iter().take(WORDS_MAX).map(|range| &text[range.clone()]);
            program.word.is_none_or(|wanted| words.any(|word| word == wanted.as_bytes()))
        });
        let mut words = 0;
        let mut index = 0;
        while index < tokens.len() {
            let token = tokens[index].clone();
            let word = &text[token.clone()];
            index += 1;
            let next = tokens.get(index).cloned();
            // `(command=/usr/bin/mysql`, as alerts write it.
            let base = memchr::memrchr2(b'/', b'=', word).map_or(word, |at| &word[at + 1..]);
            let base = base.trim_ascii_start();
            if let Some(found) = program_named(base) {
                program = Some(found);
                words = 0;
                // The word that must follow is looked for behind the program.
                if let Some(wanted) = found.word {
                    let behind = tokens[index..].iter().take(WORDS_MAX);
                    if !behind.clone().any(|range| &text[range.clone()] == wanted.as_bytes()) {
                        program = None;
                    }
                }
                continue;
            }
            if is_separator(text, &token) {
                program = None;
                continue;
            }
            words += 1;
            // `sh -c "..."`, `bash -lc '...'`: a command line in one argument.
            if depth < QUOTES_MAX
                && word.contains(&b' ')
                && words <= WORDS_MAX
                && !word.starts_with(b"-")
            {
                let inner = inner_tokens(text, &token);
                if inner.len() > 1 {
                    self.command(text, &inner, depth + 1);
                    continue;
                }
            }
            if word.starts_with(b"--from-literal") || word.starts_with(b"from-literal") {
                let first = memchr::memchr(b'=', word);
                let joined = first.filter(|at| word[at + 1..].contains(&b'='));
                let value = if let Some(first) = joined {
                    Some((token.start + first + 1, token.end))
                } else {
                    next.clone().map(|next| (next.start, next.end))
                };
                if let (Some((start, end)), Some(rule)) = (value, rule)
                    && let Some(equals) = memchr::memchr(b'=', &text[start..end])
                {
                    self.replace_text(text, start + equals + 1, end, rule);
                }
                continue;
            }
            if !word.starts_with(b"-") && !word.starts_with(b"/p:") {
                let reads_stdin = |range: &Range<usize>| &text[range.clone()] == b"--stdin";
                let behind = &tokens[index..tokens.len().min(index + WORDS_MAX)];
                if base == b"chpasswd" || base == b"passwd" && behind.iter().any(reads_stdin) {
                    self.piped(text, &tokens[..index - 1], base == b"chpasswd");
                }
                if word.eq_ignore_ascii_case(b"auth") && is_redis(program) {
                    // `AUTH password`, or `AUTH user password`.
                    let is_argument = |at: usize, range: &Range<usize>| {
                        !is_separator(text, range)
                            && (at == 0 || memchr::memchr(b'=', &text[range.clone()]).is_none())
                    };
                    for (at, range) in behind.iter().take(2).enumerate() {
                        let (true, Some(rule)) = (is_argument(at, range), rule) else { break };
                        self.replace_argument(text, range.clone(), rule);
                    }
                }
                if base == b"vault" {
                    let end = tokens.len().min(index + ARGUMENTS_MAX);
                    self.vault(text, &tokens[index..end]);
                }
                continue;
            }
            // A telling name: `--db-password x`; `=` is found as a pair, and here in arrays.
            let name_length = memchr::memchr(b'=', word).unwrap_or(word.len());
            let name = word[..name_length].trim_ascii_start();
            let dashes = name.iter().take_while(|byte| **byte == b'-').count();
            // `--no-password` takes no argument.
            if dashes == 2 && name_length == word.len() && name[dashes..].starts_with(b"no-") {
                continue;
            }
            // No name: a mark, `-uadmin:secret`, or what follows `-p` of a program that joins them.
            let letter =
                |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            let joined = |known: &Program| {
                let mut options = known.options.iter();
                dashes == 1 && !known.apart && options.any(|one| word.starts_with(one.as_bytes()))
            };
            if dashes < name.len()
                && name[dashes..].iter().all(letter)
                && !program.is_some_and(joined)
                && let Some(rule) = self.named_in_text(&name[dashes..])
            {
                if mark::is_key_path(name, word.get(name_length + 1..).unwrap_or_default()) {
                    continue;
                }
                if name_length < word.len() {
                    self.replace_argument(text, token.start + name_length + 1..token.end, rule);
                } else if let Some(next) = next
                    && !text[next.clone()].starts_with(b"-")
                {
                    self.replace_argument(text, next, rule);
                    index += 1;
                }
                continue;
            }
            let (Some(rule), Some(known)) = (rule, program) else { continue };
            for option in known.options {
                let rest = word.strip_prefix(option.as_bytes());
                let Some(rest) = rest.or_else(|| known.bundled(word, option)) else { continue };
                let range = if rest.is_empty() {
                    let next = next.clone().filter(|_| known.apart);
                    next.filter(|next| !text[next.clone()].starts_with(b"-"))
                } else if option.starts_with("--") {
                    rest.starts_with(b"=").then_some(token.end - rest.len() + 1..token.end)
                } else {
                    Some(token.end - rest.len()..token.end)
                };
                let Some(mut range) = range else { break };
                if mark::mark_length(&text[range.clone()]) > 0 {
                    break;
                }
                if let Some(byte) = known.behind {
                    let Some(at) = memchr::memchr(byte, &text[range.clone()]) else { break };
                    range.start += at + 1;
                }
                self.replace_argument(text, range, rule);
                break;
            }
        }
    }

    /// `vault kv put PATH NAME=value`, `vault login TOKEN`.
    fn vault(&mut self, text: &[u8], rest: &[Range<usize>]) {
        let Some(rule) = self.detector(Detector::CommandLine) else { return };
        let is =
            |at: usize, word: &[u8]| rest.get(at).is_some_and(|one| &text[one.clone()] == word);
        if is(0, b"login")
            && let Some(token) = rest.get(1).filter(|one| !text[(*one).clone()].starts_with(b"-"))
        {
            self.replace_argument(text, token.clone(), rule);
        }
        let puts = |at: usize| is(at, b"put") || is(at, b"write") || is(at, b"patch");
        if let Some(verb) = (0..rest.len().min(WORDS_MAX)).find(|at| puts(*at)) {
            for token in &rest[verb + 1..] {
                if let Some(at) = memchr::memchr(b'=', &text[token.clone()]) {
                    self.replace_argument(text, token.start + at + 1..token.end, rule);
                }
            }
        }
    }

    /// `echo user:password | chpasswd`, `echo password | passwd --stdin user`: what is printed into it.
    fn piped(&mut self, text: &[u8], before: &[Range<usize>], named: bool) {
        let Some(rule) = self.detector(Detector::CommandLine) else { return };
        let near = before.len().saturating_sub(PIPE_WORDS_MAX);
        let is_pipe = |range: &Range<usize>| &text[range.clone()] == b"|";
        let Some(pipe) = before[near..].iter().rposition(is_pipe).map(|at| near + at) else {
            return;
        };
        let begin = before[..pipe].iter().rposition(|range| is_separator(text, range));
        let printing = &before[begin.map_or(0, |at| at + 1)..pipe];
        let echo = |range: &Range<usize>| {
            let word = &text[range.clone()];
            [&b"echo"[..], b"printf"].iter().any(|name| word.ends_with(name))
        };
        let Some(at) = printing.iter().position(echo) else { return };
        for argument in &printing[at + 1..] {
            let mut range = argument.clone();
            if text[range.clone()].starts_with(b"-") {
                continue;
            }
            if named {
                let Some(colon) = memchr::memchr(b':', &text[range.clone()]) else { continue };
                range.start += colon + 1;
            }
            self.replace_argument(text, range, rule);
        }
    }

    fn replace_argument(&mut self, text: &[u8], range: Range<usize>, rule: u8) {
        let mut range = range;
        let quote = super::pairs::quote_at(text, range.start);
        if quote > 0 && range.start + quote < range.end {
            self.replace_value_at(text, range.start, rule, Stop::Word);
            return;
        }
        let value = &text[range.clone()];
        let plain = [&b"true"[..], b"false", b""].contains(&value);
        if mark::mark_length(value) > 0
            || mark::is_variable(value)
            || mark::is_count(value)
            || plain
        {
            return;
        }
        if value.ends_with(b"\"") || value.ends_with(b"'") {
            range.end -= 1;
        }
        self.replace_text(text, range.start, range.end, rule);
    }
}

fn is_separator(text: &[u8], token: &Range<usize>) -> bool {
    matches!(&text[token.clone()], b"|" | b"||" | b"&&" | b";" | b"&")
}

fn is_redis(program: Option<&Program>) -> bool {
    program.is_some_and(|program| program.names.contains(&"redis-cli"))
}

fn program_named(name: &[u8]) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| program.names.iter().any(|known| known.as_bytes() == name))
}

/// Whether some word may be an option, or one of the few arguments that are looked for without one. Most
/// texts have none, and are not taken apart then.
fn may_have_arguments(text: &[u8]) -> bool {
    let begins_word = |at: usize| at == 0 || !text[at - 1].is_ascii_alphanumeric();
    memchr::memchr_iter(b'-', text).any(begins_word)
        || WITHOUT_OPTION.iter().any(|finder| finder.find(text).is_some())
}

static WITHOUT_OPTION: LazyLock<[Finder<'static>; 5]> =
    LazyLock::new(|| ["from-literal", "vault", "/p:", "chpasswd", "redis-cli"].map(Finder::new));

/// The words of a command line, roughly as a shell takes them: quotes hold blanks together, and are
/// left out where they stand around the whole word.
pub(super) fn tokens(text: &[u8]) -> Vec<Range<usize>> {
    split(text, 0..text.len())
}

fn inner_tokens(text: &[u8], token: &Range<usize>) -> Vec<Range<usize>> {
    split(text, token.clone())
}

fn split(text: &[u8], range: Range<usize>) -> Vec<Range<usize>> {
    let mut tokens = Vec::new();
    let mut at = range.start;
    let is_blank = |byte: u8| byte.is_ascii_whitespace() || byte == 0;
    while at < range.end {
        if is_blank(text[at]) {
            at += 1;
            continue;
        }
        let start = at;
        let mut quote = None;
        while at < range.end && (quote.is_some() || !is_blank(text[at])) {
            match (quote, text[at]) {
                (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
                (Some(open), byte) if open == byte => quote = None,
                _ => {}
            }
            at += 1;
        }
        let mut token = start..at;
        // A quote that does not close is an apostrophe: the word ends at a blank then.
        if quote.is_some() {
            let blank = text[start..range.end].iter().position(|byte| is_blank(*byte));
            at = blank.map_or(range.end, |blank| start + blank);
            token.end = at;
        }
        let word = &text[token.clone()];
        if let [open @ (b'"' | b'\''), .., close] = word
            && open == close
        {
            token = token.start + 1..token.end - 1;
        }
        // A word may end with what the sentence around it needs.
        while token.end > token.start && matches!(text[token.end - 1], b';' | b')') {
            token.end -= 1;
        }
        if let Some(at) = memchr::memchr(b'=', &text[token.clone()])
            && text[token.clone()].starts_with(b"command=")
        {
            token.start += at + 1;
        }
        tokens.push(token);
    }
    tokens
}

const PROGRAMS: &[Program] = &[
    Program {
        names: &[
            "mysql",
            "mysqldump",
            "mysqladmin",
            "mysqlimport",
            "mysqlshow",
            "mysqlcheck",
            "mariadb",
            "mariadb-dump",
            "mariadb-admin",
        ],
        word: None,
        options: &["-p"],
        apart: false,
        behind: None,
    },
    Program { names: &["sshpass"], word: None, options: &["-p"], apart: true, behind: None },
    Program {
        names: &[
            "docker", "podman", "nerdctl", "helm", "oras", "crane", "skopeo", "az", "oc",
            "buildah", "cf", "ibmcloud", "argocd",
        ],
        word: Some("login"),
        options: &["-p"],
        apart: true,
        behind: None,
    },
    Program {
        names: &["curl"],
        word: None,
        options: &["-u", "--user", "-U", "--proxy-user"],
        apart: true,
        behind: Some(b':'),
    },
    Program { names: &["redis-cli"], word: None, options: &["-a"], apart: true, behind: None },
    Program {
        names: &[
            "ldapsearch",
            "ldapmodify",
            "ldapadd",
            "ldapdelete",
            "ldapwhoami",
            "ldappasswd",
            "ldapcompare",
        ],
        word: None,
        options: &["-w", "-s"],
        apart: true,
        behind: None,
    },
    Program {
        names: &[
            "mongo",
            "mongosh",
            "mongodump",
            "mongorestore",
            "mongoimport",
            "mongoexport",
            "rabbitmqadmin",
        ],
        word: None,
        options: &["-p"],
        apart: true,
        behind: None,
    },
    Program {
        names: &["sqlcmd", "bcp", "mosquitto_pub", "mosquitto_sub", "unzip", "zip"],
        word: None,
        options: &["-P"],
        apart: true,
        behind: None,
    },
    Program {
        names: &["smbclient", "rpcclient"],
        word: None,
        options: &["-U"],
        apart: true,
        behind: Some(b'%'),
    },
    Program {
        names: &["useradd", "usermod", "7z", "7za", "rdesktop"],
        word: None,
        options: &["-p"],
        apart: true,
        behind: None,
    },
    Program {
        names: &["openssl"],
        word: None,
        options: &["-k", "-passin", "-passout", "-pass"],
        apart: true,
        behind: None,
    },
    Program {
        names: &["xfreerdp", "freerdp"],
        word: None,
        options: &["/p:"],
        apart: false,
        behind: None,
    },
];

/// A shell in a shell in a shell.
const QUOTES_MAX: u8 = 3;

/// What one program is given.
const ARGUMENTS_MAX: usize = 64;

/// How far behind a pipe a program stands: `| sudo -n chpasswd`.
const PIPE_WORDS_MAX: usize = 4;

/// How far behind a program its verb stands.
const WORDS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::anchor::Anchor;
    use super::*;

    #[test]
    fn an_anchor_reaches_every_program() {
        let redactor = super::super::Redactor::with_defaults(None).unwrap();
        for program in PROGRAMS {
            for name in program.names {
                let line = format!("{name} {} -x", program.word.unwrap_or_default());
                let mut hits = redactor.anchors.hits(line.as_bytes());
                let mut at = 0;
                let mut reached = false;
                while let Some(hit) = hits.at(at) {
                    reached |= hit.anchor == Anchor::Program;
                    at = hit.start + 1;
                }
                assert!(reached, "{line}");
            }
        }
    }
}
