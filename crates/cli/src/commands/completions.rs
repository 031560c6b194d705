//! `enfold completions`.

use clap::CommandFactory;
use enfold::Result;

use crate::args::{Cli, Completions};
use crate::screen::Screen;

pub(crate) fn run(screen: &Screen, args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "enfold", &mut script);
    screen.bytes(&script)
}
