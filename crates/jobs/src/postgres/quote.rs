//! Names and literals in SQL text. Values never come here: they go as parameters.

use crate::model::TableName;

/// `weird "name"` as `"weird ""name"""`. Always quoted, so that case is kept and no word is reserved.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub fn qualified(table: &TableName) -> String {
    if table.schema.is_empty() {
        ident(&table.table)
    } else {
        format!("{}.{}", ident(&table.schema), ident(&table.table))
    }
}

/// A string literal that reads the same whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_case_and_quotes() {
        assert_eq!(ident("Order"), "\"Order\"");
        assert_eq!(ident("weird \"name\""), "\"weird \"\"name\"\"\"");
        assert_eq!(literal("it's \\ here"), "E'it''s \\\\ here'");
    }
}
