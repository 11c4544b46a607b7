//! Manual pages: one for a program and for each of its verbs, made from the definition of its command
//! line, and one for its configuration, made from the sample. Nothing of them is written by hand.

use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::durable;

/// A page: its file name, as `penstock-high-init.8`, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManualPage {
    /// The file's name.
    pub name: String,
    /// What `man` reads.
    pub text: Vec<u8>,
}

/// Programs that look after a system stand in this section of the manual,
const PROGRAMS: &str = "8";
/// and files in this one.
const FILES: &str = "5";
const MANUAL: &str = "Penstock";
/// A page bears the version, and no date. (Nothing at all would be left out, and the version taken for the date.)
const NO_DATE: &str = " ";

/// Every page of a program: its own, one for each verb that is not hidden, and the configuration's.
///
/// # Errors
/// None but those of writing into memory.
pub fn pages(
    program: Command,
    config_path: &str,
    sample: &str,
) -> std::io::Result<Vec<ManualPage>> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let configuration = configuration(&program, config_path, sample)?;
    let mut pages = vec![configuration];
    let source = source(&program);
    add(&program, &source, &configuration_name(&program), &mut pages)?;
    Ok(pages)
}

/// Writes every page of a program into a folder; what they replace is older.
pub fn write(
    program: Command,
    config_path: &str,
    sample: &str,
    folder: &Path,
) -> std::io::Result<()> {
    for page in pages(program, config_path, sample)? {
        durable::write_volatile(&folder.join(page.name), &page.text, 0o644)?;
    }
    Ok(())
}

fn add(
    command: &Command,
    source: &str,
    configuration: &str,
    pages: &mut Vec<ManualPage>,
) -> std::io::Result<()> {
    let man =
        Man::new(command.clone()).section(PROGRAMS).date(NO_DATE).source(source).manual(MANUAL);
    let mut text = Vec::new();
    man.render(&mut text)?;
    let mut end = Roff::new();
    end.control("SH", ["SEE ALSO"]);
    end.text([bold(configuration), roman(format!("({FILES})"))]);
    end.to_writer(&mut text)?;
    pages.push(ManualPage { name: man.get_filename(), text });
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        add(verb, source, configuration, pages)?;
    }
    Ok(())
}

/// The configuration's page is the sample as it stands: its comments say what there is to say.
fn configuration(program: &Command, path: &str, sample: &str) -> std::io::Result<ManualPage> {
    let name = configuration_name(program);
    let mut page = Roff::new();
    page.control("TH", [name.as_str(), FILES, NO_DATE, source(program).as_str(), MANUAL]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{name} - the configuration of {}", program.get_name()))]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman("A file in TOML. What follows holds every key with its default.")]);
    page.control("SH", ["FILES"]);
    page.text([roman(path)]);
    page.control("SH", ["CONFIGURATION"]);
    page.control("nf", []);
    for line in sample.lines() {
        if line.is_empty() {
            page.control("sp", []);
        } else {
            page.text([roman(line)]);
        }
    }
    page.control("fi", []);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold(program.get_name()), roman(format!("({PROGRAMS})"))]);
    let mut text = Vec::new();
    page.to_writer(&mut text)?;
    Ok(ManualPage { name: format!("{name}.{FILES}"), text })
}

fn configuration_name(program: &Command) -> String {
    format!("{}.toml", program.get_name())
}

fn source(program: &Command) -> String {
    format!("{} {}", program.get_name(), program.get_version().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_that_is_not_hidden_has_a_page_and_so_has_the_configuration() {
        let program = Command::new("gate")
            .version("1.2.3")
            .subcommand(Command::new("open").about("Open it").subcommand(Command::new("wide")))
            .subcommand(Command::new("secret").hide(true));
        let pages = pages(program, "/etc/gate.toml", "# A comment.\n\nkey = \"a\\b\"\n").unwrap();
        let names: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
        assert_eq!(names, ["gate.toml.5", "gate.8", "gate-open.8", "gate-open-wide.8"]);
        let text = String::from_utf8(pages[0].text.clone()).unwrap();
        // What stands in the sample is text: no line of it is taken for a request.
        assert!(text.contains("# A comment.\n") && text.contains(r#"key = "a\\b""#), "{text}");
        let text = String::from_utf8(pages[2].text.clone()).unwrap();
        assert!(text.contains(r#".TH gate-open 8 " " "gate 1.2.3" Penstock"#), "{text}");
        assert!(text.contains("Open it"), "{text}");
    }
}
