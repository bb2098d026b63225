//! The completions and the manual page, made from the definitions of the arguments.

use std::io::Write;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::exit::{self, Failure};

pub(crate) fn completions(mut command: Command, shell: Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "globallock", &mut text);
    finish(std::io::stdout().write_all(&text))
}

/// Prints one page with all verbs, because readers expect a single page.
pub(crate) fn manual(command: Command) -> ExitCode {
    let mut text = Vec::new();
    finish(render(command, &mut text).and_then(|()| std::io::stdout().write_all(&text)))
}

fn render(mut command: Command, text: &mut Vec<u8>) -> std::io::Result<()> {
    command.build();
    let page = Man::new(command.clone());
    page.render_title(text)?;
    // No hyphenation and no justification: names of options and variables must not be broken.
    Roff::new().control("nh", []).control("ad", ["l"]).to_writer(text)?;
    page.render_name_section(text)?;
    page.render_synopsis_section(text)?;
    page.render_description_section(text)?;
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        Roff::new().control("SH", [format!("globallock {}", verb.get_name()).as_str()]).to_writer(text)?;
        let page = Man::new(verb.clone());
        let mut part = Vec::new();
        page.render_synopsis_section(&mut part)?;
        page.render_description_section(&mut part)?;
        page.render_options_section(&mut part)?;
        // Below the verb's own heading, its sections are subsections.
        text.write_all(String::from_utf8_lossy(&part).replace(".SH ", ".SS ").as_bytes())?;
        if let Some(more) = verb.get_after_long_help() {
            let mut page = Roff::new();
            page.control("SS", ["EXAMPLES AND EXIT STATUS"])
                .control("nf", [])
                .text([roman(more.to_string())])
                .control("fi", []);
            page.to_writer(text)?;
        }
    }
    Ok(())
}

fn finish(written: std::io::Result<()>) -> ExitCode {
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            crate::log::error("output").say(&error);
            exit::code(Failure::System(error).status(exit::TAKEN))
        }
    }
}
