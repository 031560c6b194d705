//! Tables on the screen: a header, aligned columns, no borders, so that they can be read aloud, cut and compared.

use crate::screen::Screen;

pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn write(&self, screen: &Screen, out: &mut String) {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(self.header.iter().map(|h| h.to_uppercase()));
        for row in &self.rows {
            table.add_row(row);
        }
        for (i, line) in table.lines().enumerate() {
            let line = line.trim_end();
            let line = line.strip_prefix(' ').unwrap_or(line);
            out.push_str(&if i == 0 { screen.bold(line) } else { line.to_owned() });
            out.push('\n');
        }
    }
}
