//! `docs/reference/cli.md`, made from the same declarations that parse the command line. The test below fails when it
//! is stale; `make bless` rewrites it.

use clap::CommandFactory;

use crate::args::Cli;

fn markdown() -> String {
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut out = String::from("# The command\n\nGenerated from the program; `make bless` rewrites it.\n");
    section(&mut root, "enfold", &mut out);
    out
}

/// A command, and those below it.
fn section(command: &mut clap::Command, title: &str, out: &mut String) {
    let help = command.render_long_help().to_string();
    out.push_str(&format!("\n## `{title}`\n\n```text\n{}\n```\n", help.trim_end()));
    for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
        let title = format!("{title} {}", below.get_name());
        section(below, &title, out);
    }
}

#[test]
fn the_reference_of_the_command_line_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
    let now = markdown();
    if std::env::var_os("ENFOLD_BLESS").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == now, "docs/reference/cli.md is stale: run `make bless`");
}
