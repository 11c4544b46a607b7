//! What any page has somebody type, our programs take; and each of their verbs stands in some page.

use std::collections::BTreeSet;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use crate::pages::pages;

fn programs() -> [Command; 2] {
    [high_side::cli::Cli::command(), low_side::cli::Cli::command()]
}

/// What of a text is a command of ours: its words, once for each that is there.
fn commands_in(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for line in text.replace("\\\n", " ").lines() {
        let words = words(line);
        for (at, word) in words.iter().enumerate() {
            let start = at == 0
                || matches!(&*words[at - 1], "|" | "&&" | ";" | "do" | "--" | "#" | "$" | "sudo");
            if start && matches!(&**word, "penstock-high" | "penstock-low") {
                let end = words[at + 1..].iter().position(|word| is_end(word));
                let end = end.map_or(words.len(), |end| at + 1 + end);
                found.push(words[at..end].to_vec());
            }
        }
    }
    found
}

fn is_end(word: &str) -> bool {
    matches!(word, "|" | "&&" | ";" | "&" | "#") || word.starts_with('>') || word.starts_with("2>")
}

/// Words as a shell takes them, without what it would put in.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut depth) = (String::new(), None, 0);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open && depth == 0 => quote = None,
            (_, '(') => (depth, word) = (depth + 1, word + "("),
            (_, ')') if depth > 0 => (depth, word) = (depth - 1, word + ")"),
            (None, '"' | '\'') if depth == 0 => quote = Some(c),
            (None, ' ') if depth == 0 => {
                words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
            }
            (None, ';') if depth == 0 => {
                words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                words.push(";".to_owned());
            }
            (_, c) => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// Why a program would not take the words, beside a name in capitals, or what a shell puts in, in the place of a value.
fn refusal(words: &[String]) -> Option<String> {
    let program = programs().into_iter().find(|program| program.get_name() == words[0])?;
    // The usage `[--full]` means that it may be left out.
    let words: Vec<String> =
        words.iter().map(|word| word.trim_matches(['[', ']']).to_owned()).collect();
    let err = program.try_get_matches_from(&words).err()?;
    let stands_for = |value: Option<&ContextValue>| match value {
        Some(ContextValue::String(value)) if value.starts_with('$') => true,
        Some(ContextValue::String(value)) => {
            let value = value.split('/').next_back().unwrap_or_default();
            value.chars().any(char::is_uppercase) && !value.chars().any(char::is_lowercase)
        }
        _ => false,
    };
    match err.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::MissingRequiredArgument => None,
        ErrorKind::ValueValidation | ErrorKind::InvalidValue
            if stands_for(err.get(ContextKind::InvalidValue)) =>
        {
            None
        }
        _ => Some(err.to_string()),
    }
}

#[test]
fn our_programs_take_what_every_page_has_somebody_type() {
    let mut refused = Vec::new();
    let mut count = 0;
    for page in pages() {
        let spans = page.code_spans().into_iter().map(|(line, text)| (line, text.to_owned()));
        let commands = page.commands().into_iter().map(|command| (command.line, command.text));
        let blocks = page.blocks().into_iter().filter(|block| block.language == "text");
        let tries = blocks.flat_map(|block| {
            let lines = block.text.lines().filter_map(|line| line.trim().strip_prefix("try: "));
            lines.map(|line| (block.line, line.to_owned())).collect::<Vec<_>>()
        });
        for (line, text) in spans.chain(commands).chain(tries) {
            for words in commands_in(&text) {
                count += 1;
                if let Some(why) = refusal(&words) {
                    refused.push(format!("{}: {}\n{why}", page.at(line), words.join(" ")));
                }
            }
        }
    }
    assert!(count > 100, "commands are found by another form than the pages write: {count}");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn every_verb_stands_in_a_page() {
    let mut named = BTreeSet::new();
    for page in pages() {
        let spans = page.code_spans().into_iter().map(|(_, text)| text.to_owned());
        for text in spans.chain(page.commands().into_iter().map(|command| command.text)) {
            for words in commands_in(&text) {
                // With --config FILE before the verb, too.
                let skipped =
                    if words.get(1).is_some_and(|word| word == "--config") { 3 } else { 1 };
                let verbs: Vec<&str> = words.iter().skip(skipped).map(String::as_str).collect();
                named.extend(verbs.first().map(|verb| format!("{} {verb}", words[0])));
                named.extend(verbs.get(1).map(|more| format!("{} {} {more}", words[0], verbs[0])));
            }
        }
    }
    let mut missing = Vec::new();
    for program in programs() {
        for verb in program.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = format!("{} {}", program.get_name(), verb.get_name());
            let mut below: Vec<String> = verb
                .get_subcommands()
                .map(|below| format!("{name} {}", below.get_name()))
                .collect();
            if below.is_empty() {
                below.push(name);
            }
            missing.extend(below.into_iter().filter(|name| !named.contains(name)));
        }
    }
    assert!(missing.is_empty(), "no page has: {missing:?}");
}

#[test]
fn what_is_wrong_is_refused() {
    let of = |text: &str| commands_in(text).iter().find_map(|words| refusal(words));
    for good in
        ["penstock-low gaps --pass ID", "x | penstock-high try - --json # y", "penstock-low"]
    {
        assert_eq!(of(good), None, "{good}");
    }
    for bad in
        ["penstock-low gap", "penstock-high export --al /x", "a && penstock-low gaps --pass x"]
    {
        assert!(of(bad).is_some(), "{bad}");
    }
}
