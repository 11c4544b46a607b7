//! The pages, as far as tests look into them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The top of the project.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A page.
pub(crate) struct Page {
    /// Its path below `packaging/doc`, or `README.md`, without the ending.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A fenced block.
pub(crate) struct Block {
    /// The line of its first line of content.
    pub(crate) line: usize,
    pub(crate) language: String,
    /// Without the indentation of its fence.
    pub(crate) text: String,
}

/// One command of a block, with all of its lines.
pub(crate) struct PageCommand {
    pub(crate) line: usize,
    pub(crate) text: String,
    /// What the page says that it prints, line by line; only in blocks `console`.
    pub(crate) printed: Vec<String>,
}

/// Every page that is a user's: the handbook's and the README.
pub(crate) fn pages() -> Vec<Page> {
    let doc = Path::new(ROOT).join("packaging/doc");
    let mut paths = Vec::new();
    collect(&doc, &mut paths);
    let mut pages: Vec<Page> = paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&doc).expect("found below").with_extension("");
            page(name.display().to_string(), path)
        })
        .collect();
    pages.push(page("README".to_owned(), Path::new(ROOT).join("README.md")));
    pages.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(pages.len() > 20, "the folder of pages is not where it was");
    pages
}

fn page(name: String, path: PathBuf) -> Page {
    let text = fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    Page { name, path, text }
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the folder of pages").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|ext| ext == "md") {
            into.push(path);
        }
    }
}

impl Page {
    /// Where in the page something stands, for messages.
    pub(crate) fn at(&self, line: usize) -> String {
        format!("{}.md:{line}", self.name)
    }

    /// Its fenced blocks.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open: Option<usize> = None;
        for (index, line) in self.text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            match (open, line.trim_start().strip_prefix("```")) {
                (None, Some(language)) => {
                    let language = language.trim().to_owned();
                    blocks.push(Block { line: index + 2, language, text: String::new() });
                    open = Some(indent);
                }
                (Some(_), Some(_)) => open = None,
                (Some(fence), None) => {
                    let block = blocks.last_mut().expect("one is open");
                    block.text.push_str(line.get(fence.min(indent)..).unwrap_or_default());
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fenced block is not closed", self.name);
        blocks
    }

    /// Its text without fenced blocks, line by line, numbered from 1.
    pub(crate) fn prose(&self) -> Vec<(usize, &str)> {
        let mut inside = false;
        let mut lines = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                inside = !inside;
            } else if !inside {
                lines.push((index + 1, line));
            }
        }
        lines
    }

    /// What stands between single backticks, with the line.
    pub(crate) fn code_spans(&self) -> Vec<(usize, &str)> {
        let mut spans = Vec::new();
        for (number, line) in self.prose() {
            spans.extend(line.split('`').skip(1).step_by(2).map(|span| (number, span)));
        }
        spans
    }

    /// Its commands in order.
    pub(crate) fn commands(&self) -> Vec<PageCommand> {
        let mut commands = Vec::new();
        for block in self.blocks() {
            match &*block.language {
                "sh" => commands.extend(shell_commands(self, &block)),
                "console" => commands.extend(console_commands(&block)),
                _ => {}
            }
        }
        commands
    }
}

impl Block {
    fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (self.line + index, line))
    }
}

/// A command is as many lines as the shell wants before it finds them complete.
fn shell_commands(page: &Page, block: &Block) -> Vec<PageCommand> {
    let mut commands = Vec::new();
    let mut pending: Option<PageCommand> = None;
    for (line, text) in block.numbered() {
        let command = match &mut pending {
            Some(command) => {
                command.text.push('\n');
                command.text.push_str(text);
                command
            }
            None if text.trim().is_empty() || text.starts_with('#') => continue,
            None => {
                pending.insert(PageCommand { line, text: text.to_owned(), printed: Vec::new() })
            }
        };
        if is_complete(&command.text) {
            commands.extend(pending.take());
        }
    }
    if let Some(command) = pending {
        panic!("{}: no complete command: {}", page.at(command.line), command.text);
    }
    commands
}

fn is_complete(text: &str) -> bool {
    if text.ends_with('\\') {
        return false;
    }
    let mut shell = Command::new("bash");
    shell.args(["-n", "-c", text]).stdin(Stdio::null());
    let output = shell.output().expect("bash is there");
    // A here-document without its end is no error to the shell, only a warning.
    output.status.success() && output.stderr.is_empty()
}

/// `$ command` or `# command`, and below it what it prints.
fn console_commands(block: &Block) -> Vec<PageCommand> {
    let mut commands: Vec<PageCommand> = Vec::new();
    for (line, text) in block.numbered() {
        if let Some(command) = text.strip_prefix("$ ").or_else(|| text.strip_prefix("# ")) {
            commands.push(PageCommand { line, text: command.to_owned(), printed: Vec::new() });
        } else if let Some(command) = commands.last_mut() {
            command.printed.push(text.to_owned());
        }
    }
    commands
}

#[test]
fn every_block_says_what_it_is() {
    let known = [
        "sh", "console", "toml", "yaml", "json", "ini", "text", "xml", "sql", "kusto", "spl",
        "logql", "conf",
    ];
    for page in pages() {
        for block in page.blocks() {
            assert!(
                known.contains(&&*block.language),
                "{}: a block must say what it is, one of {known:?}: {:?}",
                page.at(block.line - 1),
                block.language
            );
        }
    }
}
