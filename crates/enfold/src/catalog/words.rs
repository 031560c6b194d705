//! How the two databases spell what is not bytes or numbers: one spelling for both.

use super::Application;
use super::model::unknown_word;
use crate::Result;
use crate::policy::Mode;

impl Application {
    /// As stored: one column a line. Names of columns hold no line break.
    pub(super) fn columns_text(&self) -> String {
        self.columns.join("\n")
    }

    pub(super) fn columns_from(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }
}

pub(super) fn parse_mode(text: &str) -> Result<Mode> {
    [Mode::Legacy, Mode::Hybrid, Mode::Kms].into_iter().find(|m| m.word() == text).ok_or_else(|| unknown_word("mode"))
}
